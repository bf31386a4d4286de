package scheduler

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// TestWorlds plays random worlds: receivers that do well, fail, hang, refuse or
// slow down, limits, pauses, suspensions and restarts. What must hold at every
// start is in sim.started; here is that nobody who does well waits while there
// is room, and that everything is delivered once all is well again.
//
// HAREPOST_SCHEDULER_WORLDS sets how many, HAREPOST_SEED repeats the first.
func TestWorlds(t *testing.T) { playWorlds(t, 3, false) }

// TestWorldsWithWrongClocks are the same, where the clock also leaps an hour
// either way, or stands still.
func TestWorldsWithWrongClocks(t *testing.T) { playWorlds(t, 3, true) }

func playWorlds(t *testing.T, quick int, wrongClocks bool) {
	worlds := envInt(t, "HAREPOST_SCHEDULER_WORLDS", quick)
	seed := uint64(envInt(t, "HAREPOST_SEED", int(time.Now().UnixNano())))
	starts, longest := 0, time.Duration(0)
	for range worlds {
		w := randomWorld(t, seed, wrongClocks)
		w.run(w.length)
		w.heal()
		for _, l := range w.sorted {
			starts += l.starts
		}
		longest = max(longest, w.longest)
		seed++
	}
	t.Logf("HAREPOST_SEED=%d, %d worlds, %d attempts, a healthy lane waited %v at most while there was room", seed-uint64(worlds), worlds, starts, longest)
}

// A world is a sim with lanes that do well from the beginning to the end.
type world struct {
	*sim
	length  float64 // in seconds
	longest time.Duration
	well    map[*simLane]bool
}

// waitWithRoom bounds how long a delivery to a destination that is well, with
// little traffic, may wait while a slot is free: for its tick of the wheel, for
// those before it in its lane, and for a page.
const waitWithRoom = time.Second

func randomWorld(t *testing.T, seed uint64, wrongClocks bool) *world {
	rnd := rand.New(rand.NewPCG(seed, 2))
	o := Options{
		Slots:              20 << rnd.IntN(5),
		LaneConcurrency:    4 << rnd.IntN(5),
		HeadItems:          16 << rnd.IntN(6),
		MemoryItems:        200 << rnd.IntN(6),
		IdleLanes:          64, // no lane is forgotten, with what it had started
		InitialConcurrency: 1 + rnd.IntN(3),
	}
	w := &world{sim: newSim(t, seed, o), length: 30 + 150*rnd.Float64(), well: map[*simLane]bool{}}
	until := seconds(w.length)
	for n := range 1 + rnd.IntN(3) {
		l := w.lane(LaneKey{100 + uint64(n), 1}, varied(time.Duration(1+rnd.IntN(20))*time.Millisecond))
		w.well[l] = true
		w.arrivals(l, 0.5+10*rnd.Float64(), false, until)
	}
	lanes := 1 + rnd.IntN(30)
	for n := range lanes {
		l := w.lane(LaneKey{uint64(rnd.IntN(5)), uint64(n)}, w.anyReceiver(until))
		w.arrivals(l, math.Exp(rnd.Float64()*5)/4, rnd.IntN(2) == 0, until)
	}
	w.onStart = w.sooner
	w.every(w.now(2), w.trouble)
	if wrongClocks {
		w.every(w.now(30), w.wrongClock)
	}
	return w
}

// now and then, after so many seconds on average.
func (w *world) now(mean float64) func() int64 {
	return func() int64 { return seconds(mean * w.rnd.ExpFloat64()) }
}

func (w *world) anyReceiver(until int64) receiver {
	rnd := w.rnd
	well := varied(time.Duration(1+rnd.IntN(300)) * time.Millisecond)
	from := rnd.Int64N(until)
	switch verdicts := [...]Verdict{Throttled, Overloaded}; rnd.IntN(9) {
	case 0:
		var retryAfter time.Duration
		if rnd.IntN(2) == 0 {
			retryAfter = time.Duration(rnd.IntN(20_000)) * time.Millisecond
		}
		return limited(math.Exp(rnd.Float64()*6), 10*time.Millisecond, verdicts[rnd.IntN(2)], retryAfter)
	case 1:
		return outage(from, from+rnd.Int64N(until), blackHole, well)
	case 2:
		return outage(from, from+rnd.Int64N(until), dead, well)
	case 3:
		return sometimes(rnd.Float64(), refuses(Verdict(2+rnd.IntN(3)), 0), well)
	case 4:
		return sometimes(rnd.Float64()/10, blackHole, well)
	case 5:
		return loaded(time.Duration(1+rnd.IntN(100))*time.Millisecond, 1+rnd.IntN(20))
	case 6:
		return outage(from, until, refuses(Overloaded, time.Duration(rnd.IntN(7200))*time.Second), well)
	case 7:
		return outage(0, until, dead, well)
	}
	return well
}

// trouble has somebody do something to a lane or an account that is not among
// those that do well, or starts the scheduler anew.
func (w *world) trouble() {
	if float64(w.at) > w.length*1e6 {
		return
	}
	l := w.sorted[w.rnd.IntN(len(w.sorted))]
	if w.well[l] {
		return
	}
	a := l.key.Account
	switch w.rnd.IntN(12) {
	case 0, 1:
		w.limit(l, LaneLimits{Paused: true})
	case 2:
		w.limit(l, LaneLimits{Parallelism: 1 + w.rnd.IntN(20)})
		// What is in flight may be more than that for a while.
		l.limits.Parallelism = max(l.limits.Parallelism, l.flights)
	case 3:
		w.limit(l, LaneLimits{Rate: math.Exp(w.rnd.Float64()*8 - 1)})
	case 4, 5, 6:
		w.limit(l, LaneLimits{})
	case 7:
		w.suspended[a] = true
		w.s.Suspend(a)
	case 8, 9:
		w.suspended[a] = false
		w.s.Resume(a, w.clock())
	case 10:
		if w.rnd.IntN(4) == 0 {
			w.restart()
		}
	case 11:
		for _, d := range w.live { // any one
			w.s.Cancel(d.lane.key, d.id)
			if !d.busy {
				d.lane.waiting--
				delete(w.live, d.id)
			}
			break
		}
	}
}

// wrongClock sets the clock an hour forward or back, or right again, or has it
// stand still.
func (w *world) wrongClock() {
	if float64(w.at) > w.length*1e6 {
		return
	}
	const hour = Time(3_600_000)
	switch w.rnd.IntN(4) {
	case 0:
		w.jump(hour)
	case 1:
		w.jump(-hour)
	case 2:
		w.jump(-w.skew)
	case 3:
		if w.frozen == 0 {
			w.frozen, w.clockWrong = w.clock(), true
			w.in(w.rnd.Int64N(20e6), func() {
				w.frozen = 0
				w.clockChanges()
			})
		}
	}
}

// sooner checks that who does well has not waited long while there was room.
func (w *world) sooner(l *simLane, d *simDelivery) {
	if !w.well[l] || w.clockWrong {
		return
	}
	// Room that there was before it was due does not count.
	waited := time.Duration(min(w.roomTime-d.room, w.at-d.added)) * time.Microsecond
	w.longest = max(w.longest, waited)
	if waited > waitWithRoom {
		w.fail("%v: waited %v, %v of it while there was room: %+v", l.key, time.Duration(w.at-d.added)*time.Microsecond, waited, w.s.Stats())
	}
}

// heal has all be well again, and checks that everything is then delivered:
// when what was due by the clock is due, and the longest that a lane is held is
// over.
func (w *world) heal() {
	w.frozen = 0
	for _, l := range w.sorted {
		l.receiver = steady(10 * time.Millisecond)
		w.limit(l, LaneLimits{})
	}
	for a := range w.suspended {
		w.suspended[a] = false
		w.s.Resume(a, w.clock())
	}
	latest := w.clock()
	for _, d := range w.live {
		latest = max(latest, d.item.Due)
	}
	end := w.at + int64(latest-w.clock()+maxHold+mostOpen)*1000 + seconds(300)
	w.runUntil(func() bool { return len(w.live) == 0 || w.at > end })
	if len(w.live) > 0 {
		for _, d := range w.live {
			v, _ := w.s.Lane(d.lane.key, w.clock())
			w.fail("%d deliveries are left, one of %v, due %d ms ago, busy %t: %+v %+v", len(w.live), d.lane.key, w.clock()-d.item.Due, d.busy, v, w.s.Stats())
		}
	}
	if err := invariants(w.s); err != nil {
		w.fail("%v", err)
	}
}
