package raftstore

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// A Status is what a node knows of itself and, while it leads, of the others.
type Status struct {
	Role      raft.RaftState
	Term      uint64
	Leader    raft.ServerID // empty: none is known
	LeaderAt  raft.ServerAddress
	LastIndex uint64    // of this node's log
	Committed uint64    // as far as this node knows; a leader's word, too, of what it lacks yet
	Applied   uint64    // handed to the engine
	Contact   time.Time // with the leader, of a follower
	Snapshot  SnapshotMeta
	LogBytes  int64
	Peers     []PeerStatus
}

// A PeerStatus is a member of the cluster, this node among them.
type PeerStatus struct {
	ID       raft.ServerID
	Address  raft.ServerAddress
	Voter    bool
	LastLog  uint64    // how far its log is known to be the leader's; only the leader does
	Behind   int64     // bytes of the log, as it is on disk, that it lacks, see wal.Log.BytesFrom
	Answered time.Time // its last answer to this node; zero: none
}

// Status is how the node stands now. It asks nobody. The node is started.
func (n *Node) Status() Status {
	r := n.raft
	s := Status{
		Role: r.State(), Term: r.CurrentTerm(), LastIndex: r.LastIndex(), Committed: max(r.CommitIndex(), n.contacts.committed.Load()),
		Applied: r.AppliedIndex(), Contact: r.LastContact(), LogBytes: n.store.SizeBytes(),
	}
	s.LeaderAt, s.Leader = r.LeaderWithID()
	s.Snapshot, _, _ = n.snapshots.Newest()
	for _, m := range n.servers() {
		p := PeerStatus{ID: m.ID, Address: m.Address, Voter: m.Suffrage == raft.Voter}
		if m.ID == n.cfg.ID {
			p.LastLog, p.Answered = s.LastIndex, time.Now()
		} else if c, ok := n.contacts.of(m.ID); ok && s.Role == raft.Leader {
			p.LastLog, p.Answered = c.agrees, c.at
			if c.agrees < s.LastIndex {
				p.Behind = n.store.BytesFrom(c.agrees + 1)
			}
		}
		s.Peers = append(s.Peers, p)
	}
	return s
}

// Term is that of the reign of this node's engine, 0 while it follows and while it is
// about to lead.
func (n *Node) Term() uint64 { return n.begunReign.Load() }

// Leader is the node that leads as far as this one knows, empty if it knows none, and a
// channel that is closed when that or Term changes.
func (n *Node) Leader() (id raft.ServerID, changed <-chan struct{}) {
	changed = n.changes.next()
	_, id = n.raft.LeaderWithID()
	return id, changed
}

// changes tell whoever waits that something has changed.
type changes struct {
	mu sync.Mutex
	c  chan struct{}
}

func (c *changes) next() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.c == nil {
		c.c = make(chan struct{})
	}
	return c.c
}

func (c *changes) tell() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.c != nil {
		close(c.c)
		c.c = nil
	}
}

// watchLeader tells of changes of the leader.
func (n *Node) watchLeader() {
	seen := make(chan raft.Observation, 16)
	o := raft.NewObserver(seen, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	})
	n.raft.RegisterObserver(o)
	defer n.raft.DeregisterObserver(o)
	for {
		select {
		case <-seen:
			n.changes.tell()
		case <-n.stop:
			return
		}
	}
}

// Consensus is raft, for the node's Membership; nil before the engine has opened.
func (n *Node) Consensus() Consensus {
	if n.raft == nil {
		return nil
	}
	return handingOver{n.raft, n}
}
