package scheduler

import (
	"math"
	"testing"
	"time"
)

func TestLimitsThatMakeNoSenseLimitNothingOrMuch(t *testing.T) {
	starts := func(l LaneLimits) int {
		w := newSim(t, 1, Options{LaneConcurrency: 160})
		lane := w.lane(home, steady(time.Millisecond))
		lane.limits.Parallelism = max(l.Parallelism, 0)
		w.s.SetLimits(home, l, w.clock())
		for range 2000 {
			w.send(lane, Fresh, 0)
		}
		w.run(10)
		return lane.starts
	}
	for _, l := range []LaneLimits{{Rate: math.NaN()}, {Rate: -1}, {Rate: math.Inf(1)}, {Rate: math.MaxFloat64}, {Parallelism: -5}, {Parallelism: math.MaxInt}} {
		if n := starts(l); n != 2000 {
			t.Errorf("%+v: %d starts, want all", l, n)
		}
	}
	for _, l := range []LaneLimits{{Rate: math.SmallestNonzeroFloat64}, {Rate: 1e-300}, {Rate: 1e-9}} {
		if n := starts(l); n != 1 {
			t.Errorf("%+v: %d starts, want one", l, n)
		}
	}
}

func TestASetRateIsNotExceeded(t *testing.T) {
	for _, rate := range []float64{0.5, 3, 70, 999, 3000, 7777} {
		w := newSim(t, 1, Options{LaneConcurrency: 160})
		l := w.lane(home, steady(time.Millisecond))
		w.limit(l, LaneLimits{Rate: rate})
		span := max(2, 10/rate)
		for range int(2 * span * rate) {
			w.send(l, Fresh, 0)
		}
		w.run(span) // sim.keepsRate looks at every stretch of it
		if got := float64(l.starts) / span; got > rate*1.02+0.6 || got < rate*0.97-0.2 {
			t.Errorf("%v per second set, %.2f started", rate, got)
		}
	}
}
