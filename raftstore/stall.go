package raftstore

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// A stall is a leader's disk that takes no entry and gives no error either. raft's own
// goroutine waits for it, and with it all that would end the reign, while heartbeats go
// on beside it: the others would follow a leader for good that can do nothing. So such a
// node says nothing more in its term, by which it is followed no longer and gives up to
// lead when the disk goes on.
type stall struct {
	term atomic.Uint64 // in which nothing is said; 0: none
}

func (s *stall) begin(term uint64)       { s.term.Store(term) }
func (s *stall) silent(term uint64) bool { return term != 0 && s.term.Load() == term }
func (s *stall) say(term uint64) (err error) {
	if s.silent(term) {
		err = errStalled
	}
	return err
}

// errStalled is that of a message that a leader does not send.
var errStalled = errors.New("raftstore: the disk takes no entries")

// watchDisk has this node fall silent while it leads and its disk hangs. Where no other
// node can lead, that would help nobody.
func (n *Node) watchDisk() {
	look := time.NewTicker(n.cfg.ElectionTimeout / 4)
	defer look.Stop()
	for {
		select {
		case <-look.C:
			storing, term := n.store.Storing(), n.raft.CurrentTerm()
			if storing < n.cfg.DiskPatience || n.raft.State() != raft.Leader || n.stall.silent(term) || n.voters() < 2 {
				continue
			}
			n.cfg.Logger.Error("this node's disk hangs while it leads: it falls silent, so that another one is elected", "node", n.cfg.ID, "term", term, "waited", storing)
			n.stall.begin(term)
		case <-n.stop:
			return
		}
	}
}

// voters is how many there are in the newest configuration that this node knows of.
func (n *Node) voters() (voters int) {
	for _, s := range n.servers() {
		if s.Suffrage == raft.Voter {
			voters++
		}
	}
	return voters
}
