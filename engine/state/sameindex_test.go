package state

import (
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/harepost/harepost/engine/command"
)

// grouped gives some entries in a row one index, as a log does that orders whole
// batches; those that have a batch of their own keep one of their own.
func grouped(t testing.TB, log []Entry, rng *rand.Rand) (groups [][]Entry) {
	t.Helper()
	room := 0
	for _, e := range log {
		kind, _, err := command.Parse(e.Command)
		if err != nil {
			t.Fatal(err)
		}
		if room--; room < 0 || command.OwnBatch(kind) {
			groups, room = append(groups, nil), rng.IntN(12)
		}
		if command.OwnBatch(kind) {
			room = 0
		}
		i := len(groups) - 1
		groups[i] = append(groups[i], Entry{Index: uint64(i) + 1, Command: e.Command})
	}
	return groups
}

// Entries of one index are applied, lost and rebuilt together.
func TestReplayOfEntriesOfOneIndex(t *testing.T) {
	seeded(t, 10, func(t *testing.T, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 4))
		h := newHistory(seed)
		h.changeAccounts, h.control, h.ordered = true, true, true
		for range 400 {
			h.step()
		}
		groups := grouped(t, h.log, rng)
		fs := vfs.NewCrashableMem()
		for crash := 0; ; crash++ {
			s := openState(t, fs, Options{YoungDeliveries: 1 + rng.IntN(200), MemTableBytes: 64 << 10})
			low, applied := s.Low(), s.Applied()
			for _, g := range groups[min(low, applied+1)-1 : applied] {
				for _, e := range g {
					if err := s.Rebuild(e); err != nil {
						t.Fatal(err)
					}
				}
			}
			upTo := int(applied) + rng.IntN(len(groups)-int(applied)+1)
			if crash == 3 {
				upTo = len(groups)
			}
			for i := int(applied); i < upTo; {
				var batch []Entry
				for n := 1 + rng.IntN(6); n > 0 && i < upTo; n-- {
					batch = append(batch, groups[i]...)
					i++
				}
				if err := s.Apply(batch, nil); err != nil {
					t.Fatal(err)
				}
				if rng.IntN(20) == 0 {
					if err := s.Flush(); err != nil {
						t.Fatal(err)
					}
				}
			}
			if crash == 3 {
				if d := diff(dumpState(t, s), h.dump()); d != "" {
					t.Fatal(d)
				}
				if r, err := s.Verify(); err != nil || len(r.Findings) > 0 {
					t.Fatalf("verify: %v, %v", r.Findings, err)
				}
				return
			}
			fs = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
