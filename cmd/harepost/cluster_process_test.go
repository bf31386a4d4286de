package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// Every node takes what clients send, whoever leads.
func TestEveryNodeTakesEverything(t *testing.T) {
	t.Parallel()
	c := startTestCluster(t, 3)
	for i, n := range c.nodes {
		var lines strings.Builder
		for k := range 17 {
			fmt.Fprintf(&lines, `{"target":"http://127.0.0.1:19999/","delay_ms":86400000,"idempotency_key":"%d-%d","body":"%s"}`+"\n", i, k, strings.Repeat("x", 900_000))
		}
		batch := lines.String()
		batch += strings.Repeat("\n", 16<<20-len(batch)) // the largest that there may be
		before, _ := c.leader().view()
		r := n.at(c.key).call(t, http.MethodPost, "/v1/send/batch", batch, "Content-Type: application/x-ndjson")
		if accepted := strings.Count(string(r.body), `"queue_id"`); r.status != http.StatusAccepted || accepted != 17 {
			t.Errorf("%s: %d, %d accepted: %.300s", n.id, r.status, accepted, r.body)
		}
		after, _ := c.leader().view()
		if by := r.header.Get("X-Harepost-Node"); before.Term == after.Term && by != after.Leader {
			t.Errorf("%s: accepted by %q, and %s leads", n.id, by, after.Leader)
		}
		// What was answered is in every node's answer from now on.
		page := c.nodes[(i+1)%3].at(c.key).page(t, url.Values{"limit": {"100"}})
		if want := 17 * (i + 1); len(page.Data) != want {
			t.Errorf("after %s: %d deliveries, want %d", n.id, len(page.Data), want)
		}
	}
}

// Clients do not speak to nodes as nodes do, whichever they ask.
func TestClientsAreNoNodes(t *testing.T) {
	t.Parallel()
	c := startTestCluster(t, 3)
	for _, n := range c.nodes {
		for _, target := range []string{
			"/internal/v1/who", "/v1/../internal/v1/who", "/v1/deliveries/..%2F..%2Finternal%2Fv1%2Fwho", "http://x/v1/keys/..%2F..%2Finternal%2Fv1%2Fhello",
		} {
			for _, head := range []string{"GET %s HTTP/1.1\r\nHost: x\r\n", "DELETE %s HTTP/1.0\r\nContent-Length: 2\r\n"} {
				conn, err := net.Dial("tcp", n.api)
				if err != nil {
					t.Fatal(err)
				}
				conn.SetDeadline(time.Now().Add(time.Minute))
				_, err = fmt.Fprintf(conn, head+"Connection: close\r\n\r\n{}", target)
				answer, readErr := io.ReadAll(conn)
				conn.Close()
				if err = errors.Join(err, readErr); err != nil {
					t.Fatal(err)
				}
				// 503: there was no leader for a moment.
				if status := strings.SplitN(string(answer)+"  ", " ", 3)[1]; !slices.Contains([]string{"401", "404", "405", "503"}, status) || strings.Contains(string(answer), "lives") {
					t.Errorf("%s: %q of %s is answered\n%s", n.id, head, target, answer)
				}
			}
		}
	}
}

// A node that is told to end hands over first: its clients and those of others
// notice nothing but, at most, that they have to try again.
func TestSIGTERMHandsOver(t *testing.T) {
	t.Parallel()
	c := startTestCluster(t, 3)
	const handed = "another node leads now"
	for try := 0; ; try++ {
		n := c.leader()
		n.stop()
		if text := n.server.stderr.String(); !strings.Contains(text, "everything accepted is on disk") {
			t.Errorf("the log does not say that nothing is lost:\n%s", text)
		}
		c.follower().at(worldAdminToken).call(t, http.MethodPost, "/v1/accounts", `{"name":"x"}`).want(http.StatusCreated)
		if strings.Contains(n.server.stderr.String(), handed) {
			return
		}
		// On a busy machine it may have lost the lead by itself, or nobody may have
		// taken over in time.
		if try == 4 {
			t.Fatalf("no log says %q:\n%s", handed, c.logs())
		}
		n.start()
	}
}

// A node that was removed ends, says so, and does not start again.
func TestRemovedNodeEndsWithItsOwnStatus(t *testing.T) {
	t.Parallel()
	c := startTestCluster(t, 3)
	gone := c.follower()
	others := c.others(gone)
	// Asked again, it may be gone already.
	if r := others[0].at(worldAdminToken).call(t, http.MethodDelete, "/v1/cluster/nodes/"+gone.id, ""); r.status != http.StatusNoContent && r.status != http.StatusNotFound {
		t.Fatalf("%d %s", r.status, r.body)
	}
	gone.watching = false
	if status := gone.server.wait(); status != exitExpelled || !strings.Contains(gone.server.stderr.String(), "was removed from the cluster") {
		t.Errorf("status %d\n%s", status, gone.server.stderr.String())
	}
	gone.refuses(t, "started again", exitExpelled, "--join")
	for _, n := range others {
		until(t, n.id+" knows", func() (bool, string) {
			v, _ := n.view()
			return len(v.Nodes) == 2, fmt.Sprint(v.Nodes)
		})
	}
}

// A node without enough others is alive, and neither ready nor of any use.
func TestNodeWithoutMajority(t *testing.T) {
	t.Parallel()
	c := startTestCluster(t, 3)
	for _, n := range c.nodes[:2] {
		n.kill9()
	}
	n := c.nodes[2]
	until(t, "it notices", func() (bool, string) {
		status, text := n.request(http.MethodGet, "/readyz", "", "")
		var ready struct{ Detail string }
		bad := json.Unmarshal([]byte(text), &ready)
		return bad == nil && status == http.StatusServiceUnavailable && strings.Contains(ready.Detail, "no leader"), text
	})
	alone := n.at(worldAdminToken)
	alone.w.client = newAPIClient(t) // which does not try again
	r := alone.call(t, http.MethodPost, "/v1/accounts", `{"name":"x"}`)
	r.refused(http.StatusServiceUnavailable, "nothing was done")
	if r.header.Get("Retry-After") == "" {
		t.Errorf("it does not say when to try again: %v", r.header)
	}
	if status, text := n.request(http.MethodGet, "/healthz", "", ""); status != http.StatusOK {
		t.Errorf("healthz: %d %s", status, text)
	}
	n.stop()
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
