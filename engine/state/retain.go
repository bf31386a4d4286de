package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/delivery"
)

// applyRetain drops what ended before the bounds, a range per account and
// status. A range that holds nothing gets no tombstone.
func (s *State) applyRetain(b *applying, c command.Retain) error {
	for _, a := range s.dir.Accounts() {
		if a < c.First || a > c.Last {
			continue
		}
		for _, st := range delivery.Statuses {
			if !st.Final() {
				continue
			}
			bound := c.Finished
			if st.Dead() {
				bound = c.Dead
			}
			if err := s.dropRows(b, a, st, bound); err != nil {
				return fmt.Errorf("retention of %s: %w", a, err)
			}
		}
		if err := errors.Join(
			s.dropBodies(b, a, classDone, c.Finished),
			s.dropBodies(b, a, classDead, c.Dead),
		); err != nil {
			return fmt.Errorf("retention of %s: %w", a, err)
		}
	}
	return s.dropRange(b, []byte{spaceIdempotency},
		binary.BigEndian.AppendUint32([]byte{spaceIdempotency}, bucketOf(c.Idempotency)))
}

func (s *State) dropRows(b *applying, a account.ID, st delivery.Status, bound int64) error {
	row := append(appendAccount(nil, spaceRow, a), byte(st))
	late := append(appendAccount(nil, spaceLateRow, a), byte(st))
	return s.dropOlder(b, row, late, bound)
}

func (s *State) dropBodies(b *applying, a account.ID, cl class, bound int64) error {
	body := append(appendAccount(nil, spaceBody, a), byte(cl))
	late := append(appendAccount(nil, spaceLateBody, a), byte(cl))
	return s.dropOlder(b, body, late, bound)
}

// dropOlder drops what ended before bound. Of what ended within lateAfter of
// its acceptance, that is what was accepted so much earlier; of the rest, the
// days that are over.
func (s *State) dropOlder(b *applying, onTime, late []byte, bound int64) error {
	id := delivery.FirstID(time.UnixMilli(bound).Add(-lateAfter))
	if err := s.dropRange(b, onTime, append(onTime[:len(onTime):len(onTime)], id[:]...)); err != nil {
		return err
	}
	return s.dropRange(b, late, binary.BigEndian.AppendUint32(late[:len(late):len(late)], dayOf(bound)))
}

// dropRange drops [lower, upper) if there is anything in it.
func (s *State) dropRange(b *applying, lower, upper []byte) error {
	first, err := s.firstKey(lower, upper)
	if err != nil || first == nil {
		return err
	}
	if b.measure != nil {
		// What an earlier pass dropped lies before first until it is compacted.
		n, err := s.db.EstimateDiskUsage(first, upper)
		if err != nil {
			return err
		}
		*b.measure += int64(n)
	}
	return b.DeleteRange(lower, upper, nil)
}

// applyDropBodies drops the bodies that are apart from their rows of what was
// delivered or cancelled before a moment.
func (s *State) applyDropBodies(b *applying, c command.DropBodies) error {
	for _, a := range s.dir.Accounts() {
		if a < c.First || a > c.Last {
			continue
		}
		if err := s.dropBodies(b, a, classDone, c.Before); err != nil {
			return fmt.Errorf("bodies of %s: %w", a, err)
		}
	}
	return nil
}

// firstKey is the first key in [lower, upper), nil if there is none.
func (s *State) firstKey(lower, upper []byte) ([]byte, error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, err
	}
	var key []byte
	if it.First() {
		key = bytes.Clone(it.Key())
	}
	return key, errors.Join(it.Error(), it.Close())
}

// applyTrim drops what finished of that was accepted before a moment.
func (s *State) applyTrim(b *applying, c command.Trim) error {
	cut := delivery.FirstID(time.UnixMilli(c.Accepted))
	for _, a := range s.dir.Accounts() {
		if a < c.First || a > c.Last {
			continue
		}
		err := s.eachFinished(a, func(bucket []byte) error {
			return s.dropRange(b, bucket, append(bucket[:len(bucket):len(bucket)], cut[:]...))
		})
		if err != nil {
			return fmt.Errorf("trim %s: %w", a, err)
		}
	}
	return nil
}

// eachFinished calls fn with the prefix of every range of an account that has rows
// or bodies of finished deliveries by id: one a status or class, and one a day
// for those that ended late.
func (s *State) eachFinished(a account.ID, fn func(bucket []byte) error) error {
	var onTime, late [][]byte
	for _, st := range delivery.Statuses {
		if st.Final() {
			onTime = append(onTime, append(appendAccount(nil, spaceRow, a), byte(st)))
			late = append(late, append(appendAccount(nil, spaceLateRow, a), byte(st)))
		}
	}
	for _, cl := range []class{classDone, classDead} {
		onTime = append(onTime, append(appendAccount(nil, spaceBody, a), byte(cl)))
		late = append(late, append(appendAccount(nil, spaceLateBody, a), byte(cl)))
	}
	for _, bucket := range onTime {
		if err := fn(bucket); err != nil {
			return err
		}
	}
	for _, prefix := range late {
		end := successor(prefix)
		for from := prefix; ; {
			key, err := s.firstKey(from, end)
			if err != nil || key == nil {
				if err != nil {
					return err
				}
				break
			}
			day := key[:len(prefix)+4]
			if err := fn(day); err != nil {
				return err
			}
			from = successor(day)
		}
	}
	return nil
}

// Finished is where an account's finished deliveries lie, as of one moment.
type Finished struct {
	Oldest, Newest int64 // when they were accepted, Unix milliseconds

	state  *State
	ranges []finishedRange
}

type finishedRange struct {
	bucket []byte // what every key begins with; an id follows
	first  []byte // the first key
}

// Finished looks for the finished deliveries of all accounts; nil if there is
// none. It costs some seeks an account.
func (s *State) Finished() (*Finished, error) {
	f := &Finished{state: s, Oldest: math.MaxInt64, Newest: math.MinInt64}
	for _, a := range s.dir.Accounts() {
		err := s.eachFinished(a, func(bucket []byte) error {
			first, last, err := s.ends(bucket, successor(bucket))
			if err != nil || len(first) != len(bucket)+len(delivery.ID{}) || len(last) != len(first) {
				return err
			}
			f.ranges = append(f.ranges, finishedRange{bucket, first})
			f.Oldest = min(f.Oldest, delivery.ID(first[len(bucket):]).UnixMilli())
			f.Newest = max(f.Newest, delivery.ID(last[len(bucket):]).UnixMilli())
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("state: finished deliveries of %s: %w", a, err)
		}
	}
	if len(f.ranges) == 0 {
		return nil, nil
	}
	return f, nil
}

// DiskBytes is about how much those take on disk that were accepted before a
// moment.
func (f *Finished) DiskBytes(until int64) (sum int64, err error) {
	cut := delivery.FirstID(time.UnixMilli(until))
	for _, r := range f.ranges {
		upper := append(bytes.Clone(r.bucket), cut[:]...)
		if bytes.Compare(r.first, upper) >= 0 {
			continue
		}
		n, err := f.state.db.EstimateDiskUsage(r.first, upper)
		if err != nil {
			return 0, fmt.Errorf("state: size of what is finished: %w", err)
		}
		sum += int64(n)
	}
	return sum, nil
}

// ends are the first and the last key in [lower, upper), nil if there is none.
func (s *State) ends(lower, upper []byte) (first, last []byte, err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, nil, err
	}
	if it.First() {
		first = bytes.Clone(it.Key())
		if it.Last() {
			last = bytes.Clone(it.Key())
		}
	}
	return first, last, errors.Join(it.Error(), it.Close())
}

// DiskBytes is what the state takes on disk, also what it is about to give back.
func (s *State) DiskBytes() int64 { return int64(s.db.Metrics().DiskSpaceUsage()) }

// NeedsRetain reports whether a retention pass with these bounds would find
// anything, so that none goes into the log for nothing, and about how many bytes
// on disk that is.
func (s *State) NeedsRetain(c command.Retain) (needed bool, diskBytes int64, err error) {
	return s.rehearse(func(b *applying) error { return s.applyRetain(b, c) })
}

// NeedsTrim is NeedsRetain for a trim.
func (s *State) NeedsTrim(c command.Trim) (needed bool, diskBytes int64, err error) {
	return s.rehearse(func(b *applying) error { return s.applyTrim(b, c) })
}

// NeedsDropBodies is NeedsRetain for bodies.
func (s *State) NeedsDropBodies(c command.DropBodies) (needed bool, diskBytes int64, err error) {
	return s.rehearse(func(b *applying) error { return s.applyDropBodies(b, c) })
}

func (s *State) rehearse(apply func(*applying) error) (needed bool, diskBytes int64, err error) {
	b := applying{Batch: s.db.NewBatch(), measure: &diskBytes}
	defer b.Close()
	if err := apply(&b); err != nil {
		return false, 0, err
	}
	return !b.Empty(), diskBytes, nil
}
