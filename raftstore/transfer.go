package raftstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/harepost/harepost/engine"
)

// summons are a leader's messages that have another node call for an election at once,
// to take over from it. That one is elected by nodes that follow the leader, and have
// just said so: the leader's lease is worth nothing from when it sends one until it is
// certain that no election comes of it any more.
type summons struct {
	now      func() time.Time
	election time.Duration // the longest that one takes that has begun

	mu    sync.Mutex
	under int       // way
	until time.Time // no lease is worth anything before
}

// heardLate is for how long a node may still hear of a summons that it has not answered:
// the timeout of raft's transport, after which the connection is closed, and some more for
// what lies in the receiver's buffers by then.
const heardLate = 15 * time.Second

// send notes a summons while it is sent.
func (s *summons) send(send func() error) error {
	s.mu.Lock()
	s.under++
	s.mu.Unlock()
	err := send()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.under--
	end := s.now().Add(s.election)
	if err != nil {
		end = end.Add(heardLate)
	}
	if end.After(s.until) {
		s.until = end
	}
	return err
}

// open reports whether somebody may be called for by a summons.
func (s *summons) open() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.under > 0 || s.now().Before(s.until)
}

// balked are the nodes to which a transfer has failed in a term; empty: to the one that
// raft chose. raft v1.8.0 may leave a question of it with the goroutine that replicates to
// the node; that of another transfer then waits for room without end, and once this node
// has lost the leadership raft takes no entry from it ever again.
type balked struct {
	mu   sync.Mutex
	term uint64
	to   map[raft.ServerID]bool
}

// note forgets those of other terms.
func (b *balked) note(term uint64, id raft.ServerID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.term != term || b.to == nil {
		b.term, b.to = term, map[raft.ServerID]bool{}
	}
	b.to[id] = true
}

// has reports whether no transfer to a node is to be tried any more in a term.
func (b *balked) has(term uint64, id raft.ServerID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.term == term && (b.to[id] || b.to[""] || id == "" && len(b.to) > 0)
}

// errBalked is that of a second transfer to a node, after one that has failed.
var errBalked = errors.New("raftstore: transfer: one has failed already since this node leads; have another node lead, or try again when the leader has changed")

// landingTime is for how long a transfer waits for what raft was given before.
const landingTime = time.Second

// Transfer has another node lead: the one with the id, or, if that is empty, the one
// that raft thinks best. It returns when this node does not lead any more, or still
// does: what comes meanwhile waits, and is refused in the first case. When ctx ends
// the transfer goes on.
func (n *Node) Transfer(ctx context.Context, id raft.ServerID, address raft.ServerAddress) error {
	done := make(chan error, 1)
	go func() { done <- n.transfer(id, address) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n *Node) transfer(id raft.ServerID, address raft.ServerAddress) error {
	n.transfers.Lock()
	defer n.transfers.Unlock()
	term := n.reign.Load()
	if !n.Leads() {
		return engine.ErrNotLeader
	}
	if n.balked.has(term, id) {
		return errBalked
	}
	// raft refuses what it is given during a transfer. The record of an attempt
	// must not be among it: if this node goes on to lead, nobody makes it again.
	if !n.batcher.hold(landingTime) {
		return errors.New("raftstore: transfer: entries are on their way for too long; try again")
	}
	defer n.batcher.release()
	var f raft.Future
	if id == "" {
		f = n.raft.LeadershipTransfer()
	} else {
		f = n.raft.LeadershipTransferToServer(id, address)
	}
	err := n.wait(f)
	if err == nil {
		n.awaitEnd(term)
		return nil
	}
	n.balked.note(term, id)
	n.awaitEntries()
	return fmt.Errorf("raftstore: transfer: %w", err)
}

// awaitEnd waits until the reign of a term is over, which raft has said.
func (n *Node) awaitEnd(term uint64) {
	for n.reign.Load() == term {
		changed := n.changes.next()
		if n.reign.Load() != term {
			return
		}
		select {
		case <-changed:
		case <-n.stop:
			return
		}
	}
}

// awaitEntries waits until raft takes entries again after a transfer that has failed: it
// says so a moment before.
func (n *Node) awaitEntries() {
	pause := time.NewTicker(transferLook)
	defer pause.Stop()
	for errors.Is(n.wait(n.raft.Barrier(0)), raft.ErrLeadershipTransferInProgress) {
		select {
		case <-pause.C:
		case <-n.stop:
			return
		}
	}
}

const transferLook = 5 * time.Millisecond

// handingOver is raft as the node's Membership has it: a transfer is the node's.
type handingOver struct {
	*raft.Raft
	n *Node
}

// Balked reports whether a transfer to a node is not tried any more in this reign.
func (h handingOver) Balked(id raft.ServerID) bool { return h.n.balked.has(h.n.reign.Load(), id) }

// LeadershipTransfer implements Consensus.
func (h handingOver) LeadershipTransfer() raft.Future { return h.LeadershipTransferToServer("", "") }

// LeadershipTransferToServer implements Consensus.
func (h handingOver) LeadershipTransferToServer(id raft.ServerID, address raft.ServerAddress) raft.Future {
	f := make(transferring, 1)
	go func() { f <- h.n.transfer(id, address) }()
	return f
}

// transferring is a transfer's error, to be asked for once.
type transferring chan error

func (f transferring) Error() error { return <-f }
