package raftstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Form returns when the node belongs to a cluster: at once if it does already, else when it has founded one with
// others (Expect) or was taken into one that is there (Join, Token). ErrRefused and ErrIdentity are for good;
// anything else it tries again until ctx is done.
//
// # Founding
//
// Expect empty nodes that know of each other found a cluster; the one with the smallest id coordinates. It must
// never be two clusters, whoever sees whom and whoever dies when:
//
//	coordinator                                the others
//	draws a cluster id, writes down
//	its proposal as its own promise ──────►    promises itself to it, durably, if it is empty and
//	                                           promised to no other
//	all have promised: writes down that  ◄──
//	it is a member. That is the moment at
//	which the cluster exists.
//	says so in its hello              ──────►  write down that they are members
//	all write the same first entry to their log, see Identity.Found
//
// A promise is void only when its coordinator, in the same directory, has another one or none: then the proposal was
// given up, and it was not decided. Of two coordinators that are in each other's way the smaller id stays. A node
// that has promised itself waits for its coordinator; if that one's directory is lost before the cluster
// exists, nothing was accepted yet, and the others' directories have to be emptied.
func (m *Membership) Form(ctx context.Context) error {
	if m.identity.ClusterID() != "" {
		return nil
	}
	f := former{m: m}
	for {
		if err := f.round(ctx); err != nil && !errors.Is(err, errSuperseded) {
			return err
		}
		if m.identity.ClusterID() != "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-m.wake:
		case <-time.After(m.o.Interval):
		}
	}
}

// former is Form's own.
type former struct {
	m    *Membership
	told string // what was last logged
}

// tell logs what the node waits for, once.
func (f *former) tell(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); text != f.told {
		f.told = text
		f.m.o.Logger.Info("waiting for a cluster", "why", text)
	}
}

// round asks all others once and does what follows from it.
func (f *former) round(ctx context.Context) error {
	m := f.m
	// What the others say is held against the promise that there was when they were asked: an answer from before
	// a promise would make it look void.
	me := m.identity.get()
	others := map[string]*Hello{} // by node
	var final error
	for r := range m.sayAll(ctx, m.targets()) {
		switch {
		case r.err != nil || r.self:
		case r.answer.Refusal != nil && r.answer.Refusal.Final:
			final = r.answer.Refusal.err()
		case r.answer.Refusal != nil:
			f.tell("%s", r.answer.Refusal.Why)
		case r.judged != nil:
			f.tell("%s", r.judged.Why)
		default:
			others[r.answer.Hello.NodeID] = &r.answer.Hello
		}
	}
	if final != nil {
		return final
	}
	if p := me.Promise; p != nil && p.Coordinator.Directory != me.Directory {
		return f.promised(p, others)
	}
	for _, h := range others {
		if h.ClusterID == "" {
			continue
		}
		if me.Promise != nil { // ours, and not decided
			if err := m.identity.release(me.Promise); err != nil {
				return err
			}
		}
		return f.join(ctx, others)
	}
	if m.o.Expect == 0 {
		f.tell("no cluster was found at --join %v", m.o.Join)
		return nil
	}
	return f.found(ctx, &me, others)
}

// promised is the round of a node that has promised itself to another one's proposal.
func (f *former) promised(p *Proposal, others map[string]*Hello) error {
	m := f.m
	for _, h := range others {
		if h.ClusterID == p.ClusterID {
			return m.adopt(p)
		}
	}
	switch coordinator := others[p.Coordinator.ID]; {
	case coordinator == nil:
		f.tell("node %s, which founds the cluster, does not answer", p.Coordinator.ID)
		return nil
	case coordinator.Directory != p.Coordinator.Directory:
		return fmt.Errorf("%w: node %s has lost its directory while the cluster was founded: empty this node's directory and those of the other new nodes, and start them again",
			ErrIdentity, p.Coordinator.ID)
	case p.same(coordinator.Promise):
		f.tell("node %s founds the cluster and has not finished", p.Coordinator.ID)
		return nil
	}
	return m.identity.release(p)
}

func (m *Membership) adopt(p *Proposal) error {
	if err := m.identity.adopt(p); err != nil {
		return err
	}
	m.o.Logger.Info("a cluster was founded", "cluster", p.ClusterID, "nodes", len(p.Founders))
	return nil
}

// found is the round of a node that waits for others to found a cluster with.
func (f *former) found(ctx context.Context, me *self, others map[string]*Hello) error {
	m := f.m
	founders, inTheWay := f.founders(me, others)
	if founders == nil {
		if inTheWay && me.Promise != nil {
			return m.identity.release(me.Promise)
		}
		return nil
	}
	p := me.Promise
	if p == nil || !slices.Equal(p.Founders, founders) {
		p = &Proposal{ClusterID: drawID(), Number: me.Proposals + 1, Founders: founders,
			Coordinator: Founder{ID: me.NodeID, Directory: me.Directory, Address: m.o.Address}}
		if err := m.identity.propose(p); err != nil {
			return err
		}
	}
	for _, founder := range founders {
		if founder.ID == me.NodeID {
			continue
		}
		var a promiseAnswer
		if err := m.call(ctx, founder.Address, pathPromise, promiseRequest{m.hello(), *p}, &a); err != nil {
			f.tell("node %s at %s does not answer: %v", founder.ID, founder.Address, err)
			return nil
		}
		if a.Promised {
			continue
		}
		f.tell("node %s does not take part: %s", founder.ID, a.Why)
		if a.To == "" || a.To < me.NodeID {
			return m.identity.release(p)
		}
		return nil
	}
	return m.adopt(p)
}

// founders are those of the cluster that this node is to coordinate, nil when it is not to, or not yet. inTheWay
// tells that what it has proposed before is to be given up.
func (f *former) founders(me *self, others map[string]*Hello) (founders []Founder, inTheWay bool) {
	m := f.m
	founders = []Founder{{ID: me.NodeID, Directory: me.Directory, Address: m.o.Address}}
	for id, h := range others {
		switch {
		case h.Expect == 0: // it waits to be taken in
		case h.Expect != m.o.Expect:
			f.tell("node %s has --bootstrap-expect %d and this node %d: give all the same", id, h.Expect, m.o.Expect)
			return nil, false
		case h.Promise != nil && h.Promise.Coordinator.ID < me.NodeID:
			f.tell("node %s founds a cluster with node %s", h.Promise.Coordinator.ID, id)
			return nil, true
		default:
			founders = append(founders, Founder{ID: id, Directory: h.Directory, Address: h.Address})
		}
	}
	slices.SortFunc(founders, func(a, b Founder) int { return cmp.Compare(a.ID, b.ID) })
	if founders[0].ID != me.NodeID {
		f.tell("node %s is to found the cluster", founders[0].ID)
		return nil, true
	}
	if len(founders) < m.o.Expect {
		f.tell("%d of %d nodes are there", len(founders), m.o.Expect)
		return nil, false
	}
	founders = founders[:m.o.Expect]
	for i, a := range founders {
		if slices.ContainsFunc(founders[:i], func(b Founder) bool { return a.Address == b.Address }) {
			f.tell("two nodes say that they are at %s: correct --cluster-advertise", a.Address)
			return nil, false
		}
	}
	return founders, false
}

type promiseRequest struct {
	Hello    Hello    `json:"hello"`
	Proposal Proposal `json:"proposal"`
}

type promiseAnswer struct {
	Promised bool   `json:"promised"`
	Why      string `json:"why,omitempty"`
	To       string `json:"to,omitempty"` // the coordinator that it is promised to instead; empty: ask no more
}

// answerPromise has the node take part in founding a cluster, or says why not.
func (m *Membership) answerPromise(r *promiseRequest) (promiseAnswer, error) {
	p := &r.Proposal
	me := m.identity.get()
	mine := Founder{ID: me.NodeID, Directory: me.Directory, Address: m.o.Address}
	switch {
	case r.Hello.NodeID != p.Coordinator.ID || r.Hello.Directory != p.Coordinator.Directory || len(p.ClusterID) != len(drawID()):
		return promiseAnswer{}, &badRequest{fmt.Errorf("raftstore: the proposal is not from node %s", r.Hello.NodeID)}
	case !slices.Contains(p.Founders, mine):
		return promiseAnswer{Why: fmt.Sprintf("the proposal is not about node %s at %s", me.NodeID, m.o.Address)}, nil
	case me.ClusterID == p.ClusterID, me.Promise.same(p):
		return promiseAnswer{Promised: true}, nil
	case me.ClusterID != "":
		return promiseAnswer{Why: "it is a member of the cluster " + me.ClusterID}, nil
	case m.o.Expect != len(p.Founders):
		return promiseAnswer{Why: fmt.Sprintf("its --bootstrap-expect is %d", m.o.Expect)}, nil
	}
	a := promiseAnswer{Promised: true}
	err := m.identity.change(func(s *self) error {
		old := s.Promise
		switch {
		case s.ClusterID != "":
			a = promiseAnswer{Why: "it is a member of the cluster " + s.ClusterID}
			return errSuperseded
		case old == nil:
		case old.Coordinator.Directory == p.Coordinator.Directory && old.Number < p.Number: // given up
		case old.Coordinator.Directory == s.Directory && p.Coordinator.ID < s.NodeID: // ours, given up here
		default:
			a = promiseAnswer{Why: fmt.Sprintf("it takes part in the cluster that node %s founds", old.Coordinator.ID), To: old.Coordinator.ID}
			return errSuperseded
		}
		s.Promise = p
		return nil
	})
	if err == errSuperseded {
		err = nil
	}
	m.signal()
	return a, err
}
