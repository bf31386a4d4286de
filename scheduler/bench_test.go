package scheduler

import (
	"runtime"
	"testing"
)

// deliver takes one delivery through the scheduler.
func deliver(b testing.TB, s *Scheduler, k LaneKey, n int, now Time) {
	s.Add(k, due(n, now), uint64(n), now)
	d, ok := s.Next(now)
	if !ok {
		b.Fatal("nothing to start")
	}
	s.Done(d.Lane, d.Item.ID, Ended{Verdict: Healthy}, now)
	s.Recorded(d.Lane, d.Item.ID)
}

// BenchmarkHotLane: one lane with 64 items before each that comes, 1,000 of
// them young. One operation is Add, Next, Done and Recorded.
func BenchmarkHotLane(b *testing.B) {
	s := New(Options{})
	for n := range 64 {
		s.Add(home, due(n, clock), uint64(n), clock)
	}
	b.ReportAllocs()
	n := 64
	for b.Loop() {
		deliver(b, s, home, n, clock+Time(n/40))
		n++
		if n%1000 == 0 {
			s.StoredBelow(uint64(n))
		}
	}
}

// BenchmarkManyLanes: the same over 100,000 lanes of 1,000 accounts, each with
// an item that is due and one that is due tomorrow.
func BenchmarkManyLanes(b *testing.B) {
	const lanes = 100_000
	s := New(Options{})
	lane := func(n int) LaneKey {
		return LaneKey{Account: uint64(n % 1000), Destination: uint64(n % lanes / 1000)}
	}
	for n := range lanes {
		s.Add(lane(n), due(n, clock), 0, clock)
		s.Add(lane(n), due(n+lanes, clock+24*3600*1000), 0, clock)
	}
	b.ReportAllocs()
	n := 2 * lanes
	for b.Loop() {
		deliver(b, s, lane(n*7919), n, clock+Time(n/40))
		n++
		if n%1000 == 0 {
			s.StoredBelow(uint64(n))
		}
	}
}

// BenchmarkLanesThatComeAndGo: every delivery makes its lane and ends it.
func BenchmarkLanesThatComeAndGo(b *testing.B) {
	s := New(Options{})
	b.ReportAllocs()
	n := 1
	for b.Loop() {
		deliver(b, s, LaneKey{Account: uint64(n), Destination: 1}, n, clock+Time(n/40))
		n++
	}
}

// BenchmarkBacklog: a lane with an endless queue on disk, read in pages.
func BenchmarkBacklog(b *testing.B) {
	s := New(Options{})
	s.Restore(home, Position{Due: clock}, clock)
	items := make([]Item, 128)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if p, ok := s.NextPage(); ok {
			for i := range items {
				items[i] = due(n, clock)
				n++
			}
			s.Paged(p.Lane, items, true, clock)
		}
		d, ok := s.Next(clock)
		if !ok {
			b.Fatal("nothing to start")
		}
		s.Done(d.Lane, d.Item.ID, Ended{Verdict: Healthy}, clock)
		s.Recorded(d.Lane, d.Item.ID)
	}
}

// BenchmarkTurns: 1,000 lanes with 64 items each that are due, of one account or
// of 100. One operation takes the next item in turn and puts another into its
// lane, so that every lane stays as long as it is.
func BenchmarkTurns(b *testing.B) {
	for name, accounts := range map[string]int{"accounts=1": 1, "accounts=100": 100} {
		b.Run(name, func(b *testing.B) {
			const lanes = 1000
			s := New(Options{})
			for n := range 64 * lanes {
				s.Add(LaneKey{Account: uint64(n % accounts), Destination: uint64(n % lanes)}, due(n, clock), 0, clock)
			}
			b.ReportAllocs()
			n := 64 * lanes
			for b.Loop() {
				turn(b, s, due(n, clock))
				n++
			}
		})
	}
}

// turn starts and ends the next attempt and adds it to its lane.
func turn(t testing.TB, s *Scheduler, it Item) {
	d, ok := s.Next(clock)
	if !ok {
		t.Fatal("nothing to start")
	}
	s.Done(d.Lane, d.Item.ID, Ended{Verdict: Healthy}, clock)
	s.Recorded(d.Lane, d.Item.ID)
	s.Add(d.Lane, it, 0, clock)
}

// wheelKeys is how many keys stand in the wheel that is measured.
const wheelKeys = 100_000

// keyAt goes through all keys in an order that the memory does not foresee.
func keyAt(n uint32) uint32 { return 1 + uint32(uint64(n)*7919%wheelKeys) }

// momentAt spreads moments over the hour after now.
func momentAt(now Time, n uint32) Time { return now + Time(n*2654435761%3_600_000) }

// filledWheel has wheelKeys keys, due within an hour: in all of its levels.
func filledWheel() *wheel {
	w := newWheel(clock)
	for n := range uint32(wheelKeys) {
		w.set(1+n, momentAt(clock, n))
	}
	return w
}

// BenchmarkWheel: what each of its calls costs beside 100,000 keys.
func BenchmarkWheel(b *testing.B) {
	b.Run("insert", func(b *testing.B) { // a new key
		w := filledWheel()
		b.ReportAllocs()
		for n := uint32(0); b.Loop(); n++ {
			w.set(wheelKeys+1+n%wheelKeys, momentAt(clock, n))
			if n%wheelKeys == wheelKeys-1 {
				b.StopTimer()
				for key := range uint32(wheelKeys) {
					w.cancel(wheelKeys + 1 + key)
				}
				b.StartTimer()
			}
		}
	})
	b.Run("cancel", func(b *testing.B) {
		w := filledWheel()
		b.ReportAllocs()
		for n := uint32(1); b.Loop(); n++ {
			w.cancel(1 + n*7919%wheelKeys)
			if n%wheelKeys == 0 {
				b.StopTimer()
				w = filledWheel()
				b.StartTimer()
			}
		}
	})
	// One key at a time that is due in the present 2.56 s, so that it expires
	// from where it was set.
	b.Run("expire", func(b *testing.B) {
		w, now := newWheel(clock), clock
		b.ReportAllocs()
		for n := uint32(1); b.Loop(); n++ {
			now = waitOut(b, w, 1+n%wheelKeys, now, tickMs)
		}
	})
	// One that is due in ten minutes and comes down through two levels.
	b.Run("cascade", func(b *testing.B) {
		w, now := newWheel(clock), clock
		b.ReportAllocs()
		for n := uint32(1); b.Loop(); n++ {
			now = waitOut(b, w, 1+n%wheelKeys, now, 600_000)
		}
	})
	// As the scheduler uses it: set again and again, and advanced now and then.
	b.Run("mixed", func(b *testing.B) {
		w, now := filledWheel(), clock
		b.ReportAllocs()
		for n := uint32(1); b.Loop(); n++ {
			w.set(keyAt(n), momentAt(now, n))
			if n%100 == 0 {
				now += 10
				w.advance(now)
				for _, ok := w.takeExpired(); ok; _, ok = w.takeExpired() {
				}
			}
		}
	})
}

// waitOut sets a key, waits it out and takes it. It returns the time then.
func waitOut(t testing.TB, w *wheel, key uint32, now, wait Time) Time {
	w.set(key, now+wait)
	now += wait + tickMs
	w.advance(now)
	if got, ok := w.takeExpired(); !ok || got != key {
		t.Fatalf("%d expired, not %d", got, key)
	}
	return now
}

// Keys that the wheel has had before cost it no memory.
func TestWheelDoesNotAllocate(t *testing.T) {
	w, now, n := filledWheel(), clock, uint32(1)
	if got := testing.AllocsPerRun(1000, func() {
		for range 100 {
			n++
			w.set(keyAt(n), momentAt(now, n))
			w.cancel(keyAt(n + wheelKeys/2))
		}
		now += 1000
		w.advance(now)
		for _, ok := w.takeExpired(); ok; _, ok = w.takeExpired() {
		}
	}); got != 0 {
		t.Errorf("%v allocations for 100 keys", got)
	}
}

// Turns over 1,000 lanes of 100 accounts cost no memory either.
func TestATurnDoesNotAllocate(t *testing.T) {
	const lanes = 1000
	s := New(Options{})
	for n := range 4 * lanes {
		s.Add(LaneKey{Account: uint64(n % 100), Destination: uint64(n % lanes)}, due(n, clock), 0, clock)
	}
	n := 4 * lanes
	run := func() {
		for range lanes {
			turn(t, s, due(n, clock))
			n++
		}
	}
	for range 20 {
		run()
	}
	// The map of the runtime reorganises itself once in a long while.
	if got := testing.AllocsPerRun(20, run); got > 2 {
		t.Errorf("%v allocations for 1,000 turns", got)
	}
}

func TestADeliveryAllocatesNothingOnceMemoryHasGrown(t *testing.T) {
	s := New(Options{})
	n := 1
	run := func() {
		for range 1000 {
			deliver(t, s, home, n, clock+Time(n/40))
			n++
		}
		s.StoredBelow(uint64(n))
	}
	for range 20 {
		run()
	}
	// The map of the runtime reorganises itself once in a long while.
	if got := testing.AllocsPerRun(20, run); got > 2 {
		t.Errorf("%v allocations per 1,000 deliveries", got)
	}
}

// TestBytesPerLane measures what 100,000 lanes cost that wait for an item on
// disk, and what an item in memory adds.
func TestBytesPerLane(t *testing.T) {
	const lanes = 100_000
	heap := func() int {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	before := heap()
	s := New(Options{})
	for n := range lanes {
		s.Restore(LaneKey{Account: uint64(n / 10), Destination: uint64(n)}, Position{Due: clock + Time(n), ID: num(n)}, clock)
	}
	perLane := (heap() - before) / lanes
	before = heap()
	for n := range 4 * lanes {
		s.Add(LaneKey{Account: uint64(n / 10 % (lanes / 10)), Destination: uint64(n % lanes)}, due(n, clock), uint64(1+n), clock)
	}
	perItem := (heap() - before) / (4 * lanes)
	t.Logf("%d bytes per lane, %d per item in memory", perLane, perItem)
	if perLane > 600 || perItem > 150 {
		t.Errorf("%d bytes per lane, want at most 600; %d per item, want at most 150", perLane, perItem)
	}
	runtime.KeepAlive(s)
}
