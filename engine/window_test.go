package engine

import (
	"context"
	"io"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/harepost/harepost/engine/command"
)

// A second send with a key is a duplicate for 24 hours, to the millisecond, over
// a restart too, and not for longer; and of keys that are past it nothing is
// kept.
func TestIdempotencyWindowEnds(t *testing.T) {
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	var now atomic.Int64
	now.Store(time.Date(2026, 11, 24, 12, 34, 56, 789e6, time.UTC).UnixMilli())
	fs := vfs.NewMem()
	o := testOptions(t, fs)
	o.Now = func() time.Time { return time.UnixMilli(now.Load()) }
	const window = 24 * time.Hour // the default
	for _, restart := range []bool{false, true} {
		e, err := Open("data", o)
		if err != nil {
			t.Fatal(err)
		}
		a := newAccount(t, e)
		s := sendTo(target, "x")
		s.IdempotencyKey = "ord_123"
		send := func(what string, duplicate bool) DeliveryID {
			t.Helper()
			r, err := e.Send(context.Background(), a, s)
			if err != nil || r.Duplicate != duplicate {
				t.Errorf("restart %t, %s: %+v, %v", restart, what, r, err)
			}
			return r.ID
		}
		known := func(at time.Time) bool {
			t.Helper()
			_, found, err := e.state().Idempotent(a, idempotencyHash(s), at, window)
			if err != nil {
				t.Fatal(err)
			}
			return found
		}
		first := send("the first", false)
		await(t, e, a, first)
		began := time.UnixMilli(first.UnixMilli())
		now.Store(began.Add(window - time.Millisecond).UnixMilli())
		if restart {
			closeEngine(t, e)
			if e, err = Open("data", o); err != nil {
				t.Fatal(err)
			}
		}
		if again := send("just inside of 24 hours", true); again != first {
			t.Errorf("restart %t: %s, not %s", restart, again, first)
		}
		e.retain() // drops nothing that is still good
		if again := send("just inside of 24 hours, after a retention pass", true); again != first {
			t.Errorf("restart %t: %s, not %s", restart, again, first)
		}
		now.Store(began.Add(window).UnixMilli())
		second := send("after 24 hours", false)
		if second == first {
			t.Errorf("restart %t: a send after 24 hours has the old id", restart)
		}
		if third := send("once more", true); third != second {
			t.Errorf("restart %t: %s, not %s", restart, third, second)
		}
		if !known(began) {
			t.Errorf("restart %t: the first key is gone already", restart)
		}
		now.Store(began.Add(window + 8*time.Hour).UnixMilli()) // keys are kept and dropped by six hours
		e.retain()
		if known(began) {
			t.Errorf("restart %t: the row of a key that is past its window is kept", restart)
		}
		if again := send("inside the second's window", true); again != second {
			t.Errorf("restart %t: the second key is gone with the first", restart)
		}
		now.Store(began.Add(3 * window).UnixMilli())
		e.retain()
		if known(second.Time()) {
			t.Errorf("restart %t: the row of the second key is kept", restart)
		}
		if n := len(e.flights.m); n != 0 {
			t.Errorf("restart %t: %d sends with a key are remembered in memory", restart, n)
		}
		closeEngine(t, e)
	}
}

// Two hundred sends at once with one key, a power cut, and two hundred more: one
// delivery in the list, one arrival until the cut, one id.
func TestOneKeyOneDeliveryOverAPowerCut(t *testing.T) {
	var arrived atomic.Int64
	target := receiver(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		arrived.Add(1)
	})
	fs := vfs.NewCrashableMem()
	o := testOptions(t, fs)
	o.Failed = nil // the old timeline may end as it likes
	e, err := Open("data", o)
	if err != nil {
		t.Fatal(err)
	}
	a := newAccount(t, e)
	s := sendTo(target, "x")
	s.IdempotencyKey = "ord_123"
	race := func(e *Engine, fresh bool) (id DeliveryID, firsts int) {
		t.Helper()
		letGo := standStill(t, e, command.AppendDeleteDomain(nil, a, "none.example"))
		receipts := make([]Receipt, 200)
		var wg sync.WaitGroup
		for i := range receipts {
			wg.Go(func() {
				var err error
				if receipts[i], err = e.Send(context.Background(), a, s); err != nil {
					t.Errorf("send %d: %v", i, err)
				}
			})
		}
		// On a disk in memory the first would be answered before the second begins.
		if fresh {
			awaitCondition(t, "the first to be durable", func() bool { return countLogged(t, e, command.KindAccept) > 0 })
		}
		for range 10 * len(receipts) {
			runtime.Gosched()
		}
		letGo()
		wg.Wait()
		for _, r := range receipts {
			if r.ID != receipts[0].ID {
				t.Fatalf("one key, two deliveries: %s and %s", r.ID, receipts[0].ID)
			}
			if !r.Duplicate {
				firsts++
			}
		}
		page, err := e.Deliveries(context.Background(), a, Filter{IdempotencyKey: s.IdempotencyKey}, DeliveryID{}, 10)
		if err != nil || len(page.Deliveries) != 1 || page.Deliveries[0].ID != receipts[0].ID {
			t.Errorf("%d deliveries are listed, %v", len(page.Deliveries), err)
		}
		return receipts[0].ID, firsts
	}
	id, firsts := race(e, true)
	if firsts != 1 {
		t.Errorf("%d sends were the first", firsts)
	}
	// Right after the answers: all that a cut leaves is what was synced.
	clone := fs.CrashClone(vfs.CrashCloneCfg{})
	if d := await(t, e, a, id); d.Status != StatusDelivered || len(d.Attempts) != 1 {
		t.Errorf("it is %s after %d attempts", d.Status, len(d.Attempts))
	}
	closeEngine(t, e)
	if n := arrived.Load(); n != 1 {
		t.Errorf("%d arrived, want 1", n)
	}
	o.FS = clone
	e = openEngine(t, o)
	again, firsts := race(e, false)
	if again != id || firsts != 0 {
		t.Errorf("after a power cut the key has %s, not %s; %d sends were the first", again, id, firsts)
	}
	if d := await(t, e, a, id); d.Status != StatusDelivered {
		t.Errorf("after a power cut it is %s", d.Status)
	}
}
