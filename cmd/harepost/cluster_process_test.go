package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/harepost/harepost/client"
)

// A clusterOfProcesses is nodes that are processes, without certificates.
type clusterOfProcesses struct {
	t         *testing.T
	addresses []string
	nodes     []*serverProcess
	args      []string
}

const clusterToken = "the-admin-token-of-these-nodes"

// startCluster starts n nodes and returns when they serve, with one that leads.
func startCluster(t *testing.T, n int, args ...string) *clusterOfProcesses {
	t.Helper()
	c := &clusterOfProcesses{t: t, args: args, nodes: make([]*serverProcess, n)}
	var err error
	if c.addresses, err = freeAddresses(n); err != nil {
		t.Fatal(err)
	}
	var starting sync.WaitGroup
	for i := range n {
		starting.Go(func() { c.nodes[i] = startServer(t, c.argsOf(i)...) })
	}
	starting.Wait()
	c.leader()
	return c
}

func (c *clusterOfProcesses) argsOf(i int) []string {
	dir := c.t.TempDir()
	if s := c.nodes[i]; s != nil {
		dir = s.DataDir
	}
	return append([]string{
		"--dev", "--node-id", fmt.Sprintf("n%d", i+1), "--cluster-addr", c.addresses[i], "--join", strings.Join(c.addresses, ","),
		"--bootstrap-expect", fmt.Sprint(len(c.addresses)), "--admin-token", clusterToken, "--data-dir", dir, "--election-timeout", "500ms",
	}, c.args...)
}

func (c *clusterOfProcesses) client(i int, key string) *client.Client {
	api, err := client.New(c.nodes[i].URL, key, client.Options{AdminToken: clusterToken, Timeout: processPatience})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(api.CloseIdleConnections)
	return api
}

// leader waits until a node leads, and returns which.
func (c *clusterOfProcesses) leader() (found int) {
	c.t.Helper()
	eventuallyTrue(c.t, "a node leads", func() bool {
		for i, s := range c.nodes {
			select {
			case <-s.ended:
				continue
			default:
			}
			if st, err := c.client(i, "").Cluster(c.t.Context()); err == nil && st.Role == "leader" {
				resp, err := http.Get(s.URL + "/readyz")
				if err != nil {
					continue
				}
				resp.Body.Close()
				if found = i; resp.StatusCode == http.StatusOK {
					return true
				}
			}
		}
		return false
	})
	return found
}

// eventuallyTrue waits for what processes bring about.
func eventuallyTrue(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(processPatience)
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never true: %s", what)
		}
	}
}

// Every node takes what clients send, whoever leads.
func TestEveryNodeTakesEverything(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	leader := c.leader()
	made, err := c.client((leader+1)%3, "").CreateAccount(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	line := `{"target":"http://127.0.0.1:19999/","delay_ms":86400000,"body":"` + strings.Repeat("x", 900_000) + `"}` + "\n"
	batch := strings.Repeat(line, 17)
	batch += strings.Repeat("\n", 16<<20-len(batch)) // the largest that there may be
	for i, s := range c.nodes {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/v1/send/batch", strings.NewReader(batch))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+made.APIKey)
		req.Header.Set("Content-Type", "application/x-ndjson")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if n := strings.Count(string(text), `"queue_id"`); resp.StatusCode != http.StatusAccepted || n != 17 || resp.Header.Get("X-Harepost-Node") != fmt.Sprintf("n%d", leader+1) {
			t.Errorf("n%d: %s, %d accepted by %s: %.300s", i+1, resp.Status, n, resp.Header.Get("X-Harepost-Node"), text)
		}
		documented(t, http.MethodPost, "/v1/send/batch", resp, text)
		// What was answered is in every node's answer from now on.
		seen := 0
		for d, err := range c.client((i+1)%3, made.APIKey).Deliveries(t.Context(), client.Filter{Limit: 100}) {
			if err != nil {
				t.Fatal(err)
			}
			if d.QueueID != "" {
				seen++
			}
		}
		if want := 17 * (i + 1); seen != want {
			t.Errorf("after n%d: %d deliveries, want %d", i+1, seen, want)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// A node that is told to end hands over first: its clients and those of others
// notice nothing but, at most, that they have to try again.
func TestSIGTERMHandsOver(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	leader := c.leader()
	other := c.client((leader+1)%3, "")
	c.nodes[leader].cmd.Process.Signal(syscall.SIGTERM)
	if status := c.nodes[leader].wait(); status != exitOK {
		t.Errorf("status %d\n%s", status, c.nodes[leader].stderr.String())
	}
	for _, want := range []string{"another node leads now", "everything accepted is on disk"} {
		if !strings.Contains(c.nodes[leader].stderr.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, c.nodes[leader].stderr.String())
		}
	}
	if _, err := other.CreateAccount(t.Context(), "x"); err != nil {
		t.Error(err)
	}
	if next := c.leader(); next == leader {
		t.Errorf("n%d leads and has ended", leader+1)
	}
}

// A node that was removed ends, says so, and does not start again.
func TestRemovedNodeEndsWithItsOwnStatus(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	leader := c.leader()
	gone := (leader + 1) % 3
	if err := c.client((leader+2)%3, "").RemoveNode(t.Context(), fmt.Sprintf("n%d", gone+1), false); err != nil {
		t.Fatal(err)
	}
	if status := c.nodes[gone].wait(); status != exitExpelled || !strings.Contains(c.nodes[gone].stderr.String(), "was removed from the cluster") {
		t.Errorf("status %d\n%s", status, c.nodes[gone].stderr.String())
	}
	r := runProcess(t, nil, append([]string{"serve", "--listen", "127.0.0.1:0"}, c.argsOf(gone)...)...)
	if r.Status != exitExpelled || !strings.Contains(r.Stderr, "--join") {
		t.Errorf("started again: status %d\n%s", r.Status, r.Stderr)
	}
	st, err := c.client(leader, "").Cluster(t.Context())
	if err != nil || len(st.Nodes) != 2 {
		t.Errorf("%+v, %v", st, err)
	}
}

// A node without enough others is alive, and neither ready nor of any use.
func TestNodeWithoutMajority(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	for i := range 2 {
		c.nodes[i].kill9()
	}
	s := c.nodes[2]
	var ready struct{ Detail string }
	eventuallyTrue(t, "it notices", func() bool {
		resp, err := http.Get(s.URL + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return json.NewDecoder(resp.Body).Decode(&ready) == nil && resp.StatusCode == http.StatusServiceUnavailable
	})
	if !strings.Contains(ready.Detail, "no leader") && !strings.Contains(ready.Detail, "elected") {
		t.Errorf("%q", ready.Detail)
	}
	_, err := c.client(2, "").CreateAccount(t.Context(), "x")
	if refused, ok := err.(*client.Error); !ok || refused.Status != http.StatusServiceUnavailable || refused.RetryAfter == 0 {
		t.Errorf("%v", err)
	}
	if resp, err := http.Get(s.URL + "/healthz"); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("healthz: %v, %v", resp, err)
	} else {
		resp.Body.Close()
	}
	if status := s.stop(); status != exitOK {
		t.Errorf("status %d\n%s", status, s.stderr.String())
	}
	http.DefaultClient.CloseIdleConnections()
}

// A node that waits for others ends when it is told to.
func TestSIGTERMWhileWaitingForOthers(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, logs syncBuffer
	done := make(chan int, 1)
	go func() {
		done <- run(&shell{ctx: ctx, in: strings.NewReader(""), out: &out, err: &logs}, []string{
			"serve", "--dev", "--node-id", "n1", "--cluster-addr", "127.0.0.1:0", "--bootstrap-expect", "3",
			"--join", ln.Addr().String(), "--data-dir", t.TempDir(), "--listen", "127.0.0.1:0",
		})
	}()
	eventually(t, "waiting for other nodes", logs.String)
	cancel()
	if status := <-done; status != exitOK || !strings.Contains(logs.String(), "told to end while it waited") {
		t.Errorf("status %d\n%s", status, logs.String())
	}
}
