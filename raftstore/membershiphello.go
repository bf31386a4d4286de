package raftstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Protocol is the version of what nodes say to each other. A node talks to those of one version less and one
// more, so that a cluster is upgraded one node at a time, and never by two versions at once. It goes up by one with
// the release that changes what is said; that release still says and understands what the former did.
const Protocol = 1

// ErrRefused means that other nodes do not take this one for who it says it is. The text says what to do; the
// process should end.
var ErrRefused = errors.New("raftstore: refused by the cluster")

// A Hello is how nodes introduce themselves: the caller in the request, the other one in its answer. All is of the
// moment at which it is said.
type Hello struct {
	Protocol int    `json:"protocol"`
	Version  string `json:"version"` // of the program, for people

	ClusterID string `json:"cluster_id,omitempty"` // empty: a member of none yet
	NodeID    string `json:"node_id"`
	Directory string `json:"directory"`
	Since     uint64 `json:"since,omitempty"` // index of the configuration by which it became a member
	Lives     []Life `json:"lives"`           // the present one last

	LastIndex uint64 `json:"last_index,omitempty"` // of its log or its snapshot
	LastTerm  uint64 `json:"last_term,omitempty"`

	Address string `json:"address"`       // for other nodes
	API     string `json:"api,omitempty"` // for clients

	// Trial: it asks only whether it would be believed; nobody takes note of the life. See Greet.
	Trial bool `json:"trial,omitempty"`

	Unfit string `json:"unfit,omitempty"` // why another node should lead; empty: it may as well

	Expect  int       `json:"expect,omitempty"`  // --bootstrap-expect of a node that waits for others
	Promise *Proposal `json:"promise,omitempty"` // the cluster that it takes part in founding

	LeaderID      string            `json:"leader_id,omitempty"`
	LeaderAddress string            `json:"leader_address,omitempty"`
	Peers         map[string]string `json:"peers,omitempty"` // addresses of others that it knows, by node
}

// helloPeers bounds the addresses in a Hello that are looked at.
const helloPeers = 64

func (h *Hello) life() Life { return h.Lives[len(h.Lives)-1] }

// check refuses what no node says.
func (h *Hello) check() error {
	if err := ValidNodeID(h.NodeID); err != nil {
		return err
	}
	if h.Directory == "" || len(h.Lives) == 0 || len(h.Lives) > livesKept || h.Address == "" || h.life().ID == "" {
		return errors.New("raftstore: the hello says not who it is from")
	}
	return nil
}

// lived reports whether the node had that life, as far as it remembers: one that is older than all it remembers
// is believed.
func (h *Hello) lived(l Life) bool {
	return l.Incarnation < h.Lives[0].Incarnation || slices.Contains(h.Lives, l)
}

// A Refusal is why a node does not believe another one.
type Refusal struct {
	Why string `json:"why"`
	// Final: it is about the node itself, and will be so for all others and for ever. Otherwise it may be
	// about the one that refuses.
	Final bool `json:"final"`
	// Stale: its directory is not to be used any more.
	Stale bool `json:"stale,omitempty"`
}

func (r *Refusal) err() error { return fmt.Errorf("%w: %s", ErrRefused, r.Why) }

// HelloAnswer is what a Hello is answered.
type HelloAnswer struct {
	Hello   Hello    `json:"hello"`
	Refusal *Refusal `json:"refusal,omitempty"`
	// Believed: both may be raft's peers. It is false, without a Refusal, for a node that is a member of no
	// cluster, or not of this one as far as the one that answers knows.
	Believed bool `json:"believed"`
	// Removed: the cluster's committed configuration at index Configuration has no such node.
	Removed       bool   `json:"removed,omitempty"`
	Configuration uint64 `json:"configuration,omitempty"`
}

const emptyOrOld = "%s: node %s knows that its log went to %d and its life was number %d. Its directory is an older copy, or was emptied: " +
	"run `harepost cluster remove %s` on another node, empty the directory and start it with --join"

// judge tells whether to believe h, or why not. It reads only. The question whether the life before goes on
// elsewhere is not asked here, see elsewhere.
func (m *Membership) judge(h *Hello) *Refusal {
	me := m.identity.get()
	switch {
	case h.Protocol < Protocol-1 || h.Protocol > Protocol+1:
		return &Refusal{Why: fmt.Sprintf("node %s runs version %s (protocol %d) and node %s version %s (protocol %d): upgrade one release at a time, all nodes before the next",
			h.NodeID, h.Version, h.Protocol, me.NodeID, m.o.Version, Protocol)}
	case h.NodeID == me.NodeID:
		return &Refusal{Final: true, Why: fmt.Sprintf("another process runs as node %s, at %s: give each node a --node-id and a directory of its own",
			h.NodeID, m.o.Address)}
	case h.ClusterID == "" || me.ClusterID == "":
		return nil
	case h.ClusterID != me.ClusterID:
		return &Refusal{Why: fmt.Sprintf("node %s at %s is of the cluster %s, node %s of %s: correct --join; where the cluster was recovered or restored meanwhile, empty the directory of the node that is still of the former one",
			h.NodeID, h.Address, h.ClusterID, me.NodeID, me.ClusterID)}
	case h.Address == m.o.Address:
		return &Refusal{Why: fmt.Sprintf("the nodes %s and %s both say that they are at %s: correct --cluster-advertise", h.NodeID, me.NodeID, h.Address)}
	}
	return m.judgePeer(h, me.NodeID)
}

// judgePeer holds h against what is known of the node.
func (m *Membership) judgePeer(h *Hello, me string) *Refusal {
	k, ok := m.peers.get(h.NodeID)
	if !ok || k.Life == h.life().ID && k.admitted {
		return nil // while it lives its log does not shrink, but for what was not committed
	}
	stale := &Refusal{Final: true, Stale: true,
		Why: fmt.Sprintf(emptyOrOld, "node "+h.NodeID, me, k.Floor, k.Incarnation, h.NodeID)}
	switch {
	case k.Directory != h.Directory && h.Since > k.Since: // it was removed, and taken in again
		return nil
	case k.Directory != h.Directory, h.LastIndex < k.Floor, h.life().Incarnation < k.Incarnation:
		return stale
	case !h.lived(Life{k.Incarnation, k.Life}):
		return stale
	}
	return nil
}

// elsewhere asks at the address where the node was whether its life before goes on: then there are two processes
// on copies of one directory, and the later is refused.
func (m *Membership) elsewhere(ctx context.Context, h *Hello) *Refusal {
	k, ok := m.peers.get(h.NodeID)
	if !ok || !k.admitted || k.Life == h.life().ID || k.Address == "" {
		return nil
	}
	if other, there := m.who(ctx, k.Address); !there || other.NodeID != h.NodeID || other.life().ID != k.Life {
		return nil
	}
	return &Refusal{Final: true, Why: fmt.Sprintf("node %s is running at %s already, on another copy of the directory: stop one of the two for good",
		h.NodeID, k.Address)}
}

// misplaced asks at the address that h gives, if it was another node's, which of the two it leads to. raft tells by
// the address whom it has given its vote to, and would give it to both in one term.
func (m *Membership) misplaced(ctx context.Context, h *Hello) *Refusal {
	k, _ := m.peers.get(h.NodeID)
	whose := m.whose(h.Address, h.NodeID)
	if whose == "" || k.admitted && k.Life == h.life().ID && k.Address == h.Address {
		return nil
	}
	other, there := m.who(ctx, h.Address)
	if there && other.NodeID == h.NodeID && other.life() == h.life() {
		return nil
	}
	answers := "nobody answers"
	if there {
		answers = fmt.Sprintf("node %s answers", other.NodeID)
	}
	return &Refusal{Why: fmt.Sprintf("node %s says that it is at %s, which is the address of node %s, and %s there: correct --cluster-advertise",
		h.NodeID, h.Address, whose, answers)}
}

// whose is the node that an address is of as far as is known, other than the node but; empty: nobody's.
func (m *Membership) whose(address, but string) string {
	c, _ := m.configuration()
	for _, s := range c.servers {
		if string(s.Address) == address && string(s.ID) != but {
			return string(s.ID)
		}
	}
	for id, a := range m.peers.addresses() {
		if a == address && id != but {
			return id
		}
	}
	return ""
}

// who asks which node is at an address.
func (m *Membership) who(ctx context.Context, address string) (h Hello, there bool) {
	err := m.callFor(ctx, m.o.ProbeTimeout, address, pathWho, nil, &h)
	return h, err == nil && h.check() == nil
}

// meet judges h and, when it is believed, takes it over. believed is false, too, where there is nothing to
// refuse but no common cluster.
func (m *Membership) meet(ctx context.Context, h *Hello) (believed bool, r *Refusal, err error) {
	if r = m.judge(h); r == nil {
		r = m.elsewhere(ctx, h)
	}
	if r != nil || h.ClusterID == "" || h.ClusterID != m.identity.ClusterID() || !m.belongs(h.NodeID, h.Since) {
		return false, r, nil
	}
	if r = m.misplaced(ctx, h); r != nil || h.Trial {
		return false, r, nil
	}
	m.meeting.Lock()
	defer m.meeting.Unlock()
	if r = m.judge(h); r != nil { // another life of it may have been believed meanwhile
		return false, r, nil
	}
	if err := m.peers.believe(h, m.o.Now()); err != nil {
		return false, nil, err
	}
	return true, nil, nil
}

// answerHello answers another node's hello.
func (m *Membership) answerHello(ctx context.Context, h *Hello) (HelloAnswer, error) {
	a := HelloAnswer{Hello: m.hello()}
	if h.life() == a.Hello.life() {
		return a, nil // an address of our own in --join
	}
	var err error
	if a.Believed, a.Refusal, err = m.meet(ctx, h); err != nil {
		return a, err
	}
	m.learn(h)
	if a.Refusal == nil && h.ClusterID != "" && h.ClusterID == a.Hello.ClusterID {
		if c, committed := m.configuration(); committed && !c.has(h.NodeID) {
			a.Removed, a.Configuration = true, c.index
		}
	}
	return a, nil
}
