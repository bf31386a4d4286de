package engine

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// What a pass drops for its age is counted and logged, with its bounds; a pass
// that finds nothing is neither.
func TestRetentionForAgeIsTold(t *testing.T) {
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	var clock wallClock
	h := newTold()
	o := testOptions(t, vfs.NewMem())
	o.Now, o.Logger = clock.now, slog.New(h)
	e := openEngine(t, o)
	a, ctx := newAccount(t, e), context.Background()
	const passes, bytes = `harepost_retention_passes_total{reason="age"}`, `harepost_retention_dropped_bytes_total{reason="age"}`
	var ids []DeliveryID
	for i := range 50 {
		r, err := e.Send(ctx, a, sendTo(target, noise(i, 4000)))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, r.ID)
	}
	for _, id := range ids {
		await(t, e, a, id)
	}
	if err := e.state().Flush(); err != nil { // what is in memory only takes nothing on disk
		t.Fatal(err)
	}
	e.retain()
	if n, b := metric(t, e, passes), metric(t, e, bytes); n != 0 || b != 0 {
		t.Errorf("nothing was dropped: %v passes of %v bytes are counted", n, b)
	}
	if line, ok := h.has("retention dropped"); ok {
		t.Errorf("nothing was dropped, and it is logged: %s", line)
	}
	clock.set(e.opts.RetainFinished + 3*time.Hour)
	e.retain()
	if n, b := metric(t, e, passes), metric(t, e, bytes); n != 1 || b < 50*4000/2 {
		t.Errorf("%v passes of %v bytes are counted, want one of some 200,000", n, b)
	}
	line, ok := h.has("retention dropped deliveries past their time")
	for _, part := range []string{"until=", "bytes_about=", "dead_letters_until="} {
		if !ok || !strings.Contains(line, part) {
			t.Errorf("the pass is logged as %q, without %s", line, part)
		}
	}
	if _, err := e.Delivery(ctx, a, ids[0], ReadOptions{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("it is counted and logged, and not dropped: %v", err)
	}
	e.retain()
	if n := metric(t, e, passes); n != 1 {
		t.Errorf("%v passes are counted, and the second dropped nothing", n)
	}
}

// Retention never blocks a send: while passes drop one hour after the other,
// sends are taken, with a key and without.
func TestRetentionNeverBlocksSends(t *testing.T) {
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	var clock wallClock
	o := wholeLog(t)
	o.Now = clock.now
	o.RetainFinished, o.RetainPayload, o.IdempotencyWindow = 2*time.Hour, time.Hour, 6*time.Hour
	e := openEngine(t, o)
	a, ctx := newAccount(t, e), context.Background()
	var taken atomic.Int64
	stop := make(chan struct{})
	var senders sync.WaitGroup
	for n := range 2 {
		senders.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				s := sendTo(target, noise(i, 2000))
				if n == 1 {
					s.IdempotencyKey = noise(i, 8)
				}
				if _, err := e.Send(ctx, a, s); err != nil {
					t.Errorf("a send during retention: %v", err)
					return
				}
				taken.Add(1)
			}
		})
	}
	// Passes that drop something: what is attempted while the clock is set ends in
	// the hour after, and not every pass meets any of it.
	dropped := func() float64 { return metric(t, e, `harepost_retention_passes_total{reason="age"}`) }
	for pass := 0; dropped() < 10 && !t.Failed(); pass++ {
		if pass == 500 {
			t.Fatalf("only %v of %d passes dropped anything", dropped(), pass)
		}
		before := taken.Load()
		clock.set(time.Duration(pass) * 3 * time.Hour)
		e.retain()
		awaitCondition(t, "sends to go on beside retention", func() bool { return taken.Load() > before+2 || t.Failed() })
	}
	close(stop)
	senders.Wait()
}
