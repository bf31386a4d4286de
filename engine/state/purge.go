package state

import (
	"bytes"
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/delivery"
)

// purgeRun is how many neighbours go with one tombstone for their range. Fewer
// get one each: a range costs more to read past than a key.
const purgeRun = 16

// purge removes those of a command's deliveries that are dead letters, and
// returns how many that were. Each is looked at, so the count is right whatever
// has vanished or come back meanwhile; but neighbours in the key space with no
// other dead letter between them are removed by range, which writes next to
// nothing. What lies between is what the state shows before this command, which
// has a batch of its own: the same wherever the log is applied.
func (s *State) purge(b *applying, c *command.Control) (purged int, err error) {
	ids := slices.Clone(c.IDs)
	slices.SortFunc(ids, compareIDs)
	ids = slices.Compact(ids)
	if len(ids) == 0 {
		return 0, nil
	}
	w := purger{state: s, batch: b, ids: ids, at: c.At}
	if err := w.walk(place{account: c.Account}); err != nil {
		return 0, err
	}
	if w.purged == len(ids) {
		return w.purged, nil
	}
	days, err := s.deadDays(c)
	if err != nil {
		return 0, err
	}
	for _, day := range days {
		if err := w.walk(place{account: c.Account, late: true, day: day}); err != nil {
			return 0, err
		}
	}
	return w.purged, nil
}

// deadDays are the days under which the account has late dead letters.
func (s *State) deadDays(c *command.Control) ([]uint32, error) {
	var days []uint32
	for _, st := range deadStatuses {
		d, err := lateDays(s.db, c.Account, st)
		if err != nil {
			return nil, err
		}
		days = append(days, d...)
	}
	slices.Sort(days)
	return slices.Compact(days), nil
}

// deadStatuses are those whose deliveries are dead letters. Their bodies are
// kept together, so a range of bodies has to be free of both.
var deadStatuses = [...]delivery.Status{delivery.DeadLetter, delivery.Rejected}

// purger walks over dead letters in the order of their ids and removes those
// that are in ids.
type purger struct {
	state  *State
	batch  *applying
	ids    []delivery.ID // sorted
	at     int64         // when, Unix milliseconds
	purged int

	// The keys of the run that the walk is in, in order.
	rows   [len(deadStatuses)][][]byte
	bodies [][]byte
}

// walk removes what is kept beside at. It looks at the deliveries in ids, and
// at one other for each gap between them at most.
func (w *purger) walk(at place) (err error) {
	var sources [len(deadStatuses)]*source
	defer func() {
		for _, src := range sources {
			if src != nil {
				err = errors.Join(err, src.it.Close())
			}
		}
	}()
	var ok [len(deadStatuses)]bool
	for i, st := range deadStatuses {
		at.status = st
		prefix := at.appendRowPrefix(nil)
		it, err := w.state.db.NewIter(&pebble.IterOptions{
			LowerBound: append(bytes.Clone(prefix), w.ids[0][:]...),
			UpperBound: append(append(bytes.Clone(prefix), w.ids[len(w.ids)-1][:]...), 0),
		})
		if err != nil {
			return err
		}
		sources[i] = &source{status: st, it: it}
		ok[i] = sources[i].take(it.First())
	}
	ids := w.ids
	for ok[0] || ok[1] {
		i := 0
		if !ok[0] || ok[1] && compareIDs(sources[1].id, sources[0].id) < 0 {
			i = 1
		}
		src := sources[i]
		n, meant := slices.BinarySearchFunc(ids, src.id, compareIDs)
		if ids = ids[n:]; meant {
			at.status, at.id = src.status, src.id
			if err := w.take(i, at, src.it); err != nil {
				return err
			}
			ok[i] = src.take(src.it.Next())
			continue
		}
		if err := w.endRun(); err != nil {
			return err
		}
		at.status, at.id = src.status, ids[0] // the bounds say that there is one
		ok[i] = src.take(src.it.SeekGE(at.appendRow(nil)))
	}
	for _, src := range sources {
		if err := src.it.Error(); err != nil {
			return err
		}
	}
	return w.endRun()
}

// take adds the delivery that it stands on to the run.
func (w *purger) take(i int, at place, it *pebble.Iterator) error {
	v, err := it.ValueAndErr()
	if err != nil {
		return err
	}
	row, err := delivery.DecodeRow(v)
	if err != nil {
		return err
	}
	if row.OrderNumber != 0 {
		if err := w.release(&row); err != nil {
			return err
		}
	}
	w.purged++
	w.rows[i] = append(w.rows[i], at.appendRow(nil))
	if !row.HasBody {
		w.bodies = append(w.bodies, at.appendBody(nil))
	}
	return nil
}

// release lets the others of a dead letter's ordering key go on that wait for it.
func (w *purger) release(row *delivery.Row) error {
	var rec delivery.Record
	if err := row.DecodeRecord(&rec); err != nil {
		return err
	}
	return w.state.release(w.batch, orderOf(account.ID(rec.Account), &rec), row.OrderNumber, w.at)
}

// endRun removes the run.
func (w *purger) endRun() error {
	for i := range w.rows {
		if err := w.remove(w.rows[i]); err != nil {
			return err
		}
		w.rows[i] = w.rows[i][:0]
	}
	err := w.remove(w.bodies)
	w.bodies = w.bodies[:0]
	return err
}

func (w *purger) remove(keys [][]byte) error {
	if len(keys) >= purgeRun {
		last := keys[len(keys)-1]
		return w.batch.DeleteRange(keys[0], append(bytes.Clone(last), 0), nil)
	}
	for _, key := range keys {
		if err := w.batch.Delete(key, nil); err != nil {
			return err
		}
	}
	return nil
}
