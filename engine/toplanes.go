package engine

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/harepost/harepost/engine/lane"
	"github.com/harepost/harepost/scheduler"
)

const (
	// topEvery is how often the keeper walks over the lanes.
	topEvery = 10 * time.Second

	// topLanes is how many lanes metrics tell apart.
	topLanes = 10
)

// laneTotals is what metrics say of lanes, as of the latest walk over them: a
// scrape costs the same however many there are.
type laneTotals struct {
	latest atomic.Pointer[laneWalk]
}

// A laneWalk is what one walk has found.
type laneWalk struct {
	broken, paused, slow, failing int
	top                           []topLane // with the most pending, or due for longest; most first
}

// A topLane is a lane with something pending.
type topLane struct {
	key       scheduler.LaneKey
	name      LaneName
	pending   int64
	inFlight  int
	oldestDue scheduler.Time // 0: nothing is due
}

// lookAtLanes walks over all lanes.
func (e *Engine) lookAtLanes() {
	now := schedulerTime(e.opts.Now())
	w := new(laneWalk)
	e.state().Directory().EachSetting(func(set lane.Setting) {
		if set.Paused {
			w.paused++
		}
	})
	e.dispatcher().eachView(0, func(v *scheduler.LaneView) {
		w.count(v)
		l := topLane{key: v.Key, pending: int64(v.Young), inFlight: v.InFlight}
		if b, ok := e.state().Backlog(stateLane(v.Key)); ok {
			l.pending += b.Pending
		}
		if v.Waits && v.OldestDue <= now {
			l.oldestDue = v.OldestDue
		}
		if l.pending > 0 || l.inFlight > 0 {
			w.take(l)
		}
	})
	w.cut()
	for i := range w.top {
		w.top[i].name = e.nameOf(stateLane(w.top[i].key))
	}
	e.laneTotals.latest.Store(w)
}

func (w *laneWalk) count(v *scheduler.LaneView) {
	if v.Breaker != scheduler.Closed {
		w.broken++
	}
	if v.Slow {
		w.slow++
	}
	if v.FailingSince != 0 {
		w.failing++
	}
}

func (w *laneWalk) take(l topLane) {
	if w.top = append(w.top, l); len(w.top) >= 4*topLanes {
		w.cut()
	}
}

// cut lets go of all but the first.
func (w *laneWalk) cut() {
	slices.SortFunc(w.top, func(x, y topLane) int {
		return cmp.Or(cmp.Compare(y.pending, x.pending), cmp.Compare(x.oldestDue, y.oldestDue),
			cmp.Compare(x.key.Account, y.key.Account), cmp.Compare(x.key.Destination, y.key.Destination))
	})
	w.top = w.top[:min(len(w.top), topLanes)]
}

// write writes the metrics of lanes in Prometheus text format.
func (t *laneTotals) write(out io.Writer, now time.Time) {
	w := t.latest.Load()
	if w == nil {
		w = new(laneWalk) // there was none yet
	}
	fmt.Fprintf(out, "harepost_lanes_breaker_open %d\nharepost_lanes_paused %d\nharepost_lanes_slow %d\nharepost_lanes_failing %d\n",
		w.broken, w.paused, w.slow, w.failing)
	for _, l := range w.top {
		age := 0.0
		if l.oldestDue != 0 {
			age = max(now.Sub(time.UnixMilli(int64(l.oldestDue))), 0).Seconds()
		}
		labels := fmt.Sprintf("{account=%q,destination=%q}", AccountID(l.key.Account).String(), l.name.String())
		fmt.Fprintf(out, "harepost_lane_pending%s %d\nharepost_lane_in_flight%s %d\nharepost_lane_oldest_due_age_seconds%s %g\n",
			labels, l.pending, labels, l.inFlight, labels, age)
	}
}
