package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/harepost/harepost/engine/seal"
	"github.com/harepost/harepost/engine/state"
	"github.com/harepost/harepost/wal"
)

// machineSeeds runs fn with random seeds, or with the one of HAREPOST_SEED.
func machineSeeds(t *testing.T, few int, fn func(t *testing.T, seed uint64)) {
	if v, err := strconv.ParseUint(os.Getenv("HAREPOST_SEED"), 10, 64); err == nil {
		fn(t, v)
		return
	}
	if n, err := strconv.Atoi(os.Getenv("HAREPOST_CRASH_N")); err == nil {
		few = max(few, n/10)
	}
	for range few {
		seed := rand.Uint64()
		t.Run(fmt.Sprint("HAREPOST_SEED=", seed), func(t *testing.T) { fn(t, seed) })
	}
}

// openMember opens an engine on a disk of its own with the member as its log.
func openMember(t testing.TB, m *member, fs vfs.FS) *Engine {
	t.Helper()
	o := testOptions(t, fs)
	o.Replica = m
	return openEngine(t, o)
}

// dumped is all that the state of an engine says, as text, and fails if it does not
// fit together. Nothing may be committed meanwhile.
func dumped(t testing.TB, e *Engine) string {
	t.Helper()
	var lines []string
	line := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	err := machine{e}.turn(func() error {
		st := e.state()
		dir := st.Directory()
		line("pending %d", st.Pending())
		for _, a := range dir.Deleted() {
			line("deleted %s", a)
		}
		for _, a := range dir.Accounts() {
			owner, _ := dir.Account(a)
			line("%+v %+v", owner, dir.Keys(a))
			for after := (DeliveryID{}); ; {
				page, err := st.List(a, &Filter{}, after, 100)
				if err != nil {
					return err
				}
				for i := range page.Deliveries {
					d := &page.Deliveries[i]
					found, err := st.Find(a, d.ID)
					if err != nil {
						return err
					}
					body, err := st.Body(&found)
					if err != nil && !errors.Is(err, state.ErrNotFound) { // of what is pending, Verify finds it
						return err
					}
					waits, err := st.WaitsForOrder(a, &found, d.OrderingKey)
					if err != nil {
						return err
					}
					line("%s %s %t %+v %q", a, d.Status, waits, *d, body)
				}
				if after = page.Next; after.IsZero() {
					break
				}
			}
		}
		err := st.Lanes(func(l state.Lane, first state.Position) {
			page, _, _ := st.QueuePage(l, first, 1<<20)
			for _, p := range page {
				line("queue %+v %+v", l, p)
			}
		})
		st.EachYoung(func(y *state.Young) {
			line("queue %+v %+v", y.Lane(), state.Position{Due: y.Due, ID: y.ID, Attempt: 1})
		})
		r, err2 := st.Verify()
		for _, finding := range r.Findings {
			t.Error(finding)
		}
		return errors.Join(err, err2)
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// same fails where two dumps differ.
func same(t testing.TB, what, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		var a, b string
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			t.Fatalf("%s: line %d of %d and %d:\n got %s\nwant %s", what, i, len(g), len(w), a, b)
		}
	}
}

// trafficOf makes sends and changes until stop is called: with and without ordering
// keys, to a receiver that fails at times, of accounts that come and go.
func trafficOf(t *testing.T, e *Engine, seed uint64) (stop func()) {
	t.Helper()
	var answered atomic.Int64
	target := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
		if answered.Add(1)%4 == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	var working sync.WaitGroup
	expected := func(err error) bool {
		for _, is := range []error{ErrNotFound, ErrFinished, ErrPending, ErrPayloadGone, ErrUnauthorized, context.Canceled, ErrNotLeader, ErrUnknown, ErrOverloaded} {
			if errors.Is(err, is) {
				return true
			}
		}
		return err == nil
	}
	for worker := range uint64(3) {
		working.Go(func() {
			rng := rand.New(rand.NewPCG(seed, worker))
			made, err := e.CreateAccount(ctx, "test")
			var last DeliveryID
			for ctx.Err() == nil {
				if !expected(err) {
					t.Errorf("traffic: %v", err)
					return
				}
				switch p := rng.IntN(100); {
				case p < 3:
					if err = e.DeleteAccount(ctx, made.Account.ID); err == nil {
						made, err = e.CreateAccount(ctx, "test")
					}
				case p < 10:
					_, err = e.Cancel(ctx, made.Account.ID, last)
				case p < 15:
					_, err = e.Replay(ctx, made.Account.ID, last)
				default:
					s := sendTo(target, strings.Repeat("x", rng.IntN(2000)))
					switch rng.IntN(5) {
					case 0:
						s.OrderingKey = fmt.Sprint("order-", rng.IntN(3))
					case 1:
						s.NotBefore = time.Now().Add(500 * time.Millisecond) // stays young
					case 2:
						s.NotBefore = time.Now().Add(time.Hour)
					case 3:
						s.IdempotencyKey = fmt.Sprint(rng.IntN(100))
					}
					var r Receipt
					if r, err = e.Send(ctx, made.Account.ID, s); err == nil {
						last = r.ID
					}
				}
			}
		})
	}
	return func() {
		cancel()
		working.Wait()
	}
}

// awaitEntries waits until the log has so many.
func awaitEntries(l *sharedLog, n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for uint64(len(l.entries)) < n {
		l.more.Wait()
	}
}

// snapshot takes one of an engine, as raft has it done: nothing at or below the index
// is needed of the log any more.
func snapshot(t testing.TB, m *member) (index uint64) {
	t.Helper()
	index, err := m.machine.Settle()
	if err != nil {
		t.Fatal(err)
	}
	applied, low, err := m.machine.Flush(context.Background())
	if err != nil || applied < index || low <= index {
		t.Fatalf("settled at %d; durable up to %d, the log is needed from %d, %v", index, applied, low, err)
	}
	return index
}

// received is where a state lies that has come from another node.
const received = "data/cluster/received"

// copied is a copy of the engine's state on another disk, as a stream brings it.
func copied(t testing.TB, m *member, from, to vfs.FS) (applied uint64) {
	t.Helper()
	applied, err := m.machine.Checkpoint(context.Background(), "data/checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	if err := to.MkdirAll("data/cluster", 0o755); err != nil {
		t.Fatal(err)
	}
	if ok, err := vfs.Clone(from, to, "data/checkpoint", received, vfs.CloneSync); err != nil || !ok {
		t.Fatalf("%t, %v", ok, err)
	}
	if err := from.RemoveAll("data/checkpoint"); err != nil {
		t.Fatal(err)
	}
	return applied
}

// A follower that goes on from a copy of the leader's state comes to be as the leader
// is: from one taken in the middle of traffic, with an index of the snapshot that is
// behind it, so that it is told once more what it has; after it had followed for a
// while, or had nothing; twice in a row; and after a restart in between.
func TestAFollowerGoesOnFromACopy(t *testing.T) {
	machineSeeds(t, 2, func(t *testing.T, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 7))
		l := newSharedLog(seed)
		disks := []vfs.FS{vfs.NewMem(), vfs.NewMem()}
		n1, n2 := l.member(), l.member()
		first := openMember(t, n1, disks[0])
		n2.limit = 0
		o := testOptions(t, disks[1])
		o.Replica = n2
		second, err := Open("data", o)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := second.Close(); err != nil {
				t.Error(err)
			}
		}()
		n1.lead(t)
		stop := trafficOf(t, first, seed)
		defer stop()
		if rng.IntN(2) == 0 {
			awaitEntries(l, 100)
			n2.tellUpTo(uint64(rng.IntN(100)))
		}
		for round := range uint64(3) {
			awaitEntries(l, 300*round+200)
			index := snapshot(t, n1)
			awaitEntries(l, 300*round+300)
			applied := copied(t, n1, disks[0], disks[1])
			if applied < index {
				t.Fatalf("the copy is at %d, its snapshot at %d", applied, index)
			}
			n2.takeOver(t, received, index)
			if rng.IntN(2) == 0 {
				if err := second.Close(); err != nil {
					t.Fatal(err)
				}
				if second, err = Open("data", o); err != nil {
					t.Fatal(err)
				}
			}
		}
		awaitEntries(l, 1100)
		stop()
		n1.follow(t)
		n1.tellUpTo(all)
		n2.tellUpTo(all)
		want := dumped(t, first)
		same(t, "the follower", dumped(t, second), want)
		snapshot(t, n2) // what it has heard of is all there is
		same(t, "the follower, settled", dumped(t, second), want)
		// It can lead.
		n2.lead(t)
		a := newAccount(t, second)
		r, err := second.Send(context.Background(), a, sendTo(receiver(t, func(http.ResponseWriter, *http.Request) {}), "x"))
		if err != nil {
			t.Fatal(err)
		}
		await(t, second, a, r.ID)
		n2.follow(t)
		n1.tellUpTo(all)
		n2.tellUpTo(all)
		same(t, "the first, following", dumped(t, first), dumped(t, second))
	})
}

// Nodes whose flags differ make the same of the log, also of which bodies are dropped
// and of what can be replayed after that.
func TestNodesWithOtherFlagsMakeTheSame(t *testing.T) {
	l := newSharedLog(1)
	n1, n2 := l.member(), l.member()
	var ahead atomic.Int64
	o := testOptions(t, vfs.NewMem())
	o.Replica, o.RetainPayload = n1, time.Hour
	o.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	first, second := openEngine(t, o), openMember(t, n2, vfs.NewMem())
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	n1.lead(t)
	a, ctx := newAccount(t, first), context.Background()
	leads := n1
	change := func(next *member) {
		t.Helper()
		leads.follow(t)
		n1.tellUpTo(all)
		n2.tellUpTo(all)
		same(t, "the second", dumped(t, second), dumped(t, first))
		next.lead(t)
		leads = next
	}
	send := func(e *Engine, body string) DeliveryID {
		t.Helper()
		r, err := e.Send(ctx, a, sendTo(target, body))
		if err != nil {
			t.Fatal(err)
		}
		await(t, e, a, r.ID)
		return r.ID
	}
	apart := send(first, "short")
	change(n2)
	inline, long := send(second, "short"), send(second, noise(1, 5000))
	change(n1)
	ahead.Store(int64(4 * time.Hour))
	first.retain()
	replay := func(e *Engine) {
		t.Helper()
		for _, id := range []DeliveryID{apart, long} {
			if _, err := e.Replay(ctx, a, id); !errors.Is(err, ErrPayloadGone) {
				t.Errorf("a replay without a body: %v", err)
			}
		}
		if _, err := e.Replay(ctx, a, inline); err != nil {
			t.Errorf("a replay of what was accepted by a node that drops no bodies: %v", err)
		}
		await(t, e, a, inline)
	}
	change(n2)
	replay(second)
	change(n1)
	replay(first)
	change(n2)
}

// oneYoung is a leader with a delivery that stays young until it is let go of.
func oneYoung(t testing.TB, fs vfs.FS) (l *sharedLog, m *member, e *Engine, letGo func()) {
	l = newSharedLog(1)
	m = l.member()
	e = openMember(t, m, fs)
	goOn := make(chan struct{})
	letGo = sync.OnceFunc(func() { close(goOn) })
	began := make(chan struct{}, 1)
	target := receiver(t, func(http.ResponseWriter, *http.Request) {
		began <- struct{}{}
		<-goOn
	})
	t.Cleanup(letGo) // before the receiver is closed, which waits for it
	m.lead(t)
	s := sendTo(target, "x")
	s.Policy.Timeout = time.Minute
	if _, err := e.Send(context.Background(), newAccount(t, e), s); err != nil {
		t.Fatal(err)
	}
	<-began
	return l, m, e, letGo
}

// Settling makes the log unnecessary up to the index, also that of what is only in
// memory; it can be done again at once; and it is refused while something of the state
// is not known yet, because it was taken over and the log has not told.
func TestSettle(t *testing.T) {
	disk := vfs.NewMem()
	l, n1, e, letGo := oneYoung(t, disk)
	if _, low, err := n1.machine.Flush(context.Background()); err != nil || low > 2 {
		t.Fatalf("the log is needed from %d, %v: nothing is young", low, err)
	}
	other := vfs.NewMem()
	applied := copied(t, n1, disk, other) // with one that is young
	before := dumped(t, e)
	for range 2 {
		if index := snapshot(t, n1); index != applied {
			t.Errorf("settled at %d, not %d", index, applied)
		}
	}
	same(t, "settled", dumped(t, e), before)

	n2 := l.member()
	n2.limit = 0
	second := openMember(t, n2, other)
	if err := n2.machine.Restore(received); err != nil {
		t.Fatal(err)
	}
	if index, err := n2.machine.Settle(); err == nil {
		t.Errorf("settled at %d before the log has told of what is young", index)
	}
	n2.tellUpTo(all)
	if index := snapshot(t, n2); index != applied {
		t.Errorf("settled at %d, not %d", index, applied)
	}
	same(t, "the other, settled", dumped(t, second), before)
	letGo()
}

// A state of which nobody has the log any more goes on without what was in memory only.
func TestGiveUp(t *testing.T) {
	disk := vfs.NewMem()
	l, n1, e, letGo := oneYoung(t, disk)
	other := vfs.NewMem()
	applied := copied(t, n1, disk, other)
	n2 := l.member()
	n2.limit = 0
	second := openMember(t, n2, other)
	if err := n2.machine.Restore(received); err != nil {
		t.Fatal(err)
	}
	_, low, err := n2.machine.Flush(context.Background())
	if err != nil || low > applied {
		t.Fatalf("the state is at %d and needs the log from %d, %v: nothing is young", applied, low, err)
	}
	if n, err := n2.machine.GiveUp(); err != nil || n != applied+1-low {
		t.Errorf("%d entries are lost, %v; the state is at %d and needs the log from %d", n, err, applied, low)
	}
	if index := snapshot(t, n2); index != applied {
		t.Errorf("settled at %d, not %d", index, applied)
	}
	if n, err := n2.machine.GiveUp(); n != 0 || err != nil {
		t.Errorf("%d entries more are lost, %v", n, err)
	}
	if e.state().Pending() != 1 || second.state().Pending() != 0 {
		t.Errorf("%d are pending, and %d without what is lost", e.state().Pending(), second.state().Pending())
	}
	dumped(t, second)
	letGo()
}

// A power cut at any step of taking over a state leaves the one that there was and the
// one that comes, or the one that has come: the next start has the one that comes.
func TestACrashWhileAStateIsTakenOver(t *testing.T) {
	l := newSharedLog(1)
	disk := vfs.NewMem()
	n1 := l.member()
	first := openMember(t, n1, disk)
	n1.lead(t)
	stop := trafficOf(t, first, 1)
	awaitEntries(l, 60)
	stop()
	n1.follow(t)
	n1.tellUpTo(all)
	index := snapshot(t, n1)
	want := dumped(t, first)
	machineSeeds(t, 1, func(t *testing.T, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 8))
		for at := 0; ; at++ {
			fs := vfs.NewCrashableMem()
			var mu sync.Mutex
			var crashed *vfs.MemFS
			step, counting := 0, false
			hooked := errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
				mu.Lock()
				defer mu.Unlock()
				if counting && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
					if step++; step-1 == at {
						// Pebble trusts that of two files in a directory the one that is made
						// later does not outlive a crash alone: while it opens one, all or none.
						percent := rng.IntN(101)
						if in, ok := strings.CutPrefix(op.Path, "data/"+stateDir); ok && (in == "" && op.Kind != errorfs.OpRename || in != "" && in[0] == '/') {
							percent = 100 * rng.IntN(2)
						}
						crashed = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
					}
				}
				return nil
			}))
			n2 := l.member()
			n2.limit = 20
			o := testOptions(t, hooked)
			o.Replica = n2
			e, err := Open("data", o)
			if err != nil {
				t.Fatal(err)
			}
			n2.tellUpTo(20)
			if _, _, err := n2.machine.Flush(context.Background()); err != nil {
				t.Fatal(err)
			}
			copied(t, n1, disk, fs)
			for _, dir := range []string{received, "data/cluster", "data", ""} {
				if err := wal.SyncDir(fs, dir); err != nil {
					t.Fatal(err)
				}
			}
			mu.Lock()
			counting = true
			mu.Unlock()
			if err := n2.machine.Restore(received); err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			counting = false
			mu.Unlock()
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
			if crashed == nil {
				t.Logf("%d steps", at)
				break
			}
			for again := range 2 { // the second time after a crash of the start itself
				n3 := l.member()
				n3.first = index + 1
				if _, err := crashed.Stat(received); err == nil {
					n3.restore = received
				}
				o := testOptions(t, crashed)
				o.Replica = n3
				e, err := Open("data", o)
				if err != nil {
					names, _ := crashed.List("data/state")
					t.Fatalf("a start (%d) after a crash at step %d: %v; %q", again+1, at, err, names)
				}
				n3.tellUpTo(all)
				same(t, fmt.Sprintf("after a crash at step %d, start %d", at, again+1), dumped(t, e), want)
				next := crashed.CrashClone(vfs.CrashCloneCfg{})
				if err := e.Close(); err != nil {
					t.Fatal(err)
				}
				if names, err := crashed.List("data"); err != nil || slices.Contains(names, newStateDir) || slices.Contains(names, oldStateDir) {
					t.Errorf("%q are left, %v", names, err)
				}
				crashed = next
			}
		}
	})
}

// A node that comes to lead and follow in turn, under sends, loses nothing that it
// has acknowledged and acknowledges nothing twice: who waits is told that the outcome
// is unknown, and a repetition with the key finds what there is.
func TestReignsUnderSends(t *testing.T) {
	machineSeeds(t, 1, func(t *testing.T, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 6))
		var mu sync.Mutex
		arrived := map[string]int{}
		target := receiver(t, func(_ http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			mu.Lock()
			defer mu.Unlock()
			arrived[string(b)]++
		})
		l := newSharedLog(seed)
		m := l.member()
		e := openMember(t, m, vfs.NewMem())
		m.lead(t)
		a := newAccount(t, e)
		acked := make([]map[string]DeliveryID, 8) // by sender
		var refused, unknown atomic.Int64
		ctx, cancel := context.WithCancel(context.Background())
		var senders sync.WaitGroup
		for i := range acked {
			acked[i] = map[string]DeliveryID{}
			senders.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					key := fmt.Sprintf("%d-%d", i, n)
					for ctx.Err() == nil {
						s := sendTo(target, key)
						s.IdempotencyKey = key
						r, err := e.Send(ctx, a, s)
						if err == nil {
							again, err := e.Send(ctx, a, s)
							if err == nil && (again.ID != r.ID || !again.Duplicate) {
								t.Errorf("%s is %s and %s", key, r.ID, again.ID)
							}
							acked[i][key] = r.ID
							break
						}
						switch {
						case errors.Is(err, ErrNotLeader):
							refused.Add(1)
						case errors.Is(err, ErrUnknown):
							unknown.Add(1)
						case errors.Is(err, ErrOverloaded), errors.Is(err, context.Canceled):
						default:
							t.Errorf("send: %v", err)
							return
						}
					}
				}
			})
		}
		for range 10 {
			awaitEntries(l, m.last()+uint64(5+rng.IntN(50)))
			l.mu.Lock()
			m.hold = true // some are on their way, and never arrive
			l.mu.Unlock()
			awaitCondition(t, "sends to be under way", func() bool {
				l.mu.Lock()
				defer l.mu.Unlock()
				return len(m.queue) > 0
			})
			m.follow(t)
			awaitCondition(t, "a refusal", func() bool { return refused.Load() > 0 })
			if err := e.Ready(); !errors.Is(err, ErrNotLeader) {
				t.Errorf("ready: %v", err)
			}
			l.mu.Lock()
			m.hold = false
			l.mu.Unlock()
			refused.Store(0)
			m.lead(t)
		}
		cancel()
		senders.Wait()
		if unknown.Load() == 0 {
			t.Error("nobody was told that the outcome is unknown")
		}
		ids, n := map[DeliveryID]bool{}, 0
		for i := range acked {
			for key, id := range acked[i] {
				n++
				if ids[id] {
					t.Errorf("%s was acknowledged twice", id)
				}
				ids[id] = true
				if d := await(t, e, a, id); d.Status != StatusDelivered {
					t.Errorf("%s is %s", id, d.Status)
				}
				mu.Lock()
				if arrived[key] == 0 {
					t.Errorf("%s is delivered and never arrived", key)
				}
				mu.Unlock()
			}
		}
		t.Logf("%d were acknowledged, %d told that it is unknown", n, unknown.Load())
	})
}

// No attempt begins while it is not certain that this node leads; they go on by
// themselves when it is.
func TestNoAttemptWithoutALease(t *testing.T) {
	arrived := make(chan struct{}, 1)
	target := receiver(t, func(http.ResponseWriter, *http.Request) { arrived <- struct{}{} })
	l := newSharedLog(1)
	m := l.member()
	e := openMember(t, m, vfs.NewMem())
	m.lead(t)
	a := newAccount(t, e)
	m.unsure.Store(true)
	if _, err := e.Send(context.Background(), a, sendTo(target, "x")); err != nil {
		t.Fatal(err)
	}
	awaitCondition(t, "a worker to ask", func() bool {
		d := e.dispatcher()
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.unsure && d.workers > 0 && d.workers == len(d.idle)
	})
	if len(arrived) > 0 {
		t.Fatal("an attempt began")
	}
	m.unsure.Store(false)
	<-arrived
}

// Quiesce waits until the attempts under way are on record, and lets none begin until
// Resume; sends go on.
func TestQuiesce(t *testing.T) {
	_, _, e, letGo := oneYoung(t, vfs.NewMem())
	arrived := make(chan struct{}, 1)
	target := receiver(t, func(http.ResponseWriter, *http.Request) { arrived <- struct{}{} })
	ctx, cancel := context.WithCancel(context.Background())
	quiet := make(chan error, 1)
	go func() { quiet <- e.Quiesce(ctx) }()
	awaitCondition(t, "no attempt to begin", func() bool {
		d := e.dispatcher()
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.resting
	})
	a := newAccount(t, e)
	r, err := e.Send(context.Background(), a, sendTo(target, "x"))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-quiet; !errors.Is(err, context.Canceled) {
		t.Fatalf("quiet with an attempt under way: %v", err)
	}
	letGo()
	if err := e.Quiesce(context.Background()); err != nil || e.dispatcher().unfinished() > 0 {
		t.Errorf("%v, and %d attempts are not on record", err, e.dispatcher().unfinished())
	}
	if len(arrived) > 0 {
		t.Error("an attempt began")
	}
	e.Resume()
	<-arrived
	await(t, e, a, r.ID)
}

// Reads of every kind go on while the state is replaced, and never meet one that is
// closed.
func TestReadsWhileAStateIsTakenOver(t *testing.T) {
	l := newSharedLog(1)
	disk, other := vfs.NewMem(), vfs.NewMem()
	n1, n2 := l.member(), l.member()
	first, second := openMember(t, n1, disk), openMember(t, n2, other)
	n1.lead(t)
	a := newAccount(t, first)
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	var ids []DeliveryID
	for range 50 {
		r, err := first.Send(context.Background(), a, sendTo(target, strings.Repeat("x", 3000)))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, r.ID)
	}
	for _, id := range ids {
		await(t, first, a, id)
	}
	n1.follow(t)
	n1.tellUpTo(all)
	n2.tellUpTo(all)
	ctx, cancel := context.WithCancel(context.Background())
	var readers sync.WaitGroup
	var rounds atomic.Int64
	read := func(what string, fn func() error) {
		readers.Go(func() {
			for ctx.Err() == nil {
				if err := fn(); err != nil && ctx.Err() == nil {
					t.Errorf("%s: %v", what, err)
					return
				}
				rounds.Add(1)
			}
		})
	}
	read("a delivery", func() error {
		_, err := second.Delivery(ctx, a, ids[rand.IntN(len(ids))], ReadOptions{Payload: true})
		return err
	})
	read("a page", func() error {
		page, err := second.Deliveries(ctx, a, Filter{}, DeliveryID{}, 100)
		if err == nil && len(page.Deliveries) != len(ids) {
			err = fmt.Errorf("%d deliveries", len(page.Deliveries))
		}
		return err
	})
	read("metrics", func() error {
		second.WriteMetrics(io.Discard)
		return nil
	})
	read("a backup", func() error {
		b, err := second.Backup(ctx)
		if err != nil {
			return err
		}
		return errors.Join(b.Write(ctx, io.Discard), b.Close())
	})
	read("destinations", func() error {
		_, _, err := second.Destinations(ctx, a, DestinationQuery{Limit: 10})
		return err
	})
	read("chores", func() error {
		second.chores.RLock()
		defer second.chores.RUnlock()
		_, err := second.state().Finished()
		return err
	})
	read("accounts", func() error {
		_, err := second.Account(ctx, a)
		return err
	})
	for range 8 {
		before := rounds.Load()
		awaitCondition(t, "readers", func() bool { return rounds.Load() > before+10 || t.Failed() })
		index := snapshot(t, n1)
		copied(t, n1, disk, other)
		n2.takeOver(t, received, index)
	}
	cancel()
	readers.Wait()
	same(t, "the other", dumped(t, second), dumped(t, first))
}

// A node that lacks keys of the data notices when it hears of them, at its start, and as it
// takes over a state; it follows all the same, but cannot lead. It goes by what the keys
// are wrapped with now, and forgets those of accounts that are gone.
func TestANodeWithoutTheKeysFollows(t *testing.T) {
	k1 := newKeyLine(t, "k1")
	for what, other := range map[string]*seal.Keyring{
		"no key file": nil, "another name": newKeyring(t, newKeyLine(t, "k2")), "another key of that name": newKeyring(t, newKeyLine(t, "k1")),
	} {
		t.Run(what, func(t *testing.T) {
			l := newSharedLog(1)
			n1, n2 := l.member(), l.member()
			disk, second := vfs.NewMem(), vfs.NewMem()
			var lacks *Engine
			open := func(keys *seal.Keyring, m *member, fs vfs.FS) *Engine {
				o := testOptions(t, fs)
				o.Replica, o.Keyring = m, keys
				return openEngine(t, o)
			}
			locked := func(when string) {
				t.Helper()
				awaitCondition(t, "it notices that it lacks keys: "+when, lacks.Locked)
			}
			first := open(newKeyring(t, k1), n1, disk)
			lacks = open(other, n2, second)
			if lacks.Locked() {
				t.Error("nothing is encrypted yet")
			}
			n1.lead(t)
			a := newAccount(t, first)
			n2.tellUpTo(all)
			locked("a command has brought a key")
			index := snapshot(t, n1)
			copied(t, n1, disk, second)
			n2.takeOver(t, received, index)
			locked("a state was taken over")
			if err := lacks.Close(); err != nil {
				t.Fatal(err)
			}
			n2.alone = true
			o := testOptions(t, second)
			o.Replica, o.Keyring = n2, other
			if _, err := Open("data", o); err == nil || !strings.Contains(err.Error(), "data key of") {
				t.Errorf("alone it opens: %v", err)
			}
			n2.alone = false
			lacks = open(other, n2, second)
			locked("it was started")
			same(t, "what it has", dumped(t, lacks), dumped(t, first))
			if err := (machine{lacks}).Lead(99); err == nil || first.Locked() {
				t.Errorf("it leads: %v; the first lacks keys: %t", err, first.Locked())
			}
			if err := first.DeleteAccount(context.Background(), a); err != nil {
				t.Fatal(err)
			}
			awaitCondition(t, "the account to be swept", func() bool { return !lacks.Locked() })
		})
	}
}

// What the leader seals a follower can read as soon as it has heard of it, by a data
// key that the leader has made; and whoever reads meets no moment without keys while
// the node comes to lead or takes over a state.
func TestSealedReadsOnEveryNode(t *testing.T) {
	l := newSharedLog(1)
	keys := newKeyring(t, newKeyLine(t, "k1"))
	disks := []vfs.FS{vfs.NewMem(), vfs.NewMem()}
	var nodes []*member
	var engines []*Engine
	for i := range disks {
		o := testOptions(t, disks[i])
		nodes = append(nodes, l.member())
		o.Replica, o.Keyring = nodes[i], keys
		engines = append(engines, openEngine(t, o))
	}
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	nodes[0].lead(t)
	a := newAccount(t, engines[0])
	r, err := engines[0].Send(context.Background(), a, sealedSend(target, false))
	if err != nil {
		t.Fatal(err)
	}
	await(t, engines[0], a, r.ID)
	nodes[1].tellUpTo(all)
	want, err := engines[0].Delivery(context.Background(), a, r.ID, ReadOptions{Payload: true})
	if err != nil || len(want.Body) == 0 {
		t.Fatalf("%q, %v", want.Body, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var readers sync.WaitGroup
	var rounds atomic.Int64
	for range 2 {
		readers.Go(func() {
			for ctx.Err() == nil {
				d, err := engines[1].Delivery(ctx, a, r.ID, ReadOptions{Payload: true})
				if err != nil || string(d.Body) != string(want.Body) {
					t.Errorf("on the other node: %q, %v", d.Body, err)
					return
				}
				if _, err := engines[1].SigningSecret(ctx, a); err != nil {
					t.Errorf("on the other node: %v", err)
					return
				}
				rounds.Add(1)
			}
		})
	}
	for range 20 {
		before := rounds.Load()
		awaitCondition(t, "readers", func() bool { return rounds.Load() > before+10 || t.Failed() })
		nodes[0].follow(t)
		nodes[1].lead(t)
		nodes[1].follow(t)
		index := snapshot(t, nodes[0])
		copied(t, nodes[0], disks[0], disks[1])
		nodes[1].takeOver(t, received, index)
		nodes[0].lead(t)
	}
	cancel()
	readers.Wait()
}
