package engine

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func suspend(t testing.TB, e *Engine, a AccountID, suspended bool) {
	t.Helper()
	got, err := e.ChangeAccount(context.Background(), a, AccountChange{Suspended: &suspended})
	if err != nil || got.Suspended != suspended {
		t.Fatalf("suspended %t: %+v, %v", suspended, got, err)
	}
}

// readyLanes is how many lanes could start an attempt at this moment.
func readyLanes(e *Engine) int {
	d := e.dispatcher()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sched.Wake(d.now())
	return d.sched.Stats().ReadyLanes
}

// A suspended account sends nothing and loses nothing: what is pending waits,
// also over a restart, and goes on when the suspension is lifted.
func TestSuspensionHoldsAttemptsBack(t *testing.T) {
	var received atomic.Int64
	target := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
		if received.Add(1) == 1 {
			w.WriteHeader(503)
		}
	})
	var clock wallClock
	o := testOptions(t, vfs.NewMem())
	o.Now = clock.now
	e, err := Open("data", o)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	a := newAccount(t, e)
	s := sendTo(target, "x")
	s.Policy.BaseDelay, s.Policy.MaxDelay = time.Hour, time.Hour
	retried, err := e.Send(ctx, a, s)
	if err != nil {
		t.Fatal(err)
	}
	s = sendTo(target, "later")
	s.NotBefore = clock.now().Add(time.Hour)
	later, err := e.Send(ctx, a, s)
	if err != nil {
		t.Fatal(err)
	}
	awaitCondition(t, "the first attempt to fail", func() bool {
		d, err := e.Delivery(ctx, a, retried.ID, ReadOptions{})
		return err == nil && d.Status == StatusRetrying
	})
	suspend(t, e, a, true)
	if _, err := e.Send(ctx, a, sendTo(target, "refused")); !errors.Is(err, ErrSuspended) {
		t.Errorf("a send of a suspended account: %v", err)
	}
	if _, _, err := e.CreateKey(ctx, a); err != nil {
		t.Errorf("a key for a suspended account: %v", err)
	}
	if page, err := e.Deliveries(ctx, a, Filter{}, DeliveryID{}, 10); err != nil || len(page.Deliveries) != 2 {
		t.Errorf("a suspended account reads %d deliveries: %v", len(page.Deliveries), err)
	}
	clock.set(2 * time.Hour)
	if n := readyLanes(e); n != 0 {
		t.Errorf("%d lanes are ready while the account is suspended", n)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = openEngine(t, o)
	if n := readyLanes(e); n != 0 {
		t.Errorf("%d lanes are ready after the restart", n)
	}
	if n := received.Load(); n != 1 {
		t.Errorf("%d attempts were made, one of them before the suspension", n)
	}
	suspend(t, e, a, false)
	for id, attempts := range map[DeliveryID]int{retried.ID: 2, later.ID: 1} {
		if d := await(t, e, a, id); d.Status != StatusDelivered || len(d.Attempts) != attempts {
			t.Errorf("ended as %s after %d attempts, want delivered after %d", d.Status, len(d.Attempts), attempts)
		}
	}
	if _, err := e.Send(ctx, a, sendTo(target, "again")); err != nil {
		t.Errorf("a send after the suspension: %v", err)
	}
}

// An account's own rate limit comes before the server's.
func TestRateLimitOfAnAccount(t *testing.T) {
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	o := testOptions(t, vfs.NewMem())
	o.RatePerMinute = 1
	now := time.Now()
	o.Now = func() time.Time { return now }
	e := openEngine(t, o)
	ctx := context.Background()
	passes := func(a AccountID) (n int) {
		t.Helper()
		for ; n < 10; n++ {
			var limited *RateLimitedError
			if _, err := e.Send(ctx, a, sendTo(target, "x")); errors.As(err, &limited) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		return n
	}
	limited := func(rate int) AccountID {
		t.Helper()
		a := newAccount(t, e)
		if got, err := e.ChangeAccount(ctx, a, AccountChange{RatePerMinute: &rate}); err != nil || got.RatePerMinute != rate {
			t.Fatalf("rate %d: %+v, %v", rate, got, err)
		}
		return a
	}
	if n := passes(newAccount(t, e)); n != 1 {
		t.Errorf("by the server's default %d sends pass, want 1", n)
	}
	if n := passes(limited(3)); n != 3 {
		t.Errorf("by a rate of 3 %d sends pass", n)
	}
	if n := passes(limited(NoRateLimit)); n != 10 {
		t.Errorf("without a limit %d sends pass, want all 10", n)
	}
	if n := passes(limited(0)); n != 1 {
		t.Errorf("by the default again %d sends pass, want 1", n)
	}
	for _, rate := range []int{NoRateLimit - 1, MaxRatePerMinute + 1} {
		if _, err := e.ChangeAccount(ctx, newAccount(t, e), AccountChange{RatePerMinute: &rate}); err == nil {
			t.Errorf("a rate of %d is taken", rate)
		}
	}
}
