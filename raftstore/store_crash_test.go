package raftstore

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/hashicorp/raft"
)

// A promise is what must be true of a disk that a power cut left: the entries first to acked with the terms
// they were acknowledged with, and of what was being changed then, all of it or none.
type promise struct {
	low   uint64            // what is below may have been dropped
	acked uint64            // what is up to here is there, unless cut says otherwise
	terms map[uint64]uint64 // of all entries that may be there
	tried uint64            // nothing is above
	cut   uint64            // entries from here on are being deleted, or 0
	reset bool              // all are being deleted
	value uint64            // stable value that was acknowledged
	maybe uint64            // one that was being set
}

func (p promise) clone() promise {
	terms := make(map[uint64]uint64, len(p.terms))
	for i, term := range p.terms {
		terms[i] = term
	}
	p.terms = terms
	return p
}

type storeCut struct {
	fs *vfs.MemFS
	op string
	p  promise
}

// After a power cut before any operation of the disk, with any part of what was not synced lost: all that
// StoreLogs and Set acknowledged is there, and no entry that a DeleteRange of a suffix, or of all, had removed
// when it returned is back.
func TestPowerCuts(t *testing.T) {
	rng := seeded(t)
	cuts := 0
	for range times(2) {
		cuts += storePowerCuts(t, rng)
	}
	t.Logf("%d power cuts", cuts)
	if cuts < 150 {
		t.Errorf("only %d power cuts: the test no longer tests much", cuts)
	}
}

func storePowerCuts(t *testing.T, rng *rand.Rand) int {
	mem := vfs.NewCrashableMem()
	var mu sync.Mutex
	var cuts []storeCut
	p := promise{terms: map[uint64]uint64{}}
	choice := rand.New(rand.NewPCG(rng.Uint64(), 0))
	fs := onChange(mem, func(op errorfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		percent := []int{0, 30, 70, 100}[choice.IntN(4)]
		clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: choice})
		cuts = append(cuts, storeCut{clone, fmt.Sprintf("%d %s@%d keeping %d%%", op.Kind, op.Path, op.Offset, percent), p.clone()})
		return nil
	})
	note := func(change func()) {
		mu.Lock()
		defer mu.Unlock()
		change()
	}
	s := mustOpenStore(t, smallOptions(fs))
	for term := uint64(1); term <= 25; term++ {
		first, last := bounds(t, s)
		switch k := rng.IntN(10); {
		case k == 0 && last > 0: // all of it
			note(func() { p.reset, p.tried = true, last })
			must(t, s.DeleteRange(first, last))
			note(func() { p.reset, p.acked, p.tried, p.low = false, 0, 0, 0; clear(p.terms) })
		case k <= 2 && last > 0:
			cut := last - rng.Uint64N(min(last-first+1, 12))
			if cut == first {
				continue
			}
			note(func() { p.cut = cut })
			must(t, s.DeleteRange(cut, last))
			note(func() {
				p.cut, p.acked, p.tried = 0, cut-1, cut-1
				for i := cut; i <= last; i++ {
					delete(p.terms, i)
				}
			})
		case k == 3 && last > 0:
			max := first + rng.Uint64N(last-first+1)
			if max == last {
				continue
			}
			s.Hold(max + 1)
			note(func() { p.low = max + 1 })
			must(t, s.DeleteRange(first, max))
		case k <= 5:
			note(func() { p.maybe = term })
			must(t, s.SetUint64([]byte("CurrentTerm"), term))
			note(func() { p.value = term })
		default:
			next := last + 1
			if last == 0 {
				next = 1 + rng.Uint64N(2000) // as after a snapshot
			}
			logs := entriesOf(term, next, next+rng.Uint64N(8), rng.IntN(2500))
			note(func() {
				for _, l := range logs {
					p.terms[l.Index] = term
				}
				p.tried = logs[len(logs)-1].Index
				if last == 0 {
					p.acked, p.low = 0, next
				}
			})
			must(t, s.StoreLogs(logs))
			note(func() { p.acked = p.tried })
		}
	}
	mustCloseStore(t, s)
	for i, c := range cuts {
		if err := c.p.check(c.fs); err != nil {
			t.Fatalf("power cut %d, before %s: %v", i, c.op, err)
		}
	}
	return len(cuts)
}

// check opens a disk and compares.
func (p promise) check(fs vfs.FS) error {
	s, err := OpenStore(storeDir, smallOptions(fs))
	if err != nil {
		return err
	}
	defer s.Close()
	first, _ := s.FirstIndex()
	last, _ := s.LastIndex()
	least := p.acked
	if p.cut > 0 {
		least = p.cut - 1
	}
	switch {
	case last == 0 && (p.reset || least == 0):
	case last < least || last > p.tried:
		return fmt.Errorf("the log ends with %d; acknowledged %d, tried %d, being cut from %d", last, p.acked, p.tried, p.cut)
	case p.cut > 0 && last != p.cut-1 && last != p.acked:
		return fmt.Errorf("the log ends with %d: half a suffix was deleted (%d to %d)", last, p.cut, p.acked)
	case p.acked > 0 && first > max(p.low, 1):
		return fmt.Errorf("the log begins with %d, needed are entries from %d", first, p.low)
	}
	for i := first; i <= last && i > 0; i++ {
		var l raft.Log
		if err := s.GetLog(i, &l); err != nil {
			return fmt.Errorf("entry %d of %d to %d: %w", i, first, last, err)
		}
		if l.Term != p.terms[i] {
			return fmt.Errorf("entry %d has term %d, want %d", i, l.Term, p.terms[i])
		}
		if want := entryOf(l.Term, i, len(l.Data)); !reflect.DeepEqual(&l, want) {
			return fmt.Errorf("entry %d of term %d has other bytes", i, l.Term)
		}
	}
	value, err := s.GetUint64([]byte("CurrentTerm"))
	if err == ErrKeyNotFound {
		value, err = 0, nil
	}
	if err != nil || value != p.value && value != p.maybe {
		return fmt.Errorf("the stable value is %d (%v), acknowledged %d, being set %d", value, err, p.value, p.maybe)
	}
	return nil
}
