package raftstore

import (
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
)

func newMem() *vfs.MemFS { return vfs.NewCrashableMem() }

// nemesis makes things go wrong, one after the other and several at a time.
type nemesis struct {
	w       *world
	chance  *chance
	stop    chan struct{}
	strikes sync.WaitGroup // run
	under   sync.WaitGroup // faults that are not over
}

// A fault is begun, and ended by what it returns, which is nil if it has no length.
type fault struct {
	name   string
	weight int
	length time.Duration // on average
	begin  func(*nemesis) (end func())
}

var faults = []fault{
	{"cut one node off", 4, 8 * time.Second, (*nemesis).isolate},
	{"cut one direction", 4, 8 * time.Second, (*nemesis).cutOne},
	{"cut the leader off", 3, 5 * time.Second, (*nemesis).isolateLeader},
	{"lose messages", 2, 10 * time.Second, (*nemesis).lose},
	{"slow network", 2, 10 * time.Second, (*nemesis).delay},
	{"pause", 3, 2 * time.Second, (*nemesis).pause},
	{"power cut", 4, 3 * time.Second, (*nemesis).powerCut},
	{"power cut of the leader", 4, time.Second, (*nemesis).powerCutLeader},
	{"power cut of all", 1, time.Second, (*nemesis).powerCutAll},
	{"long absence", 2, 90 * time.Second, (*nemesis).absence},
	{"stop and start", 2, time.Second, (*nemesis).stopAndStart},
	{"slow disk", 2, 10 * time.Second, (*nemesis).slowDisk},
	{"broken disk", 2, 2 * time.Second, (*nemesis).brokenDisk},
	{"transfer", 2, 0, (*nemesis).transfer},
	{"snapshot", 2, 0, (*nemesis).snapshot},
	{"receivers away", 2, 60 * time.Second, (*nemesis).receiversAway},
	{"clock", 2, 30 * time.Second, (*nemesis).clock},
	{"lost disk", 1, 0, (*nemesis).loseDisk},
	{"usurper", 2, 3 * time.Second, (*nemesis).usurper},
	{"crash while a snapshot is sent", 2, time.Second, (*nemesis).crashInstall},
}

// run goes on until it is stopped. Now and then it lets all that it did come to its end.
func (m *nemesis) run() {
	total := 0
	for _, f := range faults {
		total += f.weight
	}
	for {
		if !m.wait(m.chance.around(m.w.profile.pauseBetweenFaults)) {
			return
		}
		if m.chance.happens(.1) {
			m.under.Wait()
			if !m.wait(10 * time.Second) {
				return
			}
		}
		n := m.chance.intN(total)
		for _, f := range faults {
			if n -= f.weight; n < 0 {
				m.strike(f)
				break
			}
		}
	}
}

func (m *nemesis) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-m.stop:
		return false
	}
}

func (m *nemesis) strike(f fault) {
	m.w.faults[f.name]++
	length := m.chance.around(f.length)
	m.w.trace("fault: %s, %.3fs", f.name, length.Seconds())
	m.under.Go(func() {
		end := f.begin(m)
		if end == nil {
			return
		}
		m.wait(length)
		end()
		m.w.trace("over: %s", f.name)
	})
}

func (m *nemesis) node() *simNode { return m.w.nodes[m.chance.intN(len(m.w.nodes))] }

// leader is the node that leads, or any.
func (m *nemesis) leader() *simNode {
	if l := m.w.leader(); l != nil {
		return l.node
	}
	return m.node()
}

// between does something to the links between a node and others, and what it did not.
func (m *nemesis) links(n *simNode, in, out bool, do, undo func(*simLink)) func() {
	each := func(do func(*simLink)) {
		for _, o := range m.w.nodes {
			if o == n {
				continue
			}
			if out {
				m.w.net.change(n.address(), o.address(), do)
			}
			if in {
				m.w.net.change(o.address(), n.address(), do)
			}
		}
	}
	each(do)
	return func() { each(undo) }
}

func cut(l *simLink)  { l.cuts++ }
func mend(l *simLink) { l.cuts-- }

func (m *nemesis) isolate() func() {
	n, both, in := m.node(), m.chance.happens(.5), m.chance.happens(.5)
	m.w.trace("%s: in %v, out %v", n.id, both || in, both || !in)
	return m.links(n, both || in, both || !in, cut, mend)
}

func (m *nemesis) isolateLeader() func() {
	n, both, in := m.leader(), m.chance.happens(.5), m.chance.happens(.5)
	m.w.trace("%s: in %v, out %v", n.id, both || in, both || !in)
	return m.links(n, both || in, both || !in, cut, mend)
}

func (m *nemesis) cutOne() func() {
	a, b := m.node().address(), m.node().address()
	m.w.trace("%s to %s", a, b)
	m.w.net.change(a, b, cut)
	return func() { m.w.net.change(a, b, mend) }
}

func (m *nemesis) lose() func() {
	part := float64(1+m.chance.intN(30)) / 100
	n := m.node()
	return m.links(n, true, true,
		func(l *simLink) { l.loss += part },
		func(l *simLink) { l.loss = max(0, l.loss-part) })
}

func (m *nemesis) delay() func() {
	more := m.chance.between(time.Millisecond, 300*time.Millisecond)
	n := m.node()
	return m.links(n, true, true,
		func(l *simLink) { l.most += more },
		func(l *simLink) { l.most -= more })
}

func (m *nemesis) pause() func() {
	n := m.node()
	if m.chance.happens(.5) {
		n = m.leader()
	}
	l := n.life.Load()
	if l == nil {
		return nil
	}
	held := make(chan struct{})
	if !l.held.CompareAndSwap(nil, &held) {
		return nil
	}
	m.w.trace("%s is paused", l.name)
	return func() {
		m.w.trace("%s goes on", l.name)
		l.held.Store(nil)
		close(held)
	}
}

// percent is how much of what was not synced a power cut leaves; all is a killed
// process.
func (m *nemesis) percent() int {
	switch m.chance.intN(3) {
	case 0:
		return 0
	case 1:
		return 100
	}
	return m.chance.intN(101)
}

func (m *nemesis) powerCut() func() {
	n := m.node()
	n.down(m.percent(), "power cut")
	return n.rise
}

func (m *nemesis) powerCutLeader() func() {
	n := m.leader()
	n.down(m.percent(), "power cut")
	return n.rise
}

func (m *nemesis) powerCutAll() func() {
	for _, n := range m.w.nodes {
		n.down(m.percent(), "power cut of all")
	}
	return func() {
		var all sync.WaitGroup
		for _, n := range m.w.nodes {
			all.Go(func() {
				m.wait(m.chance.between(0, time.Second))
				n.rise()
			})
		}
		all.Wait()
	}
}

// absence is long enough for the others to cut what the node needs off their logs.
func (m *nemesis) absence() func() { return m.powerCut() }

func (m *nemesis) stopAndStart() func() {
	n := m.node()
	n.leave()
	return n.rise
}

func (m *nemesis) slowDisk() func() {
	l := m.node().life.Load()
	if l == nil {
		return nil
	}
	l.disk.slow.Store(int64(m.chance.between(time.Millisecond, 500*time.Millisecond)))
	return func() { l.disk.slow.Store(0) }
}

func (m *nemesis) brokenDisk() func() {
	n := m.node()
	l := n.life.Load()
	if l == nil || !l.up.Load() {
		return nil
	}
	l.disk.broken.CompareAndSwap(0, int64(1+m.chance.intN(200)))
	return n.rise // if it has met it
}

func (m *nemesis) transfer() func() {
	l := m.w.leader()
	if l == nil {
		return nil
	}
	id, address := raft.ServerID(""), raft.ServerAddress("")
	if m.chance.happens(.5) {
		n := m.node()
		id, address = n.id, n.address()
	}
	m.w.trace("%s hands over to %q: %v", l.name, id, l.transfer(id, address))
	return nil
}

func (m *nemesis) snapshot() func() {
	l := m.node().life.Load()
	if l == nil || !l.up.Load() {
		return nil
	}
	index, err := l.raft.Snapshot()
	m.w.trace("%s takes a snapshot: %d, %v", l.name, index, err)
	return nil
}

func (m *nemesis) receiversAway() func() {
	if m.w.receivers.down.Swap(true) {
		return nil
	}
	return func() { m.w.receivers.down.Store(false) }
}

func (m *nemesis) clock() func() {
	n, most := m.node(), m.w.profile.clockError
	wrong := m.chance.between(-most, most+1)
	n.setClock(wrong)
	m.w.trace("the clock of %s is wrong by %s", n.id, wrong)
	if m.chance.happens(.5) {
		return nil
	}
	return func() { n.setClock(0) }
}

// usurper has one follower, cut off from the leader, ask for the vote of the other, which
// forgets again and again that it follows the leader.
func (m *nemesis) usurper() func() {
	l := m.w.leader()
	if l == nil {
		return nil
	}
	var others []*simNode
	for _, n := range m.w.nodes {
		if n != l.node {
			others = append(others, n)
		}
	}
	a, b := l.node.address(), others[0].address()
	both := func(do func(*simLink)) {
		m.w.net.change(a, b, do)
		m.w.net.change(b, a, do)
	}
	both(cut)
	m.wait(2 * m.w.profile.electionTimeout)
	for range 10 {
		m.wait(m.chance.between(50*time.Millisecond, 300*time.Millisecond))
		others[1].down(100, "to forget whom it follows")
		others[1].rise()
	}
	return func() { both(mend) }
}

// crashInstall waits for a snapshot to be sent, and cuts the power of one end of it.
func (m *nemesis) crashInstall() func() {
	before := m.w.snapshots.Load()
	for range 600 {
		if m.w.snapshots.Load() != before {
			most := 50 * time.Millisecond
			if m.chance.happens(.5) {
				most = 2 * time.Second
			}
			m.wait(m.chance.between(0, most))
			return m.powerCut()
		}
		if !m.wait(50 * time.Millisecond) {
			return nil
		}
	}
	return nil
}

// heal ends all that is wrong.
func (m *nemesis) heal() {
	w := m.w
	close(m.stop)
	m.strikes.Wait()
	m.under.Wait()
	w.healed.Store(true)
	for _, n := range w.nodes {
		n.setClock(0)
		if l := n.life.Load(); l != nil {
			l.disk.slow.Store(0)
			if l.disk.broken.Load() != 0 {
				n.down(100, "its disk is replaced")
			}
		}
		n.rise()
	}
	for _, l := range w.net.links {
		if l.cuts != 0 || l.loss > 1e-9 {
			w.fail("the net is not mended: %+v", *l)
		}
	}
	for _, n := range w.nodes {
		if n.left.Load() && !m.takeBack(n) {
			w.fail("%s is not taken back", n.id)
		}
	}
	w.receivers.down.Store(false)
	w.trace("all is well again: %s", fmt.Sprint(w.faults))
}
