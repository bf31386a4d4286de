package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
)

// A collector says how far Go's heap may grow before it is collected: by half of
// what lives on it, and by leastGrowth at least. A busy server has next to nothing
// that lives long, so that by Go's own rule it would collect many times a second
// for a few MiB each; one with millions of pending deliveries has a large heap,
// and by that rule would take twice its size.
//
// It looks after each collection and owns no goroutine.
type collector struct {
	percent int // as set last; the finalizer's own
	stopped atomic.Bool
}

// leastGrowth is where more gained nothing on a busy server.
const leastGrowth = 96 << 20

// startCollector returns nil where GOGC or GOMEMLIMIT is set: who sets them has
// chosen otherwise.
func startCollector() *collector {
	for _, name := range []string{"GOGC", "GOMEMLIMIT"} {
		if os.Getenv(name) != "" {
			return nil
		}
	}
	c := new(collector)
	c.look()
	c.lookAgain(new(collected))
	return c
}

// stop leaves the heap to what was set last.
func (c *collector) stop() {
	if c != nil {
		c.stopped.Store(true)
	}
}

// collected is garbage at once: its finalizer runs after each collection. It has a
// pointer, since small values without one may share a place with others.
type collected struct{ _ *byte }

func (c *collector) lookAgain(g *collected) {
	runtime.SetFinalizer(g, func(g *collected) {
		if !c.stopped.Load() {
			c.look()
			c.lookAgain(g)
		}
	})
}

func (c *collector) look() {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return // a Go that does not tell: its own rule stays
	}
	// Setting it stops the program for a moment: not for a trifle.
	percent := growthPercent(sample[0].Value.Uint64())
	if off := percent - c.percent; off*10 > c.percent || -off*10 > c.percent {
		c.percent = percent
		debug.SetGCPercent(percent)
	}
}

// growthPercent is by how much a heap may grow of which so many bytes live.
func growthPercent(live uint64) int {
	live = max(live, 1<<20)
	return int(max(live/2, leastGrowth) * 100 / live)
}
