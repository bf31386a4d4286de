package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A clusterSiege is a cluster under load that goes through every node, while nodes are
// brought down and back.
type clusterSiege struct {
	*siege // the ledger, the targets and what rest does; its server is set for an audit
	c      *testCluster
	events []string
	term   uint64 // after the last of them

	mu       sync.Mutex
	refusals map[string]int // answers that were neither a 202 nor unknown, by what they said
	slowest  atomic.Int64   // nanoseconds that the longest send took with all its repetitions
}

func startClusterSiege(t *testing.T, flags ...string) *clusterSiege {
	t.Helper()
	c := startTestCluster(t, 3, append([]string{"--max-in-flight", fmt.Sprint(siegeInFlight), "--lane-concurrency", "16"}, flags...)...)
	s := &clusterSiege{c: c, refusals: map[string]int{}, siege: &siege{t: t, ledger: newLedger(), key: c.key, acks: make(chan struct{}, 1), stop: make(chan struct{})}}
	s.ledger.life.Add(1)
	for range 4 {
		s.targets = append(s.targets, startRecorder(t, s.ledger))
	}
	t.Cleanup(func() {
		s.rest()
		if t.Failed() {
			t.Log(c.logs())
		}
	})
	return s
}

// load starts n senders, each of which sends one delivery after the other to one node
// after the other. Every second one uses idempotency keys, and repeats with another
// node what was not answered with a 202 until it is.
func (s *clusterSiege) load(n int, pace time.Duration) {
	client := newAPIClient(s.t)
	client.Timeout = 2 * time.Second // a node that is frozen does not answer
	beat := newHeartbeat()
	s.senders.Go(func() { beat.run(pace, s.stop) })
	for i := range n {
		s.senders.Go(func() {
			mark, keyed, again := "", i%2 == 1, false
			at, began := i, time.Now()
			for count := 0; ; {
				select {
				case <-beat.next():
				case <-s.stop:
					if !again {
						return
					}
				}
				if !again {
					count++
					mark, began = fmt.Sprintf("%d-%d", i, count), time.Now()
				}
				at++
				known := s.send(client, s.c.nodes[at%len(s.c.nodes)].api, mark, keyed, s.targets[count%len(s.targets)].url)
				again = keyed && !known
				if took := int64(time.Since(began)); keyed && known && took > s.slowest.Load() {
					s.slowest.Store(took)
				}
			}
		})
	}
}

// send makes one send by one node, and reports whether it was acknowledged.
func (s *clusterSiege) send(client *http.Client, api, mark string, keyed bool, target string) bool {
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
	req, err := http.NewRequest(http.MethodPost, "http://"+api+"/v1/send", bytes.NewReader(text))
	if err != nil {
		s.t.Error(err)
		return true
	}
	req.Header.Set("Authorization", "Bearer "+s.key)
	s.ledger.send(mark)
	began, life := time.Now(), s.ledger.life.Load()
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return false
	}
	documented(s.t, http.MethodPost, "/v1/send", resp, answer)
	var receipt struct {
		QueueID string `json:"queue_id"`
		Error   string `json:"error"`
	}
	if err := json.Unmarshal(answer, &receipt); err != nil {
		s.t.Errorf("%s is not JSON: %v", answer, err)
		return false
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
		return true
	case resp.StatusCode != http.StatusServiceUnavailable:
		s.t.Errorf("a send was answered with %d %s", resp.StatusCode, answer)
	case receipt.Error == "outcome unknown":
		return false
	}
	s.refusal(fmt.Sprint(resp.StatusCode, " ", receipt.Error))
	if !keyed { // else it may have been accepted before
		s.ledger.answered(mark, sendRefused, "", began, life)
	}
	return false
}

func (s *clusterSiege) refusal(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusals[text]++
}

// event brings something about, which is over when a node leads of which all know.
func (s *clusterSiege) event(what string, do func()) {
	s.t.Helper()
	s.killed++ // or whatever it was
	s.events = append(s.events, what)
	s.lookAtTerm()
	s.ledger.unsteadily(func() {
		do()
		s.resumed()
		s.term = s.termNow()
	})
}

func (s *clusterSiege) termNow() uint64 {
	v, _ := s.c.leader().view()
	return v.Term
}

// lookAtTerm notes where the leader has changed although nothing was done: on a busy
// machine it may be taken for dead.
func (s *clusterSiege) lookAtTerm() {
	s.t.Helper()
	if now := s.termNow(); s.term != 0 && now != s.term {
		s.t.Logf("term %d after term %d, of itself, after %q", now, s.term, s.events)
		s.ledger.mu.Lock()
		s.ledger.unsteady[s.ledger.life.Load()] = true
		s.ledger.mu.Unlock()
	}
}

// resumed notes how long it takes until a send is acknowledged.
func (s *clusterSiege) resumed() {
	s.t.Helper()
	s.events[len(s.events)-1] += fmt.Sprintf(" +%s", s.acknowledgedAfter().Round(time.Millisecond))
}

// acknowledgedAfter waits for a send that is acknowledged and returns how long it took.
func (s *clusterSiege) acknowledgedAfter() time.Duration {
	s.t.Helper()
	began := time.Now()
	select {
	case <-s.acks:
	default:
	}
	select {
	case <-s.acks:
	case <-time.After(processPatience):
		s.t.Fatalf("nothing is acknowledged any more, after %q\n%s", s.events, s.c.logs())
	}
	return time.Since(began)
}

// end stops the load and looks at what became of it, on every node.
func (s *clusterSiege) end() {
	s.t.Helper()
	s.rest()
	s.server = s.c.leader().server
	s.drain()
	s.lookAtTerm()
	b := s.audit()
	s.report(b)
	s.t.Logf("events: %q; refused: %v; the slowest keyed send took %s", s.events, s.refusals, time.Duration(s.slowest.Load()))
	s.c.level()
	for _, n := range s.c.nodes {
		if lines := bytes.Count([]byte(n.server.stderr.String()), []byte("\n")); lines > 100+40*len(s.events) {
			s.t.Errorf("node %s logged %d lines:\n%.3000s", n.id, lines, n.server.stderr.String())
		}
	}
}
