package state

import (
	"errors"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/lane"
)

// What readers see of the backlogs is what is in the disk queue, by lane, with
// the name of the lane; also after a start.
func TestBacklogsAreWhatIsQueued(t *testing.T) {
	seeded(t, 4, func(t *testing.T, seed uint64) {
		h := newHistory(seed)
		h.changeAccounts, h.control = seed%2 == 0, true
		for range 500 {
			h.step()
		}
		fs := vfs.NewMem()
		// Nothing stays young, so that all that is pending is in the disk queue.
		s := openState(t, fs, Options{YoungDeliveries: 1, YoungBytes: 1})
		applyAll(t, s, rand.New(rand.NewPCG(seed, 2)), h.log, 30)
		want := make(map[Lane]Backlog)
		for _, m := range h.live {
			at := Lane{account.ID(m.rec.Account), m.rec.Destination()}
			want[at] = Backlog{want[at].Pending + 1, lane.NameOf(&m.rec)}
		}
		for _, a := range h.deleted { // their positions go with the last step of the sweep
			maps.DeleteFunc(want, func(l Lane, _ Backlog) bool { return l.Account == a })
		}
		check := func(s *State) {
			t.Helper()
			for at, b := range want {
				if got, ok := s.Backlog(at); !ok || got != b {
					t.Errorf("lane %+v: %+v, want %+v", at, got, b)
				}
			}
			for at, got := range s.backlogs.m {
				if _, ok := want[at]; !ok && !s.dir.IsDeleted(at.Account) {
					t.Errorf("lane %+v has %+v, want nothing", at, got)
				}
			}
		}
		check(s)
		if err := errors.Join(s.Flush(), s.Close()); err != nil {
			t.Fatal(err)
		}
		check(openState(t, fs, Options{}))
	})
}

// A state of the first version has no rows of backlogs. They are counted when it
// is opened, and written with the next batch.
func TestBacklogsOfTheFirstVersionAreCounted(t *testing.T) {
	h := newHistory(7)
	for range 300 {
		h.step()
	}
	fs := vfs.NewMem()
	s := openState(t, fs, Options{YoungDeliveries: 1, YoungBytes: 1})
	applyAll(t, s, h.rng, h.log, 30)
	want := maps.Clone(s.backlogs.m)
	if len(want) == 0 {
		t.Fatal("the history left no backlog")
	}
	b := s.db.NewBatch()
	row := meta{applied: s.applied, low: s.Low(), pending: s.Pending()}.append(nil)
	row[0] = 1 // the first version's
	err := errors.Join(b.DeleteRange([]byte{spaceBacklog}, []byte{spaceBacklog + 1}, nil),
		b.Set([]byte{spaceMeta}, row, nil), b.Commit(pebble.NoSync), s.Flush(), s.Close())
	if err != nil {
		t.Fatal(err)
	}
	s = openState(t, fs, Options{YoungDeliveries: 1, YoungBytes: 1})
	if !maps.Equal(s.backlogs.m, want) {
		t.Fatalf("counted %v, want %v", s.backlogs.m, want)
	}
	if r, err := s.Verify(); err != nil || len(r.Findings) > 0 {
		t.Fatalf("verify: %v, %v", r.Findings, err)
	}
	before := len(h.log)
	for range 50 {
		h.step()
	}
	applyAll(t, s, h.rng, h.log[before:], 10)
	if r, err := s.Verify(); err != nil || len(r.Findings) > 0 {
		t.Fatalf("verify after the next batches: %v, %v", r.Findings, err)
	}
	want = maps.Clone(s.backlogs.m)
	if err := errors.Join(s.Flush(), s.Close()); err != nil {
		t.Fatal(err)
	}
	s = openState(t, fs, Options{})
	if s.backlogs.all || !maps.Equal(s.backlogs.m, want) {
		t.Fatalf("after the next start %v, want %v", s.backlogs.m, want)
	}
}
