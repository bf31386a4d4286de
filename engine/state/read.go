package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/delivery"
)

// ErrNotFound says that a delivery is not there, or is another account's.
var ErrNotFound = errors.New("state: not found")

// A Stored is a delivery as it is kept: its status, its row, and how to get
// its body.
type Stored struct {
	Status delivery.Status
	Row    delivery.Row
	place  place
}

// Find finds a delivery of an account.
//
// A reader looks at the young first and at Pebble second, and the applier
// commits to Pebble first and removes from the young second; so a delivery
// that moves meanwhile is found in at least one of them. Between two places in
// Pebble it moves in one batch, and the snapshot sees it in one of them.
func (s *State) Find(a account.ID, id delivery.ID) (Stored, error) {
	if owner, record, body, ok := s.young.get(id); ok {
		if owner != a {
			return Stored{}, ErrNotFound
		}
		return Stored{
			Status: delivery.Queued,
			Row:    delivery.Row{UpdatedAt: id.UnixMilli(), Record: record, HasBody: true, Body: body},
		}, nil
	}
	snap := s.db.NewSnapshot()
	defer snap.Close()
	return findStored(snap, a, id)
}

// findStored finds a delivery of an account that is not young.
func findStored(r pebble.Reader, a account.ID, id delivery.ID) (Stored, error) {
	for _, st := range [...]delivery.Status{
		delivery.Delivered, delivery.Retrying, delivery.DeadLetter,
		delivery.Queued, delivery.Rejected, delivery.Canceled,
	} {
		f, err := findAt(r, place{account: a, status: st, id: id})
		if !errors.Is(err, pebble.ErrNotFound) {
			return f, err
		}
	}
	return findLate(r, a, id)
}

// findLate looks under the days on which deliveries of the account ended late.
func findLate(snap pebble.Reader, a account.ID, id delivery.ID) (Stored, error) {
	for _, st := range delivery.Statuses {
		if !st.Final() {
			continue
		}
		days, err := lateDays(snap, a, st)
		if err != nil {
			return Stored{}, err
		}
		for _, day := range days {
			f, err := findAt(snap, place{account: a, status: st, late: true, day: day, id: id})
			if !errors.Is(err, pebble.ErrNotFound) {
				return f, err
			}
		}
	}
	return Stored{}, ErrNotFound
}

func findAt(r pebble.Reader, p place) (Stored, error) {
	b, err := getFrom(r, p.appendRow(nil))
	if err != nil {
		return Stored{}, err
	}
	w, err := delivery.DecodeRow(b)
	if err != nil {
		return Stored{}, fmt.Errorf("state: row of %s: %w", p.id, err)
	}
	return Stored{Status: p.status, Row: w, place: p}, nil
}

func getFrom(r pebble.Reader, key []byte) ([]byte, error) {
	v, closer, err := r.Get(key)
	if err != nil {
		return nil, err
	}
	own := append([]byte(nil), v...)
	return own, closer.Close()
}

// Body returns the body of what Find found. It is [ErrNotFound] when the
// delivery has moved since, or lost its body to retention.
func (s *State) Body(f *Stored) ([]byte, error) { return bodyOf(s.db, f) }

func bodyOf(r pebble.Reader, f *Stored) ([]byte, error) {
	if f.Row.HasBody {
		return f.Row.Body, nil
	}
	b, err := getFrom(r, f.place.appendBody(nil))
	if errors.Is(err, pebble.ErrNotFound) {
		err = ErrNotFound
	}
	return b, err
}

// FindPending finds a delivery of which attempt n is to be made, with its
// body: the young, or the one row that such a delivery can have. It is
// [ErrNotFound] when the delivery has ended.
func (s *State) FindPending(a account.ID, id delivery.ID, n uint32) (Stored, []byte, error) {
	if n == 1 {
		if owner, record, body, ok := s.young.get(id); ok && owner == a {
			return Stored{
				Status: delivery.Queued,
				Row:    delivery.Row{UpdatedAt: id.UnixMilli(), Record: record, HasBody: true, Body: body},
			}, body, nil
		}
	}
	f, body, err := findPending(s.db, a, id, n)
	if !errors.Is(err, errNoBody) {
		return f, body, err
	}
	// Cancelled between the two reads, or damaged: a snapshot tells. Every attempt
	// would have to pay for one.
	snap := s.db.NewSnapshot()
	defer snap.Close()
	return findPending(snap, a, id, n)
}

// errNoBody does not wrap [ErrNotFound]: where row and body were read at one
// moment it is damage, and not a delivery that has ended.
var errNoBody = errors.New("a pending delivery has no body")

func findPending(r pebble.Reader, a account.ID, id delivery.ID, n uint32) (Stored, []byte, error) {
	p := place{account: a, status: delivery.Retrying, id: id}
	if n == 1 {
		p.status = delivery.Queued
	}
	f, err := findAt(r, p)
	if n == 1 && errors.Is(err, pebble.ErrNotFound) { // cancelled before it, and replayed
		p.status = delivery.Retrying
		f, err = findAt(r, p)
	}
	if errors.Is(err, pebble.ErrNotFound) || err == nil && f.Row.Count != int(n)-1 {
		return Stored{}, nil, ErrNotFound
	}
	if err != nil {
		return Stored{}, nil, err
	}
	body, err := bodyOf(r, &f)
	if errors.Is(err, ErrNotFound) {
		err = fmt.Errorf("state: %s: %w", id, errNoBody)
	}
	return f, body, err
}

// Idempotent finds the delivery that was first accepted under a hash within
// the window before now. A send may have taken its time a little before the
// one that it repeats was accepted, and a clock may be set back: so the bucket
// after now's is looked at too.
func (s *State) Idempotent(a account.ID, hash [16]byte, now time.Time, window time.Duration) (delivery.ID, bool, error) {
	since := now.Add(-window).UnixMilli()
	newest, oldest := bucketOf(now.UnixMilli())+1, bucketOf(since)
	// One iterator for all buckets, and the filters of the last level too, which
	// Get does not ask: most keys are not there.
	it, err := s.db.NewIter(&pebble.IterOptions{
		LowerBound:   appendIdempotency(nil, oldest, 0, [16]byte{}),
		UpperBound:   appendIdempotency(nil, newest+1, 0, [16]byte{}),
		UseL6Filters: true,
	})
	if err != nil {
		return delivery.ID{}, false, fmt.Errorf("state: idempotency key: %w", err)
	}
	var key []byte
	for back := range newest - oldest + 1 {
		key = appendIdempotency(key[:0], newest-back, a, hash)
		if !it.SeekPrefixGE(key) {
			if err := it.Error(); err != nil { // the next seek forgets it
				return delivery.ID{}, false, errors.Join(fmt.Errorf("state: idempotency key: %w", err), it.Close())
			}
			continue
		}
		var id delivery.ID
		copy(id[:], it.Value())
		if id.UnixMilli() > since {
			return id, true, it.Close()
		}
	}
	if err := it.Close(); err != nil {
		return delivery.ID{}, false, fmt.Errorf("state: idempotency key: %w", err)
	}
	return delivery.ID{}, false, nil
}

// QueuePage reads up to limit positions of a lane's disk queue, the first of
// them from on. more reports whether there are others.
func (s *State) QueuePage(l Lane, from Position, limit int) (page []Position, more bool, err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{
		LowerBound: appendQueue(nil, l, from),
		UpperBound: successor(appendLane(nil, l)),
	})
	if err != nil {
		return nil, false, fmt.Errorf("state: queue page: %w", err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		if len(page) == limit {
			more = true
			break
		}
		_, p, valid := parseQueue(it.Key())
		if !valid {
			return nil, false, errors.Join(fmt.Errorf("state: queue key %x: malformed", it.Key()), it.Close())
		}
		page = append(page, p)
	}
	return page, more, it.Close()
}

// Lanes calls fn with every lane that has a disk queue, and its first
// position: one seek a lane, whatever the length of the queues.
func (s *State) Lanes(fn func(l Lane, first Position)) error {
	it, err := s.db.NewIter(&pebble.IterOptions{
		LowerBound: []byte{spaceQueue},
		UpperBound: []byte{spaceQueue + 1},
	})
	if err != nil {
		return fmt.Errorf("state: lanes: %w", err)
	}
	for ok := it.First(); ok; {
		l, p, valid := parseQueue(it.Key())
		if !valid {
			return errors.Join(fmt.Errorf("state: queue key %x: malformed", it.Key()), it.Close())
		}
		fn(l, p)
		ok = it.SeekGE(successor(appendLane(nil, l)))
	}
	return it.Close()
}

// EachYoung calls fn with every young delivery in log order. Only for the
// applier.
func (s *State) EachYoung(fn func(y *Young)) {
	for _, y := range s.young.queue[s.young.front:] {
		if y != nil && !y.gone {
			fn(y)
		}
	}
}

// lateDays are the days under which an account has late deliveries of a
// status. There are at most as many as retention keeps.
func lateDays(r pebble.Reader, a account.ID, st delivery.Status) ([]uint32, error) {
	prefix := append(appendAccount(nil, spaceLateRow, a), byte(st))
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: successor(prefix)})
	if err != nil {
		return nil, fmt.Errorf("state: late days: %w", err)
	}
	var days []uint32
	for ok := it.First(); ok; {
		key := it.Key()
		if len(key) != len(prefix)+4+16 {
			return nil, errors.Join(fmt.Errorf("state: key %x: malformed", key), it.Close())
		}
		day := binary.BigEndian.Uint32(key[len(prefix):])
		days = append(days, day)
		ok = it.SeekGE(successor(key[:len(prefix)+4]))
	}
	return days, it.Close()
}
