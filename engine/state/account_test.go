package state

import (
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/command"
)

// deliverTo gives an account pending deliveries, and another one one.
func deliverTo(t testing.TB, s *State, h *history, a account.ID, pending int) {
	t.Helper()
	h.accounts = []account.ID{a}
	for range pending {
		h.accept()
	}
	h.accounts = []account.ID{a + 4}
	h.accept()
	applyAll(t, s, h.rng, h.log, 100)
}

// A sweep drops no more in one step than it may, keeps the count of what is
// pending, and leaves not one key of the account.
func TestSweepIsBounded(t *testing.T) {
	s := openState(t, vfs.NewMem(), Options{YoungDeliveries: 50})
	h := newHistory(12)
	deliverTo(t, s, h, 3, 100)
	apply := func(cmd []byte) Entry {
		t.Helper()
		h.add(cmd)
		e := []Entry{h.log[len(h.log)-1]}
		if err := s.Apply(e, nil); err != nil {
			t.Fatal(err)
		}
		return e[0]
	}
	if e := apply(command.AppendSweepAccount(nil, 3, 30)); !e.Ignored {
		t.Error("an account that is not deleted is swept")
	}
	if e := apply(command.AppendDeleteAccount(nil, 3, h.now)); e.Ignored || e.Changed != 3 {
		t.Errorf("deleted: %+v", e)
	}
	if s.Young() > 1 {
		t.Errorf("%d are young, one of them the neighbour's", s.Young())
	}
	for step, want := range []int64{71, 41, 11, 1} {
		if got, deleted := s.Pending()-30, s.Directory().IsDeleted(3); got > want && !deleted {
			t.Errorf("step %d: done too early, with %d pending", step, got)
		}
		e := apply(command.AppendSweepAccount(nil, 3, 30))
		if got := s.Pending(); got != want {
			t.Errorf("step %d: %d pending, want %d", step, got, want)
		}
		if last := step == 3; last != (e.Changed == 3) || last == s.Directory().IsDeleted(3) {
			t.Errorf("step %d: changed %s, still deleted %t", step, e.Changed, s.Directory().IsDeleted(3))
		}
	}
	if e := apply(command.AppendSweepAccount(nil, 3, 30)); !e.Ignored {
		t.Error("it is swept twice")
	}
	it, err := s.db.NewIter(&pebble.IterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		if key := it.Key(); len(key) > 8 && key[0] != spaceIdempotency && key[8] == 3 {
			t.Errorf("key %x is left", key)
		}
	}
	if r, err := s.Verify(); err != nil || len(r.Findings) > 0 {
		t.Errorf("verify: %v, %v", r.Findings, err)
	}
}
