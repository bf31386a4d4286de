package raftstore

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
)

// Readers, as raft's replicators are, beside one who appends, cuts suffixes and prefixes and empties the log:
// each entry that comes is one that was stored at its index, and never one older than what the same reader has
// seen there.
func TestReadBesideChanges(t *testing.T) {
	seed := seeded(t).Uint64()
	o := smallOptions(vfs.NewMem())
	o.CacheBytes = 6 << 10 // some reads come from memory, most from the disk
	s := mustOpenStore(t, o)
	defer mustCloseStore(t, s)
	done := make(chan struct{})
	var readers sync.WaitGroup
	for r := range cursorsKept + 2 {
		readers.Go(func() {
			if err := follow(s, done, rand.New(rand.NewPCG(seed, uint64(r)))); err != nil {
				t.Error(err)
			}
		})
	}
	rng := rand.New(rand.NewPCG(seed, 99))
	for term := range uint64(times(40)) {
		first, last := bounds(t, s)
		switch k := rng.IntN(12); {
		case k == 0 && last > 0:
			must(t, s.DeleteRange(first, last))
		case k <= 3 && last > first:
			must(t, s.DeleteRange(last-rng.Uint64N(min(last-first, 20)), last))
		case k == 4 && last > first:
			s.Hold(last)
			must(t, s.DeleteRange(first, first+(last-first)/2))
		}
		_, last = bounds(t, s)
		must(t, s.StoreLogs(entriesOf(term+1, last+1, last+1+rng.Uint64N(40), rng.IntN(700))))
	}
	close(done)
	readers.Wait()
}

func follow(s *Store, done chan struct{}, rng *rand.Rand) error {
	seen := map[uint64]uint64{}
	for at := uint64(1); ; at++ {
		select {
		case <-done:
			return nil
		default:
		}
		_, last := boundsOf(s)
		if at > last || rng.IntN(60) == 0 {
			at = last - min(last, rng.Uint64N(120))
		}
		var l raft.Log
		err := s.GetLog(at, &l)
		if err == raft.ErrLogNotFound {
			continue
		}
		if err != nil {
			return err
		}
		if want := entryOf(l.Term, at, len(l.Data)); !reflect.DeepEqual(&l, want) {
			return fmt.Errorf("GetLog(%d) gave entry %d of term %d with other bytes", at, l.Index, l.Term)
		}
		if l.Term < seen[at] {
			return fmt.Errorf("GetLog(%d) gave term %d after term %d", at, l.Term, seen[at])
		}
		seen[at] = l.Term
	}
}

func boundsOf(s *Store) (first, last uint64) {
	first, _ = s.FirstIndex()
	last, _ = s.LastIndex()
	return first, last
}
