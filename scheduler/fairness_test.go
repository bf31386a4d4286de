package scheduler

import "testing"

// turns starts n items, ends each at once, and counts them by what.
func takeTurns(t *testing.T, s *Scheduler, n int, what func(LaneKey) uint64) map[uint64]int {
	t.Helper()
	count := map[uint64]int{}
	for range n {
		d, ok := s.Next(clock)
		if !ok {
			t.Fatal("nothing to start")
		}
		count[what(d.Lane)]++
		s.Done(d.Lane, d.Item.ID, Ended{}, clock)
		s.Recorded(d.Lane, d.Item.ID)
	}
	return count
}

func byAccount(k LaneKey) uint64     { return k.Account }
func byDestination(k LaneKey) uint64 { return k.Destination }

// fill adds n items to a lane; from keeps their numbers apart.
func fill(s *Scheduler, k LaneKey, from, n int) {
	for i := range n {
		s.Add(k, due(from+i, clock), uint64(1+i), clock)
	}
}

func wantTurns(t *testing.T, got map[uint64]int, want map[uint64]int) {
	t.Helper()
	for k, n := range want {
		if got[k] != n {
			t.Errorf("%d had %d turns, want %d: %v", k, got[k], n, got)
		}
	}
}

func TestAccountsTakeTurnsWhateverTheirBacklogs(t *testing.T) {
	s := New(Options{InitialConcurrency: 64})
	fill(s, LaneKey{1, 1}, 0, 10_000)
	fill(s, LaneKey{2, 1}, 20_000, 100)
	wantTurns(t, takeTurns(t, s, 200, byAccount), map[uint64]int{1: 100, 2: 100})
	wantTurns(t, takeTurns(t, s, 50, byAccount), map[uint64]int{1: 50})
}

func TestLanesOfAnAccountTakeTurnsWhateverTheirBacklogs(t *testing.T) {
	s := New(Options{InitialConcurrency: 64})
	fill(s, LaneKey{1, 1}, 0, 10_000)
	fill(s, LaneKey{1, 2}, 20_000, 100)
	wantTurns(t, takeTurns(t, s, 200, byDestination), map[uint64]int{1: 100, 2: 100})
}

func TestManyLanesDoNotBuyAnAccountMoreTurns(t *testing.T) {
	s := New(Options{InitialConcurrency: 64})
	for lane := range 100 {
		fill(s, LaneKey{1, uint64(lane)}, lane*1000, 50)
	}
	fill(s, LaneKey{2, 1}, 200_000, 500)
	wantTurns(t, takeTurns(t, s, 1000, byAccount), map[uint64]int{1: 500, 2: 500})
}

func TestALateLaneHasItsTurnWithinOneRound(t *testing.T) {
	s := New(Options{InitialConcurrency: 64})
	for account := range 10 {
		fill(s, LaneKey{uint64(account), 1}, account*1000, 500)
	}
	takeTurns(t, s, 15, byAccount)
	fill(s, LaneKey{77, 1}, 50_000, 1)
	if got := takeTurns(t, s, 11, byAccount); got[77] != 1 {
		t.Fatalf("no turn within a round: %v", got)
	}
}

// A lane at its limit leaves the round and comes back at its end: one that
// frees a slot after every turn must not get more than its share.
func TestALaneAtItsLimitGetsNoMoreThanItsShare(t *testing.T) {
	s := New(Options{LaneConcurrency: 1})
	fill(s, LaneKey{1, 1}, 0, 1000)
	fill(s, LaneKey{1, 2}, 2000, 1000)
	fill(s, LaneKey{2, 1}, 4000, 1000)
	got := takeTurns(t, s, 400, func(k LaneKey) uint64 { return k.Account*10 + k.Destination })
	wantTurns(t, got, map[uint64]int{11: 100, 12: 100, 21: 200})
}
