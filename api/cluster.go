package api

import (
	"context"
	"errors"
	"time"

	"github.com/valyala/fasthttp"
)

// A Cluster is what the API needs of the cluster that its node is part of. Its
// methods may be called concurrently.
type Cluster interface {
	// Reign is the term in which this node leads and its engine accepts; 0 while
	// that is not so.
	Reign() uint64

	// Certain reports whether no other node can lead at this moment, as the
	// engine's Log.MayDispatch.
	Certain() bool

	// Leader returns the id of the node that leads as far as is known here, empty
	// for none, whether that is this one, which it is before it has a reign, and a
	// channel that is closed when any of that, or Reign, changes.
	Leader() (id string, self bool, changed <-chan struct{})

	// Ask has the node with that id answer a request and reads its answer into resp,
	// once and by ctx's deadline. An error is ErrNotSent when no node has acted on
	// the request nor will, else ErrUnanswered. req and resp are the caller's again
	// when it returns, and resp says nothing after an error.
	Ask(ctx context.Context, id string, req *fasthttp.Request, resp *fasthttp.Response) error

	// Standing is where this node stands. It asks nobody.
	Standing() Standing

	// Status is what this node knows of the cluster. It asks nobody: how far others
	// are is known to the node that leads.
	Status() ClusterStatus

	// Remove takes a node out of the cluster; force also where the nodes that
	// answer then are no majority. Transfer hands leadership to a node, or with an
	// empty id to the one that is furthest, and returns when this node does not lead
	// any more; Transferable is its error as far as that is known before, without
	// doing anything. They are for the node that leads. Their errors are ErrNoNode,
	// ErrRefused, or those of the engine.
	Remove(ctx context.Context, id string, force bool) error
	Transfer(ctx context.Context, id string) error
	Transferable(id string) error

	// Snapshot makes what is in this node's log unnecessary, up to the index that it
	// returns.
	Snapshot(ctx context.Context) (index uint64, err error)
}

// What a Cluster's errors are, by errors.Is.
var (
	ErrNotSent    = errors.New("the request reached no node")
	ErrUnanswered = errors.New("the request was sent and not answered")
	ErrNoNode     = errors.New("no such node")
	ErrRefused    = errors.New("refused") // the error's text says why
)

// The roles of a node.
const (
	RoleLeader    = "leader"
	RoleFollower  = "follower"
	RoleCandidate = "candidate" // asks the others for their votes
	RoleLearner   = "learner"   // has no vote yet, as it is still behind
	RoleStopped   = "stopped"
)

// A Standing is where a node stands in its cluster.
type Standing struct {
	Node    string // its id
	Role    string
	Term    uint64
	Leader  string        // id; empty: not known
	Commit  uint64        // index up to which entries are known to be committed
	Applied uint64        // index up to which the state has them
	Contact time.Duration // since it last heard of the leader; 0 for the leader
}

// Lag is how many entries the state is behind what is known to be committed.
func (s *Standing) Lag() uint64 { return max(s.Commit, s.Applied) - s.Applied }

// A ClusterStatus is what a node knows of its cluster.
type ClusterStatus struct {
	Standing
	ClusterID     string
	Last          uint64    // index of the last entry in the node's log
	SnapshotIndex uint64    // below it the log may be gone; 0: there is none
	SnapshotAt    time.Time // zero: there is none
	Members       []Member  // by id
}

// A Member is a node as another one knows it.
type Member struct {
	ID      string
	Address string // of its cluster port
	API     string // URL of its API; empty: not known
	Version string // of its program; empty: not known
	Voter   bool

	// What only the node that leads knows of others, and each of itself.
	Known      bool
	Reachable  bool          // has answered lately
	Contact    time.Duration // since it last answered; below 0: it has not
	LagEntries uint64        // how far it is behind the leader's last entry
	LagBytes   int64         // about what those entries take in the log, as far as it has them
}
