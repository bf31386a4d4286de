package engine

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/harepost/harepost/engine/command"
)

// orderLedger is what the senders of ordered deliveries were told, and what the
// receivers got, by ordering key. The messages of a key are numbered as they are
// sent, one after another.
type orderLedger struct {
	mu       sync.Mutex
	sent     map[string]int                // of each key, the last one
	acked    map[string]map[int]DeliveryID // durable for certain
	latest   map[string]int                // of each key, the last one that was attempted
	received map[string]map[int]int        // how often each was taken
	repeats  int
	faults   []string
	frozen   bool // what is attempted now belongs to a timeline that a power cut has ended
}

func newOrderLedger() *orderLedger {
	return &orderLedger{
		sent: make(map[string]int), acked: make(map[string]map[int]DeliveryID),
		latest: make(map[string]int), received: make(map[string]map[int]int),
	}
}

// attempted notes that a message has arrived, and whether the receiver takes it.
// What was overtaken must not be attempted any more: it was delivered, for certain
// and on record, before the one that overtook it had its turn.
func (l *orderLedger) attempted(key string, n int, taken bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.frozen {
		return false
	}
	if last := l.latest[key]; n < last {
		l.faults = append(l.faults, fmt.Sprintf("message %d of %s is attempted after message %d", n, key, last))
	}
	l.latest[key] = n
	if !taken {
		return false
	}
	if l.received[key] == nil {
		l.received[key] = make(map[int]int)
	}
	if l.received[key][n]++; l.received[key][n] > 1 {
		l.repeats++
	}
	return true
}

func (l *orderLedger) freeze(frozen bool) (acked map[string]map[int]DeliveryID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.frozen = frozen
	acked = make(map[string]map[int]DeliveryID)
	for key, ids := range l.acked {
		acked[key] = maps.Clone(ids)
	}
	return acked
}

func (l *orderLedger) next(key string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent[key]++
	return l.sent[key]
}

func (l *orderLedger) ack(key string, n int, id DeliveryID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.acked[key] == nil {
		l.acked[key] = make(map[int]DeliveryID)
	}
	l.acked[key][n] = id
}

// answer is a receiver that notes what arrives and takes it as often as taken says.
func (l *orderLedger) answer(taken func() bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		key, number, _ := strings.Cut(string(b), " ")
		var n int
		if _, err := fmt.Sscan(number, &n); err != nil || !l.attempted(key, n, taken()) {
			w.WriteHeader(500)
		}
	}
}

func orderedSend(target Target, key string, n int) *Send {
	s := sendTo(target, fmt.Sprint(key, " ", n))
	s.OrderingKey = key
	s.Policy.MaxAttempts, s.Policy.BaseDelay, s.Policy.MaxDelay = 25, time.Millisecond, 10*time.Millisecond
	return s
}

// send sends to one key until the engine refuses or stop is closed: one by one, or
// in a batch.
func (l *orderLedger) send(e *Engine, a AccountID, key string, targets []Target, rng *rand.Rand, sent func() bool) {
	for sent() {
		var sends []*Send
		var numbers []int
		for range 1 + rng.IntN(4) {
			n := l.next(key)
			numbers = append(numbers, n)
			sends = append(sends, orderedSend(targets[rng.IntN(len(targets))], key, n))
		}
		results := make([]SendResult, len(sends))
		e.SendBatch(context.Background(), a, sends, results)
		for i, r := range results {
			if r.Err != nil {
				return
			}
			l.ack(key, numbers[i], r.Receipt.ID)
		}
	}
}

// drain waits until nothing is pending: of a key one is under way at a time, so that
// may take long, but something has to happen all the time.
func drain(t *testing.T, e *Engine) {
	t.Helper()
	for left := e.state().Pending(); left > 0; left = e.state().Pending() {
		awaitCondition(t, fmt.Sprintf("less than %d pending deliveries", left), func() bool { return e.state().Pending() < left })
	}
}

// check fails unless all that was acknowledged was taken and nothing was overtaken.
func (l *orderLedger) check(t *testing.T, e *Engine, a AccountID) {
	t.Helper()
	drain(t, e)
	all := 0
	for key, ids := range l.acked {
		for n, id := range ids {
			all++
			if d := await(t, e, a, id); d.Status != StatusDelivered {
				t.Errorf("message %d of %s ended as %s", n, key, d.Status)
			}
			l.mu.Lock()
			if l.received[key][n] == 0 {
				t.Errorf("message %d of %s was acknowledged and never taken", n, key)
			}
			l.mu.Unlock()
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.faults[:min(len(l.faults), 10)] {
		t.Error(f)
	}
	if r, err := e.state().Verify(); err != nil || len(r.Findings) > 0 {
		t.Errorf("verify: %v, %v", r.Findings, err)
	}
	t.Logf("%d keys, %d messages, %d taken more than once", len(l.acked), all, l.repeats)
}

// Deliveries of a key arrive in the order in which they were accepted, whatever
// fails at the receivers, and whenever the power goes. What a power cut repeats is
// the message of a key that was the last to be delivered, and no other.
func TestOrderSurvivesPowerCuts(t *testing.T) {
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 9))
	l := newOrderLedger()
	var failing atomic.Int32 // of ten attempts
	flaky := l.answer(func() bool { return rand.Int32N(10) >= failing.Load() })
	targets := []Target{receiver(t, flaky), receiver(t, flaky)}
	o := testOptions(t, nil)
	o.Failed = nil // the old timeline may end as it likes
	fs := vfs.NewCrashableMem()
	var a AccountID
	cuts := crashes(t, 20)
	for cut := range cuts {
		o.FS = fs
		failing.Store(rng.Int32N(6))
		e, err := Open("data", o)
		if err != nil {
			t.Fatalf("start after cut %d: %v", cut, err)
		}
		if cut == 0 {
			a = newAccount(t, e)
		}
		l.freeze(false)
		var sent atomic.Int64
		most := 10 + rng.Int64N(200)
		enough := make(chan struct{})
		var senders sync.WaitGroup
		for k := range 6 {
			own := rand.New(rand.NewPCG(rng.Uint64(), 1))
			senders.Go(func() {
				l.send(e, a, fmt.Sprint("key-", k), targets, own, func() bool {
					n := sent.Add(1)
					if n == most {
						close(enough)
					}
					return n <= most+20
				})
			})
		}
		<-enough
		acked := l.freeze(true) // before the cut: these must survive it
		fs = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
		senders.Wait()
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		l.acked = acked
	}
	l.freeze(false)
	failing.Store(0)
	o.FS = fs
	o.Failed = func(err error) { t.Errorf("engine failed: %v", err) }
	l.check(t, openEngine(t, o), a)
}

// Restarts in good order change nothing either, and neither do unordered
// deliveries beside.
func TestOrderOverRestarts(t *testing.T) {
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 10))
	l := newOrderLedger()
	targets := []Target{receiver(t, l.answer(func() bool { return rand.IntN(3) > 0 }))}
	o := testOptions(t, vfs.NewMem())
	var a AccountID
	for round := range 5 {
		e, err := Open("data", o)
		if err != nil {
			t.Fatal(err)
		}
		if round == 0 {
			a = newAccount(t, e)
		}
		var senders sync.WaitGroup
		for k := range 4 {
			own := rand.New(rand.NewPCG(rng.Uint64(), 1))
			n := 0
			senders.Go(func() {
				l.send(e, a, fmt.Sprint("key-", k), targets, own, func() bool { n++; return n <= 20 })
			})
		}
		senders.Go(func() {
			for n := range 50 {
				s := sendTo(targets[0], fmt.Sprint("none-", round, "-", n, " 1"))
				if _, err := e.Send(context.Background(), a, s); err != nil {
					t.Error(err)
				}
			}
		})
		senders.Wait()
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	l.check(t, openEngine(t, o), a)
	if l.repeats > 0 {
		t.Errorf("%d messages were taken more than once, though nothing has crashed", l.repeats)
	}
}

// A delivery that waits says so; a dead letter holds its key over a restart, until
// it is replayed and delivered.
func TestDeadLetterHoldsItsKey(t *testing.T) {
	ctx := context.Background()
	var down atomic.Bool
	down.Store(true)
	l := newOrderLedger()
	target := receiver(t, l.answer(func() bool { return !down.Load() }))
	o := testOptions(t, vfs.NewMem())
	e, err := Open("data", o)
	if err != nil {
		t.Fatal(err)
	}
	a := newAccount(t, e)
	var ids []DeliveryID
	for n, skip := range []bool{true, false, true} {
		s := orderedSend(target, "k", n+1)
		s.Policy.MaxAttempts, s.SkipFailed = 1, skip
		r, err := e.Send(ctx, a, s)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, r.ID)
	}
	for _, id := range ids[:2] {
		if d := await(t, e, a, id); d.Status != StatusDeadLetter {
			t.Fatalf("%s ended as %s", id, d.Status)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = openEngine(t, o)
	d, err := e.Delivery(ctx, a, ids[2], ReadOptions{})
	if err != nil || !d.WaitsForOrder || d.Status != StatusQueued || d.OrderingKey != "k" || !d.SkipFailed {
		t.Fatalf("behind a dead letter: %+v, %v", d, err)
	}
	down.Store(false)
	other, err := e.Send(ctx, a, orderedSend(target, "other", 1))
	if err != nil {
		t.Fatal(err)
	}
	await(t, e, a, other.ID) // long enough for a held one to slip through
	if d, err := e.Delivery(ctx, a, ids[2], ReadOptions{}); err != nil || d.Status != StatusQueued || len(d.Attempts) > 0 {
		t.Fatalf("while a dead letter holds the key: %+v, %v", d, err)
	}
	if _, err := e.Replay(ctx, a, ids[1]); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids[1:] {
		if d := await(t, e, a, id); d.Status != StatusDelivered || d.WaitsForOrder {
			t.Errorf("%s ended as %s, waits %t", id, d.Status, d.WaitsForOrder)
		}
	}
	if got := l.faults; len(got) > 0 {
		t.Error(got)
	}
}

// A key whose dead letter retention has dropped goes on.
func TestKeyOfADroppedDeadLetterGoesOn(t *testing.T) {
	ctx := context.Background()
	target := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		if b, _ := io.ReadAll(r.Body); strings.HasPrefix(string(b), "bad") {
			w.WriteHeader(400)
		}
	})
	e := openEngine(t, testOptions(t, vfs.NewMem()))
	a := newAccount(t, e)
	var ids []DeliveryID
	for _, body := range []string{"bad", "good"} {
		s := sendTo(target, body)
		s.OrderingKey, s.Policy.MaxAttempts = "k", 1
		r, err := e.Send(ctx, a, s)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, r.ID)
	}
	if d := await(t, e, a, ids[0]); !d.Status.Dead() {
		t.Fatalf("ended as %s", d.Status)
	}
	e.releaseOrders()
	if d, err := e.Delivery(ctx, a, ids[1], ReadOptions{}); err != nil || d.Status.Final() {
		t.Fatalf("while the dead letter is there: %+v, %v", d, err)
	}
	until := ids[1].Time().Add(time.Millisecond).UnixMilli()
	if err := e.propose(ctx, 1, command.AppendTrim(nil, &command.Trim{Last: 1<<64 - 1, Accepted: until})); err != nil {
		t.Fatal(err)
	}
	e.releaseOrders()
	if d := await(t, e, a, ids[1]); d.Status != StatusDelivered {
		t.Errorf("once it is dropped: %s", d.Status)
	}
}

// What waits for its turn can be cancelled; its target never hears of it.
func TestCancelOfOneThatWaits(t *testing.T) {
	ctx := context.Background()
	goOn := make(chan struct{})
	l := newOrderLedger()
	target := receiver(t, l.answer(func() bool { <-goOn; return true }))
	e := openEngine(t, testOptions(t, vfs.NewMem()))
	a := newAccount(t, e)
	results := make([]SendResult, 3)
	e.SendBatch(ctx, a, []*Send{orderedSend(target, "k", 1), orderedSend(target, "k", 2), orderedSend(target, "k", 3)}, results)
	if d, err := e.Cancel(ctx, a, results[1].Receipt.ID); err != nil || d.Status != StatusCanceled {
		t.Fatalf("%+v, %v", d, err)
	}
	close(goOn)
	for _, i := range []int{0, 2} {
		if d := await(t, e, a, results[i].Receipt.ID); d.Status != StatusDelivered {
			t.Errorf("message %d ended as %s", i+1, d.Status)
		}
	}
	if got := slices.Collect(maps.Keys(l.received["k"])); len(got) != 2 || l.received["k"][2] != 0 {
		t.Errorf("messages %v were taken", got)
	}
}

// Many keys are let go on together: the keeper has other duties, and a disk that
// takes its time for each would keep it from them.
func TestKeysGoOnTogether(t *testing.T) {
	ctx := context.Background()
	target := receiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(400) })
	e := openEngine(t, testOptions(t, vfs.NewMem()))
	a := newAccount(t, e)
	const keys = 300
	sends := make([]*Send, 0, 2*keys)
	for i := range 2 * keys {
		s := sendTo(target, "x")
		s.OrderingKey, s.Policy.MaxAttempts = fmt.Sprint("k", i%keys), 1
		sends = append(sends, s)
	}
	results := sendBatch(e, a, sends...)
	for _, r := range results[:keys] {
		await(t, e, a, r.Receipt.ID)
	}
	paused := true
	if _, err := e.ChangeDestinations(ctx, a, refTo(target), DestinationChange{Paused: &paused}); err != nil {
		t.Fatal(err)
	}
	until := results[len(results)-1].Receipt.ID.Time().Add(time.Millisecond).UnixMilli()
	if err := e.propose(ctx, 1, command.AppendTrim(nil, &command.Trim{Last: 1<<64 - 1, Accepted: until})); err != nil {
		t.Fatal(err)
	}
	before := metric(t, e, "harepost_log_commit_entries_count")
	e.releaseOrders()
	if n := metric(t, e, "harepost_log_commit_entries_count") - before; n > keys/10 {
		t.Errorf("%v commits for %d keys", n, keys)
	}
	list, err := e.DestinationsOf(ctx, a, refTo(target))
	if err != nil || len(list) != 1 || list[0].Pending != keys {
		t.Errorf("the destination is %+v, %v; want %d pending", list, err, keys)
	}
}

// What waits for its turn is in no lane; what has it is counted until it has ended.
func TestPendingOfAKeyIsTheOneThatHasItsTurn(t *testing.T) {
	ctx := context.Background()
	asked, answer := make(chan struct{}, 1), make(chan struct{})
	target := receiver(t, func(http.ResponseWriter, *http.Request) {
		asked <- struct{}{}
		<-answer
	})
	defer close(answer)
	e := openEngine(t, testOptions(t, vfs.NewMem()))
	a := newAccount(t, e)
	for n := range 3 {
		if _, err := e.Send(ctx, a, orderedSend(target, "k", n)); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		<-asked
		list, err := e.DestinationsOf(ctx, a, refTo(target))
		if err != nil || len(list) != 1 || list[0].Pending != 1 || list[0].InFlight != 1 {
			t.Errorf("the destination is %+v, %v; want 1 pending and in flight", list, err)
		}
		answer <- struct{}{}
	}
	drain(t, e)
}
