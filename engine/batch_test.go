package engine

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func sendBatch(e *Engine, a AccountID, sends ...*Send) []SendResult {
	results := make([]SendResult, len(sends))
	e.SendBatch(context.Background(), a, sends, results)
	return results
}

// Batches and single sends that race with the same keys, in different orders,
// make one delivery of each key, also over a restart, and none waits for ever.
func TestBatchesRaceWithOneKeyEach(t *testing.T) {
	var n atomic.Int64
	target := receiver(t, func(http.ResponseWriter, *http.Request) { n.Add(1) })
	o := testOptions(t, vfs.NewMem())
	e, err := Open("data", o)
	if err != nil {
		t.Fatal(err)
	}
	a := newAccount(t, e)
	const keys = 20
	keyed := func(k int) *Send {
		s := sendTo(target, "x")
		s.IdempotencyKey = fmt.Sprint("key ", k)
		return s
	}
	var mu sync.Mutex
	ids, firsts := map[string]DeliveryID{}, 0
	note := func(s *Send, r SendResult) {
		mu.Lock()
		defer mu.Unlock()
		if r.Err != nil {
			t.Errorf("%s: %v", s.IdempotencyKey, r.Err)
		}
		if !r.Receipt.Duplicate {
			firsts++
		}
		if id, ok := ids[s.IdempotencyKey]; ok && id != r.Receipt.ID {
			t.Errorf("%s: %s and %s", s.IdempotencyKey, id, r.Receipt.ID)
		}
		ids[s.IdempotencyKey] = r.Receipt.ID
	}
	race := func() {
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				var sends []*Send
				for k := range keys {
					if i%2 == 1 {
						k = keys - 1 - k
					}
					sends = append(sends, keyed(k), keyed(k))
				}
				for k, r := range sendBatch(e, a, sends...) {
					note(sends[k], r)
				}
			})
		}
		for k := range keys {
			for range 10 {
				wg.Go(func() {
					s := keyed(k)
					r, err := e.Send(context.Background(), a, s)
					note(s, SendResult{r, err})
				})
			}
		}
		wg.Wait()
	}
	race()
	if firsts != keys {
		t.Errorf("%d sends were the first of %d keys", firsts, keys)
	}
	closeEngine(t, e)
	e = openEngine(t, o)
	race()
	if firsts != keys {
		t.Errorf("after a restart: %d sends were the first of %d keys", firsts, keys)
	}
	for _, id := range ids {
		await(t, e, a, id)
	}
	if n.Load() != keys {
		t.Errorf("%d arrived", n.Load())
	}
	if left := len(e.flights.m); left != 0 {
		t.Errorf("%d flights are left", left)
	}
}

// A batch that the log's queue has no room for is refused whole, and its keys
// are free again.
func TestBatchWithoutRoomIsNotAccepted(t *testing.T) {
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	o := testOptions(t, vfs.NewMem())
	o.LogQueueBytes = 300 << 10
	e := openEngine(t, o)
	a := newAccount(t, e)
	var sends []*Send
	for i := range 20 {
		s := sendTo(target, strings.Repeat("x", 20<<10))
		s.IdempotencyKey = fmt.Sprint(i)
		sends = append(sends, s)
	}
	for i, r := range sendBatch(e, a, sends...) {
		if !errors.Is(r.Err, ErrOverloaded) {
			t.Fatalf("send %d: %+v", i, r)
		}
	}
	if page, err := e.Deliveries(context.Background(), a, Filter{}, DeliveryID{}, 10); err != nil || len(page.Deliveries) != 0 {
		t.Errorf("%d deliveries, %v", len(page.Deliveries), err)
	}
	for i, r := range sendBatch(e, a, sends[:5]...) {
		if r.Err != nil || r.Receipt.Duplicate {
			t.Errorf("send %d in a smaller batch: %+v", i, r)
		}
	}
}

// A refused send does not touch the others; nil ones are passed over.
func TestBatchChecksEachTarget(t *testing.T) {
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	e := openEngine(t, testOptions(t, vfs.NewMem()))
	a := newAccount(t, e)
	stranger := sendTo(targetOf(t, "https://not-verified.example:443/"), "x")
	results := sendBatch(e, a, sendTo(target, "1"), stranger, nil, sendTo(target, "2"), stranger)
	for i, want := range []string{"", "no verified domain covers not-verified.example", "", "", "no verified domain covers not-verified.example"} {
		if got := fmt.Sprint(results[i].Err); got != want && (want != "" || results[i].Err != nil) {
			t.Errorf("send %d: %v", i, got)
		}
	}
	if results[2] != (SendResult{}) {
		t.Errorf("a nil send: %+v", results[2])
	}
	for _, i := range []int{0, 3} {
		await(t, e, a, results[i].Receipt.ID)
	}
}

// Sends of a batch that wait one after the other, since each took the place of
// another send with its key, are all answered when the engine fails, though the log
// still takes what nobody will commit.
func TestSendsThatTookAPlaceAreAnsweredAfterAFailure(t *testing.T) {
	m := newSharedLog(1).member()
	o := testOptions(t, vfs.NewMem())
	o.Replica, o.Failed = m, func(error) {}
	e := openEngine(t, o)
	m.lead(t)
	a := newAccount(t, e)
	m.shared.mu.Lock()
	m.hold = true
	m.shared.mu.Unlock()

	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	b := batch{engine: e, account: a, now: e.opts.Now(), results: make([]SendResult, 3)}
	for i := range b.results {
		s := sendTo(target, "x")
		s.IdempotencyKey = fmt.Sprint(i)
		b.sends, b.followers = append(b.sends, s), append(b.followers, i)
	}
	ticket, err := e.gate.enter(t.Context(), a, 1)
	if err != nil {
		t.Fatal(err)
	}
	ticket.term = e.reign.Load()
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		b.follow(t.Context(), ticket)
		e.gate.leave(ticket)
	}()
	m.shared.mu.Lock()
	for len(m.queue) == 0 {
		m.shared.more.Wait()
	}
	m.shared.mu.Unlock()
	e.fail(errors.New("no more"))
	<-followed
	for i, r := range b.results {
		if !errors.Is(r.Err, ErrUnknown) {
			t.Errorf("send %d: %v, want ErrUnknown", i, r.Err)
		}
	}
}

func BenchmarkSendBatch(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			target := receiver(b, func(http.ResponseWriter, *http.Request) {})
			e := openEngine(b, testOptions(b, vfs.NewMem()))
			a := newAccount(b, e)
			sends, results := make([]*Send, n), make([]SendResult, n)
			for i := range sends {
				sends[i] = sendTo(target, "x")
			}
			for b.Loop() {
				e.SendBatch(context.Background(), a, sends, results)
			}
			b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "sends/s")
		})
	}
}
