package raftstore

import (
	"time"

	"github.com/hashicorp/raft"
)

// loseDisk takes a follower out of the cluster, empties its directory, and takes it back:
// without a vote first, and with one when it has caught up.
func (m *nemesis) loseDisk() func() {
	n := m.node()
	if l := m.w.leader(); l == nil || l.node == n {
		return nil
	}
	for _, o := range m.w.nodes {
		if o.left.Load() {
			return nil
		}
	}
	n.left.Store(true)
	m.w.trace("%s is taken out", n.id)
	if !m.changeMembers(func(r *raft.Raft) raft.Future { return r.RemoveServer(n.id, 0, 0) }) {
		m.takeBack(n) // it may be out, and has all that it had
		return nil
	}
	n.down(100, "its disk is lost")
	n.turn <- struct{}{}
	if l := n.life.Load(); l != nil { // started again meanwhile
		n.cut(l, 100, "its disk is lost")
	}
	n.mem = newMem()
	<-n.turn
	n.rise()
	m.takeBack(n)
	return nil
}

// takeBack makes a voter of a node that has been taken out, if it can within a minute.
func (m *nemesis) takeBack(n *simNode) bool {
	add := func(r *raft.Raft) raft.Future { return r.AddNonvoter(n.id, n.address(), 0, 0) }
	ok := m.changeMembers(func(r *raft.Raft) raft.Future {
		if f := r.GetConfiguration(); f.Error() == nil {
			for _, s := range f.Configuration().Servers {
				if s.ID == n.id {
					return f // it is there
				}
			}
		}
		return add(r)
	})
	for end := time.Now().Add(time.Minute); ok && !m.caughtUp(n); sleep(100 * time.Millisecond) {
		ok = time.Now().Before(end)
	}
	ok = ok && m.changeMembers(func(r *raft.Raft) raft.Future { return r.AddVoter(n.id, n.address(), 0, 0) })
	m.w.trace("%s is taken back: %v", n.id, ok)
	if ok {
		n.left.Store(false)
	}
	return ok
}

func (m *nemesis) caughtUp(n *simNode) bool {
	leader, l := m.w.leader(), n.life.Load()
	return leader != nil && l != nil && l.up.Load() && l.raft.raft.AppliedIndex()+10 > leader.raft.raft.CommitIndex()
}

// changeMembers has a leader change the configuration, whichever leads within a minute.
func (m *nemesis) changeMembers(change func(*raft.Raft) raft.Future) bool {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); sleep(300 * time.Millisecond) {
		if l := m.w.leader(); l != nil {
			err := l.raft.wait(change(l.raft.raft))
			if err == nil {
				return true
			}
			m.w.trace("%s changes the members: %v", l.name, err)
		}
	}
	return false
}
