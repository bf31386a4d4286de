package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// crashRuns is HAREPOST_CRASH_N, or quick when that is not set.
func crashRuns(t testing.TB, quick int) int {
	t.Helper()
	return environmentNumber(t, "HAREPOST_CRASH_N", quick)
}

// crashSeed is HAREPOST_CRASH_SEED, or a new one; it is printed, so that a run
// can be repeated.
func crashSeed(t testing.TB) *rand.Rand {
	t.Helper()
	seed := environmentNumber(t, "HAREPOST_CRASH_SEED", int(rand.Uint32()))
	t.Logf("HAREPOST_CRASH_SEED=%d", seed)
	return rand.New(rand.NewPCG(uint64(seed), 0))
}

func environmentNumber(t testing.TB, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is not a positive number", name, text)
	}
	return n
}

// A siege is a server under load that is brought down again and again on one
// directory and one port.
type siege struct {
	t       *testing.T
	ledger  *ledger
	targets []*recorder
	flags   []string
	url     string
	key     string
	server  *serverProcess // nil while it is down
	killed  int

	acks    chan struct{} // holds one when a send was acknowledged since it was last read
	stop    chan struct{}
	senders sync.WaitGroup
}

// siegeInFlight is --max-in-flight: with it, the first half of the bound on
// what a crash repeats.
const siegeInFlight = 64

// startSiege starts the server; load starts the senders.
func startSiege(t *testing.T, flags ...string) *siege {
	t.Helper()
	s := &siege{t: t, ledger: newLedger(), acks: make(chan struct{}, 1), stop: make(chan struct{})}
	address := reservedAddress(t)
	s.url = "http://" + address
	s.flags = append([]string{
		"--dev", "--listen", address, "--data-dir", filepath.Join(t.TempDir(), "data"),
		"--max-in-flight", fmt.Sprint(siegeInFlight), "--lane-concurrency", "16",
	}, flags...)
	for range 4 { // four lanes
		s.targets = append(s.targets, startRecorder(t, s.ledger))
	}
	s.up()
	s.key = s.server.devKey()
	t.Cleanup(s.rest)
	return s
}

// reservedAddress is a loopback address whose port no other process gets by
// chance, and no other test.
func reservedAddress(t testing.TB) string {
	t.Helper()
	for {
		free, err := freeAddresses(1)
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := reserved.LoadOrStore(free[0], true); !twice {
			return free[0]
		}
	}
}

// reserved are the addresses that tests have got: not all are in use yet.
var reserved sync.Map

// up starts the next life and returns when it serves.
func (s *siege) up() {
	s.t.Helper()
	s.ledger.life.Add(1)
	s.server = startServer(s.t, s.flags...)
}

// kill ends a life with SIGKILL.
func (s *siege) kill() {
	s.t.Helper()
	s.server.kill9()
	s.server = nil
	s.killed++
	s.settle()
}

// upAndKill starts a life and kills it after a while, whatever it is doing by
// then. It must not have ended by itself.
func (s *siege) upAndKill(after time.Duration) {
	s.t.Helper()
	s.ledger.life.Add(1)
	killedStart(s.t, s.flags, after)
	s.killed++
	s.settle()
}

// killedStart starts a server and kills it after a while, and returns what it had
// logged. It must not have ended by itself.
func killedStart(t testing.TB, flags []string, after time.Duration) (logs []byte) {
	t.Helper()
	var text bytes.Buffer
	cmd := exec.Command(harepostBinary(t), append([]string{"serve"}, flags...)...)
	cmd.Env = cleanEnvironment()
	cmd.Stderr = &text
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(after, func() { cmd.Process.Kill() })
	defer timer.Stop()
	cmd.Wait() // its error is the status, looked at below
	if status := cmd.ProcessState.ExitCode(); status != -1 {
		t.Fatalf("a start after a kill ended by itself with status %d:\n%s", status, text.String())
	}
	return text.Bytes()
}

// settle waits until the dead life's last words are in the ledger.
func (s *siege) settle() {
	s.t.Helper()
	for _, r := range s.targets {
		r.settle()
	}
}

// load starts n senders. At every beat each of them sends one delivery, if its
// last one was answered by then: all at once, so that some wait in the log's
// queue while others are being written. Every second sender uses idempotency
// keys, and repeats a send whose outcome it does not know until it does.
func (s *siege) load(n int, pace time.Duration) {
	client := newAPIClient(s.t)
	beat := newHeartbeat()
	s.senders.Go(func() { beat.run(pace, s.stop) })
	for i := range n {
		s.senders.Go(func() {
			mark, keyed, repeat := "", i%2 == 1, false
			for count := 0; ; {
				select {
				case <-beat.next():
				case <-s.stop:
					return
				}
				if !repeat {
					count++
					mark = fmt.Sprintf("%d-%d", i, count)
				}
				known := s.send(client, mark, keyed, s.targets[count%len(s.targets)].url, repeat)
				repeat = keyed && !known
			}
		})
	}
}

// A heartbeat wakes any number of goroutines at once.
type heartbeat struct {
	mu     sync.Mutex
	coming chan struct{}
}

func newHeartbeat() *heartbeat { return &heartbeat{coming: make(chan struct{})} }

// next is closed at the next beat.
func (h *heartbeat) next() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.coming
}

func (h *heartbeat) run(pace time.Duration, stop <-chan struct{}) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-stop:
			return
		}
		h.mu.Lock()
		close(h.coming)
		h.coming = make(chan struct{})
		h.mu.Unlock()
	}
}

// acknowledged waits until one more send is acknowledged. To kill the server
// then is what shows best whether an answer leaves before its send is safe.
func (s *siege) acknowledged() {
	s.t.Helper()
	select {
	case <-s.acks:
	default:
	}
	select {
	case <-s.acks:
	case <-time.After(processPatience):
		s.t.Fatalf("nothing is acknowledged any more:\n%s", s.server.stderr.String())
	}
}

// rest ends the load. What was on its way is answered or has failed.
func (s *siege) rest() {
	select {
	case <-s.stop:
	default:
		close(s.stop)
	}
	s.senders.Wait()
}

// send makes one send and writes it into the ledger. It reports whether its
// outcome is known.
func (s *siege) send(client *http.Client, mark string, keyed bool, target string, again bool) bool {
	fields := map[string]any{
		"target":   target + "/in",
		"body":     payloadOf(mark),
		"delivery": map[string]any{"base_delay_ms": 100, "max_delay_ms": 1000, "max_attempts": 25},
	}
	if keyed {
		fields["idempotency_key"] = mark
	}
	text, err := json.Marshal(fields)
	if err != nil {
		s.t.Error(err)
		return true
	}
	req, err := http.NewRequest(http.MethodPost, s.url+"/v1/send", bytes.NewReader(text))
	if err != nil {
		s.t.Error(err)
		return true
	}
	req.Header.Set("Authorization", "Bearer "+s.key)
	s.ledger.send(mark)
	began, life := time.Now(), s.ledger.life.Load()
	resp, err := client.Do(req)
	if err != nil {
		if op, is := errors.AsType[*net.OpError](err); is && op.Op == "dial" && !again {
			s.ledger.forget(mark) // there was nobody to send it to
		}
		return false
	}
	defer resp.Body.Close()
	var receipt struct {
		QueueID string `json:"queue_id"`
		Error   string `json:"error"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&receipt); err != nil {
		return false // killed while it answered
	}
	if s.ledger.life.Load() != life {
		life = 0
	}
	switch {
	case resp.StatusCode == http.StatusAccepted:
		s.ledger.answered(mark, sendAcknowledged, receipt.QueueID, began, life)
		select {
		case s.acks <- struct{}{}:
		default:
		}
	case resp.StatusCode == http.StatusServiceUnavailable && receipt.Error == "outcome unknown":
		return false
	default:
		s.ledger.answered(mark, sendRefused, "", began, life)
	}
	return true
}

// drain waits until the server has nothing left to do.
func (s *siege) drain() {
	s.t.Helper()
	until(s.t, "nothing is pending", func() (bool, string) { return nothingPending(s.server, s.key) })
}

// nothingPending reports whether nothing more will happen to an account's deliveries.
func nothingPending(server *serverProcess, key string) (bool, string) {
	for _, status := range []string{"queued", "retrying"} {
		code, text := server.request(http.MethodGet, "/v1/deliveries?limit=1&status="+status, key, "")
		var page listPage
		if err := json.Unmarshal([]byte(text), &page); code != http.StatusOK || err != nil || len(page.Data) > 0 {
			return false, text
		}
	}
	return true, ""
}

// audit compares the ledger with what the server has on record: every
// acknowledged send is readable and delivered, after as many attempts as
// arrived, and nothing is on record that nobody sent.
func (s *siege) audit() balance {
	s.t.Helper()
	tries := map[string]int{} // attempts on record, by id
	client := patiently(newAPIClient(s.t))
	w := &world{t: s.t, server: s.server, client: client}
	reader := &tenant{w: w, key: s.key}
	for query := (url.Values{"limit": {"100"}}); ; {
		page := reader.page(s.t, query)
		for _, d := range page.Data {
			n, err := strconv.Atoi(string(d.Attempts))
			if _, twice := tries[d.QueueID]; twice || err != nil || d.Status != "delivered" {
				s.t.Errorf("on record: %+v (listed before: %v)", d, twice)
			}
			tries[d.QueueID] = n
		}
		if page.Next == nil {
			break
		}
		query.Set("cursor", *page.Next)
	}
	b := s.ledger.add()
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	looked := 0
	for mark, m := range s.ledger.marks {
		if len(m.arrivals) == 0 {
			continue // lost or never accepted, which the balance tells apart
		}
		id, most := m.arrivals[0].id, 0
		for _, a := range m.arrivals {
			most = max(most, a.attempt)
		}
		n, listed := tries[id]
		if !listed || n != most {
			s.t.Errorf("%s (%s): attempt %d arrived, %d are on record (listed: %v)", mark, id, most, n, listed)
		}
		delete(tries, id)
		if looked++; looked <= 200 { // maps come in another order each time
			if h := reader.lookup(s.t, id); h.Status != "delivered" || len(h.Attempts) != most {
				s.t.Errorf("%s: %s", mark, h.text)
			}
		}
	}
	for id := range tries {
		s.t.Errorf("%s is on record as delivered and never arrived", id)
	}
	return b
}
