package main

import (
	cryptorand "crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/harepost/harepost/engine"
)

// A flood is sends that do not compress, in batches, to a server that has a limit
// for its data; and the ids of all that were acknowledged.
type flood struct {
	w   *casualty
	mu  sync.Mutex
	ids []string

	stop func()
}

// flood lasts until stop is called.
func (w *casualty) flood() *flood {
	f := &flood{w: w}
	var sending sync.WaitGroup
	ended := make(chan struct{})
	f.stop = sync.OnceFunc(func() { close(ended); sending.Wait() })
	noise := make([]byte, 45<<10)
	sending.Go(func() {
		for {
			cryptorand.Read(noise)
			text := base64.StdEncoding.EncodeToString(noise)
			lines := batchOf(100, w.target("/flood"), func(i int) string {
				return `"labels":["flood"],"body":"` + text[i:] + `"`
			})
			if code, answer := w.call("POST", "/v1/send/batch", lines); code == http.StatusAccepted {
				f.mu.Lock()
				for _, id := range idsOf(answer) {
					if id != "" {
						f.ids = append(f.ids, id)
					}
				}
				f.mu.Unlock()
			}
			select {
			case <-ended:
				return
			default:
			}
		}
	})
	return f
}

var dataBytesMetric = regexp.MustCompile(`(?m)^harepost_data_bytes ([0-9.e+]+)$`)

// aboveLimit tells whether the server has more data than it is to have.
func (w *casualty) aboveLimit(limit float64) bool {
	_, text := w.server.request("GET", "/metrics", "", "")
	m := dataBytesMetric.FindStringSubmatch(text)
	if m == nil {
		w.t.Fatalf("no metric of the data's size in\n%s", text)
	}
	used, err := strconv.ParseFloat(m[1], 64)
	return err == nil && used > limit
}

// A drop is a line of the log that says what was dropped for its size.
type drop struct {
	Msg   string
	Until time.Time
}

// drops are those that this life has logged.
func (w *casualty) drops() (all []drop) {
	for line := range strings.Lines(w.server.stderr.String()) {
		var d drop
		if strings.Contains(line, "for their size") && json.Unmarshal([]byte(line), &d) == nil {
			all = append(all, d)
		}
	}
	return all
}

// Kills while the data is at its limit and the oldest finished deliveries are
// being dropped: what is pending stays, what else was acknowledged is there or is
// older than what was said to be dropped, dropping goes on, and the directory is
// sound.
func TestKillDuringRetention(t *testing.T) {
	t.Parallel()
	w := startCasualty(t, "--max-data-bytes", fmt.Sprint(leastDataBytes))
	const pending = 50
	waiting := w.sent(batchOf(pending, w.target("/later"), func(i int) string {
		return fmt.Sprintf(`"body":"%d","labels":["pending"],"delay_ms":3600000`, i)
	}))
	f := w.flood()
	defer f.stop()
	var dropped time.Time // all that finished and was accepted before may be gone
	said := func() (n int) {
		all := w.drops()
		for _, d := range all {
			if d.Until.After(dropped) {
				dropped = d.Until
			}
		}
		return len(all)
	}
	// The keeper looks once a second, and what it does then takes moments. Half
	// of the kills come at any moment from the one at which there is too much;
	// the others when a pass has just been logged, and the files are changing.
	passes := 0
	w.kills("the dropping of what finished", 2, func(round int) (inside bool) {
		what := "the data is above its limit"
		if round%2 == 0 {
			until(t, what, func() (bool, string) { return w.aboveLimit(leastDataBytes), w.server.stderr.String() })
			w.moment(1200 * time.Millisecond)
		} else {
			until(t, "something is dropped", func() (bool, string) { return len(w.drops()) > 0, w.server.stderr.String() })
			w.moment(20 * time.Millisecond)
		}
		inside = w.aboveLimit(leastDataBytes)
		w.kill()
		passes += said()
		w.start()
		return inside
	})
	until(t, "dropping goes on after the last kill", func() (bool, string) { return len(w.drops()) > 0, w.server.stderr.String() })
	f.stop()
	w.drained("flood")

	if got := len(w.listed(url.Values{"label": {"pending"}, "status": {"queued"}})); got != pending {
		t.Errorf("%d of %d pending deliveries are left", got, pending)
	}
	for _, id := range waiting {
		w.get("/v1/deliveries/" + id)
	}
	gone := 0
	var youngest time.Time // of those that are gone
	for _, id := range f.ids {
		code, d := w.call("GET", "/v1/deliveries/"+id, "")
		switch {
		case code == http.StatusNotFound:
			gone++
			accepted, err := engine.ParseDeliveryID(id)
			if err != nil {
				t.Fatal(err)
			}
			if accepted.Time().After(youngest) {
				youngest = accepted.Time()
			}
		case code != http.StatusOK:
			t.Errorf("%s: %d %v", id, code, d)
		}
	}
	w.endsSound()
	// Also what was dropped while they were looked at. A pass that was killed
	// before it was logged had a lower bound than those after it.
	passes += said()
	if youngest.After(dropped) {
		t.Errorf("a delivery of %s is gone, and only what was older than %s was said to be dropped", youngest, dropped)
	}
	t.Logf("%d were acknowledged, %d of them are dropped, in %d passes that were logged", len(f.ids), gone, passes)
	w.checkArrived(t, "what was acknowledged, dropped by now or not", f.ids)
	w.checkRepeats(t)
}
