package engine

import (
	"time"

	"github.com/harepost/harepost/scheduler"
)

// breakersTold is of which lanes it was told that their breaker has opened. One
// that opens again and again is told of once in breakerPause.
type breakersTold struct {
	lanes map[scheduler.LaneKey]breakerTold
}

type breakerTold struct {
	at   time.Time // when it was told
	open bool
}

const breakerPause = 10 * time.Minute

// opened reports whether it is to be told that the breaker is open.
func (b *breakersTold) opened(k scheduler.LaneKey, now time.Time) bool {
	told, known := b.lanes[k]
	since := now.Sub(told.at)
	switch {
	case known && (told.open || since >= 0 && since < breakerPause):
		return false
	case !known && len(b.lanes) >= mostToldLanes:
		return false
	case b.lanes == nil:
		b.lanes = make(map[scheduler.LaneKey]breakerTold)
	}
	b.lanes[k] = breakerTold{at: now, open: true}
	return true
}

// closed reports whether it is to be told that it has closed.
func (b *breakersTold) closed(k scheduler.LaneKey) bool {
	told := b.lanes[k]
	if !told.open {
		return false
	}
	told.open = false
	b.lanes[k] = told
	return true
}

// prune forgets what is long ago: a lane without deliveries is gone, and its
// breaker with it.
func (b *breakersTold) prune(now time.Time) {
	for k, told := range b.lanes {
		since := now.Sub(told.at)
		if !told.open && since >= breakerPause || since >= 24*time.Hour {
			delete(b.lanes, k)
		}
	}
}

// failingTold is of which lanes it was told that they fail, and for how long.
type failingTold struct {
	lanes map[scheduler.LaneKey]*failureTold
}

type failureTold struct {
	after time.Duration // the longest that was told; 0: none
	seen  bool          // in the walk that is under way
}

// begin begins a walk over all lanes, and end ends it: of those that were not seen
// nothing is known any more.
func (f *failingTold) begin() {
	for _, told := range f.lanes {
		told.seen = false
	}
}

func (f *failingTold) end() {
	for k, told := range f.lanes {
		if !told.seen {
			delete(f.lanes, k)
		}
	}
}

// ill says after how long without a success it is to be told that a lane fails; 0:
// it is not to be told now.
func (f *failingTold) ill(k scheduler.LaneKey, since time.Duration, after []time.Duration) time.Duration {
	passed := time.Duration(0)
	for _, d := range after {
		if since >= d {
			passed = d
		}
	}
	told := f.lanes[k]
	if told == nil {
		if passed == 0 || len(f.lanes) >= mostToldLanes {
			return 0
		}
		if f.lanes == nil {
			f.lanes = make(map[scheduler.LaneKey]*failureTold)
		}
		told = new(failureTold)
		f.lanes[k] = told
	}
	told.seen = true
	if passed <= told.after {
		return 0
	}
	told.after = passed
	return passed
}

// well reports whether it is to be told that a lane has recovered: if it was told
// that it fails.
func (f *failingTold) well(k scheduler.LaneKey) bool {
	_, told := f.lanes[k]
	delete(f.lanes, k)
	return told
}

// overLimit is a number that is told to be over its limit, and then to be under it
// when it is under half of it.
type overLimit struct{ over bool }

type limitChange uint8

const (
	noChange limitChange = iota
	overNow
	underNow
)

// look looks at the number. A negative limit is none.
func (o *overLimit) look(n, limit float64) limitChange {
	switch {
	case limit < 0:
		return noChange
	case !o.over && n > limit:
		o.over = true
		return overNow
	case o.over && n <= limit/2:
		o.over = false
		return underNow
	}
	return noChange
}

// deadRate counts within the last hour, in whole minutes.
type deadRate struct {
	minutes [60]int
	minute  int64 // the present one, since the epoch
	total   int64 // as of the last call
}

// count is how much a total has grown within the hour.
func (d *deadRate) count(total int64, now time.Time) int {
	minute := now.Unix() / 60
	if minute < d.minute { // the clock was set back
		d.minute = minute
	}
	for range min(minute-d.minute, int64(len(d.minutes))) {
		d.minute++
		d.minutes[d.minute%int64(len(d.minutes))] = 0
	}
	d.minute = minute
	d.minutes[minute%int64(len(d.minutes))] += int(total - d.total)
	d.total = total
	sum := 0
	for _, n := range d.minutes {
		sum += n
	}
	return sum
}

// eventBudget is what may be told within a minute.
type eventBudget struct {
	minute int64 // since the epoch
	taken  int
}

// take reports whether there is room for one more.
func (b *eventBudget) take(now time.Time) bool {
	if minute := now.Unix() / 60; minute != b.minute {
		b.minute, b.taken = minute, 0
	}
	if b.taken >= mostEventsPerMinute {
		return false
	}
	b.taken++
	return true
}
