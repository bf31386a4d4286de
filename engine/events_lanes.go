package engine

import (
	"github.com/harepost/harepost/scheduler"
)

// nextEvent takes what happened to a lane, and how the lane is now.
func (d *dispatcher) nextEvent() (ev scheduler.Event, l scheduler.LaneView, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if ev, ok = d.sched.NextEvent(); !ok {
		return ev, l, false
	}
	l, known := d.sched.Lane(ev.Lane, d.now())
	if !known {
		l = scheduler.LaneView{Key: ev.Lane} // it has nothing any more
	}
	return ev, l, true
}
