package engine

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/job"
	"github.com/harepost/harepost/wal"
)

// wholeLog are testOptions with a log that is not cut, to be read by logged.
func wholeLog(t testing.TB) Options {
	o := testOptions(t, vfs.NewMem())
	o.LogSegmentBytes = 32 << 20
	return o
}

// logged calls fn with every command in the engine's log so far, in order.
func logged(t testing.TB, e *Engine, fn func(index uint64, k command.Kind, cmd []byte)) {
	t.Helper()
	err := e.log.(walLog).Log.Replay(0, func(entry wal.Entry) error {
		k, _, err := command.Parse(entry.Data)
		if err == nil {
			fn(uint64(entry.Index), k, entry.Data)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// standStill has the applier apply a command, and then do no more until letGo is
// called: what comes behind it becomes durable and is not answered.
func standStill(t testing.TB, e *Engine, cmd []byte) (letGo func()) {
	t.Helper()
	applied := &ticket{done: make(chan struct{})} // the applier waits until it is read
	if err := e.log.Append(1, cmd, applied); err != nil {
		t.Fatal(err)
	}
	letGo = sync.OnceFunc(func() { <-applied.done })
	t.Cleanup(letGo) // or Close waits for the applier
	return letGo
}

// countLogged is how many commands of a kind are in the log.
func countLogged(t testing.TB, e *Engine, kind command.Kind) (n int) {
	t.Helper()
	logged(t, e, func(_ uint64, k command.Kind, _ []byte) {
		if k == kind {
			n++
		}
	})
	return n
}

// metric is the value of one line of the engine's metrics.
func metric(t testing.TB, e *Engine, name string) float64 {
	t.Helper()
	var page bytes.Buffer
	e.WriteMetrics(&page)
	for line := range strings.Lines(page.String()) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("no line %s in\n%s", name, page.String())
	return 0
}

// appends counts what goes into a log, by how it came.
type appends struct {
	Log
	single, batches, commands int
}

func (l *appends) Append(term uint64, cmd []byte, cookie any) error {
	l.single++
	return l.Log.Append(term, cmd, cookie)
}

func (l *appends) AppendLater(term uint64, cmd []byte, cookie any) error {
	l.single++
	return l.Log.AppendLater(term, cmd, cookie)
}

func (l *appends) AppendBatch(term uint64, batch []Proposal) error {
	l.batches++
	l.commands += len(batch)
	return l.Log.AppendBatch(term, batch)
}

// tapped is an engine beside e, with its state and its log, whose own appends
// are counted. It has no goroutines: e's do the work.
func tapped(e *Engine) (*Engine, *appends) {
	l := &appends{Log: e.log}
	beside := &Engine{
		opts: e.opts, metrics: e.metrics, log: l,
		failed: e.failed, stop: e.stop,
	}
	beside.stored.Store(e.state())
	beside.dispatching.Store(e.dispatcher())
	beside.reign.Store(e.reign.Load())
	beside.limiter.rate = e.ratePerMinute
	beside.gate.init(e.opts.SendsAtOnce)
	beside.gate.throttle.engine = beside
	return beside, l
}

// A batch is one append: an entry for each of its sends, and one frame, one
// write and one sync for all of them.
func TestABatchIsOneAppend(t *testing.T) {
	e := openEngine(t, wholeLog(t))
	a := newAccount(t, e)
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	const size = 500
	sends := make([]*Send, size)
	for i := range sends {
		sends[i] = sendTo(target, fmt.Sprint(i))
		sends[i].NotBefore = time.Now().Add(time.Hour) // no attempt's record comes between
		if i%2 == 0 {
			sends[i].IdempotencyKey = fmt.Sprint(i)
		}
	}
	frames, entries := metric(t, e, "harepost_log_commit_entries_count"), metric(t, e, "harepost_log_commit_entries_sum")
	syncs := metric(t, e, "harepost_log_sync_duration_seconds_count")
	beside, l := tapped(e)
	for i, r := range sendBatch(beside, a, sends...) {
		if r.Err != nil {
			t.Fatalf("send %d: %v", i, r.Err)
		}
	}
	if l.batches != 1 || l.commands != size || l.single != 0 {
		t.Errorf("a batch of %d sends made %d appends of %d commands, and %d of one", size, l.batches, l.commands, l.single)
	}
	if n := countLogged(t, e, command.KindAccept); n != size {
		t.Errorf("%d sends are %d entries in the log", size, n)
	}
	if n := metric(t, e, "harepost_log_commit_entries_sum") - entries; n != size {
		t.Errorf("%d sends were committed as %v entries", size, n)
	}
	if n := metric(t, e, "harepost_log_commit_entries_count") - frames; n != 1 {
		t.Errorf("a batch made %v frames", n)
	}
	if n := metric(t, e, "harepost_log_sync_duration_seconds_count") - syncs; n != 1 {
		t.Errorf("a batch made %v syncs", n)
	}
}

// expired makes n dead letters without a target: they had expired before
// their first attempt.
func expired(t testing.TB, e *Engine, a AccountID, target Target, n int) {
	t.Helper()
	for left := n; left > 0; {
		sends := make([]*Send, min(left, 500))
		for i := range sends {
			sends[i] = sendTo(target, "x")
			sends[i].ExpiresAt = time.Unix(1, 0)
		}
		for _, r := range sendBatch(e, a, sends...) {
			if r.Err != nil {
				t.Fatal(r.Err)
			}
		}
		left -= len(sends)
	}
	awaitCondition(t, "all to be dead letters", func() bool {
		got, err := e.CountMatching(context.Background(), a, JobPurge, Filter{})
		return err == nil && got == int64(n)
	})
}

// newJob is a job of all that an account has, as StartJob makes it, for the test
// to put into the log.
func newJob(t testing.TB, e *Engine, a AccountID, k JobKind, matched int64) Job {
	t.Helper()
	id, err := job.NewID()
	if err != nil {
		t.Fatal(err)
	}
	now := e.now()
	f := narrow(k, Filter{})
	f.Until = now.Add(time.Millisecond)
	return Job{ID: id, Account: a, Kind: k, Filter: f, Status: JobRunning, Matched: matched, CreatedAt: now, UpdatedAt: now}
}

// Bulk work is done in bounded steps, and there is never more than one of a job
// in the log: what others append meanwhile comes before the next. Here the
// applier stands still while the first step is in the log, so that the job could
// put all of its steps there, and a send is made.
func TestJobsAreDoneInBoundedSteps(t *testing.T) {
	for _, k := range []JobKind{JobReplay, JobPurge, JobCancel} {
		t.Run(k.String(), func(t *testing.T) {
			e := openEngine(t, wholeLog(t))
			a, ctx := newAccount(t, e), context.Background()
			target := receiver(t, func(http.ResponseWriter, *http.Request) {})
			later := func() *Send {
				s := sendTo(target, "x")
				s.NotBefore = time.Now().Add(time.Hour)
				return s
			}
			const n = 4*stepMost + 1
			if k != JobCancel {
				expired(t, e, a, target, n)
			} else {
				sends := make([]*Send, n)
				for i := range sends {
					sends[i] = later()
				}
				sendBatch(e, a, sends...)
			}
			j := newJob(t, e, a, k, n)
			accepted := countLogged(t, e, command.KindAccept)
			sent := make(chan error, 1)
			letGo := standStill(t, e, command.AppendPutJob(nil, &j))
			awaitCondition(t, "the job to begin", func() bool { _, ok := e.state().Job(a, j.ID); return ok })
			e.clerk.signal()
			awaitCondition(t, "its first step", func() bool { return countLogged(t, e, command.KindControl) > 0 })
			go func() {
				_, err := e.Send(ctx, a, later())
				sent <- err
			}()
			awaitCondition(t, "a send to be in the log beside a job", func() bool {
				return countLogged(t, e, command.KindAccept) > accepted
			})
			letGo()
			if err := <-sent; err != nil {
				t.Errorf("a send beside a job: %v", err)
			}
			if j = awaitJob(t, e, a, j.ID); j.Done != n {
				t.Errorf("%+v", j)
			}
			var before, after, ids int
			logged(t, e, func(_ uint64, kind command.Kind, cmd []byte) {
				switch kind {
				case command.KindAccept:
					accepted--
				case command.KindControl:
					_, r, _ := command.Parse(cmd)
					c, err := command.ReadControl(&r)
					if err != nil {
						t.Fatal(err)
					}
					if len(c.IDs) > stepMost {
						t.Errorf("a step has %d deliveries, more than %d", len(c.IDs), stepMost)
					}
					if ids += len(c.IDs); accepted < 0 {
						after++
					} else {
						before++
					}
				}
			})
			if before != 1 || after < n/stepMost {
				t.Errorf("%d steps were in the log before the send and %d after it: it had to wait for more than one", before, after)
			}
			if ids != n {
				t.Errorf("the steps have %d deliveries, not %d", ids, n)
			}
		})
	}
}

// That a key was used costs no entry in the log: a thousand requests and an hour
// make one, for all keys together.
func TestLastUseIsOneEntryAnHour(t *testing.T) {
	var clock wallClock
	o := wholeLog(t)
	o.Now = clock.now
	e := openEngine(t, o)
	made, err := e.CreateAccount(context.Background(), "test")
	if err != nil {
		t.Fatal(err)
	}
	_, second, err := e.CreateKey(context.Background(), made.Account.ID)
	if err != nil {
		t.Fatal(err)
	}
	e.keepLastUse() // from here on it counts the hour
	entries := func() (n int) {
		logged(t, e, func(uint64, command.Kind, []byte) { n++ })
		return n
	}
	before := entries()
	for n := range 1000 {
		clock.set(time.Duration(n) * time.Second) // each is a use of its own
		for _, key := range []string{made.APIKey, second} {
			if _, err := e.Authenticate([]byte(key)); err != nil {
				t.Fatal(err)
			}
		}
		e.keepLastUse()
	}
	if n := entries() - before; n != 0 {
		t.Errorf("1000 requests within an hour put %d entries into the log", n)
	}
	clock.set(lastUseEvery)
	e.keepLastUse()
	if n, touched := entries()-before, countLogged(t, e, command.KindTouchKeys); n != 1 || touched != 1 {
		t.Errorf("an hour of requests put %d entries into the log, want 1", n)
	}
	keys, err := e.Keys(context.Background(), made.Account.ID)
	if err != nil || len(keys) != 2 || keys[0].LastUsed.IsZero() || keys[1].LastUsed.IsZero() {
		t.Errorf("%+v, %v", keys, err)
	}
}
