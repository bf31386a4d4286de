package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// An orderBook is what is known of the messages of ordering keys, which are
// numbered as they are sent.
type orderBook struct {
	t *testing.T

	mu     sync.Mutex
	keys   map[string]*orderedKey
	faults int
}

type orderedKey struct {
	sent    int          // the last number
	acked   map[int]bool // acknowledged
	latest  int          // the last number that arrived
	arrived map[int]int  // how often each was taken, or rejected for good
}

func newOrderBook(t *testing.T) *orderBook { return &orderBook{t: t, keys: map[string]*orderedKey{}} }

func (b *orderBook) key(name string) *orderedKey {
	k := b.keys[name]
	if k == nil {
		k = &orderedKey{acked: map[int]bool{}, arrived: map[int]int{}}
		b.keys[name] = k
	}
	return k
}

// rejected are the messages that their target takes for nothing; they are sent with
// on_failure skip.
func rejected(n int) bool { return n%10 == 0 }

// answer is a target. Attempts of a key must come in the order of its messages:
// also the repeat after a crash, which is of the last that had come.
func (b *orderBook) answer(s sighting) int {
	name, number, _ := strings.Cut(s.mark, " ")
	var n int
	if _, err := fmt.Sscan(number, &n); err != nil {
		b.t.Errorf("%q arrived, which nobody sent", s.mark)
		return http.StatusOK
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	k := b.key(name)
	if n < k.latest {
		if b.faults++; b.faults <= 10 {
			b.t.Errorf("attempt %d of message %d of %s, after message %d of it", s.attempt, n, name, k.latest)
		}
	}
	k.latest = n
	if rand.IntN(25) == 0 {
		return http.StatusServiceUnavailable
	}
	k.arrived[n]++
	if rejected(n) {
		return http.StatusNotFound
	}
	return http.StatusOK
}

// behind is how many messages of a key were acknowledged and have not arrived.
func (b *orderBook) behind(name string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := b.key(name)
	return len(k.acked) - len(k.arrived)
}

// next draws the numbers of a batch.
func (b *orderBook) next(name string, count int) (first int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := b.key(name)
	first = k.sent + 1
	k.sent += count
	return first
}

func (b *orderBook) ack(name string, first, count int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := b.key(name)
	for n := range count {
		k.acked[first+n] = true
	}
}

// orderBehind bounds the messages of a key that wait: of a key one is under way at
// a time, so senders are faster.
const orderBehind = 30

// send sends batches of one key's messages until stop is closed, each after the
// answer to the one before, or after the server was killed.
func (b *orderBook) send(w *casualty, name string, targets []string, rng *rand.Rand, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		if b.behind(name) >= orderBehind {
			<-time.After(5 * time.Millisecond) // the server is another process
			continue
		}
		count := 1 + rng.IntN(5)
		first := b.next(name, count)
		i := -1
		lines := batchOf(count, targets[rng.IntN(len(targets))], func(int) string {
			i++
			fields := fmt.Sprintf(`"body":"%s %d","ordering_key":%q,"delivery":{"base_delay_ms":100,"jitter":"none","max_attempts":25}`, name, first+i, name)
			if rejected(first + i) {
				fields += `,"on_failure":"skip"`
			}
			return fields
		})
		switch status, answer := w.call("POST", "/v1/send/batch", lines); {
		case status == 0: // killed, or not up yet
			<-time.After(5 * time.Millisecond)
		case status != http.StatusAccepted:
			b.t.Errorf("a batch of %s: %d %v", name, status, answer)
			return
		default:
			b.ack(name, first, count)
		}
	}
}

// The server is killed again and again under ordered traffic, to targets that fail
// now and then. Of each key the messages arrive in the order in which they were
// accepted, none is attempted after a later one, and none that was acknowledged is
// missing.
func TestKillUnderOrderedTraffic(t *testing.T) {
	t.Parallel()
	book := newOrderBook(t)
	other := startWitness(t, book.answer)
	w := startCasualtyFor(t, startWitness(t, book.answer))
	other.life.Store(1)
	targets := []string{w.target("/in"), other.url + "/in"}
	const keys = 12
	w.kills("ordered traffic", 4, func(int) bool {
		stop := make(chan struct{})
		var senders sync.WaitGroup
		for k := range keys {
			rng := rand.New(rand.NewPCG(w.random.Uint64(), 1))
			senders.Go(func() { book.send(w, fmt.Sprint("key-", k), targets, rng, stop) })
		}
		w.moment(800 * time.Millisecond)
		w.kill()
		other.settle()
		pending := 0
		for k := range keys {
			pending += book.behind(fmt.Sprint("key-", k))
		}
		other.life.Add(1)
		w.start()
		w.moment(200 * time.Millisecond)
		close(stop)
		senders.Wait()
		return pending > 0
	})
	w.drained()
	w.checkRepeats(t)
	other.checkRepeats(t)
	book.mu.Lock()
	acked, repeated := 0, 0
	for name, k := range book.keys {
		for n := range k.acked {
			if acked++; k.arrived[n] == 0 {
				t.Errorf("message %d of %s was acknowledged and never arrived", n, name)
			}
		}
		for _, times := range k.arrived {
			repeated += times - 1
		}
	}
	book.mu.Unlock()
	t.Logf("%d messages of %d keys were acknowledged; %d were made twice", acked, keys, repeated)
	w.endsSound()
}
