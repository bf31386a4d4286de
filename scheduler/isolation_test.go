package scheduler

import (
	"testing"
	"time"
)

// healthyBeside returns the waiting times of a healthy lane with 20 deliveries a
// second, beside so many lanes of another account that never answer and have
// ten times its traffic together. With history they did well for two minutes.
func healthyBeside(t *testing.T, holes int, history bool, slots int) []int64 {
	w := newSim(t, 1, Options{Slots: slots, LaneConcurrency: 160})
	down, until := int64(0), seconds(120)
	if history {
		down, until = seconds(120), seconds(240)
	}
	healthy := w.lane(LaneKey{1, 0}, varied(20*time.Millisecond))
	w.arrivals(healthy, 20, false, until)
	for n := range holes {
		l := w.lane(LaneKey{2, uint64(n)}, outage(down, until, blackHole, varied(20*time.Millisecond)))
		w.arrivals(l, 200/float64(holes), false, until)
	}
	w.run(float64(down) / 1e6)
	healthy.waits = nil
	w.run(120)
	return healthy.waits
}

func TestBlackHolesDoNotDelayAHealthyLane(t *testing.T) {
	for name, history := range map[string]bool{"never seen before": false, "well until now": true} {
		t.Run(name, func(t *testing.T) {
			alone := healthyBeside(t, 0, history, 4096)
			beside := healthyBeside(t, 999, history, 4096)
			t.Logf("p99 %v alone, %v beside 999 black holes; longest %v and %v",
				quantileOf(alone, 0.99), quantileOf(beside, 0.99), quantileOf(alone, 1), quantileOf(beside, 1))
			if quantileOf(beside, 0.99) > quantileOf(alone, 0.99)+tickMs*time.Millisecond || quantileOf(beside, 1) > 100*time.Millisecond {
				t.Error("the healthy lane was delayed")
			}
		})
	}
}

// What has begun as unknown and hangs counts as slow. However much of that there
// is, a quarter of the slots is there for lanes that are swift.
func TestMoreBlackHolesThanSlotsDoNotDelayAHealthyLane(t *testing.T) {
	w := newSim(t, 1, Options{Slots: 500})
	healthy := w.lane(LaneKey{1, 0}, varied(20*time.Millisecond))
	w.arrivals(healthy, 20, false, seconds(130))
	w.run(10)
	healthy.waits = nil
	for n := range 2000 {
		w.arrivals(w.lane(LaneKey{2, uint64(n)}, blackHole), 0.2, false, seconds(130))
	}
	w.run(120)
	t.Logf("longest wait %v", quantileOf(healthy.waits, 1))
	if quantileOf(healthy.waits, 1) > 100*time.Millisecond {
		t.Errorf("the healthy lane waited for %v", quantileOf(healthy.waits, 1))
	}
}

// Two accounts, and two lanes of one, that always have something waiting and
// room to start it: their worker time differs by what one attempt of each costs
// at most, though one has attempts fifty times as long.
func TestWorkerTimeIsShared(t *testing.T) {
	w := newSim(t, 1, Options{Slots: 8, LaneConcurrency: 1000, InitialConcurrency: 1000})
	long, short := 500*time.Millisecond, 10*time.Millisecond
	a := w.lane(LaneKey{1, 1}, steady(long))
	b1 := w.lane(LaneKey{2, 1}, steady(short))
	b2 := w.lane(LaneKey{2, 2}, steady(long))
	for _, l := range w.sorted {
		for range 20_000 {
			w.send(l, Fresh, 0)
		}
	}
	w.run(20) // until what they cost is known
	started := map[*simLane]int64{}
	cost := map[*simLane]int64{a: long.Microseconds(), b1: short.Microseconds(), b2: long.Microseconds()}
	var leastA, mostA, leastB, mostB int64 // of how far one has been ahead of the other
	w.onStart = func(l *simLane, _ *simDelivery) {
		started[l] += cost[l]
		accounts, lanes := started[a]-started[b1]-started[b2], started[b1]-started[b2]
		leastA, mostA = min(leastA, accounts), max(mostA, accounts)
		leastB, mostB = min(leastB, lanes), max(mostB, lanes)
	}
	w.run(40)
	t.Logf("accounts were %v apart, lanes %v, of %v", time.Duration(mostA-leastA)*time.Microsecond, time.Duration(mostB-leastB)*time.Microsecond, time.Duration(started[a])*time.Microsecond)
	if most := 2 * (long + long).Microseconds(); mostA-leastA > most || mostB-leastB > most || started[a] < seconds(100) {
		t.Errorf("accounts were %d us apart, lanes %d, at most %d wanted; of %d", mostA-leastA, mostB-leastB, most, started[a])
	}
}
