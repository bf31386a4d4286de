package main

import (
	"runtime"
	"testing"
	"time"
)

func TestTheHeapMayGrowByHalf(t *testing.T) {
	for _, live := range []uint64{0, 1 << 20, 10 << 20, 96 << 20, 192 << 20, 400 << 20, 8 << 30} {
		percent := growthPercent(live)
		growth := max(live, 1<<20) * uint64(percent) / 100
		most := max(live/2, leastGrowth)
		if growth > most || growth < most-max(live, 1<<20)/100-1 {
			t.Errorf("%d bytes live: %d %%, which is %d bytes more, want %d", live, percent, growth, most)
		}
	}
}

// A collector looks after every collection, until it is stopped.
func TestTheCollectorFollowsTheHeap(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	looked := make(chan struct{}, 1)
	g := &collected{}
	runtime.SetFinalizer(g, func(*collected) { looked <- struct{}{} })
	c := startCollector()
	defer c.stop()
	runtime.GC()
	select {
	case <-looked:
	case <-time.After(time.Minute):
		t.Fatal("no finalizer has run after a collection")
	}
	t.Setenv("GOGC", "100")
	if startCollector() != nil {
		t.Error("a collector, though GOGC is set")
	}
	var none *collector
	none.stop()
}
