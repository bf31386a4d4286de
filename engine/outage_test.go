package engine

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/miekg/dns"

	"github.com/harepost/harepost/transport"
)

// A blocking logger holds whoever logs, once it is told to.
type blocking struct {
	slog.Handler
	on      atomic.Bool
	held    atomic.Int64
	release chan struct{}
}

func (h *blocking) Enabled(context.Context, slog.Level) bool { return true }

func (h *blocking) Handle(context.Context, slog.Record) error {
	if h.on.Load() {
		h.held.Add(1)
		<-h.release
	}
	return nil
}

// stuckWriter is a scrape whose client does not read.
type stuckWriter struct{ began, release chan struct{} }

func (w *stuckWriter) Write(p []byte) (int, error) {
	select {
	case w.began <- struct{}{}:
	default:
	}
	<-w.release
	return len(p), nil
}

// Whoever reads the log or the metrics may be slow: nothing is delivered twice
// for it, and deliveries go on.
func TestSlowLogsAndMetricsRepeatNothing(t *testing.T) {
	var mu sync.Mutex
	arrived := make(map[string]int)
	target := receiver(t, func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		arrived[r.Header.Get("X-Harepost-Delivery")]++
	})
	h := &blocking{Handler: quiet.Handler(), release: make(chan struct{})}
	var clock wallClock
	o := testOptions(t, vfs.NewMem())
	o.Now, o.Logger = clock.now, slog.New(h)
	e := openEngine(t, o)
	letGo := sync.OnceFunc(func() { h.on.Store(false); close(h.release) })
	t.Cleanup(letGo)
	a, ctx := newAccount(t, e), context.Background()
	s := sendTo(target, "x")
	s.NotBefore = clock.now().Add(time.Hour)
	if _, err := e.Send(ctx, a, s); err != nil {
		t.Fatal(err)
	}
	var stuck sync.WaitGroup
	defer stuck.Wait()
	defer letGo()
	h.on.Store(true)
	scrape := &stuckWriter{began: make(chan struct{}, 1), release: h.release}
	stuck.Go(func() { e.WriteMetrics(scrape) })
	<-scrape.began
	stuck.Go(func() { _, _ = e.StartJob(ctx, a, JobCancel, Filter{Label: "none"}, 0) }) // says that a job began
	awaitCondition(t, "somebody to wait for the log's reader", func() bool { return h.held.Load() > 0 })
	ids := make([]DeliveryID, 50)
	var sent atomic.Int64
	stuck.Go(func() {
		for i := range ids {
			r, err := e.Send(ctx, a, sendTo(target, "x"))
			if err != nil {
				t.Errorf("a send while the log is held up: %v", err)
			}
			ids[i] = r.ID
			sent.Add(1)
		}
	})
	awaitCondition(t, "sends to be answered while the log is held up", func() bool { return sent.Load() == int64(len(ids)) })
	once := func(when string) {
		t.Helper()
		for _, id := range ids {
			if d := await(t, e, a, id); d.Status != StatusDelivered || len(d.Attempts) != 1 {
				t.Errorf("%s: %s is %s after %d attempts", when, id, d.Status, len(d.Attempts))
			}
			mu.Lock()
			if n := arrived[id.String()]; n != 1 {
				t.Errorf("%s: %s arrived %d times", when, id, n)
			}
			mu.Unlock()
		}
	}
	once("while log and metrics are held up")
	clock.set(time.Minute) // beyond any retry's delay
	letGo()
	stuck.Wait()
	once("afterwards")
}

// A response larger than anything that is kept of it, or than is read of it, is
// an attempt on record like any other.
func TestLargeResponsesAreOnRecord(t *testing.T) {
	piece := strings.Repeat("r", 64<<10)
	target := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/headers"):
			for i := range 64 {
				w.Header().Set(fmt.Sprint("X-Large-", i), piece[:32<<10])
			}
		case strings.HasSuffix(r.URL.Path, "/header"):
			w.Header().Set("X-Large", strings.Repeat(piece, 32))
		}
		w.WriteHeader(500)
		for range 256 { // 16 MiB
			if _, err := io.WriteString(w, piece); err != nil {
				return
			}
		}
	})
	e := openEngine(t, testOptions(t, vfs.NewMem()))
	a := newAccount(t, e)
	for _, what := range []string{"body", "header", "headers"} {
		to := target
		to.URL, to.URI = target.URL+"/"+what, target.URI+"/"+what
		s := sendTo(to, "x")
		s.Policy.MaxAttempts = 2
		r, err := e.Send(context.Background(), a, s)
		if err != nil {
			t.Fatal(err)
		}
		d := await(t, e, a, r.ID)
		if d.Status != StatusDeadLetter || len(d.Attempts) != 2 {
			t.Errorf("large %s: %s after %d attempts, want 2 on record", what, d.Status, len(d.Attempts))
		}
		for _, at := range d.Attempts {
			if at.Outcome != OutcomeFailed || at.Error == "" || len(at.ResponseBody) > 64<<10 {
				t.Errorf("large %s: attempt %d is %s with %d bytes of response: %s", what, at.Number, at.Outcome, len(at.ResponseBody), at.Error)
			}
			if what == "body" && (at.HTTPStatus != 500 || len(at.ResponseBody) == 0 || !at.BodyTruncated) {
				t.Errorf("large body: status %d, %d bytes, truncated %t", at.HTTPStatus, len(at.ResponseBody), at.BodyTruncated)
			}
		}
	}
}

// unsteadyNames answers every question for an address with loopback's, or with a
// failure as long as it is down.
func unsteadyNames(t *testing.T, down *atomic.Bool) (addr string) {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	server := &dns.Server{PacketConn: pc, NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.RecursionAvailable = true
		switch {
		case down.Load():
			m.Rcode = dns.RcodeServerFailure
		case q.Question[0].Qtype == dns.TypeA:
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(127, 0, 0, 1)}}
		}
		_ = w.WriteMsg(m)
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.ActivateAndServe() })
	<-started
	t.Cleanup(func() { _ = server.Shutdown(); serving.Wait() })
	return pc.LocalAddr().String()
}

// No worker gives up for ever: after an outage of DNS, or of all targets, in
// which every worker has failed more than once, deliveries are delivered by
// themselves.
func TestDeliveriesGoOnAfterAnOutage(t *testing.T) {
	for _, what := range []string{"DNS", "target"} {
		t.Run(what, func(t *testing.T) {
			var noDNS, noTarget atomic.Bool
			noDNS.Store(what == "DNS")
			noTarget.Store(what == "target")
			target := receiver(t, func(http.ResponseWriter, *http.Request) {
				if noTarget.Load() {
					panic(http.ErrAbortHandler) // the connection ends without an answer
				}
			})
			target.Host = "target.your-app.com"
			target.URL = fmt.Sprintf("http://%s:%d/hook", target.Host, target.Port)
			tr, err := transport.New(transport.Options{
				EgressAllow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
				Resolver:    unsteadyNames(t, &noDNS),
				Logger:      quiet,
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(tr.Close)
			o := testOptions(t, vfs.NewMem())
			o.Transport, o.MaxInFlight = tr, 2
			o.State.YoungDeliveries = 5 // some wait on disk
			e := openEngine(t, o)
			a, ctx := newAccount(t, e), context.Background()
			verifyByHand(t, e, a, "your-app.com")
			var ids []DeliveryID
			for range 20 {
				s := sendTo(target, "x")
				s.Policy.MaxAttempts, s.Policy.Backoff = 1000, BackoffFixed
				s.Policy.BaseDelay = 100 * time.Millisecond
				r, err := e.Send(ctx, a, s)
				if err != nil {
					t.Fatal(err)
				}
				ids = append(ids, r.ID)
			}
			for _, id := range ids {
				awaitCondition(t, "an attempt to fail twice", func() bool {
					d, err := e.Delivery(ctx, a, id, ReadOptions{})
					if err != nil || d.Status.Final() {
						t.Fatalf("in the outage %s is %s, %v", id, d.Status, err)
					}
					return len(d.Attempts) >= 2
				})
			}
			noDNS.Store(false)
			noTarget.Store(false)
			for _, id := range ids {
				if d := await(t, e, a, id); d.Status != StatusDelivered {
					t.Errorf("after the outage %s is %s", id, d.Status)
				}
			}
		})
	}
}
