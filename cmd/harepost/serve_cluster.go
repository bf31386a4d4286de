package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/api"
	"github.com/harepost/harepost/engine"
	"github.com/harepost/harepost/raftstore"
)

// A clusterNode is this process's part of a cluster, as the program drives it:
//
//	c, err := openCluster(ctx, cfg, url) // waits until the node belongs to a cluster
//	engine.Open(... Replica: c.replica ...)
//	api.New(... Cluster: c.door ...)
//	c.start(fit)                         // looks after the others
//	c.serve(api.PeerHandler())           // from here on other nodes' requests are answered
//	c.handOver(...)                      // when it is to end: another one leads
//	c.leave(); engine.Close(); c.close()
type clusterNode struct {
	replica engine.Replica
	door    api.Cluster
	metrics func(io.Writer)
	address netip.AddrPort // of its port on this machine
	stopped <-chan error   // the cluster does not want this node: the error says why

	peers atomic.Pointer[fasthttp.RequestHandler] // nil until the API is there
	look  func()                                  // every second: what is to be warned of
	start func(fit func() error)                  // when raft runs; fit: whether this node should lead
	leave func()                                  // before the engine closes, which ends raft
	close func() error                            // after it
}

// serve lets requests in that other nodes hand on.
func (c *clusterNode) serve(h fasthttp.RequestHandler) { c.peers.Store(&h) }

// answer answers a request of another node that is not about the cluster itself.
func (c *clusterNode) answer(ctx *fasthttp.RequestCtx) {
	if h := c.peers.Load(); h != nil {
		(*h)(ctx)
		return
	}
	api.NotLeading(ctx)
}

// How long a node that leads may take to give that up.
const (
	transferTime = 3 * time.Second // for another node to be elected
	handOverTime = api.QuiesceTime + transferTime
)

// raftTimeout bounds raft's messages, each of which may have some megabytes.
const raftTimeout = 10 * time.Second

// handOver has another node lead, if this one does.
func (p *program) handOver() {
	if p.cluster == nil || p.cluster.door.Reign() == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), handOverTime)
	defer cancel()
	if err := p.api.HandOver(ctx, ""); err != nil && p.cluster.door.Reign() != 0 {
		p.log.Warn("no other node takes over, the others elect one when this one is gone", "error", err)
		return
	}
	p.log.Info("another node leads now")
}

// How often a node looks after itself, and how long one that leads and whose disk is full
// waits until it hands over again, and until it does at all after it has come to lead:
// another one's may be full too, and the lead is not to go round.
const (
	selfLook   = time.Second
	yieldPause = 30 * time.Second
	yieldRest  = 3 * time.Second
)

// lookAfterNode has another node lead whenever this one does and its disk is full: it
// would refuse every send, while others have room. And it warns of certificates that end.
// stop ends that, and may be called again.
func (p *program) lookAfterNode() (stop func()) {
	if p.cluster == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var looking sync.WaitGroup
	looking.Go(func() {
		look := time.NewTicker(selfLook)
		defer look.Stop()
		var last, leads time.Time
		var reign uint64
		for {
			select {
			case now := <-look.C:
				p.cluster.look()
				if r := p.cluster.door.Reign(); r != reign {
					reign, leads = r, now
				}
				if p.fullLeader() && now.Sub(last) >= yieldPause && now.Sub(leads) >= yieldRest {
					p.yield(ctx)
					last = now
				}
			case <-ctx.Done():
				return
			}
		}
	})
	return func() { cancel(); looking.Wait() }
}

// fullLeader reports whether this node leads and has no room for sends.
func (p *program) fullLeader() bool {
	return p.cluster.door.Reign() != 0 && errors.Is(p.engine.Ready(), engine.ErrOverloaded)
}

// yield has another node lead. Attempts end first here too: room for their records is
// kept free.
func (p *program) yield(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, handOverTime)
	defer cancel()
	if err := p.api.HandOver(ctx, ""); err != nil {
		p.log.Warn("this node's disk is full, and no other node takes over", "error", err)
		return
	}
	p.log.Warn("another node leads now, since this one's disk is full: give it room")
}

// handOverTime is what handOver takes at most.
func (p *program) handOverTime() time.Duration {
	if !p.cfg.clustered() {
		return 0
	}
	return handOverTime
}

// expelled tells why the cluster does not want the node, and gives the status to end
// with.
func (p *program) expelled(err error) error {
	p.log.Error("this node cannot go on in its cluster, and starting it again does not help", "node", p.cfg.NodeID, "error", err)
	return exitWith(exitExpelled, nil)
}

// announceCluster logs where the node stands and how to see more.
func (p *program) announceCluster() {
	if p.cluster == nil {
		return
	}
	st := p.cluster.door.Standing()
	p.log.Info("node of a cluster", "node", st.Node, "role", st.Role, "leader", st.Leader, "term", st.Term,
		"cluster_address", p.cfg.advertised(), "see", "harepost cluster status --url "+p.url())
	if p.cfg.Dev {
		p.log.Info("sign-up is open on every node, and no account is made at the start", "try", "harepost accounts create NAME --url "+p.url())
	}
	for _, text := range p.cfg.clusterWarnings(p.cfg.joinToken) {
		p.log.Warn(text)
	}
}

// advertised is how other nodes reach this one's cluster port.
func (c *clusterFlags) advertised() string { return cmp.Or(c.ClusterAdvertise, c.ClusterAddr) }

// advertisedAPI is the URL of this node's API as it is shown to others: on a machine
// that listens everywhere, by the name that its cluster port has.
func (p *program) advertisedAPI() string {
	a := p.listeners.address()
	if !a.IsValid() {
		return ""
	}
	host := a.Addr().String()
	if a.Addr().IsUnspecified() {
		host, _, _ = net.SplitHostPort(p.cfg.advertised())
	}
	scheme := "http://"
	if p.listeners.cert != nil {
		scheme = "https://"
	}
	return scheme + net.JoinHostPort(host, fmt.Sprint(a.Port()))
}

// A clusterLog is what the door needs of a raftstore.Node.
type clusterLog interface {
	Term() uint64
	Certain() bool
	Leader() (id raft.ServerID, changed <-chan struct{})
	Status() raftstore.Status
	Snapshot() (index uint64, err error)
}

// A clusterDoor is the cluster as the API has it. Its funcs are set when it is made.
type clusterDoor struct {
	id  string
	log clusterLog

	ask      func(ctx context.Context, address string, req *fasthttp.Request, resp *fasthttp.Response) error
	about    func(id string) (api, version string) // of another node, as it has told
	cluster  func() string                         // id of the cluster
	remove   func(ctx context.Context, id string, force bool) error
	transfer func(ctx context.Context, id string) error

	transferable func(id string) error
	explain      func(error) error // an error of remove or transfer as the API has it
}

// reachableWithin is how long ago a node may have answered that counts as reachable.
const reachableWithin = 3 * time.Second

// Reign implements api.Cluster.
func (d *clusterDoor) Reign() uint64 { return d.log.Term() }

// Certain implements api.Cluster.
func (d *clusterDoor) Certain() bool { return d.log.Certain() }

// Leader implements api.Cluster.
func (d *clusterDoor) Leader() (id string, self bool, changed <-chan struct{}) {
	leader, changed := d.log.Leader()
	return string(leader), string(leader) == d.id, changed
}

// Ask implements api.Cluster.
func (d *clusterDoor) Ask(ctx context.Context, id string, req *fasthttp.Request, resp *fasthttp.Response) error {
	st := d.log.Status()
	address := ""
	for _, m := range st.Peers {
		if string(m.ID) == id {
			address = string(m.Address)
		}
	}
	if address == "" {
		return fmt.Errorf("%w: node %s is not a member any more", api.ErrNotSent, id)
	}
	err := d.ask(ctx, address, req, resp)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raftstore.ErrNotSent):
		return fmt.Errorf("%w: %w", api.ErrNotSent, err)
	}
	return fmt.Errorf("%w: %w", api.ErrUnanswered, err)
}

// Standing implements api.Cluster.
func (d *clusterDoor) Standing() api.Standing {
	st := d.log.Status()
	return d.standing(&st)
}

func (d *clusterDoor) standing(st *raftstore.Status) api.Standing {
	s := api.Standing{
		Node: d.id, Role: d.role(st), Term: st.Term, Leader: string(st.Leader), Commit: st.Committed, Applied: st.Applied,
	}
	if s.Leader != d.id && !st.Contact.IsZero() {
		s.Contact = max(time.Since(st.Contact), 0)
	}
	return s
}

// role is what the node does.
func (d *clusterDoor) role(st *raftstore.Status) string {
	switch st.Role {
	case raft.Leader:
		return api.RoleLeader
	case raft.Candidate:
		return api.RoleCandidate
	case raft.Shutdown:
		return api.RoleStopped
	}
	for _, m := range st.Peers {
		if string(m.ID) == d.id && !m.Voter {
			return api.RoleLearner
		}
	}
	return api.RoleFollower
}

// Status implements api.Cluster.
func (d *clusterDoor) Status() api.ClusterStatus {
	st := d.log.Status()
	s := api.ClusterStatus{Standing: d.standing(&st), ClusterID: d.cluster(), Last: st.LastIndex, SnapshotIndex: st.Snapshot.Index, SnapshotAt: st.Snapshot.Created}
	for i := range st.Peers {
		s.Members = append(s.Members, d.member(&st, &st.Peers[i]))
	}
	return s
}

func (d *clusterDoor) member(st *raftstore.Status, p *raftstore.PeerStatus) api.Member {
	m := api.Member{ID: string(p.ID), Address: string(p.Address), Voter: p.Voter}
	m.API, m.Version = d.about(m.ID)
	if m.ID != d.id && st.Role != raft.Leader {
		return m
	}
	m.Known, m.Contact = true, -1
	if !p.Answered.IsZero() {
		m.Contact = max(time.Since(p.Answered), 0)
		m.Reachable = m.Contact < reachableWithin
	}
	m.LagEntries, m.LagBytes = max(st.LastIndex, p.LastLog)-p.LastLog, p.Behind
	return m
}

// Remove implements api.Cluster.
func (d *clusterDoor) Remove(ctx context.Context, id string, force bool) error {
	return d.explain(d.remove(ctx, id, force))
}

// Transfer implements api.Cluster. Who was told to lead still has to be elected,
// which is waited for a while, so that whoever asks next is told who leads.
func (d *clusterDoor) Transfer(ctx context.Context, id string) error {
	if err := d.transfer(ctx, id); err != nil {
		return d.explain(err)
	}
	ctx, cancel := context.WithTimeout(ctx, transferTime)
	defer cancel()
	for {
		leader, self, changed := d.Leader()
		if leader != "" && (!self || id == d.id) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// Transferable implements api.Cluster.
func (d *clusterDoor) Transferable(id string) error { return d.explain(d.transferable(id)) }

// Snapshot implements api.Cluster.
func (d *clusterDoor) Snapshot(context.Context) (uint64, error) { return d.log.Snapshot() }

// writeClusterMetrics writes where the node stands, in Prometheus text format. How
// far the others are only the node that leads knows; there are as many series as
// members.
func writeClusterMetrics(w io.Writer, s *api.ClusterStatus) {
	flag := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	fmt.Fprintf(w, "harepost_cluster_leads %d\n", flag(s.Role == api.RoleLeader))
	fmt.Fprintf(w, "harepost_cluster_has_leader %d\n", flag(s.Leader != ""))
	fmt.Fprintf(w, "harepost_cluster_term %d\n", s.Term)
	fmt.Fprintf(w, "harepost_cluster_last_index %d\n", s.Last)
	fmt.Fprintf(w, "harepost_cluster_applied_index %d\n", s.Applied)
	fmt.Fprintf(w, "harepost_cluster_lag_entries %d\n", s.Lag())
	fmt.Fprintf(w, "harepost_cluster_members %d\n", len(s.Members))
	for _, m := range s.Members {
		if m.Known && m.ID != s.Node {
			fmt.Fprintf(w, "harepost_cluster_peer_reachable{node=%q} %d\n", m.ID, flag(m.Reachable))
			fmt.Fprintf(w, "harepost_cluster_peer_lag_entries{node=%q} %d\n", m.ID, m.LagEntries)
			fmt.Fprintf(w, "harepost_cluster_peer_lag_bytes{node=%q} %d\n", m.ID, m.LagBytes)
		}
	}
}
