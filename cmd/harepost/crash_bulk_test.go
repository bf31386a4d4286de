package main

import (
	"bytes"
	cryptorand "crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A casualty is a server that is killed in the middle of operations, and started
// again on the same directory and port.
type casualty struct {
	t      *testing.T
	random *rand.Rand
	flags  []string
	url    string
	key    string
	api    *http.Client
	server *serverProcess

	broken   atomic.Bool // the target rejects
	mu       sync.Mutex
	arrivals map[string]int // deliveries that were taken, by id
	target   string
}

func startCasualty(t *testing.T) *casualty {
	t.Helper()
	address := reservedAddress(t)
	w := &casualty{t: t, random: crashSeed(t), url: "http://" + address, api: newAPIClient(t), arrivals: map[string]int{}}
	w.flags = []string{"--dev", "--listen", address, "--data-dir", filepath.Join(t.TempDir(), "data")}
	target := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if w.broken.Load() {
			rw.WriteHeader(http.StatusGone)
			return
		}
		w.mu.Lock()
		w.arrivals[r.Header.Get("X-Harepost-Delivery")]++
		w.mu.Unlock()
	}))
	t.Cleanup(target.Close)
	w.target = target.URL + "/hook"
	w.server = startServer(t, w.flags...)
	w.key = w.server.devKey()
	return w
}

// crash kills the server after a while and starts it again.
func (w *casualty) crash(most time.Duration) {
	w.t.Helper()
	<-time.After(time.Duration(w.random.Int64N(int64(most)))) // the moment is the experiment
	w.server.kill9()
	w.server = startServer(w.t, w.flags...)
}

// call makes one request. Without an answer the status is 0.
func (w *casualty) call(method, path, body string) (status int, answer map[string]any) {
	req, err := http.NewRequest(method, w.url+path, strings.NewReader(body))
	if err != nil {
		w.t.Error(err)
		return 0, nil
	}
	req.Header.Set("Authorization", "Bearer "+w.key)
	if strings.HasPrefix(path, "/v1/send/batch") {
		req.Header.Set("Content-Type", "application/x-ndjson")
	}
	resp, err := w.api.Do(req)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || json.Unmarshal(b, &answer) != nil {
		return 0, nil
	}
	return resp.StatusCode, answer
}

// until repeats a request until it is answered as wanted.
func (w *casualty) until(method, path, body string, ok func(status int, answer map[string]any) bool) map[string]any {
	w.t.Helper()
	give := time.Now().Add(processPatience)
	for {
		status, answer := w.call(method, path, body)
		if status != 0 && ok(status, answer) {
			return answer
		}
		if time.Now().After(give) {
			w.t.Fatalf("%s %s: still %d %v\n%s", method, path, status, answer, w.server.stderr.String())
		}
		<-time.After(5 * time.Millisecond) // the server is another process
	}
}

// batch is n lines, each with a key of its own.
func (w *casualty) batch(name string, n int) string {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, `{"target":%q,"idempotency_key":"%s-%d","body":{"n":%d},"delivery":{"max_attempts":1}}`+"\n", w.target, name, i, i)
	}
	return b.String()
}

// sent sends a batch that must be taken whole, and returns the ids.
func (w *casualty) sent(name string, n int) (ids []string) {
	w.t.Helper()
	answer := w.until("POST", "/v1/send/batch", w.batch(name, n), func(status int, _ map[string]any) bool { return status == 202 })
	for _, r := range answer["results"].([]any) {
		id, ok := r.(map[string]any)["queue_id"].(string)
		if !ok {
			w.t.Fatalf("%v", r)
		}
		ids = append(ids, id)
	}
	return ids
}

// A kill in the middle of batches: every item that was acknowledged is delivered,
// and a batch that is sent again, because nobody knows what became of it, makes
// no item twice.
func TestKillDuringBatches(t *testing.T) {
	t.Parallel()
	w := startCasualty(t)
	const batches, items = 8, 200
	rounds := max(crashRuns(t, 3), 1)
	ids := make(map[string]string) // by key
	var mu sync.Mutex
	for round := range rounds {
		var load sync.WaitGroup
		for b := range batches {
			load.Go(func() {
				name := fmt.Sprintf("r%d-b%d", round, b)
				w.call("POST", "/v1/send/batch", w.batch(name, items)) // may be cut off
				for try := range 2 {
					for i, id := range w.sent(name, items) {
						key := fmt.Sprintf("%s-%d", name, i)
						mu.Lock()
						if known := ids[key]; known != "" && known != id {
							t.Errorf("%s is %s and, in try %d, %s", key, known, try, id)
						}
						ids[key] = id
						mu.Unlock()
					}
				}
			})
		}
		w.crash(150 * time.Millisecond)
		load.Wait()
	}
	if len(ids) != rounds*batches*items {
		t.Fatalf("%d deliveries of %d", len(ids), rounds*batches*items)
	}
	w.drained()
	w.mu.Lock()
	defer w.mu.Unlock()
	known, twice := make(map[string]bool, len(ids)), 0
	for key, id := range ids {
		known[id] = true
		if w.arrivals[id] == 0 {
			t.Errorf("%s, acknowledged as %s, never arrived", key, id)
		}
		twice += max(w.arrivals[id]-1, 0)
	}
	for id := range w.arrivals {
		if !known[id] {
			t.Errorf("%s arrived, and no key has it: an item was made twice", id)
		}
	}
	t.Logf("%d items in %d rounds, %d attempts repeated after a kill", len(ids), rounds, twice)
}

// drained waits until nothing is pending.
func (w *casualty) drained() {
	w.t.Helper()
	for _, status := range []string{"queued", "retrying"} {
		w.until("GET", "/v1/deliveries?limit=1&status="+status, "", func(code int, page map[string]any) bool {
			return code == 200 && len(page["data"].([]any)) == 0
		})
	}
}

// ended waits for a bulk operation, and checks that its counts add up.
func (w *casualty) ended(id any, matched int) map[string]any {
	w.t.Helper()
	j := w.until("GET", fmt.Sprintf("/v1/jobs/%v", id), "", func(code int, j map[string]any) bool {
		return code == 200 && j["status"] != "running"
	})
	if j["status"] != "done" || j["matched"] != float64(matched) || j["done"].(float64)+j["skipped"].(float64) != float64(matched) {
		w.t.Errorf("of %d: %v", matched, j)
	}
	return j
}

// A kill in the middle of a bulk replay: it goes on where it was, and each of the
// deliveries is replayed once.
func TestKillDuringABulkReplay(t *testing.T) {
	t.Parallel()
	w := startCasualty(t)
	const n = 600
	w.broken.Store(true)
	ids := w.sent("dead", n)
	w.drained()
	w.broken.Store(false)
	job := w.until("POST", "/v1/dead-letters/replay", `{"filter":{},"rate_per_second":400}`, func(code int, _ map[string]any) bool { return code == 202 })
	for range max(crashRuns(t, 3), 1) {
		w.crash(300 * time.Millisecond)
	}
	w.ended(job["job_id"], n)
	w.drained()
	for _, id := range ids {
		_, d := w.call("GET", "/v1/deliveries/"+id, "")
		attempts, _ := d["attempts"].([]any)
		if d["status"] != "delivered" || len(attempts) != 2 {
			t.Fatalf("%s is %v after %d attempts: one was rejected and one replayed", id, d["status"], len(attempts))
		}
	}
}

// A kill in the middle of a purge and of a bulk cancellation: each ends, and takes
// what it was for and nothing else.
func TestKillDuringAPurgeAndACancellation(t *testing.T) {
	t.Parallel()
	w := startCasualty(t)
	const n = 4000
	w.broken.Store(true)
	w.sent("dead", n)
	w.drained()
	w.broken.Store(false)
	kept := w.sent("kept", 10)
	w.drained()
	job := w.until("DELETE", "/v1/dead-letters?all=true", "", func(code int, _ map[string]any) bool { return code == 202 })
	w.crash(40 * time.Millisecond)
	w.ended(job["job_id"], n)
	w.until("GET", "/v1/dead-letters", "", func(code int, page map[string]any) bool {
		if code == 200 && len(page["data"].([]any)) > 0 {
			t.Fatalf("left after a purge: %v", page["data"].([]any)[0])
		}
		return code == 200
	})
	for _, id := range kept {
		if code, d := w.call("GET", "/v1/deliveries/"+id, ""); code != 200 || d["status"] != "delivered" {
			t.Errorf("%s: %d %v", id, code, d)
		}
	}

	var lines strings.Builder
	for i := range n {
		fmt.Fprintf(&lines, `{"target":%q,"idempotency_key":"later-%d","delay_ms":3600000}`+"\n", w.target, i)
	}
	w.until("POST", "/v1/send/batch", lines.String(), func(code int, _ map[string]any) bool { return code == 202 })
	job = w.until("POST", "/v1/deliveries/cancel", `{"filter":{}}`, func(code int, _ map[string]any) bool { return code == 202 })
	w.crash(40 * time.Millisecond)
	w.ended(job["job_id"], n)
	w.drained()
}

// A kill in the middle of a rotation: the secret that was answered with is the one
// that is in force; without an answer it is a new one or the one before.
func TestKillDuringARotation(t *testing.T) {
	t.Parallel()
	w := startCasualty(t)
	current := func() string {
		return w.until("GET", "/v1/signing-secret", "", func(code int, _ map[string]any) bool { return code == 200 })["signing_secret"].(string)
	}
	answered := current()
	for range max(crashRuns(t, 3), 2) {
		before := answered
		done := make(chan string, 1)
		go func() {
			_, a := w.call("POST", "/v1/signing-secret/rotate", `{"overlap_seconds":1}`)
			secret, _ := a["signing_secret"].(string)
			done <- secret
		}()
		w.crash(8 * time.Millisecond)
		secret := <-done
		now := current()
		if secret != "" && now != secret {
			t.Fatalf("answered with one secret, in force is another")
		}
		if secret == "" && now == "" {
			t.Fatalf("no secret is left of %d characters", len(before))
		}
		answered = now
		<-time.After(1100 * time.Millisecond) // or four would be live
	}
}

// Kills while the data is at its limit and the oldest finished deliveries are
// being dropped: what is pending stays, and the directory is sound.
func TestKillDuringRetention(t *testing.T) {
	t.Parallel()
	w := startCasualty(t)
	w.flags = append(w.flags, "--max-data-bytes", fmt.Sprint(leastDataBytes))
	w.server.kill9()
	w.server = startServer(t, w.flags...)
	var lines strings.Builder
	const pending = 50
	for i := range pending {
		fmt.Fprintf(&lines, `{"target":%q,"labels":["pending"],"delay_ms":3600000}`+"\n", w.target+fmt.Sprint("/", i))
	}
	w.until("POST", "/v1/send/batch", lines.String(), func(code int, _ map[string]any) bool { return code == 202 })
	noise := make([]byte, 45<<10)
	for range max(crashRuns(t, 3), 1) {
		stop := make(chan struct{})
		var load sync.WaitGroup
		load.Go(func() { // 6 MB a batch that do not compress, until the crash is over
			for {
				var b strings.Builder
				for i := range 100 {
					cryptorand.Read(noise)
					fmt.Fprintf(&b, `{"target":%q,"body":"%d %s"}`+"\n", w.target, i, base64.StdEncoding.EncodeToString(noise))
				}
				w.call("POST", "/v1/send/batch", b.String())
				select {
				case <-stop:
					return
				default:
				}
			}
		})
		for !strings.Contains(w.server.stderr.String(), "for their size") {
			<-time.After(20 * time.Millisecond) // the keeper is in another process
		}
		w.crash(1500 * time.Millisecond)
		close(stop)
		load.Wait()
	}
	page := w.until("GET", "/v1/deliveries?label=pending&limit=100", "", func(code int, _ map[string]any) bool { return code == 200 })
	if n := len(page["data"].([]any)); n != pending {
		t.Errorf("%d of %d pending deliveries are left", n, pending)
	}
	if status := w.server.stop(); status != exitOK {
		t.Errorf("status %d", status)
	}
	newUser(t, w.url, w.key).prints("sound", exitOK, "check", w.server.DataDir)
}
