package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

// heard is what came of saying hello at one address.
type heard struct {
	address string
	answer  HelloAnswer
	self    bool     // it is an address of our own
	judged  *Refusal // what this node has against the other one
	err     error    // there is no answer
}

// say says hello at an address.
func (m *Membership) say(ctx context.Context, address string) (r heard) {
	r.address = address
	mine := m.hello()
	r.err = m.call(ctx, address, pathHello, mine, &r.answer)
	m.tellSilence(ctx, address, r.err)
	if r.err != nil {
		return r
	}
	h := &r.answer.Hello
	if r.err = h.check(); r.err != nil {
		return r
	}
	if h.NodeID == mine.NodeID && h.life() == mine.life() {
		r.self = true
		return r
	}
	m.learn(h)
	if r.answer.Refusal != nil || !r.answer.Believed {
		// Whoever does not believe us is not to be a peer of raft's. But what it is may be of interest.
		r.judged = m.judge(h)
		return r
	}
	_, r.judged, r.err = m.meet(ctx, h)
	return r
}

// sayAll says hello at several addresses at once, and hands the answers out as they come. The channel is closed
// after the last.
func (m *Membership) sayAll(ctx context.Context, addresses []string) <-chan heard {
	answers := make(chan heard, len(addresses))
	var calls sync.WaitGroup
	for _, a := range addresses {
		calls.Go(func() { answers <- m.say(ctx, a) })
	}
	go func() { // ends with the calls, which ctx and CallTimeout end
		calls.Wait()
		close(answers)
	}()
	return answers
}

// Greet says hello to all other nodes that are known, before raft is started, and fails if they refuse this one:
// if any of them says that it is not who it was, or if the majority of those that answer refuse it. Who refuses it
// where no member is known to be, as at an address of --join that is another cluster's by now, does not count. It waits
// a while for those that do not answer (GreetWait, GreetGrace); then they are left to Start, and to Admit.
//
// It asks all of them first whether they would believe it (Hello.Trial), and only then has them do so: not every node
// knows enough to tell an old copy of a directory, and one that took note of the copy's life would refuse the
// directory itself from then on.
func (m *Membership) Greet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, m.o.GreetWait)
	defer cancel()
	m.tryOut(true)
	there, err := m.greet(ctx, m.targets())
	if err != nil {
		return err
	}
	m.tryOut(false)
	_, err = m.greet(ctx, there)
	return err
}

// tryOut says whether the hellos of a node that has opened its log are trials.
func (m *Membership) tryOut(trial bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tried = !trial
}

// greet says hello at the addresses in open. there are those that answered.
func (m *Membership) greet(ctx context.Context, open []string) (there []string, err error) {
	var grace <-chan time.Time
	answered := map[string]*Refusal{} // by node
	starting := map[string]bool{}     // by address: it is there, and is going to answer
	for len(open) > 0 {
		answers := m.sayAll(ctx, open)
		var silent []string
		for answers != nil {
			select {
			case r, ok := <-answers:
				if !ok {
					answers = nil
					continue
				}
				delete(starting, r.address)
				if errors.Is(r.err, errStarting) {
					starting[r.address] = true
				}
				if r.err != nil {
					silent = append(silent, r.address)
				} else if !r.self {
					if err := m.verdict(&r); err != nil {
						return nil, err
					}
					there = append(there, r.address)
					if r.answer.Refusal == nil || m.expected(r.address) {
						answered[r.answer.Hello.NodeID] = r.answer.Refusal
					}
				}
				if grace == nil && m.majority(len(answered)) {
					grace = time.After(m.o.GreetGrace)
				}
			case <-grace:
				if len(starting) == 0 {
					return there, m.count(answered)
				}
				grace = nil // until it has answered
			}
		}
		if open = silent; len(open) == 0 {
			break
		}
		select {
		case <-ctx.Done():
			open = nil
		case <-grace:
			if grace = nil; len(starting) == 0 {
				open = nil
			}
		case <-time.After(m.o.Interval / 4):
		}
	}
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return nil, err
	}
	return there, m.count(answered)
}

// majority reports whether that many other nodes and this one are more than half of the voters. A configuration of one
// may be out of date where others have been met.
func (m *Membership) majority(others int) bool {
	c, known := m.configuration()
	met := len(m.peers.ids())
	if known && (c.voters() > 1 || met == 0) {
		return others+1 > c.voters()/2
	}
	return others > 0 && others+1 > (met+1)/2
}

// expected reports whether a member may be at an address. As long as none is known that is any.
func (m *Membership) expected(address string) bool {
	_, known := m.configuration()
	return !known && len(m.peers.ids()) == 0 || m.whose(address, m.identity.NodeID()) != ""
}

// count is the error of a node that most refuse.
func (m *Membership) count(answered map[string]*Refusal) error {
	var why []string
	for _, r := range answered {
		if r != nil {
			why = append(why, r.Why)
		}
	}
	if len(why) > len(answered)/2 {
		return fmt.Errorf("%w: %d of the %d nodes that answered refuse this one: %s", ErrRefused, len(why), len(answered), strings.Join(why, "; "))
	}
	return nil
}

// verdict is the error by which an answer ends this node. What is about the directory is written down first, so that
// a node that is started again and again does not become somebody that nobody remembers.
func (m *Membership) verdict(r *heard) error {
	me := m.identity.get()
	switch refusal := r.answer.Refusal; {
	case refusal != nil && refusal.Stale:
		return errors.Join(refusal.err(), m.identity.condemn(refusal.Why))
	case refusal != nil && refusal.Final && r.answer.Hello.ClusterID == me.ClusterID:
		return refusal.err() // another one, as an empty node that has this one's id by mistake, is the one to end
	case refusal != nil:
		m.warn("another node refuses this one", r, refusal.Why)
	case r.answer.Removed && r.answer.Configuration >= me.Since && r.answer.Hello.ClusterID == me.ClusterID:
		return m.removed(r.answer.Hello.NodeID)
	case r.judged != nil:
		m.warn("another node is refused", r, r.judged.Why)
	}
	return nil
}

// tellSilence logs why a node cannot be talked to, once until it can, or it is for something else. That one is not
// there, or slow, is not told: whoever leads tells of it.
func (m *Membership) tellSilence(ctx context.Context, address string, err error) {
	var timeout net.Error
	switch {
	case err == nil:
		m.mu.Lock()
		delete(m.warned, address)
		m.mu.Unlock()
		return
	case ctx.Err() != nil, errors.Is(err, errStarting), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET),
		errors.As(err, &timeout) && timeout.Timeout():
		return
	}
	if m.news(address, err.Error()) {
		m.o.Logger.Warn("another node cannot be talked to", "address", address, "error", err)
	}
}

// news reports whether something was not the last that was logged of a node.
func (m *Membership) news(of, what string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.warned[of] == what {
		return false
	}
	if len(m.warned) >= peersKept {
		clear(m.warned)
	}
	m.warned[of] = what
	return true
}

// warn logs what is between this node and another one, once until it is something else.
func (m *Membership) warn(what string, r *heard, why string) {
	id := r.answer.Hello.NodeID
	if m.news(id, what+why) {
		m.o.Logger.Warn(what, "node", id, "address", r.address, "why", why)
	}
}

// removed writes down that the node is not a member any more, and is the error of that.
func (m *Membership) removed(by string) error {
	id := m.identity.NodeID()
	why := fmt.Sprintf("node %s was removed from the cluster (node %s knows). To have it back, empty its directory and start it with --join", id, by)
	return errors.Join(fmt.Errorf("%w: %s", ErrRefused, why), m.identity.condemn(why))
}

// Start begins to look after the other nodes: it says hello to those that were not met, promotes new ones that have
// caught up and takes over new addresses where this node leads, and finds out when the node is not to go on. fit says
// why this node should not lead, or nil: whoever leads hands over to others.
func (m *Membership) Start(r Consensus, fit func() error) {
	m.mu.Lock()
	m.raft, m.fit = r, fit
	m.mu.Unlock()
	m.loop.Go(m.watch)
}

// Close ends that, and saves what is known of other nodes. It may be called again.
func (m *Membership) Close() error {
	m.closing.Do(func() { close(m.done) })
	m.loop.Wait()
	return m.peers.save()
}

// helloEvery is how many intervals pass between two hellos to a node that was met.
const helloEvery = 2

func (m *Membership) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { // ends with watch
		select {
		case <-m.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	ticker := time.NewTicker(m.o.Interval)
	defer ticker.Stop()
	for round := 0; ; round++ {
		if err := m.round(ctx, round%helloEvery == 0); err != nil && ctx.Err() == nil {
			m.stop(err)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (m *Membership) stop(err error) {
	m.mu.Lock()
	again := m.stopped
	m.stopped = true
	m.mu.Unlock()
	if !again {
		m.o.Stopped(err)
	}
}

// round does what is due. An error is the end.
func (m *Membership) round(ctx context.Context, all bool) error {
	var end error
	for r := range m.sayAll(ctx, m.due(all)) {
		if r.err == nil && !r.self && end == nil {
			end = m.verdict(&r)
		}
	}
	if end != nil {
		return end
	}
	c, known := m.configuration()
	if me := m.identity.get(); known && c.index >= me.Since && !c.has(me.NodeID) {
		return m.removed(me.NodeID)
	}
	if known {
		// One that is just being taken in is not in the configuration yet.
		m.peers.keep(func(id string, k *peer) bool { return c.has(id) || k.Since == 0 || k.Since > c.index })
	}
	if r := m.consensus(); r.State() == raft.Leader {
		m.lead(ctx, r, &c)
	}
	if all {
		if err := m.peers.save(); err != nil {
			m.o.Logger.Warn("what is known of other nodes could not be saved", "error", err)
		}
	}
	return nil
}

// due are the addresses where hello is to be said: where nobody has been met, or all.
func (m *Membership) due(all bool) []string {
	var due []string
	met := map[string]bool{}
	m.peers.mu.Lock()
	for _, k := range m.peers.known {
		met[k.Address] = met[k.Address] || k.admitted
	}
	m.peers.mu.Unlock()
	for _, a := range m.members() {
		if all || !met[a] {
			due = append(due, a)
		}
	}
	return due
}

// members are the addresses of the nodes of the cluster, as the configuration and they themselves have it. In a
// cluster of which no configuration is known yet, they are all that there may be.
func (m *Membership) members() []string {
	c, known := m.configuration()
	if !known {
		return m.targets()
	}
	told := m.peers.addresses()
	var list []string
	for _, s := range c.servers {
		if s.ID == raft.ServerID(m.identity.NodeID()) {
			continue
		}
		list = append(list, string(s.Address))
		if a := told[string(s.ID)]; a != "" && a != string(s.Address) {
			list = append(list, a)
		}
	}
	for _, id := range m.peers.ids() { // taken in later than c, see belongs; all others are forgotten
		if k, _ := m.peers.get(id); k.Since > c.index && told[id] != "" && !c.has(id) {
			list = append(list, told[id])
		}
	}
	return list
}
