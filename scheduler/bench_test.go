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
	s.Done(d.Lane, d.Item.ID)
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
		s.Done(d.Lane, d.Item.ID)
		s.Recorded(d.Lane, d.Item.ID)
	}
}

// BenchmarkWheel: set one of 100,000 keys, now and then advance.
func BenchmarkWheel(b *testing.B) {
	w := newWheel(clock)
	now := clock
	n := uint32(0)
	for b.Loop() {
		w.set(1+n*7919%100_000, now+Time(n*2654435761%3_600_000))
		if n++; n%100 == 0 {
			now += 10
			w.advance(now)
			for _, ok := w.takeExpired(); ok; _, ok = w.takeExpired() {
			}
		}
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
	if perLane > 350 || perItem > 150 {
		t.Errorf("%d bytes per lane, want at most 350; %d per item, want at most 150", perLane, perItem)
	}
	runtime.KeepAlive(s)
}
