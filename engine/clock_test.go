package engine

import (
	"context"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// wallClock is the machine's clock, as if somebody had set it: without the
// monotonic reading, which does not follow.
type wallClock struct{ ahead atomic.Int64 }

func (c *wallClock) now() time.Time { return time.Now().Round(0).Add(time.Duration(c.ahead.Load())) }

func (c *wallClock) set(ahead time.Duration) { c.ahead.Store(int64(ahead)) }

// A clock that is set back does not hold up what is sent from then on.
func TestClockSetBack(t *testing.T) {
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	var clock wallClock
	o := testOptions(t, vfs.NewMem())
	o.Now = clock.now
	e := openEngine(t, o)
	a := newAccount(t, e)
	for _, ahead := range []time.Duration{0, -time.Hour} {
		clock.set(ahead)
		r, err := e.Send(context.Background(), a, sendTo(target, "x"))
		if err != nil {
			t.Fatal(err)
		}
		if d := await(t, e, a, r.ID); d.Status != StatusDelivered {
			t.Errorf("with the clock %s ahead: %s", ahead, d.Status)
		}
	}
}

// A clock that is set forward is noticed though nothing else happens.
func TestClockSetForward(t *testing.T) {
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	var clock wallClock
	o := testOptions(t, vfs.NewMem())
	o.Now = clock.now
	e, err := Open("data", o)
	if err != nil {
		t.Fatal(err)
	}
	a := newAccount(t, e)
	s := sendTo(target, "x")
	s.NotBefore = clock.now().Add(time.Hour)
	r, err := e.Send(context.Background(), a, s)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = openEngine(t, o)
	awaitCondition(t, "the timekeeper to sleep until the delivery is due", func() bool {
		e.dispatcher().mu.Lock()
		defer e.dispatcher().mu.Unlock()
		return e.dispatcher().armed > e.dispatcher().now()
	})
	clock.set(time.Hour)
	if d := await(t, e, a, r.ID); d.Status != StatusDelivered {
		t.Error(d.Status)
	}
}
