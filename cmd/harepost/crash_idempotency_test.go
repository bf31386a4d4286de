package main

import (
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"
)

// contenders is how many sends race with one idempotency key.
const contenders = 200

// A contest is one idempotency key, and every id that was ever answered with.
type contest struct {
	w    *casualty
	key  string
	body string

	mu  sync.Mutex
	ids map[string]int // how often each
}

func (w *casualty) contest(key string) *contest {
	return &contest{w: w, key: key, ids: map[string]int{},
		body: sendBody(w.target("/once"), fmt.Sprintf(`"idempotency_key":%q,"body":{"order":1}`, key))}
}

// send makes one send with the key, see trace.
func (c *contest) send(written chan<- struct{}) call {
	made := c.w.trace("POST", "/v1/send", c.w.key, c.body, written)
	switch made.status {
	case 0:
	case http.StatusAccepted:
		c.mu.Lock()
		c.ids[made.answer["queue_id"].(string)]++
		c.mu.Unlock()
	default:
		c.w.t.Errorf("%s: %d %v", c.key, made.status, made.answer)
	}
	return made
}

// one is the id that all answers named, of which there must be at least least.
func (c *contest) one(least int) (id string) {
	c.w.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for got, n := range c.ids {
		id = got
		if len(c.ids) > 1 || n < least {
			c.w.t.Errorf("%s: answered with these ids, so often: %v", c.key, c.ids)
		}
	}
	if id == "" {
		c.w.t.Fatalf("%s: nothing was answered", c.key)
	}
	if listed := c.w.listed(url.Values{"idempotency_key": {c.key}}); len(listed) != 1 || listed[0] != id {
		c.w.t.Errorf("%s: answered with %s, and listed are %v", c.key, id, listed)
	}
	return id
}

// Two hundred sends at once with one idempotency key make one delivery, and it
// is made once.
func TestOneIdempotencyKeyOverHTTP(t *testing.T) {
	t.Parallel()
	w := startCasualty(t)
	c := w.contest("an order")
	race(contenders, func(int) { c.send(nil) })
	id := c.one(contenders)
	w.drained()
	if n, came := w.deliveries(), len(w.arrivals(id)); n != 1 || came != 1 {
		t.Errorf("%d deliveries arrived, this one %d times", n, came)
	}
}

// The same with a server that is killed in between: whoever was answered before
// and whoever asks again afterwards have the same delivery.
func TestKillDuringSendsWithOneIdempotencyKey(t *testing.T) {
	t.Parallel()
	w := startCasualty(t)
	warm := w.contest("unharmed")
	began := time.Now()
	race(contenders, func(int) { warm.send(nil) })
	took := max(time.Since(began), 2*time.Millisecond)
	warm.one(contenders)

	var ids []string
	cut, told := 0, 0 // rounds in which nobody was answered before the kill, and in which some were
	w.kills("sends with one key", 5, func(round int) bool {
		c := w.contest(fmt.Sprint("order ", round))
		unanswered := make(chan struct{}, contenders)
		written, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			race(contenders, func(i int) {
				tell := written
				if i > 0 {
					tell = nil
				}
				if made := c.send(tell); made.status == 0 && made.wrote {
					unanswered <- struct{}{}
				}
			})
		}()
		if round%2 == 0 { // before anyone is answered, if it can be had
			<-written
			w.moment(time.Millisecond)
		} else {
			w.moment(took)
		}
		w.kill()
		<-done
		c.mu.Lock()
		if len(c.ids) > 0 {
			told++
		} else if len(unanswered) > 0 {
			cut++
		}
		c.mu.Unlock()
		w.start()
		race(contenders, func(int) { c.send(nil) })
		ids = append(ids, c.one(contenders))
		return len(unanswered) > 0
	})
	t.Logf("some had been answered before the kill in %d rounds, nobody yet in %d", told, cut)
	w.drained()
	w.checkArrived(t, "acknowledged", ids)
	w.checkRepeats(t)
	if n := w.deliveries(); n != len(ids)+1 {
		t.Errorf("%d deliveries arrived of %d keys", n, len(ids)+1)
	}
	w.endsSound()
}
