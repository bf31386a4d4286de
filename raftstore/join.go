package raftstore

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/raft"
)

// membersMost bounds the nodes of a cluster.
const membersMost = 32

type joinRequest struct {
	Hello  Hello  `json:"hello"`
	Token  string `json:"token"`
	Passed bool   `json:"passed,omitempty"` // on by a follower
}

type joinAnswer struct {
	ClusterID string `json:"cluster_id,omitempty"` // of the cluster that has taken it in
	Since     uint64 `json:"since,omitempty"`      // by the configuration at this index
	Refused   string `json:"refused,omitempty"`    // why not
	Final     bool   `json:"final,omitempty"`      // it is no use to try again
}

func notJoined(final bool, format string, args ...any) joinAnswer {
	return joinAnswer{Refused: fmt.Sprintf(format, args...), Final: final}
}

// join asks the members of a cluster, one after the other, to take the node in.
func (f *former) join(ctx context.Context, others map[string]*Hello) error {
	m := f.m
	clusters := map[string]string{} // one of its nodes, by cluster
	for id, h := range others {
		if h.ClusterID != "" {
			clusters[h.ClusterID] = id
		}
	}
	if len(clusters) > 1 {
		return fmt.Errorf("%w: the addresses of --join lead to %d clusters, with the nodes %s: give those of one",
			ErrRefused, len(clusters), strings.Join(slices.Sorted(maps.Values(clusters)), " and "))
	}
	var final error
	for _, id := range slices.Sorted(maps.Keys(others)) {
		h := others[id]
		if h.ClusterID == "" {
			continue
		}
		var a joinAnswer
		if err := m.callFor(ctx, m.o.ChangeTimeout, h.Address, pathJoin, joinRequest{Hello: m.hello(), Token: m.o.Token}, &a); err != nil {
			f.tell("node %s at %s does not answer: %v", id, h.Address, err)
			continue
		}
		switch {
		case a.Final:
			if final == nil || !strings.Contains(final.Error(), a.Refused) { // all may say the same
				final = errors.Join(final, fmt.Errorf("%w: %s", ErrRefused, a.Refused))
			}
			continue // another one may have been given the token
		case a.Refused != "":
			f.tell("%s", a.Refused)
			continue
		case a.ClusterID != h.ClusterID || a.Since == 0:
			return fmt.Errorf("raftstore: node %s took this one into the cluster %q, it said that it is of %s", id, a.ClusterID, h.ClusterID)
		}
		if err := m.identity.join(a.ClusterID, a.Since); err != nil {
			return err
		}
		m.o.Logger.Info("the node was taken into a cluster", "cluster", a.ClusterID)
		return nil
	}
	return final
}

// answerJoin takes a node in, as one without a vote, or says why not. A follower passes it on, once.
func (m *Membership) answerJoin(ctx context.Context, r *joinRequest, peer string) (joinAnswer, error) {
	if peer != "" && peer != r.Hello.NodeID && !(r.Passed && m.belongs(peer, 0)) {
		return joinAnswer{}, &badRequest{fmt.Errorf("raftstore: the certificate is for node %q, the request from %q", peer, r.Hello.NodeID)}
	}
	me := m.identity.get()
	switch {
	case me.ClusterID == "":
		return notJoined(false, "node %s is a member of no cluster yet", me.NodeID), nil
	case m.o.Token == "":
		return notJoined(true, "node %s has no --join-token, so nobody is taken in: start it with one", me.NodeID), nil
	case r.Token == "":
		return notJoined(true, "there is a cluster already, and it takes in who knows its --join-token: give it"), nil
	case !sameToken(r.Token, m.o.Token):
		m.o.Logger.Warn("a node was refused, its join token is another one", "node", r.Hello.NodeID, "address", r.Hello.Address)
		return notJoined(true, "the --join-token is not that of node %s", me.NodeID), nil
	case r.Hello.ClusterID != "" && r.Hello.ClusterID != me.ClusterID:
		return notJoined(true, "the directory belongs to the cluster %s, this is %s: give an empty one", r.Hello.ClusterID, me.ClusterID), nil
	case r.Hello.Protocol < Protocol-1 || r.Hello.Protocol > Protocol+1:
		return notJoined(true, "%s", m.judge(&r.Hello).Why), nil
	}
	c := m.consensus()
	if c == nil {
		return notJoined(false, "node %s is starting", me.NodeID), nil
	}
	if c.State() == raft.Leader {
		return m.takeIn(ctx, c, &r.Hello)
	}
	leader, id := c.LeaderWithID()
	if r.Passed || leader == "" || id == raft.ServerID(me.NodeID) {
		return notJoined(false, "the cluster has no leader now"), nil
	}
	passed := *r
	passed.Passed = true
	var a joinAnswer
	if err := m.callFor(ctx, m.o.ChangeTimeout, string(leader), pathJoin, passed, &a); err != nil {
		return notJoined(false, "node %s, which leads, does not answer: %v", id, err), nil
	}
	return a, nil
}

// sameToken compares in a time that does not depend on where they differ, nor on their lengths.
func sameToken(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// takeIn is the leader's part of answerJoin. Which directory the node has is written down before it is a member, so
// that another one that comes with its id is not taken for it. It may be asked again by one that did not hear the
// answer.
func (m *Membership) takeIn(ctx context.Context, r Consensus, h *Hello) (joinAnswer, error) {
	if err := m.beginChange(ctx); err != nil {
		return notJoined(false, "another change of the configuration is under way: %v", err), nil
	}
	defer m.endChange()
	c, known := m.configuration()
	if !known {
		return notJoined(false, "the leader does not know the configuration yet"), nil
	}
	me := m.identity.get()
	if s, member := c.server(h.NodeID); member {
		k, heard := m.peers.get(h.NodeID)
		if heard && k.Directory != h.Directory || !heard && s.Suffrage == raft.Voter {
			return notJoined(true, "node %s is a member already, with another directory. If that one is lost, run `harepost cluster remove %s` first; else give this node another --node-id",
				h.NodeID, h.NodeID), nil
		}
		since := k.Since
		if since == 0 { // it was taken in, and this node has not heard from it since
			since = c.index
		}
		return joinAnswer{ClusterID: me.ClusterID, Since: since}, nil
	}
	for _, s := range c.servers {
		if string(s.Address) == h.Address {
			return notJoined(true, "node %s is at %s already: if this node takes its place, run `harepost cluster remove %s` first; else correct --cluster-advertise",
				s.ID, h.Address, s.ID), nil
		}
	}
	if len(c.servers) >= membersMost {
		return notJoined(true, "the cluster has %d members, more it may not have", len(c.servers)), nil
	}
	newcomer := *h
	newcomer.Since, newcomer.LastIndex = 0, 0
	if err := m.peers.believe(&newcomer, m.o.Now()); err != nil {
		return joinAnswer{}, err
	}
	f := r.AddNonvoter(raft.ServerID(h.NodeID), raft.ServerAddress(h.Address), c.index, m.o.ChangeTimeout)
	if err := await(ctx, f); err != nil {
		return notJoined(false, "node %s could not be taken in: %v", h.NodeID, err), nil
	}
	m.o.Logger.Info("a node was taken in", "node", h.NodeID, "address", h.Address, "index", f.Index())
	return joinAnswer{ClusterID: me.ClusterID, Since: f.Index()}, nil
}

// lead is what the leader does in each round: it gives the vote to one new node that has caught up, or writes
// down one address that has changed. One that raft refuses, as where an address is in the configuration still as
// another node's, holds up nobody else.
func (m *Membership) lead(ctx context.Context, r Consensus, c *configuration) {
	select {
	case m.changes <- struct{}{}:
	default:
		return // somebody else's change first
	}
	defer m.endChange()
	now, commit := m.o.Now(), r.CommitIndex()
	for _, s := range c.servers {
		k, ok := m.peers.get(string(s.ID))
		if s.ID == raft.ServerID(m.identity.NodeID()) { // it may have moved and been elected
			k, ok = peer{Address: m.o.Address, admitted: true, Since: 1}, s.Suffrage == raft.Voter
		}
		if !ok || !k.admitted || k.Since == 0 {
			continue
		}
		address := raft.ServerAddress(k.Address)
		caughtUp := k.last+m.o.PromoteEntries >= commit && k.last >= k.Since && now.Sub(k.answered) < m.o.Contact
		var f raft.IndexFuture
		switch {
		case s.Suffrage != raft.Voter && caughtUp, s.Suffrage == raft.Voter && address != s.Address:
			f = r.AddVoter(s.ID, address, c.index, m.o.ChangeTimeout)
		case address != s.Address:
			f = r.AddNonvoter(s.ID, address, c.index, m.o.ChangeTimeout)
		default:
			continue
		}
		about := "configuration " + string(s.ID)
		if err := await(ctx, f); err != nil {
			if ctx.Err() != nil || errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipLost) {
				return
			}
			if m.news(about, err.Error()) {
				m.o.Logger.Warn("the configuration could not be changed", "node", s.ID, "address", address, "error", err)
			}
			continue
		}
		m.news(about, "")
		m.o.Logger.Info("the configuration was changed", "node", s.ID, "address", address, "voter", s.Suffrage == raft.Voter || caughtUp)
		return // the next one with the configuration that this makes
	}
}
