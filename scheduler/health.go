package scheduler

import (
	"math"
	"math/bits"
	"time"
)

const (
	// healthWindow is over how long successes and failures are counted, by two
	// halves: what is told is of the last half to whole window.
	healthWindow = Time(time.Minute / time.Millisecond)
	// latencyWeight is the part of the newest latency in the average.
	latencyWeight = 8
	// The latencies of unknown lanes are charged as usualCost, those of others as
	// leastCost at least, both in microseconds.
	usualCost = 50_000
	leastCost = 200
	mostCost  = math.MaxUint32
)

// health is how a lane's attempts have lately ended.
type health struct {
	latency      uint32 // usual worker time of an attempt in microseconds; 0: none has ended
	failingSince Time   // the first failure after the last success; 0: it does not fail
	windowAt     Time   // when the present half of the window began
	now, before  tally
	times        latencies
}

// A tally counts ended attempts.
type tally struct {
	well, bad uint16
	again     uint16 // of bad: of the same delivery as the one before
}

func add(n *uint16) { *n = min(*n, math.MaxUint16-1) + 1 }

// observe counts the end of an attempt.
func (l *lane) observe(e Ended, now Time) {
	l.turnWindow(now)
	if e.Verdict.failed() || e.Verdict == Throttled {
		add(&l.health.now.bad)
	} else {
		add(&l.health.now.well)
	}
	us := min(max(e.Took.Microseconds(), 1), mostCost)
	if l.latency == 0 {
		l.latency = uint32(us)
	} else {
		l.latency = uint32(max(1, int64(l.latency)+(us-int64(l.latency))/latencyWeight))
	}
	l.times.add(e.Took)
	l.slow = l.latency > uint32(slowAfter)*1000
}

func (h *health) turnWindow(now Time) {
	switch passed := now - h.windowAt; {
	case passed >= healthWindow || passed < 0:
		h.clearWindow(now)
	case passed >= healthWindow/2:
		h.before, h.now, h.windowAt = h.now, tally{}, now
	}
}

func (h *health) clearWindow(now Time) { h.before, h.now, h.windowAt = tally{}, tally{}, now }

// repeated takes back that the last failure says something of the destination.
func (h *health) repeated() { add(&h.now.again) }

func (h *health) counts() (well, bad, again int) {
	return int(h.now.well) + int(h.before.well), int(h.now.bad) + int(h.before.bad), int(h.now.again) + int(h.before.again)
}

// failing reports whether more than half of what counts has failed, of least
// attempts at least. What is under way counts as good: failures are often told
// sooner than successes.
func (h *health) failing(least, underWay int) bool {
	well, bad, again := h.counts()
	bad -= again
	return well+bad >= least && bad > well+underWay
}

// crowded reports whether so great a part of the attempts fails, of enough or
// often enough, that it is no accident.
func (h *health) crowded(part float32) bool {
	well, bad, _ := h.counts()
	return (well+bad >= trialCount || bad >= 3) && h.refusedShare() >= part
}

// refusedShare is the part of the attempts of late that were not taken.
func (h *health) refusedShare() float32 {
	well, bad, _ := h.counts()
	return float32(bad) / float32(max(1, well+bad))
}

// cost is what the next attempt is expected to take, in microseconds.
func (h *health) cost() int64 {
	if h.latency == 0 {
		return usualCost
	}
	return max(int64(h.latency), leastCost)
}

// latencies is a histogram of worker times, two classes for each power of two
// from a millisecond to 32 s. Where a class is full all are halved, so that
// newer times count for more.
type latencies [32]uint8

func (h *latencies) add(d time.Duration) {
	i := latencyClass(d)
	if h[i] == math.MaxUint8 {
		for j := range h {
			h[j] /= 2
		}
	}
	h[i]++
}

// latencyClass is twice the logarithm, plus one in the upper half of an octave.
func latencyClass(d time.Duration) int {
	ms := uint64(max(d.Milliseconds(), 0))
	if ms == 0 {
		return 0
	}
	octave := bits.Len64(ms) - 1
	upper := 0
	if octave > 0 {
		upper = int(ms >> (octave - 1) & 1)
	}
	return min(1+2*octave+upper, len(latencies{})-1)
}

// classTop is the first duration above a class.
func classTop(i int) time.Duration {
	if i == 0 {
		return time.Millisecond
	}
	octave, upper := (i-1)/2, (i-1)%2
	if octave == 0 {
		return 2 * time.Millisecond
	}
	return time.Duration((2+upper+1)<<(octave-1)) * time.Millisecond
}

// quantile returns what a part of the latencies were below; 0 if there are none.
func (h *latencies) quantile(part float64) time.Duration {
	total := 0
	for _, n := range h {
		total += int(n)
	}
	if total == 0 {
		return 0
	}
	below, want := 0, int(math.Ceil(part*float64(total)))
	for i, n := range h {
		if below += int(n); below >= want {
			return classTop(i)
		}
	}
	return classTop(len(h) - 1)
}
