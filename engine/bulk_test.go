package engine

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/harepost/harepost/engine/command"
)

// A bulk replay gives each delivery a fresh budget: dead after three attempts,
// it fails twice more and is delivered by its sixth.
func TestBulkReplayGetsRetries(t *testing.T) {
	var mu sync.Mutex
	got := make(map[string]int)
	target := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		id := r.Header.Get("X-Harepost-Delivery")
		if got[id]++; fmt.Sprint(got[id]) != r.Header.Get("X-Harepost-Attempt") {
			t.Errorf("request %d of %s says that it is attempt %s", got[id], id, r.Header.Get("X-Harepost-Attempt"))
		}
		if got[id] < 6 {
			w.WriteHeader(503)
		}
	})
	e := openEngine(t, testOptions(t, vfs.NewMem()))
	a, ctx := newAccount(t, e), context.Background()
	var ids []DeliveryID
	for range 30 {
		r, err := e.Send(ctx, a, sendTo(target, "x")) // three attempts
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, r.ID)
	}
	for _, id := range ids {
		if d := await(t, e, a, id); d.Status != StatusDeadLetter || len(d.Attempts) != 3 {
			t.Fatalf("%s after %d attempts", d.Status, len(d.Attempts))
		}
	}
	j, err := e.StartJob(ctx, a, JobReplay, Filter{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if j = awaitJob(t, e, a, j.ID); j.Done != int64(len(ids)) {
		t.Errorf("%+v", j)
	}
	for _, id := range ids {
		d := await(t, e, a, id)
		if d.Status != StatusDelivered || len(d.Attempts) != 6 {
			t.Errorf("replayed in bulk, %s is %s after %d attempts, want it delivered after 3 and 3", id, d.Status, len(d.Attempts))
		}
		for i, at := range d.Attempts {
			if at.Number != i+1 {
				t.Errorf("attempt %d is number %d", i+1, at.Number)
			}
		}
	}
	verifyState(t, e)
}

// A bulk replay of what goes to a domain that was deleted meanwhile ends:
// every delivery is rejected by its next attempt, which reaches nobody.
func TestBulkReplayWithoutItsDomainEnds(t *testing.T) {
	var reached atomic.Int64
	target := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
		reached.Add(1)
		w.WriteHeader(503)
	})
	o := testOptions(t, vfs.NewMem())
	o.DevLoopback = false
	e := openEngine(t, o)
	a, ctx := newAccount(t, e), context.Background()
	verifyByHand(t, e, a, target.Host)
	ids := dead(t, e, a, target, 100)
	before := reached.Load()
	if err := e.DeleteDomain(ctx, a, target.Host); err != nil {
		t.Fatal(err)
	}
	j, err := e.StartJob(ctx, a, JobReplay, Filter{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if j = awaitJob(t, e, a, j.ID); j.Status != JobDone || j.Done != int64(len(ids)) {
		t.Errorf("%+v", j)
	}
	for _, id := range ids {
		d := await(t, e, a, id)
		if d.Status != StatusRejected || len(d.Attempts) != 2 || d.Attempts[1].Error != errorRemoved {
			t.Errorf("%s is %s after %d attempts: %s", id, d.Status, len(d.Attempts), d.Attempts[len(d.Attempts)-1].Error)
		}
	}
	if n := e.state().Pending(); n != 0 {
		t.Errorf("%d deliveries are pending: they loop", n)
	}
	if n := reached.Load() - before; n != 0 {
		t.Errorf("%d attempts reached a target whose domain was deleted", n)
	}
	verifyState(t, e)
}

// told is a logger that says when a message was logged.
type told struct {
	slog.Handler
	mu   sync.Mutex
	seen []string
}

func newTold() *told { return &told{Handler: quiet.Handler()} }

func (h *told) Handle(_ context.Context, r slog.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	line := r.Message
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	h.seen = append(h.seen, line)
	return nil
}

func (h *told) has(text string) (line string, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, line := range h.seen {
		if strings.Contains(line, text) {
			return line, true
		}
	}
	return "", false
}

// A job that cannot go on, because the disk is full or the data has reached its
// limit, does so by itself when there is room.
func TestAJobGoesOnWhenThereIsRoom(t *testing.T) {
	var full atomic.Bool
	inject := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if full.Load() && op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, ".spare") {
			return syscall.ENOSPC
		}
		return nil
	})
	for name, c := range map[string]struct{ lose, give func(*Engine, AccountID) }{
		"the data is at its limit": {
			func(e *Engine, _ AccountID) { e.quota.full.Store(true) },
			func(e *Engine, _ AccountID) { e.quota.full.Store(false) },
		},
		"the disk is full": {
			func(e *Engine, a AccountID) {
				full.Store(true)
				for e.Ready() == nil { // until the log needs a segment that it cannot have
					s := sendTo(targetOf(t, "http://127.0.0.1:1/"), noise(1, 2000))
					s.NotBefore = e.now().Add(1 << 40)
					_, _ = e.Send(context.Background(), a, s)
					e.watchSpace()
				}
			},
			func(e *Engine, _ AccountID) {
				full.Store(false)
				awaitCondition(t, "room", func() bool {
					if err := e.state().Flush(); err != nil {
						t.Fatal(err)
					}
					e.watchSpace()
					return e.Ready() == nil
				})
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var m moody
			m.status.Store(503)
			h := newTold()
			o := testOptions(t, errorfs.Wrap(vfs.NewMem(), inject))
			o.LogSegmentBytes = 512 << 10
			o.Logger = slog.New(h)
			e := openEngine(t, o)
			a, ctx := newAccount(t, e), context.Background()
			ids := dead(t, e, a, receiver(t, m.serve), 80) // two steps
			m.status.Store(200)
			c.lose(e, a)
			j := newJob(t, e, a, JobReplay, -1) // StartJob would refuse it: it began before
			if err := e.propose(ctx, 1, command.AppendPutJob(nil, &j)); err != nil {
				t.Fatal(err)
			}
			e.clerk.signal()
			awaitCondition(t, "the job to fail for now", func() bool { _, ok := h.has("a job cannot go on"); return ok })
			if now, err := e.Job(ctx, a, j.ID); err != nil || now.Status != JobRunning || now.Done != 0 {
				t.Errorf("without room the job is %+v, %v", now, err)
			}
			c.give(e, a)
			if j = awaitJob(t, e, a, j.ID); j.Status != JobDone || j.Done != int64(len(ids)) {
				t.Errorf("with room again the job is %+v", j)
			}
			for _, id := range ids {
				if d := await(t, e, a, id); d.Status != StatusDelivered {
					t.Errorf("%s is %s", id, d.Status)
				}
			}
		})
	}
}
