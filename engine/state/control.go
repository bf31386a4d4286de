package state

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/job"
)

// A Requeued is a delivery that has been put into the disk queue by a replay, or
// because it has its turn by its ordering key.
type Requeued struct {
	Lane Lane
	Position
}

// Effect is what a command on deliveries has done, for its waiter and for the
// scheduler.
type Effect struct {
	Changed  int
	Requeued []Requeued
	Canceled []Requeued // taken out of the disk queue, or from among the young
}

// mostReplayed is how many attempts a delivery may have and still be replayed:
// a row must stay readable.
const mostReplayed = 10_000

// applyControl does a control command. It has a batch of its own, so that
// Pebble shows what all commands before it have done.
func (s *State) applyControl(b *applying, c *command.Control) (*Effect, error) {
	effect := new(Effect)
	if _, ok := s.dir.Account(c.Account); !ok {
		return effect, nil // deleted meanwhile
	}
	j, isStep := s.jobs.get(c.Account, c.Job)
	if c.Job != 0 && (!isStep || j.Status != job.Running) {
		return effect, nil // cancelled before this step of it
	}
	if err := s.controlAll(b, c, effect); err != nil {
		return nil, err
	}
	if !isStep {
		return effect, nil
	}
	j.Done += int64(effect.Changed)
	j.Skipped += int64(len(c.IDs) - effect.Changed)
	j.After = c.After
	j.UpdatedAt = time.UnixMilli(c.At).UTC()
	if c.Last {
		j.Status = job.Done
	}
	b.stepped = &j
	return effect, b.Set(appendJob(nil, j.Account, j.ID), j.Append(nil), nil)
}

func (s *State) controlAll(b *applying, c *command.Control, effect *Effect) (err error) {
	if c.Kind == job.Purge {
		if effect.Changed, err = s.purge(b, c); err != nil {
			return fmt.Errorf("%s: %w", c.Kind, err)
		}
		return nil
	}
	seen := make(map[delivery.ID]bool, len(c.IDs))
	for _, id := range c.IDs {
		if seen[id] {
			continue
		}
		seen[id] = true
		changed, err := s.controlOne(b, c, id, effect)
		if err != nil {
			return fmt.Errorf("%s %s: %w", c.Kind, id, err)
		}
		if changed {
			effect.Changed++
		}
	}
	return nil
}

func (s *State) controlOne(b *applying, c *command.Control, id delivery.ID, effect *Effect) (bool, error) {
	switch c.Kind {
	case job.Replay:
		return s.replay(b, c, id, effect)
	case job.Cancel:
		return s.cancel(b, c, id, effect)
	}
	panic(fmt.Sprintf("state: control of kind %d", c.Kind))
}

// finished finds a delivery that has ended.
func (s *State) finished(c *command.Control, id delivery.ID) (Stored, bool, error) {
	for _, st := range delivery.Statuses {
		if !st.Final() {
			continue
		}
		f, err := findAt(s.db, place{account: c.Account, status: st, id: id})
		if !errors.Is(err, pebble.ErrNotFound) {
			return f, err == nil, err
		}
	}
	f, err := findLate(s.db, c.Account, id)
	if errors.Is(err, ErrNotFound) {
		return f, false, nil
	}
	return f, err == nil, err
}

// replay puts a finished delivery back into the disk queue, with the next
// number of attempt and a budget that begins anew. A replay by a job is of dead
// letters only.
func (s *State) replay(b *applying, c *command.Control, id delivery.ID, effect *Effect) (bool, error) {
	f, ok, err := s.finished(c, id)
	if err != nil || !ok || c.Job != 0 && !f.Status.Dead() || f.Row.Count > mostReplayed {
		return false, err
	}
	w := f.Row
	var body []byte
	if !w.HasBody {
		if body, err = s.Body(&f); errors.Is(err, ErrNotFound) {
			return false, nil // retention took it
		} else if err != nil {
			return false, err
		}
	}
	var rec delivery.Record
	if err := w.DecodeRecord(&rec); err != nil {
		return false, err
	}
	if err := s.remove(b, &f.place, !w.HasBody); err != nil {
		return false, err
	}
	w.UpdatedAt, w.Replayed, w.Base, w.ReplayDue = c.At, true, w.Count, max(c.At, 0)
	p := place{account: c.Account, status: delivery.Retrying, id: id}
	row := delivery.AppendRow(nil, &w)
	if err := s.put(b, &p, row, body); err != nil {
		return false, err
	}
	b.pending++
	s.touched[id] = pendingRow{status: p.status, row: row, body: body}
	if w.OrderNumber != 0 {
		return true, s.join(b, orderOf(c.Account, &rec), turn{
			number: w.OrderNumber, id: id, destination: rec.Destination(), due: w.ReplayDue, attempt: uint32(w.Count) + 1,
		})
	}
	next := Requeued{
		Lane{c.Account, rec.Destination()},
		Position{Due: w.ReplayDue, ID: id, Attempt: uint32(w.Count) + 1},
	}
	effect.Requeued = append(effect.Requeued, next)
	s.key = appendQueue(s.key[:0], next.Lane, next.Position)
	if err := b.Set(s.key, nil, nil); err != nil {
		return false, err
	}
	return true, s.queued(next.Lane, w.Record)
}

// remove removes the row of a finished delivery, and its body if it is not in
// the row.
func (s *State) remove(b *applying, p *place, body bool) error {
	s.key = p.appendRow(s.key[:0])
	if err := b.Delete(s.key, nil); err != nil || !body {
		return err
	}
	s.key = p.appendBody(s.key[:0])
	return b.Delete(s.key, nil)
}

// cancel ends a pending delivery.
func (s *State) cancel(b *applying, c *command.Control, id delivery.ID, effect *Effect) (bool, error) {
	s.young.mu.RLock()
	y := s.young.byID[id]
	s.young.mu.RUnlock()
	if y != nil && !y.gone && y.Account == c.Account {
		w, body := y.row()
		w.UpdatedAt = c.At
		b.leave(y)
		b.storeThrough = max(b.storeThrough, y.index)
		effect.Canceled = append(effect.Canceled, Requeued{y.Lane(), Position{Due: y.Due, ID: id, Attempt: 1}})
		return true, s.putCanceled(b, c, id, &w, body)
	}
	for _, st := range [...]delivery.Status{delivery.Queued, delivery.Retrying} {
		f, err := findAt(s.db, place{account: c.Account, status: st, id: id})
		if err == nil {
			return true, s.cancelStored(b, c, &f, effect)
		}
		if !errors.Is(err, pebble.ErrNotFound) {
			return false, err
		}
	}
	return false, nil
}

func (s *State) cancelStored(b *applying, c *command.Control, f *Stored, effect *Effect) error {
	w := f.Row
	var rec delivery.Record
	attempts, err := w.DecodeAttempts()
	if err := errors.Join(err, w.DecodeRecord(&rec)); err != nil {
		return err
	}
	at := Requeued{
		Lane{c.Account, rec.Destination()},
		Position{w.NextDue(&rec, attempts), rec.ID, uint32(w.Count) + 1},
	}
	inLane := true
	if w.OrderNumber != 0 {
		k := orderOf(c.Account, &rec)
		if at.Due, inLane, err = s.queuedAt(k, &w, at.Due); err != nil {
			return err
		}
		if err := s.leave(b, k, w.OrderNumber, c.At); err != nil {
			return err
		}
		b.turns = slices.DeleteFunc(b.turns, func(r Requeued) bool { return r == at }) // by this very command
	}
	if inLane {
		effect.Canceled = append(effect.Canceled, at)
		s.key = appendQueue(s.key[:0], at.Lane, at.Position)
		if err := b.SingleDelete(s.key, nil); err != nil {
			return err
		}
		s.taken(at.Lane)
	}
	var body []byte
	if !w.HasBody {
		if body, err = s.Body(f); err != nil {
			return err
		}
	}
	if err := s.removePending(b, &f.place, delivery.Canceled, body != nil); err != nil {
		return err
	}
	w.UpdatedAt = c.At
	return s.putCanceled(b, c, rec.ID, &w, body)
}

func (s *State) putCanceled(b *applying, c *command.Control, id delivery.ID, w *delivery.Row, body []byte) error {
	b.pending--
	p := placeOf(c.Account, delivery.Canceled, id, c.At)
	return s.put(b, &p, delivery.AppendRow(nil, w), body)
}

// recordCanceled records an attempt that was under way when its delivery was
// cancelled: it changes nothing, but every attempt is on record.
func (s *State) recordCanceled(b *applying, c *command.Attempt) error {
	p := place{account: c.Account, status: delivery.Canceled, id: c.ID}
	f, err := findAt(s.db, p)
	// It was cancelled while the attempt was made, which takes less than a day.
	for _, day := range [...]uint32{dayOf(c.UpdatedAt), dayOf(c.UpdatedAt - dayMillis)} {
		if !errors.Is(err, pebble.ErrNotFound) {
			break
		}
		p.late, p.day = true, day
		f, err = findAt(s.db, p)
	}
	if errors.Is(err, pebble.ErrNotFound) {
		return nil
	}
	if err != nil || f.Row.Count != c.Number-1 {
		return err
	}
	w := f.Row
	w.Count, w.Attempts = c.Number, append(append([]byte(nil), w.Attempts...), c.Record...)
	return s.put(b, &f.place, delivery.AppendRow(nil, &w), nil)
}
