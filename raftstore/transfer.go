package raftstore

import (
	"context"
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

// Transfer has another node lead: the one with the id, or, if that is empty, the one
// that raft thinks best. It returns when that one has been told, at the latest with ctx;
// it goes on then. From when the other is told no attempt begins here, and if it does not
// come to lead, not for some time after.
func (n *Node) Transfer(ctx context.Context, id raft.ServerID, address raft.ServerAddress) error {
	if !n.Leads() {
		return engine.ErrNotLeader
	}
	var f raft.Future
	if id == "" {
		f = n.raft.LeadershipTransfer()
	} else {
		f = n.raft.LeadershipTransferToServer(id, address)
	}
	done := make(chan error, 1)
	go func() { done <- n.wait(f) }()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("raftstore: transfer: %w", err)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
