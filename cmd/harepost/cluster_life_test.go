package main

import (
	"testing"
	"time"
)

// What can happen to a cluster of which no acknowledged send may be lost.
var clusterEvents = []func(s *clusterSiege){
	(*clusterSiege).killLeader,
	(*clusterSiege).handOver,
	(*clusterSiege).freezeLeader,
	(*clusterSiege).restartAll,
	(*clusterSiege).killFollower,
	(*clusterSiege).killAll,
}

// A cluster under load loses nothing of what it has acknowledged, whatever happens to
// its nodes.
func TestAClusterUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	random := crashSeed(t)
	s := startClusterSiege(t)
	s.load(16, 20*time.Millisecond)
	for i := range crashRuns(t, len(clusterEvents)) {
		<-time.After(between(random, 200*time.Millisecond, time.Second)) // the moment is the experiment
		s.acknowledgedAfter()
		event := clusterEvents[i%len(clusterEvents)]
		if i >= len(clusterEvents) {
			event = clusterEvents[random.IntN(len(clusterEvents))]
		}
		event(s)
	}
	s.end()
}

func (s *clusterSiege) killLeader() {
	n := s.c.leader()
	s.event("kill -9 of the leader "+n.id, n.kill9)
	s.event(n.id+" comes back", n.start)
}

func (s *clusterSiege) killFollower() {
	n := s.c.follower()
	s.event("kill -9 of the follower "+n.id, n.kill9)
	s.event(n.id+" comes back", n.start)
}

func (s *clusterSiege) killAll() {
	s.event("kill -9 of all", func() {
		for _, n := range s.c.nodes {
			n.watching = false
			n.server.cmd.Process.Kill()
		}
		for _, n := range s.c.nodes {
			n.kill9()
		}
		s.c.up()
	})
}

func (s *clusterSiege) handOver() {
	n := s.c.leader()
	to := s.c.others(n)[0]
	s.event(n.id+" hands over to "+to.id, func() { s.c.transfer(to) })
}

// freezeLeader stops the leader for longer than an election takes.
func (s *clusterSiege) freezeLeader() {
	n := s.c.leader()
	s.event("the leader "+n.id+" is frozen", n.freeze)
	s.acknowledgedAfter()
	s.event(n.id+" goes on", n.thaw)
}

// restartAll restarts one node after the other.
func (s *clusterSiege) restartAll() {
	for _, n := range s.c.nodes {
		s.event("restart of "+n.id, func() {
			n.stop()
			n.start()
		})
	}
}
