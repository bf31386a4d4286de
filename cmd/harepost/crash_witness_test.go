package main

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
)

// A witness is a target that remembers what came to it, and in which life of the
// server: the time between two of its starts.
type witness struct {
	*countedTarget
	answer func(sighting) (status int) // fixed before anything is sent

	life atomic.Int32

	mu       sync.Mutex
	seen     map[string][]sighting // by delivery
	recorded map[string]int32      // the life in which a delivery was shown as delivered
}

// A sighting is one request that came.
type sighting struct {
	life    int32
	id      string // of the delivery
	attempt int
	path    string
	mark    string // the beginning of the body
	header  http.Header
}

// markBytes is how much of a body a witness keeps: it may be shown a lot.
const markBytes = 64

func startWitness(t testing.TB, answer func(sighting) int) *witness {
	t.Helper()
	v := &witness{answer: answer, seen: map[string][]sighting{}, recorded: map[string]int32{}}
	v.countedTarget = startCountedTarget(t, v.take)
	return v
}

func (v *witness) take(rw http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the server was killed while it wrote: nothing arrived
	}
	attempt, err := strconv.Atoi(req.Header.Get("X-Harepost-Attempt"))
	if err != nil {
		v.t.Errorf("an attempt without a number: %v", req.Header)
	}
	s := sighting{v.life.Load(), req.Header.Get("X-Harepost-Delivery"), attempt, req.URL.Path, string(body[:min(len(body), markBytes)]), req.Header}
	v.mu.Lock()
	v.seen[s.id] = append(v.seen[s.id], s)
	v.mu.Unlock()
	rw.WriteHeader(v.answer(s))
}

// arrivals is what came of a delivery.
func (v *witness) arrivals(id string) []sighting {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.seen[id]
}

// deliveries is how many have come, however often each.
func (v *witness) deliveries() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.seen)
}

// record notes that deliveries are shown as delivered: an attempt is shown when
// its record is synced, so that no kill makes it be repeated any more.
func (v *witness) record(ids []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, id := range ids {
		if v.recorded[id] == 0 {
			v.recorded[id] = v.life.Load()
		}
	}
}

// checkRepeats looks for attempts that were made twice although no kill lies
// between the two, or although they had been shown as done before it.
func (v *witness) checkRepeats(t *testing.T) {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	afterKill := map[int32]int{}
	for id, all := range v.seen {
		last := map[int]sighting{}
		for _, s := range all {
			before, again := last[s.attempt]
			last[s.attempt] = s
			if shown := v.recorded[id]; shown != 0 && s.life > shown {
				t.Errorf("%s was shown as delivered in life %d, and attempt %d was made in life %d", id, shown, s.attempt, s.life)
			}
			switch {
			case again && before.life == s.life:
				t.Errorf("%s: attempt %d was made twice in life %d", id, s.attempt, s.life)
			case again:
				afterKill[before.life]++
			}
		}
	}
	t.Logf("attempts repeated, by the life that a kill ended: %v; %d deliveries had been shown as delivered before a kill", afterKill, len(v.recorded))
}

// checkArrived looks for every one of the deliveries.
func (v *witness) checkArrived(t *testing.T, what string, ids []string) {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	missing := ""
	n := 0
	for _, id := range ids {
		if len(v.seen[id]) == 0 {
			n, missing = n+1, id
		}
	}
	if n > 0 {
		t.Errorf("%s: %d of %d never arrived, such as %s", what, n, len(ids), missing)
	}
}

// awaited waits until every one of the deliveries has come.
func (v *witness) awaited(what string, ids []string) {
	v.t.Helper()
	until(v.t, what+" arrives", func() (bool, string) {
		missing := slices.ContainsFunc(ids, func(id string) bool { return len(v.arrivals(id)) == 0 })
		return !missing, fmt.Sprintf("of %d", len(ids))
	})
}
