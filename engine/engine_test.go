package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/state"
	"github.com/harepost/harepost/transport"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"))
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// newTransport is a transport that may reach loopback.
func newTransport(t testing.TB) *transport.Transport {
	t.Helper()
	tr, err := transport.New(transport.Options{
		EgressAllow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		Logger:      quiet,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tr.Close)
	return tr
}

// testOptions are small, quiet, and for loopback.
func testOptions(t testing.TB, fs vfs.FS) Options {
	return Options{
		FS:              fs,
		Transport:       newTransport(t),
		DevLoopback:     true,
		BreakerFailures: -1, // most of what is tested fails on purpose
		LogSegmentBytes: 256 << 10,
		State:           state.Options{CacheBytes: 1 << 20, MemTableBytes: 256 << 10},
		Logger:          quiet,
		Failed:          func(err error) { t.Errorf("engine failed: %v", err) },
	}
}

func openEngine(t testing.TB, o Options) *Engine {
	t.Helper()
	e, err := Open("data", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return e
}

// receiver is an HTTP server on loopback that hands every request to answer.
func receiver(t testing.TB, answer http.HandlerFunc) (target Target) {
	t.Helper()
	srv := httptest.NewServer(answer)
	t.Cleanup(srv.Close)
	return targetOf(t, srv.URL+"/hook")
}

func targetOf(t testing.TB, raw string) Target {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	host, portText, err := net.SplitHostPort(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		t.Fatal(err)
	}
	return Target{URL: raw, Scheme: u.Scheme, Host: host, Port: uint16(port), URI: u.RequestURI()}
}

func newAccount(t testing.TB, e *Engine) AccountID {
	t.Helper()
	a, err := e.CreateAccount(context.Background(), "test")
	if err != nil {
		t.Fatal(err)
	}
	return a.Account.ID
}

// sendTo is a send with short delays.
func sendTo(target Target, body string) *Send {
	return &Send{
		Target: target,
		Method: "POST",
		Body:   []byte(body),
		Policy: Policy{
			MaxAttempts: 3, Jitter: JitterNone, BaseDelay: 10 * time.Millisecond, MaxDelay: time.Second,
			Timeout: 5 * time.Second, RespectRetryAfter: true,
		},
	}
}

// patience is how long a test waits for what others bring about. It is long because the
// machines that run tests are busy; nothing waits it out that works.
const patience = time.Minute

// await polls a delivery until its status is final.
func await(t testing.TB, e *Engine, a AccountID, id DeliveryID) Delivery {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		d, err := e.Delivery(ctx, a, id, ReadOptions{})
		if err != nil {
			t.Fatalf("look up %s: %v", id, err)
		}
		if d.Status.Final() {
			return d
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s is still %s after %d attempts", id, d.Status, len(d.Attempts))
		}
	}
}

func TestSendIsDelivered(t *testing.T) {
	got := make(chan string, 1)
	target := receiver(t, func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- fmt.Sprintf("%s %s %s %s", r.Method, r.URL.Path, r.Header.Get("X-Harepost-Attempt"), b)
	})
	e := openEngine(t, testOptions(t, vfs.NewMem()))
	a := newAccount(t, e)
	r, err := e.Send(context.Background(), a, sendTo(target, `{"x":1}`))
	if err != nil {
		t.Fatal(err)
	}
	if d, err := e.Delivery(context.Background(), a, r.ID, ReadOptions{Payload: true}); err != nil || string(d.Body) != `{"x":1}` {
		t.Fatalf("right after the receipt: %+v, %v", d, err)
	}
	if g, want := <-got, `POST /hook 1 {"x":1}`; g != want {
		t.Errorf("the receiver got %q, want %q", g, want)
	}
	d := await(t, e, a, r.ID)
	if d.Status != StatusDelivered || len(d.Attempts) != 1 || d.LastStatus != 200 || !d.NextAttemptAt.IsZero() {
		t.Errorf("delivery %+v", d)
	}
	if _, err := e.Delivery(context.Background(), a+1, r.ID, ReadOptions{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("another account finds it: %v", err)
	}
}

func TestAttemptsEndAsTheContractSays(t *testing.T) {
	e := openEngine(t, testOptions(t, vfs.NewMem()))
	a := newAccount(t, e)
	for name, c := range map[string]struct {
		statuses []int // answered in turn, the last one for ever
		status   Status
		attempts int
	}{
		"delivered at once":   {[]int{200}, StatusDelivered, 1},
		"delivered at last":   {[]int{503, 500, 204}, StatusDelivered, 3},
		"rejected":            {[]int{404}, StatusRejected, 1},
		"rejected on a retry": {[]int{429, 410}, StatusRejected, 2},
		"dead letter":         {[]int{408}, StatusDeadLetter, 3},
		"redirect is failure": {[]int{302}, StatusDeadLetter, 3},
	} {
		t.Run(name, func(t *testing.T) {
			var n atomic.Int64
			target := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(c.statuses[min(int(n.Add(1))-1, len(c.statuses)-1)])
			})
			r, err := e.Send(context.Background(), a, sendTo(target, "x"))
			if err != nil {
				t.Fatal(err)
			}
			d := await(t, e, a, r.ID)
			if d.Status != c.status || len(d.Attempts) != c.attempts || int(n.Load()) != c.attempts {
				t.Errorf("%s after %d attempts (%d received), want %s after %d",
					d.Status, len(d.Attempts), n.Load(), c.status, c.attempts)
			}
			for i, at := range d.Attempts {
				if at.Number != i+1 || (at.NextAttemptAt.IsZero()) != (i == len(d.Attempts)-1) {
					t.Errorf("attempt %d: %+v", i+1, at)
				}
			}
		})
	}
	if n := e.state().Pending(); n != 0 {
		t.Errorf("%d pending at the end, want 0", n)
	}
}

func TestExpiredIsDeadWithoutAnAttempt(t *testing.T) {
	var n atomic.Int64
	target := receiver(t, func(http.ResponseWriter, *http.Request) { n.Add(1) })
	e := openEngine(t, testOptions(t, vfs.NewMem()))
	a := newAccount(t, e)
	s := sendTo(target, "x")
	s.NotBefore = time.Now().Add(50 * time.Millisecond)
	s.ExpiresAt = time.Now().Add(20 * time.Millisecond)
	r, err := e.Send(context.Background(), a, s)
	if err != nil {
		t.Fatal(err)
	}
	d := await(t, e, a, r.ID)
	if d.Status != StatusDeadLetter || len(d.Attempts) != 1 || d.Attempts[0].Error != errorExpired || n.Load() != 0 {
		t.Errorf("%+v, %d received", d, n.Load())
	}
}

func TestDeletedDomainEndsItsDeliveries(t *testing.T) {
	reached := make(chan struct{}, 10)
	target := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(503)
		reached <- struct{}{}
	})
	o := testOptions(t, vfs.NewMem())
	o.DevLoopback = false
	e := openEngine(t, o)
	a := newAccount(t, e)
	ctx := context.Background()
	var notVerified *DomainNotVerifiedError
	if _, err := e.Send(ctx, a, sendTo(target, "x")); !errors.As(err, &notVerified) || notVerified.Host != target.Host {
		t.Fatalf("send without a domain: %v", err)
	}
	verifyByHand(t, e, a, target.Host)
	s := sendTo(target, "x")
	s.Policy.BaseDelay = 300 * time.Millisecond
	r, err := e.Send(ctx, a, s)
	if err != nil {
		t.Fatal(err)
	}
	<-reached
	if err := e.DeleteDomain(ctx, a, target.Host); err != nil {
		t.Fatal(err)
	}
	if d := await(t, e, a, r.ID); d.Status != StatusRejected || d.Attempts[len(d.Attempts)-1].Error != errorRemoved {
		t.Errorf("%s, %+v", d.Status, d.Attempts)
	}
}

// verifyByHand commits a verified domain, for tests that have no DNS.
func verifyByHand(t testing.TB, e *Engine, a AccountID, name string) {
	t.Helper()
	d, _, err := e.AddDomain(context.Background(), a, name)
	if err != nil {
		t.Fatal(err)
	}
	d.VerifiedAt = e.now()
	if err := e.propose(context.Background(), 1, command.AppendPutDomain(nil, &d)); err != nil {
		t.Fatal(err)
	}
}

func TestOneKeyOneDelivery(t *testing.T) {
	var n atomic.Int64
	target := receiver(t, func(http.ResponseWriter, *http.Request) { n.Add(1) })
	fs := vfs.NewMem()
	o := testOptions(t, fs)
	e, err := Open("data", o)
	if err != nil {
		t.Fatal(err)
	}
	a := newAccount(t, e)
	s := sendTo(target, "x")
	s.IdempotencyKey = "ord_123"
	var wg sync.WaitGroup
	receipts := make([]Receipt, 200)
	for i := range receipts {
		wg.Go(func() {
			r, err := e.Send(context.Background(), a, s)
			if err != nil {
				t.Errorf("send %d: %v", i, err)
			}
			receipts[i] = r
		})
	}
	wg.Wait()
	first := 0
	for _, r := range receipts {
		if !r.Duplicate {
			first++
		}
		if r.ID != receipts[0].ID || !r.CreatedAt.Equal(receipts[0].CreatedAt) {
			t.Fatalf("%+v and %+v", r, receipts[0])
		}
	}
	if first != 1 {
		t.Errorf("%d sends were the first, want 1", first)
	}
	await(t, e, a, receipts[0].ID)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = openEngine(t, o)
	for name, c := range map[string]struct {
		change    func(*Send)
		duplicate bool
	}{
		"the same":       {func(*Send) {}, true},
		"another body":   {func(s *Send) { s.Body = []byte("y") }, false},
		"another method": {func(s *Send) { s.Method = "PUT" }, false},
		"another target": {func(s *Send) { s.Target.URL += "?x"; s.Target.URI += "?x" }, false},
		"another key":    {func(s *Send) { s.IdempotencyKey = "ord_124" }, false},
	} {
		other := *s
		c.change(&other)
		r, err := e.Send(context.Background(), a, &other)
		if err != nil || r.Duplicate != c.duplicate || (r.ID == receipts[0].ID) != c.duplicate {
			t.Errorf("after a restart, %s: %+v, %v", name, r, err)
		}
	}
	if n.Load() < 1 {
		t.Error("nothing was delivered")
	}
}

func TestPendingSurvivesARestart(t *testing.T) {
	var up atomic.Bool
	var n atomic.Int64
	target := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
		if !up.Load() {
			w.WriteHeader(503)
			return
		}
		n.Add(1)
	})
	fs := vfs.NewMem()
	o := testOptions(t, fs)
	o.State.YoungDeliveries = 20 // most wait on disk
	e, err := Open("data", o)
	if err != nil {
		t.Fatal(err)
	}
	a := newAccount(t, e)
	var ids []DeliveryID
	for i := range 500 {
		s := sendTo(target, fmt.Sprint(i))
		s.Policy.MaxAttempts = 25
		s.Policy.MaxDelay = time.Second // 25 attempts outlast a slow machine
		r, err := e.Send(context.Background(), a, s)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, r.ID)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	up.Store(true)
	e = openEngine(t, o)
	for _, id := range ids {
		if d := await(t, e, a, id); d.Status != StatusDelivered {
			t.Errorf("%s is %s", id, d.Status)
		}
	}
	if n.Load() != int64(len(ids)) {
		t.Errorf("%d delivered, want %d", n.Load(), len(ids))
	}
}

func TestRateLimit(t *testing.T) {
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	o := testOptions(t, vfs.NewMem())
	o.RatePerMinute = 3
	var clock atomic.Int64
	clock.Store(time.Now().UnixNano())
	o.Now = func() time.Time { return time.Unix(0, clock.Load()) }
	e := openEngine(t, o)
	a, b := newAccount(t, e), newAccount(t, e)
	for range 3 {
		if _, err := e.Send(context.Background(), a, sendTo(target, "x")); err != nil {
			t.Fatal(err)
		}
	}
	var limited *RateLimitedError
	if _, err := e.Send(context.Background(), a, sendTo(target, "x")); !errors.As(err, &limited) || limited.RetryAfter != 20*time.Second {
		t.Fatalf("the fourth send: %v, want a wait of 20s", err)
	}
	if _, err := e.Send(context.Background(), b, sendTo(target, "x")); err != nil {
		t.Errorf("another account: %v", err)
	}
	clock.Add(int64(limited.RetryAfter))
	if _, err := e.Send(context.Background(), a, sendTo(target, "x")); err != nil {
		t.Errorf("after the wait: %v", err)
	}
}

// awaitCondition waits until something holds that nobody tells of.
func awaitCondition(t testing.TB, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(patience)
	for !holds() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestClosedEngineAnswersSo(t *testing.T) {
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	e := openEngine(t, testOptions(t, vfs.NewMem()))
	a := newAccount(t, e)
	s := sendTo(target, "x")
	s.IdempotencyKey = "ord_123"
	r, err := e.Send(context.Background(), a, s)
	if err != nil {
		t.Fatal(err)
	}
	await(t, e, a, r.ID)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if _, err := e.Delivery(ctx, a, r.ID, ReadOptions{}); !errors.Is(err, ErrClosed) {
		t.Errorf("look-up: %v", err)
	}
	if _, err := e.Deliveries(ctx, a, Filter{}, DeliveryID{}, 10); !errors.Is(err, ErrClosed) {
		t.Errorf("list: %v", err)
	}
	if _, err := e.Send(ctx, a, s); !errors.Is(err, ErrClosed) {
		t.Errorf("send: %v", err)
	}
	// One that was past the first check when Close began.
	if _, err := e.acceptOnce(ctx, a, s, time.Now(), newTicket()); !errors.Is(err, ErrClosed) {
		t.Errorf("send under way: %v", err)
	}
}
