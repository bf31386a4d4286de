package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// noise does not compress.
func noise(seed, n int) string {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return string(b)
}

// At its limit the engine drops what finished, the oldest first, and goes on;
// with nothing finished left it refuses sends, and goes on delivering.
func TestQuota(t *testing.T) {
	var down atomic.Bool
	arrived := make(chan string, 5000)
	target := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		arrived <- r.Header.Get("X-Harepost-Delivery")
	})
	fs := vfs.NewMem()
	o := testOptions(t, fs)
	o.MaxDataBytes = 5 << 20
	o.LogBytes = 1 << 20
	var ahead atomic.Int64 // a minute for each send: a step drops some of them, not all
	o.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	e := openEngine(t, o)
	a, ctx := newAccount(t, e), context.Background()
	send := func(i int) (DeliveryID, error) {
		ahead.Add(int64(time.Minute))
		s := sendTo(target, noise(i, 32<<10))
		s.Policy.MaxAttempts, s.Policy.Backoff = 25, BackoffFixed
		s.Policy.BaseDelay, s.Policy.MaxDelay = 12*time.Hour, 12*time.Hour
		r, err := e.Send(ctx, a, s)
		return r.ID, err
	}
	second := func() { // of the keeper, after the pause between two steps
		e.quota.mu.Lock()
		e.quota.wait = 0
		e.quota.mu.Unlock()
		e.watchQuota()
	}
	var delivered []DeliveryID
	for i := range 300 { // 10 MB through 5
		id, err := send(i)
		if errors.Is(err, ErrStorageFull) {
			second()
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		<-arrived
		delivered = append(delivered, id)
		if i%10 == 9 {
			second()
		}
	}
	if n := len(delivered); n < 150 {
		t.Errorf("only %d of 300 sends were taken, though all that was there had finished", n)
	}
	gone := 0
	for _, id := range delivered {
		_, err := e.Delivery(ctx, a, id, ReadOptions{})
		switch {
		case errors.Is(err, ErrNotFound):
			gone++
		case err != nil:
			t.Fatal(err)
		default:
			// From the first that is there on, all are: the oldest went first.
			for _, newer := range delivered[gone:] {
				if _, err := e.Delivery(ctx, a, newer, ReadOptions{}); err != nil {
					t.Fatalf("%s is gone, the older %s is not: %v", newer, id, err)
				}
			}
		}
		if err == nil {
			break
		}
	}
	if gone == 0 || gone == len(delivered) {
		t.Errorf("%d of %d are gone", gone, len(delivered))
	}
	if n := e.metrics.dropped[droppedForSize].passes.Get(); n == 0 {
		t.Error("no pass is counted")
	}

	down.Store(true)
	var pending []DeliveryID
	for i := 1000; ; i++ {
		id, err := send(i)
		if errors.Is(err, ErrStorageFull) {
			if f, _ := e.state().Finished(); f == nil {
				break
			}
			second() // it may have been refused only because the steps are slower
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		pending = append(pending, id)
		if len(pending)%10 == 0 {
			second()
		}
		if len(pending) > 2000 {
			t.Fatalf("%d bytes are pending, and sends are still taken", len(pending)*32<<10)
		}
	}
	results := make([]SendResult, 1)
	e.SendBatch(ctx, a, []*Send{sendTo(target, "x")}, results)
	if !errors.Is(results[0].Err, ErrStorageFull) || !errors.Is(e.Ready(), ErrStorageFull) {
		t.Errorf("a batch: %v; ready: %v", results[0].Err, e.Ready())
	}
	if n := e.metrics.refusals[refusedStorage].Get(); n == 0 {
		t.Error("no refusal is counted")
	}
	for st, _ := e.dispatcher().stats(); st.Busy > 0; st, _ = e.dispatcher().stats() {
		runtime.Gosched() // an attempt that ends after the leap would be due 12 h later
	}
	down.Store(false)
	ahead.Add(int64(24 * time.Hour))
	left := make(map[string]bool, len(pending))
	for _, id := range pending {
		left[id.String()] = true
	}
	for len(left) > 0 { // they go on, however little room there is
		delete(left, <-arrived)
	}
	for e.Ready() != nil { // finished deliveries make room
		second()
	}
	if _, err := send(5000); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// Room that the log takes for the sake of a young delivery, which a suspended
// account may have for weeks, is not made by dropping what finished; nor is the
// state flushed again and again for it.
func TestALogThatIsHeldCostsNoHistory(t *testing.T) {
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	o := testOptions(t, vfs.NewMem())
	o.LogSegmentBytes, o.State.MemTableBytes = 0, 0
	o.MaxDataBytes = 64 << 20 // the least that serve takes
	e := openEngine(t, o)
	ctx := context.Background()
	sleeping, a := newAccount(t, e), newAccount(t, e)
	s := sendTo(target, "x")
	s.NotBefore = e.opts.Now().Add(1500 * time.Millisecond)
	if _, err := e.Send(ctx, sleeping, s); err != nil {
		t.Fatal(err)
	}
	suspend(t, e, sleeping, true)
	first, err := e.Send(ctx, a, sendTo(target, "the oldest"))
	if err != nil {
		t.Fatal(err)
	}
	await(t, e, a, first.ID)
	for i := range 1200 { // 38 MiB: all of it fits, were the log not held
		r, err := e.Send(ctx, a, sendTo(target, noise(i, 32<<10)))
		if err != nil {
			t.Fatalf("send %d with %d bytes of log: %v", i, e.log.Bytes(), err)
		}
		await(t, e, a, r.ID)
		if i%20 == 0 {
			e.watchQuota()
		}
	}
	if n, most := e.log.Bytes(), e.opts.LogBytes*5/4+4*e.opts.LogSegmentBytes; n > most {
		t.Errorf("the log has %d bytes, want at most %d", n, most)
	}
	if n := e.state().Metrics().Flush.Count; n > 60 {
		t.Errorf("%d flushes for 1,200 sends", n)
	}
	if _, err := e.Delivery(ctx, a, first.ID, ReadOptions{}); err != nil {
		t.Errorf("the oldest delivery: %v", err)
	}
	if err := e.Ready(); err != nil {
		t.Error(err)
	}
}

// A step of the quota drops as little when the clock has leapt.
func TestALeapDoesNotMakeTrimsLarger(t *testing.T) {
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	o := testOptions(t, vfs.NewMem())
	o.MaxDataBytes = 64 << 20
	var ahead atomic.Int64
	o.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	e := openEngine(t, o)
	ctx := context.Background()
	a := newAccount(t, e)
	var ids []DeliveryID
	send := func() {
		t.Helper()
		r, err := e.Send(ctx, a, sendTo(target, noise(len(ids), 4<<10)))
		if err != nil {
			t.Fatal(err)
		}
		await(t, e, a, r.ID)
		ids = append(ids, r.ID)
	}
	for range 200 {
		ahead.Add(int64(time.Hour))
		send()
	}
	ahead.Add(int64(365 * 24 * time.Hour))
	send()
	if err := e.state().Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := e.trim(e.dataBytes()); err != nil {
		t.Fatal(err)
	}
	left := 0
	for _, id := range ids {
		if _, err := e.Delivery(ctx, a, id, ReadOptions{}); err == nil {
			left++
		}
	}
	if left == len(ids) || left < len(ids)*3/4 {
		t.Errorf("one step left %d of %d", left, len(ids))
	}
}

// Bodies go before their rows, also the short ones; what is pending or dead keeps
// its own.
func TestRetainPayload(t *testing.T) {
	target := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "dead") {
			w.WriteHeader(http.StatusGone)
		}
	})
	gone := target
	gone.URL, gone.URI = target.URL+"/dead", target.URI+"/dead"
	var ahead atomic.Int64
	o := testOptions(t, vfs.NewMem())
	o.RetainPayload = time.Hour
	o.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	e := openEngine(t, o)
	a, ctx := newAccount(t, e), context.Background()
	type kept struct {
		id   DeliveryID
		body string
		drop bool
	}
	var all []kept
	for _, k := range []kept{{body: "short", drop: true}, {body: noise(1, 5000), drop: true}, {body: "dead"}, {body: ""}} {
		to := target
		if k.body == "dead" {
			to = gone
		}
		r, err := e.Send(ctx, a, sendTo(to, k.body))
		if err != nil {
			t.Fatal(err)
		}
		await(t, e, a, r.ID)
		k.id = r.ID
		all = append(all, k)
	}
	look := func(dropped bool) {
		t.Helper()
		for _, k := range all {
			d, err := e.Delivery(ctx, a, k.id, ReadOptions{Payload: true})
			if err != nil {
				t.Fatal(err)
			}
			if gone := k.drop && dropped; d.BodyDropped != gone || !gone && string(d.Body) != k.body || d.BodyBytes != len(k.body) {
				t.Errorf("body of %d bytes: %d are there, dropped %v", len(k.body), len(d.Body), d.BodyDropped)
			}
		}
	}
	e.retain()
	look(false)
	ahead.Store(int64(4 * time.Hour))
	e.retain()
	look(true)
	if _, err := e.Replay(ctx, a, all[0].id); !errors.Is(err, ErrPayloadGone) {
		t.Errorf("replay without a body: %v", err)
	}
	if _, err := e.Replay(ctx, a, all[2].id); err != nil {
		t.Errorf("replay of a dead letter: %v", err)
	}
	if n := e.metrics.dropped[droppedBodies].passes.Get(); n != 1 {
		t.Errorf("%d passes are counted", n)
	}
}

// A clock that leaps ahead is not believed at once, and one that is set back
// again in time has done no harm.
func TestClockLeapDropsNothingForAWhile(t *testing.T) {
	begin := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	g := leapGuard{last: begin}
	now := begin
	minute := func() bool { now = now.Add(time.Minute); ok, _ := g.look(now); return ok }
	for range 100 {
		if !minute() {
			t.Fatal("a clock that ticks is not believed")
		}
	}
	now = now.Add(10 * 24 * time.Hour)
	if ok, leapt := g.look(now); ok || leapt < 10*24*time.Hour {
		t.Errorf("a leap of ten days: believed %v, leapt %v", ok, leapt)
	}
	for i := range 59 {
		if minute() {
			t.Fatalf("it is believed after %d minutes", i+1)
		}
	}
	now = now.Add(-10 * 24 * time.Hour) // corrected in the last minute
	if !minute() {
		t.Error("the clock that was set right is not believed")
	}
	now = now.Add(5 * time.Hour) // and one that stays
	g.look(now)
	for range 59 {
		minute()
	}
	if !minute() {
		t.Error("a leap that has lasted for an hour is not believed")
	}
}

// A clock that is wrong from the start on is not believed either.
func TestALeapOverARestartHoldsRetentionBack(t *testing.T) {
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	var ahead atomic.Int64
	o := testOptions(t, vfs.NewMem())
	o.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	e, err := Open("data", o)
	if err != nil {
		t.Fatal(err)
	}
	a, ctx := newAccount(t, e), context.Background()
	r, err := e.Send(ctx, a, sendTo(target, "x"))
	if err != nil {
		t.Fatal(err)
	}
	await(t, e, a, r.ID)
	closeEngine(t, e)
	ahead.Store(int64(30 * 24 * time.Hour))
	e = openEngine(t, o)
	var g leapGuard
	for range 60 {
		e.retainIfBelieved(&g)
		if _, err := e.Delivery(ctx, a, r.ID, ReadOptions{}); err != nil {
			t.Fatal(fmt.Errorf("dropped at once after a start: %w", err))
		}
	}
	e.retainIfBelieved(&g)
	if _, err := e.Delivery(ctx, a, r.ID, ReadOptions{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("the clock has been so for an hour: %v", err)
	}
}

// The engine holds its own retention back, and says so.
func TestLeapHoldsRetentionBack(t *testing.T) {
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	var ahead atomic.Int64
	o := testOptions(t, vfs.NewMem())
	o.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	e := openEngine(t, o)
	a, ctx := newAccount(t, e), context.Background()
	r, err := e.Send(ctx, a, sendTo(target, "x"))
	if err != nil {
		t.Fatal(err)
	}
	await(t, e, a, r.ID)
	g := leapGuard{last: o.Now().Round(0)}
	ahead.Store(int64(30 * 24 * time.Hour))
	for range 60 {
		e.retainIfBelieved(&g)
		if _, err := e.Delivery(ctx, a, r.ID, ReadOptions{}); err != nil {
			t.Fatal(fmt.Errorf("dropped at once after a leap: %w", err))
		}
	}
	e.retainIfBelieved(&g)
	if _, err := e.Delivery(ctx, a, r.ID, ReadOptions{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("the leap has lasted for an hour: %v", err)
	}
}
