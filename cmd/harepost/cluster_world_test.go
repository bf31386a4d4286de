package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A testCluster is several processes on this machine that are one cluster.
type testCluster struct {
	t     testing.TB
	nodes []*clusterMember
	flags []string // of all nodes
	key   string   // of an account
}

// A clusterMember is a node, over all lives of its process.
type clusterMember struct {
	c        *testCluster
	id       string
	api      string // HOST:PORT
	address  string // of its cluster port
	dir      string
	own      []string       // flags of this node alone
	server   *serverProcess // the newest
	watching bool           // false while it is down or stopped on purpose

	command func(args ...string) *exec.Cmd // nil: the program itself
}

const worldJoinToken = "those-who-know-may-come-in"

// newTestCluster makes a cluster that is not started. Flags are for all nodes.
func newTestCluster(t testing.TB, nodes int, flags ...string) *testCluster {
	t.Helper()
	c := &testCluster{t: t, flags: append([]string{"--dev", "--admin-token", worldAdminToken, "--join-token", worldJoinToken}, flags...)}
	for i := range nodes {
		c.add(fmt.Sprint("n", i+1), "--bootstrap-expect", fmt.Sprint(nodes))
	}
	return c
}

// add makes a node that is not started.
func (c *testCluster) add(id string, own ...string) *clusterMember {
	n := &clusterMember{
		c: c, id: id, api: reservedAddress(c.t), address: reservedAddress(c.t), own: own,
		dir: filepath.Join(c.t.TempDir(), id),
	}
	c.nodes = append(c.nodes, n)
	return n
}

// startTestCluster starts a cluster and makes an account.
func startTestCluster(t testing.TB, nodes int, flags ...string) *testCluster {
	t.Helper()
	c := newTestCluster(t, nodes, flags...)
	c.up()
	var made struct {
		Key string `json:"api_key"`
	}
	until(t, "an account is made", func() (bool, string) {
		status, text := c.nodes[0].request(http.MethodPost, "/v1/accounts", worldAdminToken, `{"name":"ours"}`)
		return status == http.StatusCreated && json.Unmarshal([]byte(text), &made) == nil, text
	})
	c.key = made.Key
	return c
}

// up starts all nodes that are not there.
func (c *testCluster) up() {
	c.t.Helper()
	var begun []*clusterMember
	for _, n := range c.nodes {
		if n.server == nil || n.gone() {
			n.launch()
			begun = append(begun, n)
		}
	}
	for _, n := range begun {
		n.await()
	}
}

func (n *clusterMember) gone() bool {
	select {
	case <-n.server.ended:
		return true
	default:
		return false
	}
}

// args are those of the node's process.
func (n *clusterMember) args() []string {
	var join []string
	for _, o := range n.c.nodes {
		join = append(join, o.address)
	}
	args := append([]string{
		"--node-id", n.id, "--cluster-addr", n.address, "--listen", n.api, "--data-dir", n.dir, "--join", strings.Join(join, ","),
	}, n.c.flags...)
	return serveArgs(n.c.t, append(args, n.own...))
}

func (n *clusterMember) launch() {
	n.c.t.Helper()
	var cmd *exec.Cmd
	if n.command != nil {
		cmd = n.command(n.args()...)
	} else {
		cmd = exec.Command(harepostBinary(n.c.t), n.args()...)
	}
	n.server = launchServer(n.c.t, cmd)
}

func (n *clusterMember) await() {
	n.c.t.Helper()
	n.server.awaitServing()
	n.watching = true
}

// start starts the node and waits until it serves.
func (n *clusterMember) start() {
	n.c.t.Helper()
	n.launch()
	n.await()
}

func (n *clusterMember) kill9() {
	n.watching = false
	n.server.kill9()
}

// stop ends the node in order.
func (n *clusterMember) stop() {
	n.c.t.Helper()
	n.watching = false
	if status := n.server.stop(); status != exitOK {
		n.c.t.Errorf("node %s ended with status %d:\n%s", n.id, status, n.server.stderr.String())
	}
}

func (n *clusterMember) freeze() { n.watching = false; n.server.cmd.Process.Signal(syscall.SIGSTOP) }
func (n *clusterMember) thaw()   { n.watching = true; n.server.cmd.Process.Signal(syscall.SIGCONT) }

func (n *clusterMember) request(method, path, key, body string) (int, string) {
	return n.server.request(method, path, key, body)
}

// A clusterView is GET /v1/cluster.
type clusterView struct {
	Node    string `json:"node_id"`
	Role    string `json:"role"`
	Leader  string `json:"leader_id"`
	Term    uint64 `json:"term"`
	Applied uint64 `json:"applied_index"`
	Commit  uint64 `json:"commit_index"`
	Nodes   []struct {
		ID    string `json:"node_id"`
		Voter bool   `json:"voter"`
	} `json:"nodes"`
}

// view is what a node knows of its cluster.
func (n *clusterMember) view() (v clusterView, ok bool) {
	n.c.t.Helper()
	status, text := n.request(http.MethodGet, "/v1/cluster", worldAdminToken, "")
	return v, status == http.StatusOK && json.Unmarshal([]byte(text), &v) == nil
}

// leader waits until the nodes that are watched agree on one that leads, and that one
// says so.
func (c *testCluster) leader() *clusterMember {
	c.t.Helper()
	var leads *clusterMember
	until(c.t, "a node leads", func() (bool, string) {
		ids, of := map[string]int{}, 0
		leads = nil
		for _, n := range c.nodes {
			if !n.watching {
				continue
			}
			v, _ := n.view()
			ids[v.Leader]++
			of++
			if v.Role == "leader" && v.Leader == n.id {
				leads = n
			}
		}
		return leads != nil && ids[leads.id] == of, fmt.Sprint(ids)
	})
	return leads
}

// follower is a watched node that does not lead.
func (c *testCluster) follower() *clusterMember {
	c.t.Helper()
	leads := c.leader()
	i := slices.IndexFunc(c.nodes, func(n *clusterMember) bool { return n.watching && n != leads })
	if i < 0 {
		c.t.Fatal("no node follows")
	}
	return c.nodes[i]
}

// others are the watched nodes but for one.
func (c *testCluster) others(but *clusterMember) (list []*clusterMember) {
	for _, n := range c.nodes {
		if n != but && n.watching {
			list = append(list, n)
		}
	}
	return list
}

// transfer has a node lead, whatever else becomes of the leadership meanwhile.
func (c *testCluster) transfer(to *clusterMember) {
	c.t.Helper()
	until(c.t, to.id+" leads", func() (bool, string) {
		leads := c.leader()
		if leads == to {
			return true, ""
		}
		status, text := leads.request(http.MethodPost, "/v1/cluster/transfer", worldAdminToken, fmt.Sprintf(`{"node_id":%q}`, to.id))
		return false, fmt.Sprint(leads.id, ": ", status, " ", text)
	})
}

// level waits until all watched nodes have what the one that leads has.
func (c *testCluster) level() {
	c.t.Helper()
	leads := c.leader()
	want, _ := leads.view()
	for _, n := range c.others(nil) {
		until(c.t, "node "+n.id+" has what the others have", func() (bool, string) {
			v, ok := n.view()
			return ok && v.Applied >= want.Commit, fmt.Sprintf("%d of %d", v.Applied, want.Commit)
		})
	}
}

// patiently makes a client try again what was answered with a 503: on a busy machine a
// leader may be taken for dead at any moment. The outcome may have been unknown, so what
// must not be done twice has a key of idempotency.
func patiently(client *http.Client) *http.Client {
	client.Transport = patientTransport{client.Transport}
	return client
}

type patientTransport struct{ wires http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (p patientTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	for begun := time.Now(); ; {
		resp, err := p.wires.RoundTrip(req)
		if err != nil || resp.StatusCode != http.StatusServiceUnavailable || time.Since(begun) > processPatience {
			return resp, err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil {
			return nil, err
		}
		<-time.After(20 * time.Millisecond) // the nodes are other processes
		if req.GetBody != nil {
			again := req.Clone(req.Context())
			if again.Body, err = req.GetBody(); err != nil {
				return resp, err
			}
			req = again
		}
	}
}

// logs are those of every node's newest process, for a test that has failed.
func (c *testCluster) logs() string {
	var b bytes.Buffer
	for _, n := range c.nodes {
		text := n.server.stderr.String()
		fmt.Fprintf(&b, "--- %s, %d lines\n%s", n.id, strings.Count(text, "\n"), text[max(0, len(text)-6000):])
	}
	return b.String()
}
