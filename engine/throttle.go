package engine

import (
	"math"
	"runtime/metrics"
	"sync/atomic"
	"time"
)

// throttle holds sends back while accepting them would keep deliveries from being
// made. Accepting a send costs a fraction of delivering it, so on a busy machine
// senders that wait for nothing but the log would take the processors from the
// attempts, and leave a growing heap of what is accepted and not delivered,
// which then costs more: it does not fit into memory and goes by the disk.
//
// Sends of the accounts whose deliveries wait, those with more than an equal part
// of throttleLow, wait as they do at the gate, while many deliveries in memory have
// not been attempted, and goroutines that are ready to run wait for a processor. It
// is an experiment, and its result is looked at. When the processors become free
// while sends are held back, or the deliveries do not become fewer, then it was
// not accepting that kept them from being made, but a slow or dead target, or
// another program: sends go on, and the next experiment is put off, for longer
// each time. So what waits for a dead target costs others next to nothing, and a
// burst is taken at full speed where there is processor time to spare.
//
// The look, every throttleTick, is only while there are that many deliveries.
type throttle struct {
	engine *Engine
	young  func(AccountID) int // deliveries of an account that wait in memory for their first attempt
	ticks  atomic.Bool         // look is under way, or will be
	limit  atomic.Int64        // accounts with more young deliveries are held back; 0: none is

	// look's own.
	view     throttling
	sample   []metrics.Sample
	previous []uint64 // counts of the histogram at the last look
}

const (
	// throttleHigh and throttleLow are how many deliveries wait when sends begin
	// to be held back, and when they go on: a part of a second's work.
	throttleHigh = 8192
	throttleLow  = throttleHigh / 2
	throttleTick = 10 * time.Millisecond
	// Half of the goroutines that became ready within a tick waited longer than
	// throttleWait for a processor: the processors are taken, and count as taken
	// for throttleTaken.
	throttleWait  = 100 * time.Microsecond
	throttleTaken = 100 * time.Millisecond
	// Sends are held back for throttleProof at a time, within which the deliveries
	// must become fewer by this part; then some are taken for throttleOpen. It is
	// less than gateWait, so that who waits in turn is not refused.
	throttleProof = 500 * time.Millisecond
	throttlePart  = 64
	throttleOpen  = 50 * time.Millisecond
	// An experiment that failed is not made again for leastThrottlePause, and
	// twice as long each time up to mostThrottlePause.
	leastThrottlePause = time.Second
	mostThrottlePause  = 30 * time.Second
)

// throttling is what is decided by.
type throttling struct {
	taken   time.Time // when the processors were last seen taken
	holding bool
	proof   time.Time // when holding is to have shown its use
	left    int       // deliveries that may wait then
	pause   time.Duration
	until   time.Time // nothing is held back before
}

// hold decides whether sends are held back from now on: waiting deliveries have
// not been attempted, and half of the goroutines waited longer than wait.
func (t *throttling) hold(now time.Time, waiting int, wait time.Duration) bool {
	if wait > throttleWait {
		t.taken = now
	}
	taken := now.Sub(t.taken) < throttleTaken
	switch {
	case !t.holding:
		if waiting > throttleHigh && taken && !now.Before(t.until) {
			t.holding = true
			t.proof, t.left = now.Add(throttleProof), waiting-waiting/throttlePart
		}
	case waiting <= throttleLow:
		t.holding, t.pause = false, 0
	case !taken, !now.Before(t.proof) && waiting > t.left:
		t.holding = false
		t.pause = min(max(2*t.pause, leastThrottlePause), mostThrottlePause)
		t.until = now.Add(t.pause)
	case !now.Before(t.proof):
		t.holding, t.until = false, now.Add(throttleOpen)
	}
	return t.holding
}

// watch has it looked at from now on if so many deliveries wait.
func (t *throttle) watch(waiting int) {
	if waiting > throttleHigh && !t.ticks.Swap(true) {
		t.processorWait() // what was before is not looked at
		time.AfterFunc(throttleTick, t.look)
	}
}

// holds reports whether sends of an account are held back.
func (t *throttle) holds(a AccountID) bool {
	limit := int(t.limit.Load())
	return limit > 0 && t.young(a) > limit
}

// look decides, and comes again while there is reason to. It ends with the
// engine: nothing waits then.
func (t *throttle) look() {
	waiting, accounts := t.engine.dispatcher().waiting()
	hold := t.view.hold(time.Now(), waiting, t.processorWait())
	stopped := t.engine.ended() != nil
	limit := 0
	if hold && !stopped {
		limit = max(throttleLow/max(accounts, 1), 1)
	}
	if t.limit.Swap(int64(limit)) > 0 || limit > 0 {
		t.engine.gate.holdBack(limit)
	}
	if waiting <= throttleLow || stopped {
		t.ticks.Store(false)
		return
	}
	time.AfterFunc(throttleTick, t.look)
}

// processorWait is what half of the goroutines that were started since the last
// call had waited longer than.
func (t *throttle) processorWait() time.Duration {
	if t.sample == nil {
		t.sample = []metrics.Sample{{Name: "/sched/latencies:seconds"}}
	}
	metrics.Read(t.sample)
	if t.sample[0].Value.Kind() != metrics.KindFloat64Histogram {
		return 0 // a Go that does not tell: nothing is held back
	}
	h := t.sample[0].Value.Float64Histogram()
	if len(t.previous) != len(h.Counts) {
		t.previous = make([]uint64, len(h.Counts))
	}
	total := uint64(0)
	for i, n := range h.Counts {
		t.previous[i] = n - t.previous[i]
		total += t.previous[i]
	}
	below, at := uint64(0), 0
	for at < len(t.previous)-1 && below+t.previous[at] <= total/2 {
		below += t.previous[at]
		at++
	}
	copy(t.previous, h.Counts)
	if lower := h.Buckets[at]; total > 0 && !math.IsInf(lower, 0) {
		return time.Duration(lower * float64(time.Second))
	}
	return 0
}
