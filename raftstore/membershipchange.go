package raftstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// How a change of the membership is refused. The texts say what to do.
var (
	// ErrNoMember means that no member has the id.
	ErrNoMember = errors.New("no such member")
	// ErrNotLeading means that another node leads, or none: the request is to go to the leader.
	ErrNotLeading = errors.New("this node does not lead")
	// ErrUnsafe means that the cluster would lose its majority.
	ErrUnsafe = errors.New("the cluster would be left without a majority")
	// ErrNoHeir means that the node that was named, or any other, cannot take over.
	ErrNoHeir = errors.New("the leadership cannot be handed over")
)

// A Member is a node of the cluster as this one sees it.
type Member struct {
	ID, Address string
	API         string // empty as long as it was not met
	Version     string // of its program
	Voter       bool
	Self        bool
	Leader      bool
	LastIndex   uint64    // where its log ended when it was last heard; of itself, now
	Heard       time.Time // when it was last heard; zero: not in this life
}

// Members are those of the committed configuration, by id.
func (m *Membership) Members() []Member {
	c, _ := m.configuration()
	me := m.hello()
	var list []Member
	for _, s := range c.servers {
		n := Member{ID: string(s.ID), Address: string(s.Address), Voter: s.Suffrage == raft.Voter, Leader: string(s.ID) == me.LeaderID}
		if n.ID == me.NodeID {
			n.Self, n.API, n.Version, n.LastIndex, n.Heard = true, me.API, me.Version, me.LastIndex, m.o.Now()
		} else if k, ok := m.peers.get(n.ID); ok {
			n.API, n.Version, n.LastIndex, n.Heard = k.API, k.version, k.last, k.heard
		}
		list = append(list, n)
	}
	slices.SortFunc(list, func(a, b Member) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// beginChange waits for its turn to change the configuration, which endChange ends.
func (m *Membership) beginChange(ctx context.Context) error {
	select {
	case m.changes <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (m *Membership) endChange() { <-m.changes }

// leading is raft and the configuration, if this node leads.
func (m *Membership) leading() (Consensus, configuration, error) {
	r := m.consensus()
	c, known := m.configuration()
	if r == nil || !known || r.State() != raft.Leader {
		return nil, c, ErrNotLeading
	}
	return r, c, nil
}

// Remove takes a member out of the cluster; on the leader only. It returns when that is committed. The last voter is
// never removed, and none whose removal leaves no majority of nodes that are alive, unless force is set. A leader that
// is to remove itself hands over instead, and returns ErrNotLeading: the new leader is to be asked.
func (m *Membership) Remove(ctx context.Context, id string, force bool) error {
	if err := m.beginChange(ctx); err != nil {
		return err
	}
	defer m.endChange()
	r, c, err := m.leading()
	if err != nil {
		return err
	}
	s, ok := c.server(id)
	if !ok {
		return fmt.Errorf("%w: %q; there are %s", ErrNoMember, id, c.names())
	}
	if s.Suffrage == raft.Voter {
		if c.voters() == 1 {
			return fmt.Errorf("%w: node %s is the only voter. To end the cluster stop it; `harepost cluster detach` makes a single node of its directory", ErrUnsafe, id)
		}
		if alive, needed := m.alive(&c, id), (c.voters()-1)/2+1; alive < needed && !force {
			return fmt.Errorf("%w: of the %d voters that stay %d are alive, %d are needed. Bring others back first, or give --force", ErrUnsafe, c.voters()-1, alive, needed)
		}
	}
	if id == m.identity.NodeID() {
		if err := m.transfer(ctx, r, &c, ""); err != nil {
			return err
		}
		return fmt.Errorf("%w: node %s was to remove itself and has handed over: ask again", ErrNotLeading, id)
	}
	f := r.RemoveServer(s.ID, c.index, m.o.ChangeTimeout)
	if err := await(ctx, f); err != nil {
		return fmt.Errorf("remove node %s: %w", id, err)
	}
	m.o.Logger.Info("a node was removed", "node", id)
	return nil
}

// Transfer makes another node lead: the one with the id, or, when it is empty, the one that is the most up to date. On the
// leader only. It returns when the other one has been told to; whether it wins its election is seen by who leads.
func (m *Membership) Transfer(ctx context.Context, id string) error {
	if err := m.beginChange(ctx); err != nil {
		return err
	}
	defer m.endChange()
	r, c, err := m.leading()
	if err != nil {
		return err
	}
	return m.transfer(ctx, r, &c, id)
}

// Transferable is the error that Transfer is going to have, as far as that is known before.
func (m *Membership) Transferable(id string) error {
	_, c, err := m.leading()
	if err == nil {
		_, err = m.heir(&c, id)
	}
	return err
}

// heir is the node with the id, or the best if that is empty, if it can take over, or leads.
func (m *Membership) heir(c *configuration, id string) (raft.Server, error) {
	if id == "" {
		best, unfit := m.successor(c)
		switch {
		case best == "" && unfit == "":
			return raft.Server{}, fmt.Errorf("%w: no other voter is alive", ErrNoHeir)
		case best == "":
			return raft.Server{}, fmt.Errorf("%w: no other voter is alive and fit to lead: %s", ErrNoHeir, unfit)
		}
		id = best
	}
	s, ok := c.server(id)
	switch {
	case !ok:
		return s, fmt.Errorf("%w: %q; there are %s", ErrNoMember, id, c.names())
	case id == m.identity.NodeID():
		return s, nil
	case s.Suffrage != raft.Voter:
		return s, fmt.Errorf("%w: node %s has no vote yet, it has to catch up first", ErrNoHeir, id)
	case !m.isAlive(id):
		return s, fmt.Errorf("%w: node %s has not been heard for %s", ErrNoHeir, id, m.o.Contact)
	}
	if k, _ := m.peers.get(id); k.unfit != "" {
		return s, fmt.Errorf("%w: node %s is not fit to lead: %s", ErrNoHeir, id, k.unfit)
	}
	if m.balked(s.ID) {
		return s, fmt.Errorf("%w: node %s: %w", ErrNoHeir, id, errBalked)
	}
	return s, nil
}

func (m *Membership) transfer(ctx context.Context, r Consensus, c *configuration, id string) error {
	s, err := m.heir(c, id)
	if err != nil || string(s.ID) == m.identity.NodeID() { // it leads
		return err
	}
	if err := await(ctx, r.LeadershipTransferToServer(s.ID, s.Address)); err != nil {
		return fmt.Errorf("transfer the leadership to node %s: %w", s.ID, err)
	}
	m.o.Logger.Info("the leadership was handed over", "to", s.ID)
	return nil
}

// successor is the other voter that is alive and fit to lead, and whose log is the longest; empty: there is none, and
// unfit says why those that are alive are not.
func (m *Membership) successor(c *configuration) (id, unfit string) {
	var longest uint64
	var why []string
	for _, s := range c.servers {
		k, known := m.peers.get(string(s.ID))
		switch {
		case !known || s.Suffrage != raft.Voter || !m.isAlive(string(s.ID)):
		case m.balked(s.ID):
			why = append(why, fmt.Sprintf("node %s: %v", s.ID, errBalked))
		case k.unfit != "":
			why = append(why, fmt.Sprintf("node %s: %s", s.ID, k.unfit))
		case id == "" || k.last > longest:
			id, longest = string(s.ID), k.last
		}
	}
	return id, strings.Join(why, "; ")
}

// balked reports whether raft would not try to hand over to a node.
func (m *Membership) balked(id raft.ServerID) bool {
	r, ok := m.consensus().(interface{ Balked(raft.ServerID) bool })
	return ok && r.Balked(id)
}

// alive counts the voters that have been heard lately, this node among them, without one.
func (m *Membership) alive(c *configuration, without string) (n int) {
	for _, s := range c.servers {
		if id := string(s.ID); id != without && s.Suffrage == raft.Voter && (id == m.identity.NodeID() || m.isAlive(id)) {
			n++
		}
	}
	return n
}

// isAlive reports whether a node answers raft, which that it says hello does not tell: a leader that counts on it for a
// majority steps down when it does not.
func (m *Membership) isAlive(id string) bool {
	k, ok := m.peers.get(id)
	return ok && k.admitted && m.o.Now().Sub(k.answered) < m.o.Contact
}

func (c *configuration) names() string {
	var ids []string
	for _, s := range c.servers {
		ids = append(ids, string(s.ID))
	}
	slices.Sort(ids)
	return strings.Join(ids, ", ")
}

// await waits for a future, which raft answers when it is shut down, or for ctx: then the outcome is unknown.
func await(ctx context.Context, f raft.Future) error {
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("the outcome is unknown: %w", context.Cause(ctx))
	}
}
