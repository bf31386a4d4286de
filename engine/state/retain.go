package state

import (
	"encoding/binary"
	"errors"
	"fmt"
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
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return err
	}
	some := it.First()
	if err := errors.Join(it.Error(), it.Close()); err != nil || !some {
		return err
	}
	return b.DeleteRange(lower, upper, nil)
}

// NeedsRetain reports whether a retention pass with these bounds would find
// anything, so that none goes into the log for nothing.
func (s *State) NeedsRetain(c command.Retain) (bool, error) {
	b := applying{Batch: s.db.NewBatch()}
	defer b.Close()
	if err := s.applyRetain(&b, c); err != nil {
		return false, err
	}
	return !b.Empty(), nil
}
