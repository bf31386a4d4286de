package engine

import (
	"testing"
	"time"

	"github.com/harepost/harepost/scheduler"
)

func laneOf(n int) scheduler.LaneKey { return scheduler.LaneKey{Account: 7, Destination: uint64(n)} }

// A breaker that flaps is told of once in a while, and one that is open once.
func TestBreakersTold(t *testing.T) {
	var b breakersTold
	now := epochOfThrottle
	told := func(what string, got, want bool) {
		t.Helper()
		if got != want {
			t.Errorf("%s: told %t, want %t", what, got, want)
		}
	}
	told("the first", b.opened(laneOf(1), now), true)
	told("it is open still", b.opened(laneOf(1), now.Add(time.Hour)), false)
	told("it closes", b.closed(laneOf(1)), true)
	told("it is closed", b.closed(laneOf(1)), false)
	told("it opens soon after", b.opened(laneOf(1), now.Add(breakerPause-1)), false)
	told("and closes, which nobody knew was open", b.closed(laneOf(1)), false)
	told("another one", b.opened(laneOf(2), now.Add(time.Second)), true)
	told("it opens later", b.opened(laneOf(1), now.Add(breakerPause)), true)
	for i := range 2 * mostToldLanes {
		b.opened(laneOf(i), now)
	}
	if len(b.lanes) != mostToldLanes {
		t.Errorf("%d lanes are remembered, want %d", len(b.lanes), mostToldLanes)
	}
	b.prune(now.Add(25 * time.Hour))
	if len(b.lanes) != 0 {
		t.Errorf("%d lanes are remembered after a day", len(b.lanes))
	}
}

// A lane that fails is told of at each of the times, also when some have passed
// unseen; and its recovery if it was.
func TestFailingTold(t *testing.T) {
	var f failingTold
	after := []time.Duration{time.Hour, 6 * time.Hour, 24 * time.Hour}
	ill := func(hours float64, want time.Duration) {
		t.Helper()
		f.begin()
		got := f.ill(laneOf(1), time.Duration(hours*float64(time.Hour)), after)
		f.end()
		if got != want {
			t.Errorf("after %g hours told of %s, want %s", hours, got, want)
		}
	}
	ill(0.9, 0)
	if f.well(laneOf(1)) {
		t.Error("a recovery from what nobody was told of")
	}
	ill(1, time.Hour)
	ill(5, 0)
	ill(30, 24*time.Hour)
	ill(100, 0)
	if !f.well(laneOf(1)) || f.well(laneOf(1)) {
		t.Error("the recovery is not told once")
	}
	ill(2, time.Hour)
	f.begin()
	f.end() // the lane has gone
	ill(2, time.Hour)
	if got := f.ill(laneOf(2), time.Hour, []time.Duration{}); got != 0 {
		t.Errorf("told of %s where nothing is to be told", got)
	}
}

func TestOverLimit(t *testing.T) {
	var o overLimit
	for i, c := range []struct {
		n, limit float64
		want     limitChange
	}{
		{10, 10, noChange}, {11, 10, overNow}, {20, 10, noChange}, {6, 10, noChange}, {5, 10, underNow}, {5, 10, noChange},
		{11, 10, overNow}, {1e9, -1, noChange},
	} {
		if got := o.look(c.n, c.limit); got != c.want {
			t.Errorf("%d: %g of %g: %d, want %d", i, c.n, c.limit, got, c.want)
		}
	}
}

// The count is of the last hour, and a clock that is set anywhere spoils it for an
// hour at most.
func TestDeadRate(t *testing.T) {
	var d deadRate
	now := epochOfThrottle
	count := func(total int64, later time.Duration, want int) {
		t.Helper()
		now = now.Add(later)
		if got := d.count(total, now); got != want {
			t.Errorf("%d in all, %s later: %d within the hour, want %d", total, later, got, want)
		}
	}
	count(5, 0, 5)
	count(8, 30*time.Minute, 8)
	count(8, 29*time.Minute, 8)
	count(9, 2*time.Minute, 4)
	count(9, 100*time.Hour, 0)
	count(12, time.Second, 3)
	count(13, -10*time.Hour, 4)
	count(13, time.Hour, 0)
}
