package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"path/filepath"
	"slices"
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
	*witness
}

// startCasualty starts the server. Its target rejects what goes to /dead, and
// takes the rest.
func startCasualty(t *testing.T, flags ...string) *casualty {
	t.Helper()
	return startCasualtyFor(t, startWitness(t, func(s sighting) int {
		if s.path == "/dead" {
			return http.StatusGone
		}
		return http.StatusOK
	}), flags...)
}

func startCasualtyFor(t *testing.T, v *witness, flags ...string) *casualty {
	t.Helper()
	address := reservedAddress(t)
	w := &casualty{t: t, random: crashSeed(t), url: "http://" + address, api: newAPIClient(t), witness: v}
	w.flags = append([]string{"--dev", "--listen", address, "--data-dir", filepath.Join(t.TempDir(), "data"), "--max-in-flight", "64", "--lane-concurrency", "64"}, flags...)
	w.start()
	w.key = w.server.devKey()
	return w
}

func (w *casualty) target(path string) string { return w.witness.url + path }

// start begins the next life.
func (w *casualty) start() {
	w.t.Helper()
	w.life.Add(1)
	w.server = startServer(w.t, w.flags...)
}

// kill ends a life with SIGKILL. All that it has sent has been taken when it returns.
func (w *casualty) kill() {
	w.t.Helper()
	w.server.kill9()
	w.settle()
}

// moment waits for a while, which is part of the experiment.
func (w *casualty) moment(most time.Duration) {
	<-time.After(time.Duration(w.random.Int64N(max(int64(most), 1))))
}

// A misfire is not what is tested: a kill that came before or after the
// operation that it was meant for. So many in excess of the experiments are made
// before a test says that it has proven nothing.
const misfires = 20

// kills makes an experiment as often as HAREPOST_CRASH_N says, and goes on, within
// bounds, until at least one kill has fallen inside the operation.
func (w *casualty) kills(what string, quick int, experiment func(round int) (inside bool)) {
	w.t.Helper()
	rounds, round, hits := crashRuns(w.t, quick), 0, 0
	for ; round < rounds || hits == 0 && round < rounds+misfires; round++ {
		if experiment(round) {
			hits++
		}
		if w.t.Failed() {
			w.t.Fatalf("in round %d of %s", round, what)
		}
	}
	w.t.Logf("%d of %d kills fell inside %s", hits, round, what)
	if hits == 0 {
		w.t.Errorf("no kill fell inside %s, this proves nothing", what)
	}
}

// A call is a request, and what is known of it.
type call struct {
	status int // 0: no answer
	answer map[string]any
	wrote  bool // all of it was handed to the system
}

// call makes one request.
func (w *casualty) call(method, path, body string) (status int, answer map[string]any) {
	c := w.trace(method, path, w.key, body, nil)
	return c.status, c.answer
}

// trace makes one request, and closes written, if there is one, when all of it
// was handed to the system or could not be.
func (w *casualty) trace(method, path, key, body string, written chan<- struct{}) (c call) {
	var wrote, told atomic.Bool
	tell := func() {
		if written != nil && !told.Swap(true) {
			close(written)
		}
	}
	defer tell()
	req, err := http.NewRequest(method, w.url+path, strings.NewReader(body))
	if err != nil {
		w.t.Error(err)
		return call{}
	}
	req = req.WithContext(httptrace.WithClientTrace(w.t.Context(), &httptrace.ClientTrace{WroteRequest: func(info httptrace.WroteRequestInfo) {
		wrote.Store(info.Err == nil)
		tell()
	}}))
	req.Header.Set("Authorization", "Bearer "+key)
	if strings.HasPrefix(path, "/v1/send/batch") {
		req.Header.Set("Content-Type", "application/x-ndjson")
	}
	resp, err := w.api.Do(req)
	if err != nil {
		return call{wrote: wrote.Load()}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || json.Unmarshal(b, &c.answer) != nil {
		return call{wrote: true}
	}
	c.status, c.wrote = resp.StatusCode, true
	return c
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
			w.t.Fatalf("%s %s: still %d %v", method, path, status, answer)
		}
		<-time.After(5 * time.Millisecond) // the server is another process
	}
}

// get is until for what has to be there.
func (w *casualty) get(path string) map[string]any {
	w.t.Helper()
	return w.until("GET", path, "", func(code int, _ map[string]any) bool { return code == http.StatusOK })
}

// batchOf is n lines, each with fields of its own, as JSON.
func batchOf(n int, target string, fields func(i int) string) string {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintln(&b, sendBody(target, fields(i)))
	}
	return b.String()
}

// idsOf is the ids in a batch's answer; "" for what was refused.
func idsOf(answer map[string]any) (ids []string) {
	results, _ := answer["results"].([]any)
	for _, r := range results {
		id, _ := r.(map[string]any)["queue_id"].(string)
		ids = append(ids, id)
	}
	return ids
}

// sent sends a batch that must be taken whole, again if there was no answer, and
// returns the ids.
func (w *casualty) sent(lines string) (ids []string) {
	w.t.Helper()
	answer := w.until("POST", "/v1/send/batch", lines, func(status int, _ map[string]any) bool { return status == 202 })
	ids = idsOf(answer)
	if len(ids) != strings.Count(lines, "\n") || slices.Contains(ids, "") {
		w.t.Fatalf("refused: %.500v", answer)
	}
	return ids
}

// delivered is the ids of the last deliveries that are shown as delivered.
func (w *casualty) delivered() (ids []string) {
	_, page := w.call("GET", "/v1/deliveries?status=delivered&limit=100", "")
	rows, _ := page["data"].([]any)
	for _, row := range rows {
		ids = append(ids, row.(map[string]any)["queue_id"].(string))
	}
	return ids
}

// watch records what is shown as delivered, again and again until stop is called.
func (w *casualty) watch() (stop func()) {
	var watching sync.WaitGroup
	ended := make(chan struct{})
	watching.Go(func() {
		for {
			w.record(w.delivered())
			select {
			case <-time.After(2 * time.Millisecond):
			case <-ended:
				return
			}
		}
	})
	return sync.OnceFunc(func() { close(ended); watching.Wait() })
}

// listed walks a list to its end.
func (w *casualty) listed(query url.Values) (ids []string) {
	w.t.Helper()
	query.Set("limit", "100")
	for {
		page := w.get("/v1/deliveries?" + query.Encode())
		for _, row := range page["data"].([]any) {
			ids = append(ids, row.(map[string]any)["queue_id"].(string))
		}
		next, more := page["next_cursor"].(string)
		if !more {
			return ids
		}
		query.Set("cursor", next)
	}
}

// drained waits until nothing is due: what is pending is so for later.
func (w *casualty) drained(labels ...string) {
	w.t.Helper()
	for _, status := range []string{"queued", "retrying"} {
		query := url.Values{"limit": {"1"}, "status": {status}}
		for _, label := range labels {
			query.Set("label", label)
		}
		w.until("GET", "/v1/deliveries?"+query.Encode(), "", func(code int, page map[string]any) bool {
			return code == 200 && len(page["data"].([]any)) == 0
		})
	}
}

// endsSound stops the server in order, and has its directory checked.
func (w *casualty) endsSound() {
	w.t.Helper()
	if status := w.server.stop(); status != exitOK {
		w.t.Errorf("status %d\n%s", status, w.server.stderr.String())
	}
	newUser(w.t, w.url, w.key).prints("sound", exitOK, "check", w.server.DataDir)
}
