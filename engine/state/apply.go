package state

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/job"
)

// An Entry is a command of the log with its index. Several entries may carry
// one index, when the log orders whole batches; such entries are applied
// together.
type Entry struct {
	Index   uint64
	Command []byte // must not change any more

	// Young is the delivery that the command accepts, if the caller has it at
	// hand; nil: it is decoded from the command.
	Young *Young

	// Ignored is set by Apply when the command changed nothing: a second report
	// of an attempt, or one for a delivery that has ended meanwhile, or anything
	// for an account that is deleted.
	Ignored bool

	// Changed is set by Apply to the account that the command changed, deleted,
	// swept the last of, or gave a data key. What runs for the account is to follow it.
	Changed account.ID
	// Set is set by Apply to the lane for which the command set something.
	Set Lane
	// Effect is set by Apply of a command on deliveries, and of one that gives
	// deliveries with an ordering key their turn, nil otherwise.
	Effect *Effect
}

// pendingRow is what the batch being built has made of a delivery in the disk
// queue, which Pebble does not show before the commit.
type pendingRow struct {
	status delivery.Status
	row    []byte
	body   []byte // if it is not in the row
}

// NewYoung makes the delivery that an accept is about. due is the time of its
// first attempt. The accept's bytes must not change any more.
func NewYoung(id delivery.ID, a account.ID, due int64, c command.Accept) *Young {
	return &Young{ID: id, Account: a, Due: due, Accept: c}
}

func decodeYoung(c command.Accept) (*Young, error) {
	var rec delivery.Record
	w := delivery.Row{Record: c.Record}
	if err := w.DecodeRecord(&rec); err != nil {
		return nil, err
	}
	if want := rec.StoredBodyBytes(); len(c.Body) != want {
		return nil, fmt.Errorf("state: body of %s has %d bytes, not %d", rec.ID, len(c.Body), want)
	}
	return NewYoung(rec.ID, account.ID(rec.Account), rec.NotBefore, c), nil
}

// Apply applies entries in order, in one batch of Pebble's (two or three if
// there is a retention pass among them), and calls accepted with the entries
// of a batch as soon as its accepts can be read, before the rest is written.
// On an error nothing may be applied any more: the state in memory and the log
// do not agree.
func (s *State) Apply(entries []Entry, accepted func([]Entry)) error {
	for len(entries) > 0 {
		n, err := s.batchLen(entries)
		if err != nil {
			return err
		}
		if err := s.applyBatch(entries[:n], accepted); err != nil {
			return fmt.Errorf("state: apply %d to %d: %w", entries[0].Index, entries[n-1].Index, err)
		}
		entries = entries[n:]
	}
	return nil
}

// batchLen is how many entries go into the next batch. Some commands read what
// the entries before them wrote, so they have a batch of their own.
func (s *State) batchLen(entries []Entry) (int, error) {
	for i := range entries {
		if kind, _, err := command.Parse(entries[i].Command); err != nil {
			return 0, fmt.Errorf("state: index %d: %w", entries[i].Index, err)
		} else if command.OwnBatch(kind) {
			return max(i, 1), nil
		}
	}
	return len(entries), nil
}

// applying is one batch on its way.
type applying struct {
	*pebble.Batch
	leaving      []*Young // young that this batch writes
	leavingBytes int64
	pending      int64 // change of State.pending

	// storeThrough is an index up to which no delivery may stay young. Whether a
	// cancellation met a young delivery cannot be told later, when retention may
	// have dropped what it made of it: so Low moves past what it has met, and
	// Rebuild never looks at it.
	storeThrough uint64

	// stepped is a job as the step in this batch leaves it. It is shown once what
	// the step did to deliveries can be read: who sees a job's end may rely on it.
	stepped *job.Job

	turns []Requeued // of orders, since the last entry was told

	measure *int64 // of a rehearsal: adds up what ranges take on disk; else nil
}

func (b *applying) leave(y *Young) {
	y.gone = true
	b.leaving = append(b.leaving, y)
	b.leavingBytes += y.bytes()
}

// tell has the effect of an entry say which deliveries have their turn by it.
func (b *applying) tell(e *Entry) {
	if len(b.turns) == 0 {
		return
	}
	if e.Effect == nil {
		e.Effect = new(Effect)
	}
	e.Effect.Requeued = append(e.Effect.Requeued, b.turns...)
	b.turns = b.turns[:0]
}

func (s *State) applyBatch(entries []Entry, accepted func([]Entry)) error {
	b := s.beginBatch()
	defer b.Close()
	if err := s.takeAccepts(b, entries); err != nil {
		return err
	}
	if accepted != nil {
		accepted(entries)
	}
	for i := range entries {
		if err := s.applyEntry(b, &entries[i]); err != nil {
			return fmt.Errorf("index %d: %w", entries[i].Index, err)
		}
		b.tell(&entries[i])
	}
	s.applied = entries[len(entries)-1].Index
	return s.commit(b)
}

// Settle writes the deliveries into the disk queue that are in memory and the log
// only, so that no entry up to Applied is needed any more to read them back. Only
// for the applier.
func (s *State) Settle() error {
	b := s.beginBatch()
	defer b.Close()
	b.storeThrough = s.applied
	if err := s.commit(b); err != nil {
		return fmt.Errorf("state: settle at %d: %w", s.applied, err)
	}
	return nil
}

// GiveUp is for a state that is to go on though the last entries up to Applied are lost,
// some of which it needs: what was young by them is lost. Who is young by the others, and
// is in Pebble, had an attempt that was recorded by one of the lost, and is taken out. All
// that is pending is counted anew. Settle makes it durable. Called after the last Rebuild;
// only for the applier.
func (s *State) GiveUp() error {
	var ended []*Young
	var err error
	s.EachYoung(func(y *Young) {
		_, missing := findStored(s.db, y.Account, y.ID)
		if missing == nil {
			ended = append(ended, y)
		} else if !errors.Is(missing, ErrNotFound) {
			err = errors.Join(err, missing)
		}
	})
	for _, y := range ended {
		y.gone = true
	}
	s.young.remove(ended)
	pending := int64(s.young.len())
	for _, a := range slices.Concat(s.dir.Accounts(), s.dir.Deleted()) {
		for _, st := range [...]delivery.Status{delivery.Queued, delivery.Retrying} {
			p := place{account: a, status: st}
			prefix := p.appendRowPrefix(nil)
			err = errors.Join(err, s.scan(prefix, successor(prefix), func(_, _ []byte) error { pending++; return nil }))
		}
	}
	if err != nil {
		return fmt.Errorf("state: give up what is lost up to %d: %w", s.applied, err)
	}
	s.pending.Store(pending)
	return nil
}

func (s *State) beginBatch() *applying {
	clear(s.touched)
	clear(s.orders)
	clear(s.backlogs.changes)
	s.young.storedLow = 0
	return &applying{Batch: s.db.NewBatch()}
}

// commit writes what a batch has made of the state, with the index that it makes of it.
func (s *State) commit(b *applying) error {
	if err := s.evict(b); err != nil {
		return err
	}
	if err := s.writeBacklogs(b); err != nil {
		return err
	}
	pending := s.pending.Load() + b.pending
	m := meta{applied: s.applied, low: s.young.low(s.applied + 1), pending: pending, ordered: s.ordered}
	s.buf = m.append(s.buf[:0])
	if err := b.Set([]byte{spaceMeta}, s.buf, nil); err != nil {
		return err
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return err
	}
	s.pending.Store(pending)
	s.backlogs.show()
	if b.stepped != nil {
		s.jobs.put(*b.stepped)
	}
	s.young.remove(b.leaving)
	s.young.compact()
	return nil
}

// takeAccepts takes the accepted deliveries into memory, before anything else
// of the batch: nothing in a batch can come before the accept it depends on
// and matter to it.
func (s *State) takeAccepts(b *applying, entries []Entry) error {
	var fresh []*Young
	for i := range entries {
		e := &entries[i]
		s.logBytes += int64(len(e.Command))
		kind, r, err := command.Parse(e.Command)
		if err != nil {
			return err
		}
		if kind != command.KindAccept {
			continue
		}
		if e.Young == nil {
			c, err := command.ReadAccept(&r)
			if err == nil {
				e.Young, err = decodeYoung(c)
			}
			if err != nil {
				return fmt.Errorf("index %d: accept: %w", e.Index, err)
			}
		}
		if !s.dir.Has(e.Young.Account) {
			// It was on its way while the account was deleted.
			e.Young, e.Ignored = nil, true
			continue
		}
		e.Young.index, e.Young.position = e.Index, s.logBytes
		b.pending++
		if fresh == nil {
			fresh = make([]*Young, 0, len(entries)-i)
		}
		fresh = append(fresh, e.Young)
	}
	s.young.add(fresh)
	return nil
}

func (s *State) applyEntry(b *applying, e *Entry) error {
	kind, r, err := command.Parse(e.Command)
	if err != nil {
		return err
	}
	switch kind {
	case command.KindAccept:
		if e.Ignored {
			return nil
		}
		return s.applyAccept(b, e.Young)
	case command.KindAttempt:
		c, err := command.ReadAttempt(&r)
		if err != nil {
			return err
		}
		e.Ignored, err = s.applyAttempt(b, &c)
		return err
	case command.KindCreateAccount:
		a, k, err := command.ReadCreateAccount(&r)
		if err != nil {
			return err
		}
		if err := s.putAccount(b, a); err != nil {
			return err
		}
		return s.putKey(b, k)
	case command.KindCreateKey:
		k, err := command.ReadCreateKey(&r)
		if err != nil {
			return err
		}
		if e.Ignored = !s.dir.Has(k.Account); e.Ignored {
			return nil
		}
		return s.putKey(b, k)
	case command.KindRevokeKey:
		a, k, err := command.ReadRevokeKey(&r)
		if err != nil {
			return err
		}
		s.dir.deleteKey(a, k)
		return b.Delete(appendAPIKey(nil, a, k), nil)
	case command.KindPutDomain:
		d, err := command.ReadPutDomain(&r)
		if err != nil {
			return err
		}
		return s.putDomain(b, e, d)
	case command.KindDeleteDomain:
		a, name, err := command.ReadDeleteDomain(&r)
		if err != nil {
			return err
		}
		s.dir.deleteDomain(a, name)
		return b.Delete(appendDomain(nil, a, name), nil)
	case command.KindControl:
		c, err := command.ReadControl(&r)
		if err != nil {
			return err
		}
		e.Effect, err = s.applyControl(b, &c)
		return err
	case command.KindPutJob:
		j, err := command.ReadPutJob(&r)
		if err != nil {
			return err
		}
		return s.replaceJob(b, j)
	case command.KindPutDataKey:
		a, wrapped, err := command.ReadPutDataKey(&r)
		if err != nil {
			return err
		}
		s.dir.putDataKey(a, wrapped)
		e.Changed = a
		return b.Set(appendAccount(nil, spaceDataKey, a), wrapped, nil)
	case command.KindReleaseOrder:
		c, err := command.ReadReleaseOrder(&r)
		if err != nil {
			return err
		}
		return s.applyReleaseOrder(b, &c)
	case command.KindPutLane:
		set, err := command.ReadPutLane(&r)
		if err != nil {
			return err
		}
		return s.putLane(b, e, set)
	case command.KindRetain:
		c, err := command.ReadRetain(&r)
		if err != nil {
			return err
		}
		return s.applyRetain(b, c)
	case command.KindDropBodies:
		c, err := command.ReadDropBodies(&r)
		if err != nil {
			return err
		}
		return s.applyDropBodies(b, c)
	case command.KindTrim:
		c, err := command.ReadTrim(&r)
		if err != nil {
			return err
		}
		return s.applyTrim(b, c)
	case command.KindPutAccount:
		a, err := command.ReadPutAccount(&r)
		if err != nil {
			return err
		}
		return s.changeAccount(b, e, a)
	case command.KindTouchKeys:
		uses, err := command.ReadTouchKeys(&r)
		if err != nil {
			return err
		}
		return s.touchKeys(b, uses)
	case command.KindDeleteAccount:
		a, at, err := command.ReadDeleteAccount(&r)
		if err != nil {
			return err
		}
		return s.deleteAccount(b, e, a, at)
	case command.KindSweepAccount:
		a, limit, err := command.ReadSweepAccount(&r)
		if err != nil {
			return err
		}
		return s.sweepAccount(b, e, a, limit)
	}
	panic(fmt.Sprintf("state: command kind %d parsed and not applied", kind))
}

func (s *State) applyAccept(b *applying, y *Young) error {
	if y.Accept.Idempotent {
		s.key = appendIdempotency(s.key[:0], bucketOf(y.ID.UnixMilli()), y.Account, y.Accept.Hash)
		if err := b.Set(s.key, y.ID[:], nil); err != nil {
			return err
		}
	}
	if y.Accept.Stored {
		return s.store(b, y)
	}
	return nil
}

// store writes a young delivery into the disk queue of its lane, or of its order
// if it has to wait there.
func (s *State) store(b *applying, y *Young) error {
	w, body := y.row()
	if y.Accept.Ordered {
		s.ordered++
		w.OrderNumber = s.ordered
	}
	p := place{account: y.Account, status: delivery.Queued, id: y.ID}
	row := delivery.AppendRow(nil, &w)
	if err := s.put(b, &p, row, body); err != nil {
		return err
	}
	s.touched[y.ID] = pendingRow{status: delivery.Queued, row: row, body: body}
	b.leave(y)
	if y.Accept.Ordered {
		return s.join(b, Order{y.Account, y.Accept.OrderHash}, turn{
			number: w.OrderNumber, id: y.ID, destination: y.Accept.Destination, due: y.Due, attempt: 1,
		})
	}
	s.key = appendQueue(s.key[:0], y.Lane(), Position{Due: y.Due, ID: y.ID, Attempt: 1})
	if err := b.Set(s.key, nil, nil); err != nil {
		return err
	}
	return s.queued(y.Lane(), y.Accept.Record)
}

// put writes a delivery's row, and its body if it is not in there.
func (s *State) put(b *applying, p *place, row, body []byte) error {
	s.key = p.appendRow(s.key[:0])
	if err := b.Set(s.key, row, nil); err != nil {
		return err
	}
	if body == nil {
		return nil
	}
	s.key = p.appendBody(s.key[:0])
	return b.Set(s.key, body, nil)
}

// get reads a key into memory of its own.
func (s *State) get(key []byte) ([]byte, error) {
	v, closer, err := s.db.Get(key)
	if err != nil {
		return nil, err
	}
	own := bytes.Clone(v)
	return own, closer.Close()
}

// evict writes the oldest young into the disk queue until what is left is
// within bounds. The young of one index leave together, since Low can only say
// of an index as a whole that it is still needed.
func (s *State) evict(b *applying) error {
	for index := uint64(0); ; {
		y := s.young.oldest()
		if y == nil {
			return nil
		}
		tooMany := len(s.young.queue)-s.young.front > s.opts.YoungDeliveries
		tooOld := s.logBytes-y.position > s.opts.YoungLogBytes
		if !tooMany && !tooOld && s.young.bytes-b.leavingBytes <= s.opts.YoungBytes && y.index != index && y.index > b.storeThrough {
			return nil
		}
		index = y.index
		if err := s.store(b, y); err != nil {
			return err
		}
	}
}

// Rebuild takes an entry from [Low, Applied] that Pebble already holds, to
// find which deliveries are young. The log's entries of that range must all be
// given, in order, before the first Apply.
func (s *State) Rebuild(e Entry) error {
	kind, r, err := command.Parse(e.Command)
	if err != nil {
		return fmt.Errorf("state: index %d: %w", e.Index, err)
	}
	s.logBytes += int64(len(e.Command))
	switch kind {
	case command.KindAccept:
		c, err := command.ReadAccept(&r)
		if err != nil {
			return fmt.Errorf("state: index %d: accept: %w", e.Index, err)
		}
		if c.Stored {
			return nil
		}
		y, err := decodeYoung(c)
		if err != nil {
			return fmt.Errorf("state: index %d: accept: %w", e.Index, err)
		}
		if !s.dir.Has(y.Account) {
			return nil // deleted since, and its young were stored with that
		}
		y.index, y.position = e.Index, s.logBytes
		s.young.add([]*Young{y})
	case command.KindAttempt:
		c, err := command.ReadAttempt(&r)
		if err != nil {
			return fmt.Errorf("state: index %d: attempt: %w", e.Index, err)
		}
		// As applyAttempt takes it.
		if y := s.young.byID[c.ID]; y != nil && c.Number == 1 && c.Account == y.Account {
			y.gone = true
			s.young.remove([]*Young{y})
		}
	}
	return nil
}
