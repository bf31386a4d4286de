package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// refuses starts a node and wants it to end with that status and to say all of words. It
// does not wait for others then.
func (n *clusterMember) refuses(t *testing.T, what string, status int, words ...string) {
	t.Helper()
	n.launch()
	select {
	case <-n.server.ended:
	case <-time.After(processPatience / 2):
		t.Errorf("%s: the node does not end:\n%s", what, n.server.stderr.String())
		n.server.kill9()
		return
	}
	text := n.server.stderr.String()
	if n.server.status() != status {
		t.Errorf("%s: status %d, want %d:\n%s", what, n.server.status(), status, text)
	}
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("%s: %q is not said:\n%s", what, word, text)
		}
	}
}

// says starts a node that waits for others, wants it to say all of words, and ends it.
func (n *clusterMember) says(t *testing.T, what string, words ...string) {
	t.Helper()
	n.launch()
	defer n.server.kill9()
	for _, word := range words {
		until(t, what+": the node says what is wrong", func() (bool, string) {
			text := n.server.stderr.String()
			return strings.Contains(text, word), text
		})
	}
	if n.gone() {
		t.Errorf("%s: the node has ended:\n%s", what, n.server.stderr.String())
	}
}

// again removes a node that is down, and has it join with an empty directory.
func (n *clusterMember) again(t *testing.T) {
	t.Helper()
	leads := n.c.leader()
	admin := user{t, []string{"HAREPOST_URL=" + leads.server.URL, "HAREPOST_ADMIN_TOKEN=" + worldAdminToken}}
	admin.runs(exitOK, "cluster", "remove", n.id)
	n.dir = filepath.Join(n.c.t.TempDir(), n.id)
	n.start()
	n.c.level()
}

// copyDir copies a directory as it is now, as who makes a copy of a running node's would.
func copyDir(t *testing.T, from, to string) {
	t.Helper()
	for try := 0; ; try++ { // files come and go meanwhile
		if err := os.RemoveAll(to); err != nil {
			t.Fatal(err)
		}
		text, err := exec.Command("cp", "-a", from, to).CombinedOutput()
		if err == nil {
			return
		}
		if try == 20 {
			t.Fatalf("%v: %s", err, text)
		}
	}
}

// alter changes a member of a small file of the cluster's.
func alter(t *testing.T, file string, change func(map[string]any)) (restore func()) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]any
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	change(all)
	other, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	write := func(text []byte) {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(other)
	return func() { write(text) }
}

// What is wrong with a node, or with how it is started, is refused with a text that says
// what to do, and the others go on.
func TestWrongNodesAreRefused(t *testing.T) {
	t.Parallel()
	c := startTestCluster(t, 3)
	target := startWitness(t, func(sighting) int { return 200 }).url
	goesOn := func() {
		t.Helper()
		n := c.leader()
		n.at(c.key).final(t, n.at(c.key).queue(t, target, `"body":"x"`))
	}
	other := func(id string, own ...string) *clusterMember {
		n := &clusterMember{
			c: c, id: id, api: reservedAddress(t), address: reservedAddress(t), dir: filepath.Join(t.TempDir(), id),
			own: append([]string{"--join-token", worldJoinToken}, own...),
		}
		return n
	}
	c.flags = c.flags[:len(c.flags)-2] // the token: each its own
	for _, n := range c.nodes {
		n.own = append(n.own, "--join-token", worldJoinToken)
	}

	t.Run("a token that is not theirs", func(t *testing.T) {
		n := other("n4")
		n.own = []string{"--join-token", "not-the-token-at-all"}
		n.refuses(t, "a bad token", exitExpelled, "token")
		n.own = nil
		n.refuses(t, "no token", exitUsage, "--join-token")
	})
	t.Run("an id that another node has", func(t *testing.T) {
		n := other("n2")
		n.refuses(t, "n2 is running", exitExpelled, "n2")
		goesOn()
	})
	n3 := c.nodes[2]
	t.Run("another node's directory", func(t *testing.T) {
		n3.stop()
		n := other("n4")
		n.dir = n3.dir
		n.refuses(t, "n3's directory", exitExpelled, `belongs to node "n3"`, "--node-id n3")
		alone := runProcess(t, nil, "serve", "--data-dir", n3.dir, "--listen", "127.0.0.1:0")
		if alone.Status == exitOK || !strings.Contains(alone.Stderr, "belongs to a node of a cluster") {
			t.Errorf("status %d: %s", alone.Status, alone.Stderr)
		}
	})
	t.Run("a directory of the future", func(t *testing.T) {
		restore := alter(t, filepath.Join(n3.dir, clusterDir, "node.json"), func(f map[string]any) { f["version"] = 99 })
		n3.refuses(t, "node.json", exitExpelled, "a newer harepost wrote the file", "run the later version")
		restore()
		restore = alter(t, filepath.Join(n3.dir, clusterDir, "node.json"), func(f map[string]any) { f["content"] = map[string]any{} })
		n3.refuses(t, "node.json that was edited", exitExpelled, "damaged", "cluster remove")
		restore()
		if metas, _ := filepath.Glob(filepath.Join(n3.dir, clusterDir, "snapshots", "*", "meta.json")); len(metas) > 0 {
			restore = alter(t, metas[len(metas)-1], func(f map[string]any) { f["format"], f["version"] = 99, 99 })
			n3.refuses(t, "a snapshot", exitFailed, "meta.json")
			restore()
		}
	})
	t.Run("another cluster's address", func(t *testing.T) {
		foreign := newTestCluster(t, 1)
		foreign.up()
		foreign.leader()
		n := *n3
		n.c = &testCluster{t: t, nodes: foreign.nodes, flags: c.flags}
		n.launch()
		defer n.server.kill9()
		until(t, "the node tells of the other cluster", func() (bool, string) {
			text := n.server.stderr.String()
			return strings.Contains(text, "is of the cluster") && strings.Contains(text, "correct --join"), text
		})
	})
	t.Run("a new address", func(t *testing.T) {
		n3.address, n3.api = reservedAddress(t), reservedAddress(t)
		n3.start()
		c.leader()
		c.level()
		leads := c.leader()
		until(t, "the new address is known", func() (bool, string) {
			_, text := leads.request("GET", "/v1/cluster", worldAdminToken, "")
			return strings.Contains(text, n3.address), text
		})
	})
	t.Run("new addresses of all at once", func(t *testing.T) {
		for _, n := range c.nodes {
			n.stop()
		}
		for _, n := range c.nodes {
			n.address, n.api = reservedAddress(t), reservedAddress(t)
		}
		c.up()
		until(t, "the new addresses are known", func() (bool, string) {
			_, text := c.leader().request("GET", "/v1/cluster", worldAdminToken, "")
			for _, n := range c.nodes {
				if !strings.Contains(text, n.address) {
					return false, text
				}
			}
			return true, text
		})
		goesOn()
	})
	t.Run("an old copy of the directory", func(t *testing.T) {
		old := filepath.Join(t.TempDir(), "old")
		copyDir(t, n3.dir, old)
		for range 20 {
			goesOn()
		}
		c.level()
		n3.stop()
		goesOn()
		kept := n3.dir
		n3.dir = old
		n3.refuses(t, "an old copy", exitExpelled, "older copy", "cluster remove n3", "empty the directory", "--join")
		n3.refuses(t, "an old copy, again", exitExpelled, "older copy")
		// Who believed the copy for a moment takes the node's own directory for an
		// older one now: it may have voted.
		n3.dir = kept
		n3.launch()
		until(t, "the node is back, or refused", func() (bool, string) {
			text := n3.server.stderr.String()
			return n3.gone() || strings.Contains(text, `"msg":"serving"`), text
		})
		if n3.gone() && !strings.Contains(n3.server.stderr.String(), "older copy") {
			t.Errorf("status %d:\n%s", n3.server.status(), n3.server.stderr.String())
		}
		n3.server.kill9()
		n3.again(t)
	})
	t.Run("a copy while the node runs", func(t *testing.T) {
		twin := filepath.Join(t.TempDir(), "twin")
		copyDir(t, n3.dir, twin)
		n := *n3
		n.dir, n.address, n.api = twin, reservedAddress(t), reservedAddress(t)
		n.refuses(t, "a twin", exitExpelled, "n3")
		goesOn()
		if n3.gone() {
			t.Errorf("the node itself has ended:\n%s", n3.server.stderr.String())
		}
	})
	t.Run("an emptied directory", func(t *testing.T) {
		n3.stop()
		n3.dir = filepath.Join(t.TempDir(), "empty")
		n3.refuses(t, "an empty directory", exitExpelled, "n3", "cluster remove")
		goesOn()
		n3.again(t)
		goesOn()
	})
}

// A certificate is a node's passport: one of another authority, or another node's, does
// not let it in.
func TestWrongCertificatesAreRefused(t *testing.T) {
	t.Parallel()
	ours, theirs := filepath.Join(t.TempDir(), "ours"), filepath.Join(t.TempDir(), "theirs")
	for _, dir := range []string{ours, theirs} {
		r := runProcess(t, nil, "cluster", "certs", "--out", dir, "--node", "n1", "--node", "n2", "--node", "n3")
		if r.Status != exitOK {
			t.Fatal(r.Stderr)
		}
	}
	flags := func(dir, id string) []string {
		return []string{
			"--cluster-cert", filepath.Join(dir, id+".pem"), "--cluster-key", filepath.Join(dir, id+"-key.pem"), "--cluster-ca", filepath.Join(dir, "ca.pem"),
		}
	}
	c := newTestCluster(t, 3)
	for _, n := range c.nodes {
		n.own = append(n.own, flags(ours, n.id)...)
	}
	c.up()
	leads := c.leader()
	made := leads.at(worldAdminToken).call(t, "POST", "/v1/accounts", `{"name":"a"}`).want(201)
	c.key = made["api_key"].(string)
	for i := range 6 { // through every node, over TLS
		c.nodes[i%3].at(c.key).queue(t, "http://127.0.0.1:1024/", `"body":"x","delay_ms":3600000`)
	}
	n := c.follower()
	if _, page := n.request("GET", "/metrics", "", ""); !strings.Contains(page, "harepost_cluster_certificate_not_after_timestamp_seconds ") {
		t.Error("no metric says when the certificate ends")
	}
	n.stop()
	kept := n.own
	n.own = append([]string{"--bootstrap-expect", "3"}, flags(ours, "n9")...)
	n.refuses(t, "a certificate that is not there", exitUsage, "--cluster-cert")
	id := "n1"
	if n.id == "n1" {
		id = "n2"
	}
	n.own = append([]string{"--bootstrap-expect", "3"}, flags(ours, id)...)
	n.refuses(t, "another node's certificate", exitUsage, "is the certificate of node "+id, "--node-id is "+n.id)
	n.own = append([]string{"--bootstrap-expect", "3"}, flags(theirs, n.id)...)
	n.says(t, "another authority's certificate", "another node cannot be talked to", "certificate signed by unknown authority")
	n.own = []string{"--bootstrap-expect", "3"}
	n.says(t, "no certificate", "another node cannot be talked to", "this node has no certificates (--cluster-cert, --cluster-key, --cluster-ca)")
	c.leader()
	n.own = kept
	n.start()
	c.level()
	for _, o := range c.nodes {
		v, _ := o.view()
		if lines := strings.Count(o.server.stderr.String(), "\n"); lines > 80+10*int(v.Term) { // an election says a little
			t.Errorf("%s logged %d lines:\n%.5000s", o.id, lines, o.server.stderr.String())
		}
	}
}
