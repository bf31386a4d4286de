package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// begun begins a bulk operation that is to work on so many.
func (w *casualty) begun(method, path, body string) *bulkWork {
	w.t.Helper()
	j := w.until(method, path, body, func(code int, _ map[string]any) bool { return code == http.StatusAccepted })
	return &bulkWork{w: w, path: "/v1/jobs/" + j["job_id"].(string), id: j["job_id"].(string)}
}

// bulkWork is a bulk operation that is under way, as the API shows it.
type bulkWork struct {
	w        *casualty
	id, path string
	done     float64 // as last seen
}

// under waits until the operation has done more than was seen before, and
// reports whether it is still under way then.
func (b *bulkWork) under() bool {
	b.w.t.Helper()
	give := time.Now().Add(processPatience)
	for time.Now().Before(give) {
		code, j := b.w.call("GET", b.path, "")
		if code != http.StatusOK {
			continue
		}
		if j["status"] != "running" {
			return false
		}
		done, matched := j["done"].(float64), j["matched"]
		if matched != nil && done > b.done && done < matched.(float64) {
			b.done = done
			return true
		}
	}
	b.w.t.Fatalf("%s does not go on from %v", b.id, b.done)
	return false
}

// survived looks after a restart: what was seen as done stays done.
func (b *bulkWork) survived() {
	b.w.t.Helper()
	if done := b.w.get(b.path)["done"].(float64); done < b.done {
		b.w.t.Errorf("%s had done %v before the kill, and %v after it", b.id, b.done, done)
	}
}

// killed kills the server once the operation has gone on, restarts it, and
// reports whether the operation was cut off: it had begun, and the dead
// server's log does not tell of its end.
func (b *bulkWork) killed(most time.Duration) (inside bool) {
	b.w.t.Helper()
	inside = b.under()
	b.w.moment(most)
	b.w.kill()
	inside = inside && !b.saidEnd()
	b.w.start()
	b.survived()
	return inside
}

// saidEnd tells whether this life's log tells of the end.
func (b *bulkWork) saidEnd() bool {
	for line := range strings.Lines(b.w.server.stderr.String()) {
		if strings.Contains(line, `"job ended"`) && strings.Contains(line, b.id) {
			return true
		}
	}
	return false
}

// ended waits for the end: all was done, and nothing was passed over.
func (b *bulkWork) ended(matched int) {
	b.w.t.Helper()
	j := b.w.until("GET", b.path, "", func(code int, j map[string]any) bool { return code == http.StatusOK && j["status"] != "running" })
	if want := float64(matched); j["status"] != "done" || j["matched"] != want || j["done"] != want || j["skipped"] != 0.0 {
		b.w.t.Errorf("of %d: %v", matched, j)
	}
}

// freshSends sends one delivery after the other to target until stop is called,
// which returns the ids that were acknowledged.
func (w *casualty) freshSends(senders int, path string) (stop func() []string) {
	var (
		mu      sync.Mutex
		ids     []string
		sending sync.WaitGroup
	)
	ended := make(chan struct{})
	for i := range senders {
		sending.Go(func() {
			for n := 0; ; n++ {
				c := w.trace("POST", "/v1/send", w.key, sendBody(w.target(path), fmt.Sprintf(`"body":"fresh %d-%d"`, i, n)), nil)
				switch {
				case c.status == http.StatusAccepted:
					mu.Lock()
					ids = append(ids, c.answer["queue_id"].(string))
					mu.Unlock()
				case c.status != 0:
					w.t.Errorf("a fresh send: %d %v", c.status, c.answer)
				}
				select {
				case <-time.After(5 * time.Millisecond):
				case <-ended:
					return
				}
			}
		})
	}
	return sync.OnceValue(func() []string {
		close(ended)
		sending.Wait()
		return ids
	})
}

// Kills in the middle of a bulk replay: it goes on where it was, each of the
// deliveries is replayed once, with a budget of its own, and what is sent beside
// it arrives.
func TestKillDuringABulkReplay(t *testing.T) {
	t.Parallel()
	const budget, attempts = 3, 5 // the first budget is used up, and one attempt of the second
	w := startCasualtyFor(t, startWitness(t, func(s sighting) int {
		if s.path == "/replayed" && s.attempt < attempts {
			return http.StatusServiceUnavailable
		}
		return http.StatusOK
	}))
	kills := crashRuns(t, 3)
	n := max(600, 120*kills) // three steps for each kill
	ids := w.sent(batchOf(n, w.target("/replayed"), func(i int) string {
		return fmt.Sprintf(`"body":"%d","delivery":{"max_attempts":%d,"backoff":"fixed","jitter":"none","base_delay_ms":100}`, i, budget)
	}))
	w.drained()
	stop := w.freshSends(4, "/fresh")
	defer stop()
	unwatch := w.watch()
	defer unwatch()
	job := w.begun("POST", "/v1/dead-letters/replay", `{"filter":{},"rate_per_second":400}`)
	hits := 0
	for hits < kills && job.killed(50*time.Millisecond) {
		hits++
	}
	t.Logf("%d kills fell inside one replay of %d", hits, n)
	if hits == 0 {
		t.Error("no kill fell inside the replay, this proves nothing")
	}
	job.ended(n)
	fresh := stop()
	w.drained()
	unwatch()
	w.checkRepeats(t)
	w.checkArrived(t, "sent beside the replay", fresh)
	for _, id := range ids {
		d := w.get("/v1/deliveries/" + id)
		if made, _ := d["attempts"].([]any); d["status"] != "delivered" || len(made) != attempts {
			t.Fatalf("%s is %v after %d attempts, want delivered after %d", id, d["status"], len(made), attempts)
		}
		came := map[int]bool{}
		for _, s := range w.arrivals(id) {
			came[s.attempt] = true
		}
		if len(came) != attempts {
			t.Errorf("%s: of %d attempts these arrived: %v", id, attempts, came)
		}
	}
	for _, id := range fresh {
		if d := w.get("/v1/deliveries/" + id); d["status"] != "delivered" {
			t.Errorf("sent beside the replay: %v", d)
		}
	}
	w.endsSound()
}

// some is at most n of the ids, drawn.
func some(random *rand.Rand, ids []string, n int) (drawn []string) {
	for _, i := range random.Perm(len(ids))[:min(n, len(ids))] {
		drawn = append(drawn, ids[i])
	}
	return drawn
}

// A kill in the middle of a purge: it ends, and takes what it was for and
// nothing else.
func TestKillDuringAPurge(t *testing.T) {
	t.Parallel()
	w := startCasualty(t)
	const n = 4000
	spared, kept := map[string]bool{}, []string{}
	w.kills("a purge", 3, func(round int) bool {
		// Every fiftieth is another's, in between.
		ids := w.sent(batchOf(n, w.target("/dead"), func(i int) string {
			label := fmt.Sprintf("round-%d", round)
			if i%50 == 0 {
				label = "spared"
			}
			return fmt.Sprintf(`"body":"%d","labels":[%q]`, i, label)
		}))
		kept = append(kept, w.sent(batchOf(10, w.target("/kept"), func(i int) string { return fmt.Sprintf(`"body":"%d"`, i) }))...)
		w.drained()
		var gone []string
		for i, id := range ids {
			if i%50 == 0 {
				spared[id] = true
			} else {
				gone = append(gone, id)
			}
		}
		query, matched := fmt.Sprintf("label=round-%d", round), len(gone)
		if all := round%2 == 1; all { // then nothing is spared
			query, matched = "all=true", matched+len(spared)
			for id := range spared {
				gone = append(gone, id)
			}
			clear(spared)
		}
		job := w.begun("DELETE", "/v1/dead-letters?"+query, "")
		inside := job.killed(3 * time.Millisecond)
		job.ended(matched)
		for _, id := range some(w.random, gone, 100) {
			if code, d := w.call("GET", "/v1/deliveries/"+id, ""); code != http.StatusNotFound {
				t.Errorf("purged, and still there: %d %v", code, d)
			}
		}
		left := w.listed(url.Values{"status": {"rejected"}})
		for _, id := range left {
			if !spared[id] {
				t.Errorf("left after a purge of %s: %s", query, id)
			}
		}
		if len(left) != len(spared) {
			t.Errorf("%d are left after a purge of %s that was to spare %d", len(left), query, len(spared))
		}
		return inside
	})
	for _, id := range kept {
		if d := w.get("/v1/deliveries/" + id); d["status"] != "delivered" {
			t.Errorf("delivered before the purge, and now %v", d)
		}
	}
	w.endsSound()
}

// A kill in the middle of a bulk cancellation: it ends, nothing that it was for
// is ever sent, and the rest stays as it is.
func TestKillDuringACancellation(t *testing.T) {
	t.Parallel()
	w := startCasualty(t)
	const n, stay = 4000, 20
	var staying []string
	w.kills("a cancellation", 3, func(round int) bool {
		label := fmt.Sprintf("round-%d", round)
		later := func(label string) func(int) string {
			return func(i int) string { return fmt.Sprintf(`"body":"%d","labels":[%q],"delay_ms":3600000`, i, label) }
		}
		staying = append(staying, w.sent(batchOf(stay, w.target("/stays"), later("stays")))...)
		w.sent(batchOf(n, w.target("/cancelled"), later(label)))
		staying = append(staying, w.sent(batchOf(stay, w.target("/stays"), later("stays")))...)

		job := w.begun("POST", "/v1/deliveries/cancel", fmt.Sprintf(`{"filter":{"label":%q}}`, label))
		inside := job.killed(3 * time.Millisecond)
		job.ended(n)
		if got := len(w.listed(url.Values{"status": {"canceled"}, "label": {label}})); got != n {
			t.Errorf("%d of %d are canceled", got, n)
		}
		w.drained(label)
		return inside
	})
	for _, id := range staying {
		if d := w.get("/v1/deliveries/" + id); d["status"] != "queued" {
			t.Errorf("not meant by the cancellation: %v", d)
		}
	}
	if n := w.deliveries(); n > 0 {
		t.Errorf("%d deliveries were sent that are cancelled or due in an hour", n)
	}
	w.endsSound()
}
