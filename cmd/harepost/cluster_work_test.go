package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// at is a client of one node of a cluster, with the key of an account.
func (n *clusterMember) at(key string) *tenant {
	w := &world{t: n.c.t, server: n.server, client: patiently(newAPIClient(n.c.t))}
	return &tenant{w: w, key: key}
}

// What is asked of any node is answered as if there were one.
func TestAnyNodeAnswersForAll(t *testing.T) {
	t.Parallel()
	c := startTestCluster(t, 3)
	defer func() {
		if t.Failed() {
			t.Log(c.logs())
		}
	}()
	leads := c.leader()
	others := c.others(leads)
	var arrived atomic.Int64
	target := startCountedTarget(t, func(_ http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body) // an error ends the connection
		arrived.Add(1)
	}).url + "/in"

	t.Run("accounts, keys, domains", func(t *testing.T) {
		for i := range 9 {
			n, other := c.nodes[i%3], c.nodes[(i+1)%3]
			made := n.at(worldAdminToken).call(t, "POST", "/v1/accounts", fmt.Sprintf(`{"name":"a%d"}`, i)).want(http.StatusCreated)
			key := made["api_key"].(string)
			id := made["account_id"].(string)
			second := other.at(key).call(t, "POST", "/v1/keys", `{}`).want(http.StatusCreated)
			n.at(second["api_key"].(string)).call(t, "POST", "/v1/domains", `{"domain":"example.com"}`).want(http.StatusCreated)
			other.at(key).call(t, "GET", "/v1/domains/example.com", "").want(http.StatusOK)
			n.at(key).call(t, "DELETE", "/v1/domains/example.com", "")
			if got := other.at(key).call(t, "GET", "/v1/domains/example.com", "").status; got != http.StatusNotFound {
				t.Errorf("a domain that another node has just deleted: %d", got)
			}
			n.at(worldAdminToken).call(t, "PATCH", "/v1/accounts/"+id, `{"suspended":true}`).want(http.StatusOK)
			if got := other.at(key).call(t, "POST", "/v1/send", sendBody(target, `"body":"x"`)).status; got != http.StatusForbidden {
				t.Errorf("a send of an account that another node has just suspended: %d", got)
			}
			n.at(worldAdminToken).call(t, "DELETE", "/v1/accounts/"+id, "")
			if got := other.at(key).call(t, "GET", "/v1/deliveries", "").status; got != http.StatusUnauthorized {
				t.Errorf("a key of an account that another node has just deleted: %d", got)
			}
		}
	})
	t.Run("a send is seen at once", func(t *testing.T) {
		for i := range 30 {
			id := c.nodes[i%3].at(c.key).queue(t, target, `"body":"x"`)
			c.nodes[(i+1)%3].at(c.key).lookup(t, id)
		}
	})
	t.Run("large batches", func(t *testing.T) {
		before := arrived.Load()
		many := make([]string, 1000)
		for i := range many {
			many[i] = sendBody(target, fmt.Sprintf(`"body":"%d"`, i))
		}
		large := make([]string, 16)
		for i := range large {
			large[i] = sendBody(target, `"body":"`+strings.Repeat("x", 1<<20-300)+`"`)
		}
		for _, sends := range [][]string{many, large} {
			made := others[0].at(c.key).call(t, "POST", "/v1/send/batch", "["+strings.Join(sends, ",")+"]").want(http.StatusAccepted)
			for _, r := range made["results"].([]any) {
				if r.(map[string]any)["queue_id"] == nil {
					t.Fatalf("%v", r)
				}
			}
		}
		until(t, "all is delivered", func() (bool, string) {
			n := arrived.Load() - before
			return n >= int64(len(many)+len(large)), fmt.Sprint(n)
		})
	})
	t.Run("keys of idempotency", func(t *testing.T) {
		ids := map[any]bool{}
		var mu sync.Mutex
		var senders sync.WaitGroup
		for i := range 12 {
			senders.Go(func() {
				made := c.nodes[i%3].at(c.key).call(t, "POST", "/v1/send", sendBody(target, `"body":"x","idempotency_key":"once"`)).want(http.StatusAccepted)
				mu.Lock()
				defer mu.Unlock()
				ids[made["queue_id"]] = true
			})
		}
		senders.Wait()
		if len(ids) != 1 {
			t.Errorf("one key made %d deliveries", len(ids))
		}
	})
	t.Run("clients that go away", func(t *testing.T) {
		for range 50 {
			conn, err := net.Dial("tcp", others[0].api)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(conn, "POST /v1/send HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 100000\r\n\r\n{", c.key)
			conn.Close()
			conn, err = net.Dial("tcp", others[0].api)
			if err != nil {
				t.Fatal(err)
			}
			body := sendBody(target, `"body":"gone"`)
			fmt.Fprintf(conn, "POST /v1/send HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s", c.key, len(body), body)
			conn.Close()
		}
		others[0].at(c.key).queue(t, target, `"body":"x"`)
	})
	t.Run("stale reads", func(t *testing.T) {
		r := others[0].at(c.key).call(t, "GET", "/v1/deliveries?limit=1&consistency=stale", "")
		r.want(http.StatusOK)
		if r.header.Get("X-Harepost-Applied-Index") == "" {
			t.Errorf("a stale read does not say how old it is: %v", r.header)
		}
	})
	t.Run("metrics", func(t *testing.T) {
		line := regexp.MustCompile(`^(#.*|[a-zA-Z_:][a-zA-Z0-9_:]*(\{([a-zA-Z_]+="([^"\\]|\\.)*"(, ?)?)+\})? (NaN|[+-]Inf|[-+0-9.eE]+))$`)
		if status, text := c.nodes[0].request(http.MethodPost, "/v1/cluster/snapshot", worldAdminToken, ""); status != http.StatusOK {
			t.Errorf("%d %s", status, text)
		}
		moved := map[string]bool{ // on any node
			"harepost_cluster_commit_duration_seconds_count": false, "harepost_cluster_snapshot_duration_seconds_count": false,
			"harepost_cluster_reigns_total": false, `harepost_api_proxied_requests_total{outcome="answered"}`: false,
		}
		for _, n := range c.nodes {
			status, text := n.request(http.MethodGet, "/metrics", "", "")
			if status != http.StatusOK {
				t.Errorf("%s: %d", n.id, status)
			}
			seen := map[string]bool{}
			for l := range strings.Lines(text) {
				l = strings.TrimSuffix(l, "\n")
				if l != "" && !line.MatchString(l) {
					t.Errorf("%s: %q", n.id, l)
				}
				name, _, _ := strings.Cut(l, " ")
				if name != "#" && seen[l[:strings.LastIndex(l, " ")+1]] {
					t.Errorf("%s says %q twice", n.id, name)
				}
				seen[l[:strings.LastIndex(l, " ")+1]] = true
				if _, ok := moved[name]; ok && !strings.HasSuffix(l, " 0") {
					moved[name] = true
				}
			}
			until(t, n.id+" says whether it leads", func() (bool, string) {
				_, text := n.request(http.MethodGet, "/metrics", "", "")
				return strings.Contains(text, "harepost_cluster_leads 1\n") == (n == c.leader()), text
			})
		}
		for name, ok := range moved {
			if !ok {
				t.Errorf("%s is 0 on every node", name)
			}
		}
	})
	t.Run("a backup of a follower is a server's", func(t *testing.T) {
		id := leads.at(c.key).queue(t, target, `"body":"x","delay_ms":3600000`)
		c.level()
		file, data := filepath.Join(t.TempDir(), "b.tar"), filepath.Join(t.TempDir(), "restored")
		admin := user{t, []string{"HAREPOST_URL=" + others[1].server.URL, "HAREPOST_ADMIN_TOKEN=" + worldAdminToken}}
		admin.prints("as of log index", exitOK, "backup", file)
		admin.prints("sound", exitOK, "check", file)
		admin.prints("as of log index", exitOK, "restore", file, data)
		alone := startServer(t, "--dev", "--data-dir", data)
		w := &world{t: t, server: alone, client: newAPIClient(t)}
		own := &tenant{w: w, key: c.key}
		if h := own.lookup(t, id); h.Status != "queued" {
			t.Errorf("%s", h.text)
		}
		own.final(t, own.queue(t, target, `"body":"after"`))
		if status := alone.stop(); status != exitOK {
			t.Errorf("status %d", status)
		}
	})
	t.Run("little is logged", func(t *testing.T) {
		for _, n := range c.nodes {
			text := n.server.stderr.String()
			v, _ := n.view()
			if lines := strings.Count(text, "\n"); lines > 40+10*int(v.Term) { // an election says a little
				t.Errorf("%s logged %d lines:\n%s", n.id, lines, text)
			}
			if strings.Contains(text, `"level":"ERROR","msg":"raftstore`) || strings.Contains(text, c.key) || strings.Contains(text, worldJoinToken) {
				t.Errorf("%s:\n%s", n.id, text)
			}
		}
	})
}

// A leader that was frozen, and thinks that it still leads when it goes on, answers
// nothing that is out of date, and starts no attempt.
func TestAFrozenLeaderSaysNothingThatIsOutOfDate(t *testing.T) {
	t.Parallel()
	c := startTestCluster(t, 3)
	var mu sync.Mutex
	arrivals := map[string]int{}
	target := startCountedTarget(t, func(_ http.ResponseWriter, req *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		arrivals[req.Header.Get("X-Harepost-Delivery")]++
	}).url + "/in"
	count := func(ids []string) (list []int) {
		mu.Lock()
		defer mu.Unlock()
		for _, id := range ids {
			list = append(list, arrivals[id])
		}
		return list
	}
	for round := range crashRuns(t, 1) {
		old := c.leader()
		// What is due while the leader is frozen: it is the other's to attempt.
		const delay = 4 * time.Second
		var due []string
		for begun := time.Now(); ; {
			for range 20 {
				due = append(due, old.at(c.key).queue(t, target, fmt.Sprintf(`"body":"x","delay_ms":%d`, delay.Milliseconds())))
			}
			c.level()
			if old.freeze(); time.Since(begun) < delay {
				break
			}
			old.thaw() // on a busy machine it took too long: some attempts may be under way
			old, due, begun = c.leader(), nil, time.Now()
		}
		client := old.at(c.key)
		client.w.client = newAPIClient(t) // which does not try again
		leads := c.leader()
		var ids []string
		for range 5 {
			ids = append(ids, leads.at(c.key).queue(t, target, `"body":"new"`))
		}
		leads.at(c.key).call(t, "POST", "/v1/domains", fmt.Sprintf(`{"domain":"d%d.example.com"}`, round)).want(http.StatusCreated)
		for _, id := range append(due, ids...) {
			leads.at(c.key).final(t, id)
		}
		before := count(append(due, ids...))
		var askers sync.WaitGroup
		var stale atomic.Int64
		begin := make(chan struct{})
		for i := range 16 {
			askers.Go(func() {
				<-begin
				for range 40 {
					path := "/v1/deliveries/" + ids[i%len(ids)]
					if i%3 == 0 {
						path = fmt.Sprintf("/v1/domains/d%d.example.com", round)
					}
					if r, err := client.w.try(t, "GET", path, c.key, ""); err == nil && r.status != http.StatusOK && r.status != http.StatusServiceUnavailable {
						stale.Add(1)
						t.Errorf("%s: %d %s", path, r.status, r.body)
					}
				}
			})
		}
		close(begin)
		old.thaw()
		askers.Wait()
		c.leader()
		for _, id := range append(due, ids...) {
			c.nodes[0].at(c.key).final(t, id)
		}
		if after := count(append(due, ids...)); !slices.Equal(after, before) {
			t.Errorf("round %d: what was done was attempted again: %v, then %v times", round, before, after)
		}
		if slices.Contains(before, 0) {
			t.Errorf("round %d: done without an attempt: %v", round, before)
		}
	}
	if t.Failed() {
		t.Log(c.logs())
	}
}

// Messages with an ordering key come in their order, and bulk operations end, whatever
// node leads.
func TestOrderAndJobsGoOnUnderAnotherLeader(t *testing.T) {
	t.Parallel()
	c := startTestCluster(t, 3)
	random := crashSeed(t)
	book := newOrderBook(t)
	ordered := startWitness(t, book.answer)
	var fail atomic.Bool
	fail.Store(true)
	dead := startWitness(t, func(sighting) int {
		if fail.Load() {
			return http.StatusInternalServerError
		}
		return http.StatusOK
	})
	const letters = 600
	sends := make([]string, letters)
	for i := range sends {
		sends[i] = sendBody(dead.url+"/dead", fmt.Sprintf(`"body":"%d","idempotency_key":"dead-%d","delivery":{"max_attempts":1}`, i, i))
	}
	c.leader().at(c.key).call(t, "POST", "/v1/send/batch", "["+strings.Join(sends, ",")+"]").want(http.StatusAccepted)
	until(t, "all have failed", func() (bool, string) {
		return nothingPending(c.leader().server, c.key)
	})
	fail.Store(false)

	stop := make(chan struct{})
	var senders sync.WaitGroup
	for k := range 4 {
		name := fmt.Sprint("key", k)
		client := newAPIClient(t)
		client.Timeout = 3 * time.Second
		senders.Go(func() {
			for i := 1; ; i++ {
				book.mu.Lock()
				book.key(name).sent = i
				book.mu.Unlock()
				body := sendBody(ordered.url+"/"+name, fmt.Sprintf(
					`"body":"%s %d ","ordering_key":%q,"on_failure":"skip","idempotency_key":"%s-%d","delivery":{"base_delay_ms":20,"max_delay_ms":100,"max_attempts":50}`, name, i, name, name, i))
				for try := i; ; try++ { // another node each time, until it is accepted
					if s := sendOnce(c.nodes[try%3].api, client, c.key, body); s == http.StatusAccepted {
						break
					} else if s != 0 && s != http.StatusServiceUnavailable {
						t.Errorf("%s %d: %d", name, i, s)
					}
				}
				book.mu.Lock()
				book.key(name).acked[i] = true
				book.mu.Unlock()
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	begun := c.leader().at(c.key).call(t, "POST", "/v1/dead-letters/replay", fmt.Sprintf(`{"filter":{"target":%q},"rate_per_second":200}`, dead.url)).want(http.StatusAccepted)
	job := begun["job_id"].(string)
	for i := range crashRuns(t, 2) {
		<-time.After(between(random, 300*time.Millisecond, 900*time.Millisecond)) // the moment is the experiment
		n := c.leader()
		if i%2 == 0 {
			n.kill9()
			c.leader()
			n.start()
		} else {
			n.stop()
			c.leader()
			n.start()
		}
		c.leader()
	}
	close(stop)
	senders.Wait()
	until(t, "the job has ended", func() (bool, string) {
		_, text := c.nodes[0].request(http.MethodGet, "/v1/jobs/"+job, c.key, "")
		var j struct {
			Status              string
			Matched, Done, Skip int
		}
		return json.Unmarshal([]byte(text), &j) == nil && j.Status == "done" && j.Matched == letters && j.Done == letters, text
	})
	for k := range 4 {
		name := fmt.Sprint("key", k)
		until(t, "all of "+name+" have come", func() (bool, string) {
			n := book.behind(name)
			return n == 0, fmt.Sprint(n)
		})
	}
	again := 0
	dead.mu.Lock()
	for id, seen := range dead.seen {
		taken := 0
		for _, s := range seen {
			if s.attempt > 1 {
				taken++
			}
		}
		if taken == 0 {
			t.Errorf("%s was not replayed", id)
		}
		again += max(taken-1, 0)
	}
	dead.mu.Unlock()
	book.mu.Lock()
	defer book.mu.Unlock()
	repeated, total := 0, 0
	for _, k := range book.keys {
		for _, n := range k.arrived {
			repeated += n - 1
			total++
		}
	}
	t.Logf("%d ordered messages, %d repeated; %d of %d replays repeated", total, repeated, again, letters)
	if t.Failed() {
		t.Log(c.logs())
	}
}

// sendOnce makes one send and returns the status, 0 if there was no answer.
func sendOnce(api string, client *http.Client, key, body string) int {
	req, err := http.NewRequest(http.MethodPost, "http://"+api+"/v1/send", strings.NewReader(body))
	if err != nil {
		return 0
	}
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := client.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	if err != nil {
		return 0
	}
	return resp.StatusCode
}

// Whoever hands over by hand or at SIGTERM lets its attempts end first: a planned change
// of the leader repeats nothing.
func TestAPlannedTransferRepeatsNothing(t *testing.T) {
	t.Parallel()
	c := startTestCluster(t, 3)
	begun := make(chan struct{}, 64)
	v := startWitness(t, func(sighting) int {
		begun <- struct{}{}
		<-time.After(300 * time.Millisecond) // a slow receiver
		return http.StatusOK
	})
	for what, change := range map[string]func(n *clusterMember) string{
		"by hand": func(n *clusterMember) string {
			_, text := n.request(http.MethodPost, "/v1/cluster/transfer", worldAdminToken, "")
			return text
		},
		"SIGTERM": func(n *clusterMember) string { n.stop(); return "" },
	} {
		n := c.leader()
		before, _ := n.view()
		var ids []string
		for range 8 {
			ids = append(ids, n.at(c.key).queue(t, v.url, `"body":"x"`))
		}
		for range ids {
			<-begun
		}
		answer := change(n)
		leads := c.leader()
		repeated := 0
		for _, id := range ids {
			leads.at(c.key).final(t, id)
			repeated += len(v.arrivals(id)) - 1
		}
		after, _ := leads.view()
		said := n.server.stderr.String()
		planned := leads != n && after.Term == before.Term+1 && !strings.Contains(answer, "error") &&
			!strings.Contains(said, "they may be made again") && !strings.Contains(said, "no other node takes over")
		if !planned { // on a busy machine
			t.Logf("%s: %d repeated; term %d after term %d: %s", what, repeated, after.Term, before.Term, answer)
			continue
		}
		if repeated > 0 {
			t.Errorf("%s: %d of %d were repeated", what, repeated, len(ids))
		}
	}
}

// Nodes of a cluster whose data is encrypted all need the key file: one without it
// follows, and ends when it is to lead.
func TestAnEncryptedClusterNeedsItsKeysEverywhere(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "keys")
	r := runProcess(t, nil, "encryption-key", "--id", "k1")
	if r.Status != exitOK {
		t.Fatal(r.Stderr)
	}
	if err := os.WriteFile(file, []byte(r.Stdout), 0o600); err != nil {
		t.Fatal(err)
	}
	c := newTestCluster(t, 3)
	for _, n := range c.nodes[:2] {
		n.own = append(n.own, "--encryption-key-file", file)
	}
	c.up()
	n3 := c.nodes[2]
	if c.leader() == n3 { // nothing is encrypted yet
		c.transfer(c.nodes[0])
	}
	made := c.nodes[0].at(worldAdminToken).call(t, "POST", "/v1/accounts", `{"name":"a"}`).want(http.StatusCreated)
	c.key = made["api_key"].(string)
	got := make(chan string, 16)
	target := startCountedTarget(t, func(_ http.ResponseWriter, req *http.Request) {
		text, _ := io.ReadAll(req.Body) // an error shows as another text
		got <- string(text)
	}).url + "/in"
	n3.at(c.key).queue(t, target, `"body":"a secret"`)
	if text := <-got; text != "a secret" {
		t.Errorf("%q arrived", text)
	}
	until(t, "n3 says what it lacks", func() (bool, string) {
		if n3.gone() { // it was elected before it was asked
			return true, ""
		}
		status, text := n3.request(http.MethodGet, "/readyz", "", "")
		return status == http.StatusServiceUnavailable && strings.Contains(text, "lacks keys of the encrypted data") &&
			strings.Contains(n3.server.stderr.String(), "start it with the key file that the other nodes have"), text
	})
	n3.watching = false
	until(t, "n3 has ended rather than lead", func() (bool, string) {
		status, answer := c.leader().request(http.MethodPost, "/v1/cluster/transfer", worldAdminToken, `{"node_id":"n3"}`)
		return n3.gone(), fmt.Sprintf("%d %s\n%s", status, answer, n3.server.stderr.String())
	})
	if text := n3.server.stderr.String(); !strings.Contains(text, "the data is encrypted") {
		t.Errorf("n3 ended with status %d:\n%s", n3.server.status(), text)
	}
	c.leader().at(c.key).queue(t, target, `"body":"another"`)
	text := <-got
	for text == "a secret" { // its record may have been on its way when the leader changed
		text = <-got
	}
	if text != "another" {
		t.Errorf("%q arrived", text)
	}
	n3.own = slices.Clone(c.nodes[0].own)
	n3.start()
	c.level()
	until(t, "n3 is ready", func() (bool, string) {
		status, text := n3.request(http.MethodGet, "/readyz", "", "")
		return status == http.StatusOK, text
	})
}
