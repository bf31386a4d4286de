package engine

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// crashes is how many crashes a test simulates: few in make test, many in make
// crash.
func crashes(t testing.TB, few int) int {
	v := os.Getenv("HAREPOST_CRASH_N")
	if v == "" {
		return few
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatalf("HAREPOST_CRASH_N: %v", err)
	}
	return max(n, few)
}

// seedOf is the seed of a random test: HAREPOST_SEED, or a new one, printed.
func seedOf(t testing.TB) uint64 {
	seed := rand.Uint64()
	if v := os.Getenv("HAREPOST_SEED"); v != "" {
		var err error
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatalf("HAREPOST_SEED: %v", err)
		}
	}
	t.Logf("HAREPOST_SEED=%d", seed)
	return seed
}

// ledger is what the clients of a crash test were told, and what the receiver
// got.
type ledger struct {
	mu       sync.Mutex
	acked    map[string]DeliveryID // by the mark in the body
	received map[string]int
	next     atomic.Int64
	more     chan struct{} // one for each acknowledgement, as long as somebody listens
}

func newLedger() *ledger {
	return &ledger{acked: make(map[string]DeliveryID), received: make(map[string]int), more: make(chan struct{})}
}

func (l *ledger) ack(mark string, id DeliveryID) {
	l.mu.Lock()
	l.acked[mark] = id
	l.mu.Unlock()
}

func (l *ledger) snapshot() map[string]DeliveryID {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.acked)
}

// send sends until the engine refuses.
func (l *ledger) send(e *Engine, a AccountID, target Target, stop <-chan struct{}) {
	for {
		mark := fmt.Sprint("mark-", l.next.Add(1))
		s := sendTo(target, mark)
		s.Policy.MaxAttempts = 25
		s.Policy.MaxDelay = time.Second
		r, err := e.Send(context.Background(), a, s)
		if err != nil {
			return
		}
		l.ack(mark, r.ID)
		select {
		case l.more <- struct{}{}:
		case <-stop:
			return
		}
	}
}

// A power cut at any moment, with any part of what was not synced on disk,
// loses nothing that was acknowledged. make crash cuts more often than make
// test.
func TestPowerCutLosesNothingAcknowledged(t *testing.T) {
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 5))
	l := newLedger()
	var down atomic.Bool
	target := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		// A 503 would slow the lane down, as it should, and with it the end of the test.
		if down.Load() || b[len(b)-1]%3 == 0 && r.Header.Get("X-Harepost-Attempt") == "1" {
			w.WriteHeader(500)
			return
		}
		l.mu.Lock()
		l.received[string(b)]++
		l.mu.Unlock()
	})
	o := testOptions(t, nil)
	o.Failed = nil // the old timeline may end as it likes
	var a AccountID
	fs := vfs.NewCrashableMem()
	cuts := crashes(t, 30)
	for cut := range cuts {
		o.FS = fs
		o.State.YoungDeliveries = 1 + rng.IntN(100)
		down.Store(rng.IntN(4) == 0)
		e, err := Open("data", o)
		if err != nil {
			t.Fatalf("start after cut %d: %v", cut, err)
		}
		if cut == 0 {
			a = newAccount(t, e)
		}
		checkReadable(t, e, a, l.acked, cut)
		stop := make(chan struct{})
		var senders sync.WaitGroup
		for range 8 {
			senders.Go(func() { l.send(e, a, target, stop) })
		}
		for range rng.IntN(80) {
			<-l.more
		}
		acked := l.snapshot() // before the cut: these must survive it
		fs = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
		close(stop)
		senders.Wait()
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		l.acked = acked
	}
	down.Store(false)
	o.FS = fs
	o.Failed = func(err error) { t.Errorf("engine failed: %v", err) }
	e := openEngine(t, o)
	checkReadable(t, e, a, l.acked, cuts)
	duplicates := 0
	for mark, id := range l.acked {
		if d := await(t, e, a, id); d.Status != StatusDelivered {
			t.Errorf("%s ended as %s", mark, d.Status)
		}
		l.mu.Lock()
		if n := l.received[mark]; n == 0 {
			t.Errorf("%s was acknowledged and never received", mark)
		} else {
			duplicates += n - 1
		}
		l.mu.Unlock()
	}
	t.Logf("%d power cuts, %d acknowledged, 0 lost, %d received more than once", cuts, len(l.acked), duplicates)
	if r, err := e.state().Verify(); err != nil || len(r.Findings) > 0 {
		t.Errorf("verify: %v, %v", r.Findings, err)
	}
}

func checkReadable(t *testing.T, e *Engine, a AccountID, acked map[string]DeliveryID, cut int) {
	t.Helper()
	for mark, id := range acked {
		d, err := e.Delivery(context.Background(), a, id, ReadOptions{Payload: true})
		if err != nil || string(d.Body) != mark {
			t.Fatalf("after cut %d: %s was acknowledged as %s: body %q, %v", cut, mark, id, d.Body, err)
		}
	}
}

// The first write or sync that fails ends the engine: nothing is acknowledged
// after it, the owner is told, and the next start has all that was
// acknowledged before.
func TestFailingDiskEndsTheEngine(t *testing.T) {
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 6))
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	for run := range crashes(t, 15) {
		mem := vfs.NewCrashableMem()
		broken := errors.New("the disk is broken")
		var failing atomic.Bool
		var after atomic.Int64
		after.Store(rng.Int64N(120))
		inject := errorfs.InjectorFunc(func(op errorfs.Op) error {
			if !failing.Load() || op.Kind.ReadOrWrite() != errorfs.OpIsWrite || after.Add(-1) > 0 {
				return nil
			}
			return broken
		})
		o := testOptions(t, errorfs.Wrap(mem, inject))
		failed := make(chan error, 1)
		o.Failed = func(err error) { failed <- err }
		e, err := Open("data", o)
		if err != nil {
			t.Fatal(err)
		}
		a := newAccount(t, e)
		failing.Store(true)
		l := newLedger()
		for n := 0; ; n++ {
			mark := fmt.Sprint(run, "-", n)
			r, err := e.Send(context.Background(), a, sendTo(target, mark))
			if err != nil {
				if !errors.Is(err, ErrUnknown) {
					t.Errorf("run %d: the send that failed got %v, want ErrUnknown", run, err)
				}
				break
			}
			l.ack(mark, r.ID)
		}
		if err := <-failed; err == nil {
			t.Error("failed without a reason")
		}
		if _, err := e.Send(context.Background(), a, sendTo(target, "late")); !errors.Is(err, ErrUnknown) {
			t.Errorf("run %d: a send after the failure got %v", run, err)
		}
		if e.Ready() == nil {
			t.Error("ready after the failure")
		}
		e.Close() // whatever it says: it has failed
		o.FS = mem.CrashClone(vfs.CrashCloneCfg{})
		o.Failed = nil
		again, err := Open("data", o)
		if err != nil {
			t.Fatalf("run %d: start after the failure: %v", run, err)
		}
		checkReadable(t, again, a, l.acked, run)
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A state that finds no room is not a broken one: the engine waits for room
// and refuses sends meanwhile.
func TestFullDiskUnderTheStateIsWaitedFor(t *testing.T) {
	var full atomic.Bool
	inject := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if full.Load() && strings.HasSuffix(op.Path, ".sst") && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return syscall.ENOSPC
		}
		return nil
	})
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	e := openEngine(t, testOptions(t, errorfs.Wrap(vfs.NewMem(), inject)))
	a := newAccount(t, e)
	full.Store(true)
	if err := e.state().FlushSoon(); err != nil {
		t.Fatal(err)
	}
	for e.state().NoSpace() == nil {
		runtime.Gosched()
	}
	e.watchSpace()
	if _, err := e.Send(context.Background(), a, sendTo(target, "x")); !errors.Is(err, ErrOverloaded) {
		t.Errorf("a send on a full disk: %v", err)
	}
	if err := e.Ready(); !errors.Is(err, ErrOverloaded) {
		t.Errorf("ready on a full disk: %v", err)
	}
	full.Store(false)
	if err := e.state().Flush(); err != nil {
		t.Fatalf("a flush with room again: %v", err)
	}
	if err := e.ended(); err != nil {
		t.Errorf("after the disk was full: %v", err)
	}
}

// A disk without room for another segment refuses sends before it takes them;
// deliveries go on, and sends are taken again when there is room.
func TestFullDiskRefusesSendsAndDelivers(t *testing.T) {
	var full atomic.Bool
	inject := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if full.Load() && op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, ".spare") {
			return syscall.ENOSPC
		}
		return nil
	})
	release := make(chan struct{})
	free := sync.OnceFunc(func() { close(release) })
	target := receiver(t, func(http.ResponseWriter, *http.Request) { <-release })
	o := testOptions(t, errorfs.Wrap(vfs.NewMem(), inject))
	o.LogSegmentBytes = 512 << 10 // room for the sends that pass before the preparer has found out
	e := openEngine(t, o)
	t.Cleanup(free) // or the engine waits for the target
	a := newAccount(t, e)
	full.Store(true)
	var acked []DeliveryID
	body := make([]byte, 2000)
	if _, err := crand.Read(body); err != nil { // what the log cannot make shorter
		t.Fatal(err)
	}
	for n := 0; ; n++ {
		e.watchSpace()
		r, err := e.Send(context.Background(), a, sendTo(target, string(body)))
		if errors.Is(err, ErrOverloaded) {
			break
		}
		if err != nil {
			t.Fatalf("send %d: %v", n, err)
		}
		acked = append(acked, r.ID)
		if n > 1000 {
			t.Fatal("a full disk refuses nothing")
		}
	}
	free()
	for _, id := range acked {
		if d := await(t, e, a, id); d.Status != StatusDelivered {
			t.Errorf("%s ended as %s on a full disk", id, d.Status)
		}
	}
	full.Store(false)
	// The flush that the engine asked for cuts the log, which frees a segment.
	for e.space.short.Load() {
		if err := e.state().Flush(); err != nil {
			t.Fatal(err)
		}
		e.watchSpace()
	}
	if _, err := e.Send(context.Background(), a, sendTo(target, "again")); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// Once the log has failed no attempt begins: nothing would keep its record, and
// the next start would make it again.
func TestNoAttemptBeginsAfterAFailure(t *testing.T) {
	var failing atomic.Bool
	inject := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if failing.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return errors.New("the disk is broken")
		}
		return nil
	})
	o := testOptions(t, errorfs.Wrap(vfs.NewMem(), inject))
	o.MaxInFlight = 1
	failed := make(chan error, 1)
	o.Failed = func(err error) { failed <- err }
	began, goOn := make(chan struct{}, 100), make(chan struct{})
	target := receiver(t, func(http.ResponseWriter, *http.Request) {
		began <- struct{}{}
		<-goOn
	})
	e, err := Open("data", o)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close() // whatever it says: it has failed
	a := newAccount(t, e)
	for range cap(began) {
		if _, err := e.Send(context.Background(), a, sendTo(target, "x")); err != nil {
			t.Fatal(err)
		}
	}
	<-began
	failing.Store(true)
	if _, err := e.Send(context.Background(), a, sendTo(target, "x")); !errors.Is(err, ErrUnknown) {
		t.Fatalf("the send that failed got %v, want ErrUnknown", err)
	}
	<-failed
	close(goOn)
	awaitCondition(t, "the worker to rest", func() bool {
		e.dispatcher().mu.Lock()
		defer e.dispatcher().mu.Unlock()
		return e.dispatcher().workers == len(e.dispatcher().idle)
	})
	if n := len(began); n != 0 {
		t.Errorf("%d attempts began after the failure", n)
	}
}

// A lane whose queue could not be read is read again, also when nothing else
// happens.
func TestLaneIsReadAgain(t *testing.T) {
	var broken atomic.Bool
	inject := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileReadAt && strings.HasSuffix(op.Path, ".sst") && broken.CompareAndSwap(true, false) {
			return errors.New("this sector is hard to read")
		}
		return nil
	})
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	var clock wallClock
	o := testOptions(t, errorfs.Wrap(vfs.NewMem(), inject))
	o.Now = clock.now
	o.State.CacheBytes = 1 // nothing stays in the cache
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
	broken.Store(true)
	clock.set(time.Hour)
	awaitCondition(t, "the read that fails", func() bool { return !broken.Load() })
	if d := await(t, e, a, r.ID); d.Status != StatusDelivered {
		t.Error(d.Status)
	}
}
