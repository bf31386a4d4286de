package main

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// between draws a duration.
func between(r *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(r.Int64N(int64(most-least)))
}

// The server is killed without warning, again and again, under load, on a real
// disk. Nothing that it acknowledged is lost, and what is delivered twice is
// what was in flight or not yet synced.
func TestKilledServersLoseNothing(t *testing.T) {
	t.Parallel()
	random := crashSeed(t)
	kills := crashRuns(t, 6)
	s := startSiege(t)
	s.load(16, 20*time.Millisecond)
	for range kills {
		<-time.After(between(random, 200*time.Millisecond, 1500*time.Millisecond)) // the moment is the experiment
		if random.IntN(2) == 0 {
			s.acknowledged()
		}
		s.kill()
		s.up()
	}
	s.rest()
	s.drain()
	s.report(s.audit())
}

// A start that is killed while it recovers changes nothing: the next one finds
// the same, however often that happens.
func TestKillsDuringRecoveryLoseNothing(t *testing.T) {
	t.Parallel()
	random := crashSeed(t)
	rounds := max(crashRuns(t, 3)/10, 3)
	s := startSiege(t)
	s.load(16, 20*time.Millisecond)
	for range rounds {
		<-time.After(between(random, 200*time.Millisecond, 600*time.Millisecond))
		s.acknowledged()
		s.kill()
		for range 1 + random.IntN(4) {
			s.upAndKill(between(random, 10*time.Millisecond, 200*time.Millisecond))
		}
		s.up()
	}
	s.rest()
	s.drain()
	s.report(s.audit())
}

// SIGTERM under load is a clean end: status 0, nothing lost, and since every
// attempt was recorded, nothing is delivered twice.
func TestKillBySIGTERMUnderLoadRepeatsNothing(t *testing.T) {
	t.Parallel()
	random := crashSeed(t)
	rounds := max(crashRuns(t, 3)/10, 3)
	s := startSiege(t)
	s.load(16, 10*time.Millisecond)
	for range rounds {
		<-time.After(between(random, 200*time.Millisecond, 800*time.Millisecond))
		if status := s.server.stop(); status != exitOK {
			t.Fatalf("status %d:\n%s", status, s.server.stderr.String())
		}
		if logs := s.server.stderr.String(); !strings.Contains(logs, "everything accepted is on disk") {
			t.Errorf("the end is not said:\n%s", logs)
		}
		s.settle()
		s.up()
	}
	s.rest()
	s.drain()
	b := s.audit()
	s.report(b)
	if _, all := b.duplicates(s.ledger.life.Load()); all > 0 {
		t.Errorf("%d attempts were made twice, although each life ended in order", all)
	}
}

// report checks the balance and prints it.
func (s *siege) report(b balance) {
	s.t.Helper()
	b.check(s.t)
	lives := s.ledger.life.Load()
	each, all := b.duplicates(lives)
	s.t.Logf("%d lives, %d kills: %d sent, %d acknowledged, %d lost; %d refused, %d of unknown outcome (%d of them accepted)",
		lives, s.killed, b.sent, b.acknowledged, len(b.lost), b.refused, b.unknown, b.unknownKept)
	if lives <= 50 {
		s.t.Logf("duplicates after each life: %v", each)
	}
	s.t.Logf("%d duplicates in all, %d at most after one life; attempts in flight are at most %d, the unsynced come on top",
		all, slices.Max(each), siegeInFlight)
}
