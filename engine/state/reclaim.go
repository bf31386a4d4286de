package state

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
)

const (
	// reclaimLeast is the size below which a range is not worth a compaction, and
	// reclaimMost what one compaction is given: it writes what is left of its
	// range before what it read is removed.
	reclaimLeast = 1 << 20
	reclaimMost  = 256 << 20
)

// Reclaim gives back what has been dropped and takes up room still. Pebble does so
// by itself as more is written; where nothing is written any more, because there
// is no room, somebody has to ask. It reads and writes what is left; for any
// goroutine, one at a time.
func (s *State) Reclaim(ctx context.Context) error {
	if err := s.FlushContext(ctx); err != nil {
		return err
	}
	for _, a := range s.dir.Accounts() {
		for _, space := range sweptSpaces {
			prefix := appendAccount(nil, space, a)
			if err := s.reclaim(ctx, prefix, successor(prefix)); err != nil {
				return fmt.Errorf("state: reclaim room of %s: %w", a, err)
			}
		}
	}
	return nil
}

func (s *State) reclaim(ctx context.Context, lower, upper []byte) error {
	n, err := s.db.EstimateDiskUsage(lower, upper)
	if err != nil || n < reclaimLeast {
		return err
	}
	if middle := between(lower, upper); n > reclaimMost && middle != nil {
		if err := s.reclaim(ctx, lower, middle); err != nil {
			return err
		}
		return s.reclaim(ctx, middle, upper)
	}
	return s.db.Compact(ctx, lower, upper, false)
}

// between is a key half way between two; nil if they are next to each other.
func between(lower, upper []byte) []byte {
	same := 0
	for same < min(len(lower), len(upper)) && lower[same] == upper[same] {
		same++
	}
	var l, u [8]byte
	copy(l[:], lower[same:])
	copy(u[:], upper[same:])
	a, b := binary.BigEndian.Uint64(l[:]), binary.BigEndian.Uint64(u[:])
	middle := a + (b-a)/2
	if middle == a {
		return nil
	}
	key := binary.BigEndian.AppendUint64(append([]byte(nil), lower[:same]...), middle)
	if bytes.Compare(key, lower) <= 0 || bytes.Compare(key, upper) >= 0 {
		return nil
	}
	return key
}
