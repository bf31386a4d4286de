package raftstore

import (
	"errors"
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
)

// peerNode is a being with raft, whose log stays from life to life.
type peerNode struct {
	*being
	id    string
	fs    vfs.FS
	logs  *raft.InmemStore
	snaps *raft.InmemSnapshotStore
	raft  *raft.Raft
	trans *raft.InmemTransport
	full  atomic.Bool // its disk, so that it is not fit to lead
}

// gated is raft's transport under the rules of a Membership.
type gated struct {
	*raft.InmemTransport
	p *peerNode
}

func (g gated) pass(id raft.ServerID, to raft.ServerAddress) error {
	if err := g.p.Admit(string(id)); err != nil {
		return err
	}
	g.p.net.mu.Lock()
	other := g.p.net.nodes[string(to)]
	g.p.net.mu.Unlock()
	if other == nil {
		return errors.New("connection refused")
	}
	return other.Admit(g.p.id)
}

func (g gated) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

func (g gated) AppendEntries(id raft.ServerID, to raft.ServerAddress, q *raft.AppendEntriesRequest, a *raft.AppendEntriesResponse) error {
	if err := g.pass(id, to); err != nil {
		return err
	}
	err := g.InmemTransport.AppendEntries(id, to, q, a)
	if err == nil {
		ack := Acknowledgement{LastLog: a.LastLog, Committed: g.p.raft.CommitIndex()}
		if a.Success {
			ack.Match = q.PrevLogEntry + uint64(len(q.Entries))
		}
		g.p.Observe(string(id), ack)
	}
	return err
}

func (g gated) RequestVote(id raft.ServerID, to raft.ServerAddress, q *raft.RequestVoteRequest, a *raft.RequestVoteResponse) error {
	if err := g.pass(id, to); err != nil {
		return err
	}
	return g.InmemTransport.RequestVote(id, to, q, a)
}

func (g gated) RequestPreVote(id raft.ServerID, to raft.ServerAddress, q *raft.RequestPreVoteRequest, a *raft.RequestPreVoteResponse) error {
	if err := g.pass(id, to); err != nil {
		return err
	}
	return g.InmemTransport.RequestPreVote(id, to, q, a)
}

// watcher is a state machine that only hears of configurations.
type watcher struct{ p *peerNode }

func (watcher) Apply(*raft.Log) any                                     { return nil }
func (watcher) Snapshot() (raft.FSMSnapshot, error)                     { return nil, errors.New("none") }
func (watcher) Restore(io.ReadCloser) error                             { return nil }
func (w watcher) StoreConfiguration(index uint64, c raft.Configuration) { w.p.Configured(index, c) }

// up begins a life with raft in it: as a node's start does it.
func (p *peerNode) up(t *testing.T, n *network, address string, how ...birth) error {
	b, err := n.tryLive(p.fs, p.id, address, how...)
	if err != nil {
		return err
	}
	p.being = b
	return p.goOn(t, n)
}

// goOn is the rest of a start.
func (p *peerNode) goOn(t *testing.T, n *network) (err error) {
	b := p.being
	if err := b.Form(t.Context()); err != nil {
		return err
	}
	b.Opened(func() (uint64, uint64) {
		last, _ := p.logs.LastIndex()
		return last, 0
	})
	noError(t, b.identity.Found(p.logs, p.logs, p.snaps))
	if err := b.Greet(t.Context()); err != nil {
		return err
	}
	_, p.trans = raft.NewInmemTransport(raft.ServerAddress(b.address))
	n.connect(p)
	c := raft.DefaultConfig()
	c.LocalID, c.LogOutput, c.ShutdownOnRemove = raft.ServerID(p.id), io.Discard, false
	c.NoLegacyTelemetry = true
	p.raft, err = raft.NewRaft(c, watcher{p}, p.logs, p.logs, p.snaps, gated{p.trans, p})
	noError(t, err)
	b.Start(p.raft, func() error {
		if p.full.Load() {
			return errors.New("its disk is full")
		}
		return nil
	})
	return nil
}

func (p *peerNode) down(t *testing.T) {
	t.Helper()
	p.die()
	noError(t, p.raft.Shutdown().Error())
	noError(t, p.trans.Close())
	p.net.mu.Lock()
	p.net.peers = slices.DeleteFunc(p.net.peers, func(q *peerNode) bool { return q == p })
	p.net.mu.Unlock()
}

// connect makes raft's in-memory transports know each other.
func (n *network) connect(p *peerNode) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, q := range n.peers {
		q.trans.Connect(p.trans.LocalAddr(), p.trans)
		p.trans.Connect(q.trans.LocalAddr(), q.trans)
	}
	n.peers = append(n.peers, p)
}

func newPeerNode(id string) *peerNode {
	return &peerNode{id: id, fs: vfs.NewMem(), logs: raft.NewInmemStore(), snaps: raft.NewInmemSnapshotStore()}
}

// three is a running cluster of n1, n2 and n3; the leader comes first.
func three(t *testing.T, n *network) []*peerNode {
	t.Helper()
	ps := []*peerNode{newPeerNode("n1"), newPeerNode("n2"), newPeerNode("n3")}
	done := make(chan error, 3)
	for _, p := range ps {
		go func() { done <- p.up(t, n, "a"+p.id[1:], expecting(3, "a1", "a2", "a3")) }()
	}
	for range ps {
		noError(t, <-done)
	}
	t.Cleanup(func() {
		n.mu.Lock()
		running := slices.Clone(n.peers)
		n.mu.Unlock()
		for _, p := range running {
			p.down(t)
		}
	})
	return leaderFirst(t, ps)
}

func leaderFirst(t *testing.T, ps []*peerNode) []*peerNode {
	t.Helper()
	var leader *peerNode
	eventually(t, "a leader", func() bool {
		for _, p := range ps {
			if _, _, err := p.leading(); err == nil && p.raft.VerifyLeader().Error() == nil {
				leader = p
				return true
			}
		}
		return false
	})
	sorted := []*peerNode{leader}
	for _, p := range ps {
		if p != leader {
			sorted = append(sorted, p)
		}
	}
	return sorted
}

// eventually waits, in the bubble's time, which costs none.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for range 3000 {
		if is() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("there was never %s", what)
}

func (p *peerNode) voterAt(id, address string) bool {
	c, _ := p.configuration()
	s, ok := c.server(id)
	return ok && s.Suffrage == raft.Voter && string(s.Address) == address
}

func inBubble(t *testing.T, fn func(t *testing.T, n *network)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { fn(t, newNetwork(t)) })
}

// Founders that crashed before their logs had the first entry found the cluster when they are back, whether the others
// know yet that there is one or not.
func TestFoundersComeBack(t *testing.T) {
	for name, c := range map[string]struct {
		know []int // who has written down that it is a founder
		back []int // who crashed after that
	}{
		"the coordinator":                  {[]int{0}, []int{0}},
		"the coordinator and one it asked": {[]int{0}, []int{0, 2}},
		"all, one knows":                   {[]int{0}, []int{0, 1, 2}},
		"all, two know":                    {[]int{0, 1}, []int{0, 1, 2}},
		"all, all know":                    {[]int{0, 1, 2}, []int{0, 1, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, n *network) {
				ps := []*peerNode{newPeerNode("n1"), newPeerNode("n2"), newPeerNode("n3")}
				how := expecting(3, "a1", "a2", "a3")
				for _, p := range ps {
					p.being = n.live(p.fs, p.id, "a"+p.id[1:], how)
				}
				for _, i := range c.know {
					formAll(t, 10*time.Second, ps[i].being)
				}
				done := make(chan error, len(ps))
				for i, p := range ps {
					if slices.Contains(c.back, i) {
						p.die()
					}
				}
				for i, p := range ps {
					if slices.Contains(c.back, i) {
						go func() { done <- p.up(t, n, "a"+p.id[1:], how) }()
					} else {
						go func() { done <- p.goOn(t, n) }()
					}
				}
				for range ps {
					noError(t, <-done)
				}
				defer func() {
					for _, p := range ps {
						p.down(t)
					}
				}()
				leaderFirst(t, ps)
			})
		})
	}
}

func TestANodeJoinsAndGetsAVote(t *testing.T) {
	for name, how := range map[string]birth{
		"by the leader":                 joining("secret", "leader"),
		"by a follower":                 joining("secret", "follower"),
		"instead of founding a cluster": expecting(3, "follower", "leader"),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, n *network) {
				ps := three(t, n)
				n.name("leader", ps[0].address)
				n.name("follower", ps[1].address)
				p := newPeerNode("n4")
				noError(t, p.up(t, n, "a4", how))
				for _, q := range append(ps, p) {
					eventually(t, "a vote of n4 that "+q.id+" knows of", func() bool { return q.voterAt("n4", "a4") })
				}
				if s := p.identity.get(); s.ClusterID != ps[0].identity.ClusterID() || s.Since < 2 {
					t.Errorf("n4 says that it is of %q since %d", s.ClusterID, s.Since)
				}
				// And it is itself after a restart.
				p.down(t)
				noError(t, p.up(t, n, "a4"))
				eventually(t, "a leader that n4 knows of", func() bool { a, _ := p.raft.LeaderWithID(); return a != "" })
			})
		})
	}
}

func TestNodesThatAreNotTakenIn(t *testing.T) {
	inBubble(t, func(t *testing.T, n *network) {
		ps := three(t, n)
		tells(t, newPeerNode("n4").up(t, n, "a4", joining("wrong", "a1")), ErrRefused, "--join-token")
		tells(t, newPeerNode("n4").up(t, n, "a4", joining("", "a1")), ErrRefused, "--join-token")
		tells(t, newPeerNode(ps[1].id).up(t, n, "a4", joining("secret", "a1", "a2", "a3")), ErrRefused, "node "+ps[1].id)
		ps[1].down(t)
		tells(t, newPeerNode(ps[1].id).up(t, n, "a4", joining("secret", "a1", "a2", "a3")), ErrRefused, "another directory", "cluster remove "+ps[1].id)
		n.live(vfs.NewMem(), "n7", "a7").member("other", 1, 1)
		tells(t, newPeerNode("n4").up(t, n, "a4", joining("secret", "a1", "a2", "a3", "a7")), ErrRefused, "2 clusters")
		n.set("a7", nil)
		p := newPeerNode("n4")
		b, err := n.tryLive(p.fs, "n4", "a9", joining("secret", "a1", "a2", "a3"), func(o *MembershipOptions) { o.Address = ps[1].address })
		noError(t, err)
		tells(t, b.Form(t.Context()), ErrRefused, "--cluster-advertise", "cluster remove "+ps[1].id)
		if c, _ := ps[0].configuration(); len(c.servers) != 3 {
			t.Errorf("the members are %v", c.servers)
		}
	})
}

func TestNobodyIsTakenInWithoutAToken(t *testing.T) {
	inBubble(t, func(t *testing.T, n *network) {
		p := newPeerNode("n1")
		noError(t, p.up(t, n, "a1", func(o *MembershipOptions) { o.Expect = 1 }))
		defer p.down(t)
		leaderFirst(t, []*peerNode{p})
		tells(t, newPeerNode("n2").up(t, n, "a2", joining("", "a1")), ErrRefused, "--join-token", "nobody is taken in")
	})
}

func TestAnAddressThatChanged(t *testing.T) {
	inBubble(t, func(t *testing.T, n *network) {
		ps := three(t, n)
		for _, p := range []*peerNode{ps[1], ps[0]} { // a follower, and who led
			p.down(t)
			address := "b" + p.id[1:]
			noError(t, p.up(t, n, address))
			for _, q := range ps {
				eventually(t, p.id+"'s new address known to "+q.id, func() bool { return q.voterAt(p.id, address) })
			}
		}
	})
}

// A node that moves to where another one was, which has moved, too, is a member there when that is known.
func TestANodeMovesToWhereAnotherWas(t *testing.T) {
	inBubble(t, func(t *testing.T, n *network) {
		ps := three(t, n)
		moves, was := ps[1], ps[2] // the configuration has them in this order
		moves.down(t)
		was.down(t)
		address := was.address
		noError(t, was.up(t, n, "b"+was.id[1:]))
		noError(t, moves.up(t, n, address))
		for _, p := range ps {
			eventually(t, "both addresses known to "+p.id, func() bool {
				return p.voterAt(moves.id, address) && p.voterAt(was.id, was.address)
			})
		}
	})
}

func TestRemoval(t *testing.T) {
	inBubble(t, func(t *testing.T, n *network) {
		ps := three(t, n)
		leader, gone, away := ps[0], ps[1], ps[2]
		ctx := t.Context()
		tells(t, gone.Remove(ctx, away.id, false), ErrNotLeading)
		tells(t, leader.Remove(ctx, "n9", false), ErrNoMember, "n1, n2, n3")

		// With one voter away, two are needed, and each of the two is.
		away.down(t)
		time.Sleep(leader.o.Contact + time.Second)
		tells(t, leader.Remove(ctx, gone.id, false), ErrUnsafe, "--force")
		noError(t, away.up(t, n, away.address, joining("secret")))
		eventually(t, "word of "+away.id, func() bool { return leader.isAlive(away.id) })

		noError(t, leader.Remove(ctx, gone.id, false))
		tells(t, <-gone.ended, ErrRefused, "removed", "--join")
		gone.down(t)
		tells(t, gone.up(t, n, gone.address), ErrIdentity, "removed", "--join")

		// The id is free for another directory, also in the eyes of one that was away meanwhile.
		away.down(t)
		again := newPeerNode(gone.id)
		done := make(chan error, 1)
		go func() { done <- again.up(t, n, gone.address, joining("secret", leader.address)) }()
		time.Sleep(time.Second)
		noError(t, away.up(t, n, away.address, joining("secret")))
		noError(t, <-done)
		eventually(t, "a vote", func() bool { return away.voterAt(gone.id, gone.address) })
		eventually(t, "a believing node", func() bool { return away.Admit(gone.id) == nil && again.Admit(away.id) == nil })
		// The old directory is of no use.
		old := &peerNode{id: gone.id, fs: copyOf(t, gone.fs), logs: gone.logs, snaps: gone.snaps}
		again.down(t)
		tells(t, old.up(t, n, gone.address), ErrIdentity)
	})
}

// A node that is removed while it is away learns of it when it comes back.
func TestRemovedWhileAway(t *testing.T) {
	inBubble(t, func(t *testing.T, n *network) {
		ps := three(t, n)
		away := ps[2]
		away.down(t)
		noError(t, ps[0].Remove(t.Context(), away.id, false))
		tells(t, away.up(t, n, away.address), ErrRefused, "removed", "--join")
		away.die()
		tells(t, away.up(t, n, away.address), ErrIdentity, "removed")
	})
}

func TestTheLastVoterStays(t *testing.T) {
	inBubble(t, func(t *testing.T, n *network) {
		ps := three(t, n)
		noError(t, ps[0].Remove(t.Context(), ps[2].id, false))
		noError(t, ps[0].Remove(t.Context(), ps[1].id, false))
		tells(t, ps[0].Remove(t.Context(), ps[0].id, true), ErrUnsafe, "only voter", "detach")
	})
}

func TestALeaderThatIsToRemoveItselfHandsOver(t *testing.T) {
	inBubble(t, func(t *testing.T, n *network) {
		ps := three(t, n)
		tells(t, ps[0].Remove(t.Context(), ps[0].id, false), ErrNotLeading, "ask again")
		rest := leaderFirst(t, ps)
		if rest[0] == ps[0] {
			t.Fatal("it still leads")
		}
		eventually(t, "a leader that has heard of the others", func() bool {
			_, c, err := rest[0].leading()
			return err == nil && rest[0].alive(&c, ps[0].id) == 2
		})
		noError(t, rest[0].Remove(t.Context(), ps[0].id, false))
		tells(t, <-ps[0].ended, ErrRefused, "removed")
	})
}

func TestTransfer(t *testing.T) {
	inBubble(t, func(t *testing.T, n *network) {
		ps := three(t, n)
		ctx := t.Context()
		tells(t, ps[1].Transfer(ctx, ""), ErrNotLeading)
		tells(t, ps[0].Transfer(ctx, "n9"), ErrNoMember, "n1, n2, n3")
		tells(t, ps[0].Transferable("n9"), ErrNoMember, "n1, n2, n3")
		tells(t, ps[1].Transferable(""), ErrNotLeading)
		noError(t, errors.Join(ps[0].Transferable(""), ps[0].Transferable(ps[2].id), ps[0].Transferable(ps[0].id)))
		noError(t, ps[0].Transfer(ctx, ps[0].id))
		noError(t, ps[0].Transfer(ctx, ps[2].id))
		eventually(t, "the new leader", func() bool { return ps[2].raft.State() == raft.Leader })
		now := leaderFirst(t, ps)
		noError(t, now[0].Transfer(ctx, ""))
		eventually(t, "another one", func() bool { return now[0].raft.State() != raft.Leader })
		now = leaderFirst(t, ps)
		now[1].down(t)
		time.Sleep(now[0].o.Contact + time.Second)
		tells(t, now[0].Transfer(ctx, now[1].id), ErrNoHeir, "not been heard")
		tells(t, now[0].Transferable(now[1].id), ErrNoHeir, "not been heard")
	})
}

// A leader hands over to a node that can do what it is to, as far as those say themselves.
func TestTransferToWhoIsFit(t *testing.T) {
	inBubble(t, func(t *testing.T, n *network) {
		ps := three(t, n)
		told := func(p *peerNode) bool { k, _ := ps[0].peers.get(p.id); return (k.unfit != "") == p.full.Load() }
		ps[1].full.Store(true)
		eventually(t, "word of the full disk", func() bool { return told(ps[1]) })
		tells(t, ps[0].Transferable(ps[1].id), ErrNoHeir, ps[1].id, "its disk is full")
		c, _ := ps[0].configuration()
		if heir, err := ps[0].heir(&c, ""); err != nil || string(heir.ID) != ps[2].id {
			t.Errorf("%s is to lead: %v", heir.ID, err)
		}
		ps[2].full.Store(true)
		eventually(t, "word of both", func() bool { return told(ps[2]) })
		tells(t, ps[0].Transfer(t.Context(), ""), ErrNoHeir, ps[1].id, ps[2].id, "its disk is full")
		ps[1].full.Store(false)
		eventually(t, "word of room", func() bool { return told(ps[1]) })
		noError(t, ps[0].Transfer(t.Context(), ""))
		eventually(t, "the new leader", func() bool { return ps[1].raft.State() == raft.Leader })
	})
}

func TestMembers(t *testing.T) {
	inBubble(t, func(t *testing.T, n *network) {
		ps := three(t, n)
		eventually(t, "all known", func() bool {
			for _, m := range ps[1].Members() {
				if !m.Voter || m.API == "" || m.Version != "v1" || m.Leader != (m.ID == ps[0].id) || m.Self != (m.ID == ps[1].id) || m.Heard.IsZero() {
					return false
				}
			}
			return len(ps[1].Members()) == 3
		})
	})
}
