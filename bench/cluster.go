package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/harepost/harepost/bench/report"
)

// clusterNodes is how many nodes a cluster has that is measured.
const clusterNodes = 3

// clusterToken is the operator's of the clusters that are started here, which only
// this machine reaches, and what a node joins with.
const clusterToken = "bench-operator-of-a-cluster"

// A clusterNode is one of them.
type clusterNode struct {
	id      string
	addr    string // of its API
	command []string
	process *process
	ended   chan error
}

// A nodeCluster is three nodes on loopback, without certificates.
type nodeCluster struct{ nodes []*clusterNode }

// startCluster starts a cluster on new data directories and makes accounts. The
// system's URL is that of the node that leads.
func startCluster(ctx context.Context, o Options, accounts int, dir string) (*system, error) {
	c, err := openNodes(ctx, o, dir)
	if err != nil {
		return nil, err
	}
	s := &system{name: report.Cluster, stop: c.stop}
	leader, err := c.ready(ctx)
	if err != nil {
		return nil, errors.Join(err, s.stop())
	}
	s.url = "http://" + leader.addr
	for _, n := range c.nodes {
		if n == leader {
			s.pid = n.process.pid()
		} else {
			s.more = append(s.more, n.process.pid())
		}
	}
	for range accounts {
		key, err := createAccount(ctx, leader.addr)
		if err != nil {
			return nil, errors.Join(leader.process.explain("create an account", err), s.stop())
		}
		s.keys = append(s.keys, key)
	}
	return s, nil
}

// openNodes starts the nodes of a new cluster.
func openNodes(ctx context.Context, o Options, dir string) (*nodeCluster, error) {
	c := new(nodeCluster)
	var peers []string
	for i := range clusterNodes {
		addr, err1 := freeAddr()
		peer, err2 := freeAddr()
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		c.nodes = append(c.nodes, &clusterNode{id: "n" + strconv.Itoa(i+1), addr: addr})
		peers = append(peers, peer)
	}
	for i, n := range c.nodes {
		n.command = append(append(slices.Clone(o.Engine),
			"serve", "--dev", "--admin-token", clusterToken, "--data-dir", filepath.Join(dir, n.id), "--listen", n.addr,
			"--node-id", n.id, "--cluster-addr", peers[i], "--join", strings.Join(peers, ","), "--join-token", clusterToken,
			"--bootstrap-expect", strconv.Itoa(clusterNodes)), o.EngineFlags...)
		if err := n.start(ctx); err != nil {
			return nil, errors.Join(err, c.stop())
		}
	}
	return c, nil
}

func (n *clusterNode) start(ctx context.Context) error {
	n.process = newProcess(ctx, report.Cluster+" node "+n.id, n.command)
	if err := n.process.start(); err != nil {
		return err
	}
	n.ended = make(chan error, 1)
	go func(p *process, ended chan<- error) { ended <- p.cmd.Wait() }(n.process, n.ended) // ends with the process; stop reads it
	return nil
}

// ready waits until all nodes are, and returns the one that leads.
func (c *nodeCluster) ready(ctx context.Context) (*clusterNode, error) {
	for _, n := range c.nodes {
		if err := waitReady(ctx, n.addr, n.ended); err != nil {
			return nil, n.process.explain("start", err)
		}
	}
	for began := time.Now(); ; { // on a busy machine they may be electing again
		text, err := c.ask(ctx, c.nodes[0])
		if err != nil {
			return nil, err
		}
		var status struct {
			Leader string `json:"leader_id"`
		}
		if err := json.Unmarshal(text, &status); err != nil {
			return nil, err
		}
		for _, n := range c.nodes {
			if n.id == status.Leader {
				return n, nil
			}
		}
		if time.Since(began) > engineWait {
			return nil, fmt.Errorf("bench: no node leads: %s", text)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (c *nodeCluster) ask(ctx context.Context, n *clusterNode) ([]byte, error) {
	return callAs(ctx, clusterToken, http.MethodGet, "http://"+n.addr+"/v1/cluster", nil, http.StatusOK)
}

// stop ends the nodes that were started, all at once: one after the other each
// would wait for another to lead.
func (c *nodeCluster) stop() error {
	errs := make([]error, len(c.nodes))
	done := make(chan struct{})
	for i, n := range c.nodes {
		go func() {
			if n.process != nil && n.process.cmd.Process != nil {
				errs[i] = stopEngine(n.process, n.ended)
			}
			done <- struct{}{}
		}()
	}
	for range c.nodes {
		<-done
	}
	return errors.Join(errs...)
}

// fail kills the node that leads and returns how long it takes until one of the
// others accepts a send that was made after that. Then it starts the node again and
// waits for it.
func (c *nodeCluster) fail(ctx context.Context, key, target string) (time.Duration, error) {
	leader, err := c.ready(ctx)
	if err != nil {
		return 0, err
	}
	if err := killEngine(leader.process, leader.ended); err != nil {
		return 0, err
	}
	killed := time.Now()
	within, cancel := context.WithTimeout(ctx, engineWait)
	defer cancel()
	accepted := make(chan time.Duration, clusterNodes)
	for _, n := range c.nodes {
		if n != leader {
			go func() {
				sendUntilAccepted(within, n.addr, key, target)
				accepted <- time.Since(killed)
			}()
		}
	}
	took := <-accepted
	err = within.Err()
	cancel()
	<-accepted
	if err != nil {
		return 0, fmt.Errorf("bench: nothing is accepted after the leader was killed: %w", err)
	}
	if err := leader.start(ctx); err != nil {
		return 0, err
	}
	_, err = c.ready(ctx)
	return took, err
}

// sendUntilAccepted sends to a node, again and again, until it is accepted or ctx
// is done.
func sendUntilAccepted(ctx context.Context, addr, key, target string) {
	body := fmt.Appendf(nil, `{"target":%q,"body":"failover"}`, target)
	for ctx.Err() == nil {
		if _, err := callAs(ctx, key, http.MethodPost, "http://"+addr+"/v1/send", body, http.StatusAccepted); err == nil {
			return
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}
