package scheduler

import (
	"slices"
	"testing"
	"time"
)

// These are stories of destinations, in simulated time: what a lane finds out
// about one that behaves in a certain way.

// A receiver that takes 500 a second is down for a while, under 2,000 a second,
// and comes back to all that wait. With HAREPOST_SCHEDULER_WORLDS set it is a
// minute, and 120,000.
func TestARecoveringReceiverIsNotOverrun(t *testing.T) {
	const capacity = 500
	w := newSim(t, 1, Options{LaneConcurrency: 160})
	away := 16.0
	if envInt(t, "HAREPOST_SCHEDULER_WORLDS", 0) > 0 {
		away = 60
	}
	down, up := seconds(10), seconds(10+away)
	l := w.lane(home, outage(down, up, dead, limited(capacity, 20*time.Millisecond, Overloaded, 0)))
	w.arrivals(l, capacity-50, true, down)
	w.run(10)
	before := l.starts
	w.arrivals(l, 2000, true, up)
	w.run(away)
	if spent := l.starts - before; spent > 60 {
		t.Errorf("%d attempts were made while it was down", spent)
	}
	waiting, refused, before := l.waiting, l.refused, l.starts
	var offered [400]int // by the second since it is up
	w.onStart = func(*simLane, *simDelivery) { offered[min((w.at-up)/1e6, 399)]++ }
	w.runUntil(func() bool { return len(w.live) == 0 || w.at > up+seconds(400) })
	took, ideal := float64(w.at-up)/1e6, float64(waiting)/capacity
	above, longest, stretch := 0, 0, 0
	for _, n := range offered {
		above += max(0, n-capacity)
		if stretch++; n <= capacity*12/10 {
			stretch = 0
		}
		longest = max(longest, stretch)
	}
	starts := l.starts - before
	t.Logf("%d waited; drained in %.0f s, at best %.0f; %d attempts, %d refused, %d above capacity, for %d s at a stretch more than a fifth above",
		waiting, took, ideal, starts, l.refused-refused, above, longest)
	if len(w.live) > 0 || took > 1.1*ideal+20 {
		t.Errorf("drained in %.0f s, at best %.0f", took, ideal)
	}
	if l.refused-refused > starts*8/100 || above > starts*8/100 || longest > 2 {
		t.Errorf("%d of %d refused, %d above capacity, %d s at a stretch more than a fifth above", l.refused-refused, starts, above, longest)
	}
}

// A receiver that refuses what is above its limit gets most of that, and little
// to refuse. Where each refusal asks for a while of peace, that while is lost.
func TestALaneFindsThePaceOfItsDestination(t *testing.T) {
	check := func(refusal Verdict, perSecond float64, retryAfter time.Duration, leastGoodput, mostRefused float64) {
		t.Helper()
		w := newSim(t, 1, Options{LaneConcurrency: 160})
		l := w.lane(home, limited(perSecond, 20*time.Millisecond, refusal, retryAfter))
		w.arrivals(l, 1.2*perSecond, false, seconds(400))
		w.run(30)
		healthy, refused := l.healthy, l.refused
		span := max(30, min(300, 600/perSecond))
		w.run(span)
		healthy, refused = l.healthy-healthy, l.refused-refused
		goodput, share := float64(healthy)/span/perSecond, float64(refused)/float64(healthy+refused)
		t.Logf("verdict %d, %v/s, Retry-After %v: %.2f of what it takes, %.3f refused", refusal, perSecond, retryAfter, goodput, share)
		if goodput < leastGoodput || share > mostRefused {
			t.Errorf("want %.2f at least, %.3f refused at most", leastGoodput, mostRefused)
		}
	}
	for _, refusal := range []Verdict{Throttled, Overloaded} {
		check(refusal, 1, 0, 0.85, 0.08)
		check(refusal, 10, 0, 0.90, 0.07)
		check(refusal, 500, 0, 0.95, 0.06)
		check(refusal, 1, time.Second, 0.85, 0.06)
		check(refusal, 10, time.Second, 0.80, 0.05)
		check(refusal, 500, time.Second, 0.80, 0.05)
	}
	check(Throttled, 10, 5*time.Second, 0.65, 0.05)
}

func TestALaneIsNotSlowedDownByRefusalsThatAreNotForItsPace(t *testing.T) {
	for _, refusal := range []Verdict{Throttled, Overloaded, Faulty} {
		for _, took := range []time.Duration{2 * time.Millisecond, 20 * time.Millisecond, 200 * time.Millisecond} {
			w := newSim(t, 1, Options{LaneConcurrency: 160})
			l := w.lane(home, sometimes(1.0/3, refuses(refusal, 0), steady(took)))
			w.arrivals(l, 100, false, seconds(120))
			w.run(30)
			healthy := l.healthy
			w.run(60)
			if got := float64(l.healthy-healthy) / 60; got < 90 {
				t.Errorf("verdict %d, %v: %.1f healthy answers per second of 100", refusal, took, got)
			}
		}
	}
}

// A tenth is refused, whatever the pace, at a host that is sent a lot.
func TestALaneIsNotSlowedDownByATenthOfRefusals(t *testing.T) {
	for _, refusal := range []Verdict{Throttled, Overloaded} {
		w := newSim(t, 1, Options{LaneConcurrency: 160})
		l := w.lane(home, sometimes(0.1, refuses(refusal, 0), steady(2*time.Millisecond)))
		w.arrivals(l, 300, false, seconds(120))
		w.run(30)
		healthy := l.healthy
		w.run(60)
		if got := float64(l.healthy-healthy) / 60; got < 240 {
			t.Errorf("verdict %d: %.1f healthy answers per second of 300", refusal, got)
		}
	}
}

// One attempt in a hundred hangs for 30 s, at a host that is swift otherwise.
func TestAHungPathDoesNotHoldUpTheRest(t *testing.T) {
	w := newSim(t, 1, Options{LaneConcurrency: 160})
	l := w.lane(home, sometimes(0.01, blackHole, varied(10*time.Millisecond)))
	w.arrivals(l, 200, false, seconds(90))
	w.run(40)
	l.waits = nil
	w.run(40)
	t.Logf("waits: p50 %v, p99 %v; %d wait", quantileOf(l.waits, 0.5), quantileOf(l.waits, 0.99), l.waiting)
	if quantileOf(l.waits, 0.99) > time.Second || l.waiting > 300 {
		t.Errorf("p99 %v, %d wait", quantileOf(l.waits, 0.99), l.waiting)
	}
}

func TestASwiftReceiverIsSoonGivenAllThatItsLaneMay(t *testing.T) {
	w := newSim(t, 1, Options{LaneConcurrency: 160})
	l := w.lane(home, steady(time.Millisecond))
	for range 2000 {
		w.send(l, Fresh, 0)
	}
	w.runUntil(func() bool { return l.flights == 160 || w.at > seconds(1) })
	t.Logf("160 in flight after %v and %d attempts", time.Duration(w.at)*time.Microsecond, l.starts)
	if w.at > 50_000 {
		t.Errorf("%d in flight after %v", l.flights, time.Duration(w.at)*time.Microsecond)
	}
}

// Whatever held a lane back, it begins with few: 50 a second, and twice as many
// every half second.
func TestALaneThatWasHeldBackBeginsSlowly(t *testing.T) {
	const firstSecond, firstTenth = 130, 10
	check := func(what string, r receiver, hold, release func(w *sim, l *simLane)) {
		t.Helper()
		w := newSim(t, 1, Options{LaneConcurrency: 160})
		l := w.lane(home, r)
		w.arrivals(l, 300, true, seconds(100))
		w.run(5)
		hold(w, l)
		w.run(25)
		release(w, l)
		starts, at := l.starts, w.at
		w.run(0.1)
		tenth := l.starts - starts
		w.run(0.9)
		t.Logf("%s: %d in the first tenth of a second, %d in the first second", what, tenth, l.starts-starts)
		if tenth > firstTenth || l.starts-starts > firstSecond {
			t.Errorf("%s: too many", what)
		}
		w.run(10)
		if l.starts-starts < 2000 {
			t.Errorf("%s: %d within %d s: it does not get going", what, l.starts-starts, (w.at-at)/1e6)
		}
	}
	well := varied(5 * time.Millisecond)
	nothing := func(*sim, *simLane) {}
	check("pause", well,
		func(w *sim, l *simLane) { w.limit(l, LaneLimits{Paused: true}) },
		func(w *sim, l *simLane) { w.limit(l, LaneLimits{}) })
	check("suspension", well,
		func(w *sim, l *simLane) { w.suspended[l.key.Account] = true; w.s.Suspend(l.key.Account) },
		func(w *sim, l *simLane) {
			w.suspended[l.key.Account] = false
			w.s.Resume(l.key.Account, w.clock())
		})
	check("hold", outage(seconds(5), seconds(5)+4000, refuses(Overloaded, 25*time.Second), well), nothing,
		func(w *sim, l *simLane) { starts := l.starts; w.runUntil(func() bool { return l.starts > starts }) })
	check("breaker", outage(seconds(5), seconds(25), dead, well), nothing,
		func(w *sim, l *simLane) { w.runUntil(func() bool { return !l.isOpen }) })
}

func TestOneDeliveryThatFailsDoesNotOpenTheBreaker(t *testing.T) {
	st := begin(t, Options{})
	st.add(1, st.now, 0)
	for attempt := uint32(1); attempt <= 50; attempt++ {
		d, ok := st.s.Next(st.now)
		if !ok {
			t.Fatalf("attempt %d is not started", attempt)
		}
		st.s.Done(home, d.Item.ID, Ended{Verdict: Faulty}, st.now)
		st.s.Recorded(home, d.Item.ID)
		st.s.Add(home, Item{ID: d.Item.ID, Due: st.now, Attempt: attempt + 1, Class: Retry}, 0, st.now)
		st.sound()
	}
	if v, _ := st.s.Lane(home, st.now); v.Breaker != Closed {
		t.Errorf("the breaker is %v", v.Breaker)
	}
}

func TestABreakerOpensForTwiceAsLongEachTimeAndForgets(t *testing.T) {
	w := newSim(t, 1, Options{})
	recovers := seconds(3000)
	l := w.lane(home, outage(recovers, recovers+seconds(300), steady(time.Millisecond), dead))
	var probes []int64
	w.onStart = func(l *simLane, _ *simDelivery) {
		if l.isOpen {
			probes = append(probes, w.at)
		}
	}
	w.arrivals(l, 5, true, seconds(4000))
	w.run(3000)
	var waits []int64
	for i := 1; i < len(probes); i++ {
		waits = append(waits, (probes[i]-probes[i-1]+500_000)/1e6)
	}
	if want := []int64{10, 20, 40, 80, 160, 320, 600, 600, 600}; !slices.Equal(waits, want) {
		t.Errorf("seconds between probes are %v, want %v", waits, want)
	}
	w.runUntil(func() bool { return !l.isOpen })
	w.runUntil(func() bool { return l.isOpen })
	opened := w.at
	n := len(probes)
	w.runUntil(func() bool { return len(probes) > n })
	if got := w.at - opened; got < seconds(4.9) || got > seconds(5.1) {
		t.Errorf("after it has been well for minutes the breaker opens for %d us", got)
	}
}

func TestClassesShareALaneFourToTwoToOne(t *testing.T) {
	s := New(Options{InitialConcurrency: 1000})
	for n := range 300 {
		s.Add(home, Item{ID: num(n), Due: clock, Attempt: 1, Class: Class(n % 3)}, 0, clock)
	}
	count := map[Class]int{}
	for range 70 {
		d, ok := s.Next(clock)
		if !ok {
			t.Fatal("nothing to start")
		}
		count[d.Item.Class]++
		s.Done(home, d.Item.ID, Ended{}, clock)
		s.Recorded(home, d.Item.ID)
	}
	if count[Fresh] != 40 || count[Retry] != 20 || count[Replay] != 10 {
		t.Errorf("%v of 70", count)
	}
}

func TestAPageIsAsLargeAsItsLaneIsHot(t *testing.T) {
	w := newSim(t, 1, Options{LaneConcurrency: 10})
	down := seconds(3)
	l := w.lane(home, outage(down, 1<<62, dead, steady(time.Millisecond)))
	for range 40_000 {
		w.send(l, Fresh, 0)
	}
	w.run(2)
	if pages, starts := w.pages, l.starts; starts < 100*pages {
		t.Errorf("%d pages for %d attempts", pages, starts)
	}
	w.runUntil(func() bool { return l.isOpen })
	if l.waiting == 0 {
		t.Fatal("nothing is left to wait for the breaker")
	}
	pages := w.pages
	w.run(4.9) // the breaker is open for five seconds
	v, _ := w.s.Lane(home, w.clock())
	if w.pages != pages || v.Held > minHeadItems {
		t.Errorf("%d pages were read while the breaker was open, %d items are held", w.pages-pages, v.Held)
	}
	w.run(600)
	if w.pages-pages > 20 {
		t.Errorf("%d pages were read for a dead destination", w.pages-pages)
	}
}

func TestIdleLanesAreBoundedAndForgotten(t *testing.T) {
	w := newSim(t, 1, Options{IdleLanes: 100})
	for n := range 500 {
		w.send(w.lane(LaneKey{1, uint64(n)}, steady(time.Millisecond)), Fresh, 0)
	}
	w.run(10)
	if st := w.s.Stats(); st.IdleLanes != 100 || st.Lanes != 0 {
		t.Errorf("%+v, want 100 idle lanes", st)
	}
	w.run(120)
	if err := emptiness(w.s); err != nil {
		t.Error(err)
	}
}

// The histogram says in which class a quantile is: at most half as much again.
func TestLatencyQuantiles(t *testing.T) {
	w := newSim(t, 1, Options{})
	for _, mean := range []float64{3, 40, 700, 5000} {
		var h latencies
		var times []int64
		for range 200 {
			d := time.Duration(mean * (0.2 + w.rnd.ExpFloat64()) * float64(time.Millisecond))
			h.add(d)
			times = append(times, d.Microseconds())
		}
		for _, part := range []float64{0.5, 0.9, 0.99} {
			got, want := h.quantile(part), quantileOf(times, part-0.005)
			if got < want || got > want*3/2+time.Millisecond {
				t.Errorf("mean %v ms: quantile %v is %v, exactly %v", mean, part, got, want)
			}
		}
	}
	var h latencies
	if got := h.quantile(0.5); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
	h.add(time.Hour)
	h.add(-time.Hour)
	if got := h.quantile(0.99); got < 30*time.Second {
		t.Errorf("an hour is counted as %v", got)
	}
}

// A receiver of a few per second, with an endless backlog before it, is not taken
// for one that refuses whatever the pace.
func TestASlowReceiverIsNotFlooded(t *testing.T) {
	for _, perSecond := range []float64{0.2, 2, 20} {
		w := newSim(t, 1, Options{LaneConcurrency: 160})
		l := w.lane(home, limited(perSecond, time.Millisecond, Throttled, 0))
		for range 2000 {
			w.send(l, Fresh, 0)
		}
		w.run(60)
		t.Logf("%v/s: %d refused in a minute, %d healthy", perSecond, l.refused, l.healthy)
		if l.refused > 150 {
			t.Errorf("%v per second: %d refused in a minute", perSecond, l.refused)
		}
	}
}
