package engine

import (
	"fmt"

	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/state"
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

// lanes appends the views of the lanes in the next n places, see
// scheduler.Scheduler.Lanes.
func (d *dispatcher) lanes(views []scheduler.LaneView, from uint32, n int) ([]scheduler.LaneView, uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	from = d.sched.Lanes(from, n, d.now(), func(l scheduler.LaneView) { views = append(views, l) })
	return views, from
}

// destinationOf is a lane's destination as in https://host:port, by a delivery that
// waits in its queue; empty: there is none.
func (e *Engine) destinationOf(k scheduler.LaneKey) string {
	page, _, err := e.state.QueuePage(stateLane(k), state.Position{}, 1)
	if err != nil || len(page) == 0 {
		return ""
	}
	found, _, err := e.state.FindPending(AccountID(k.Account), page[0].ID, page[0].Attempt)
	var rec delivery.Record
	if err != nil || found.Row.DecodeRecord(&rec) != nil {
		return ""
	}
	return fmt.Sprintf("%s://%s:%d", rec.Target.Scheme, rec.Target.Host, rec.Target.Port)
}
