package engine

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/harepost/harepost/engine/lane"
	"github.com/harepost/harepost/engine/state"
	"github.com/harepost/harepost/scheduler"
)

// A Destination is what can be seen of one lane: an account's traffic to one
// scheme, host and port, or what was sent with one flow key.
type Destination struct {
	ID       uint64 // within the account
	Name     LaneName
	Pending  int64 // in the disk queue, also those that are InFlight, and in memory; none that waits for its turn by an ordering key
	InFlight int
	Limit    int // of attempts in flight, as the lane has found it; 0: it has had no traffic lately

	Rate        float64 // attempts started per second, as set; 0: not set
	Parallelism int     // attempts at once, as set; 0: not set
	Paused      bool
	Pace        float64 // starts per second that it is held to by its own finding; 0: none

	Breaker         Breaker
	ProbeAt         time.Time // zero: the breaker is not open
	RetryAfterUntil time.Time // zero: the destination asked for nothing
	FailingSince    time.Time // zero: its last attempt succeeded, or there was none

	OldestDue  time.Time // of the first that waits; zero: none does
	WaitingFor string    // why that is not started, empty: nothing waits

	Successes, Failures int // of the last minute
	P50, P99            time.Duration
	LastError           LaneError
}

// OldestDueAge is for how long the first that waits has been due.
func (d *Destination) OldestDueAge(now time.Time) time.Duration {
	if d.OldestDue.IsZero() {
		return 0
	}
	return max(now.Sub(d.OldestDue), 0)
}

// A DestinationState selects lanes.
type DestinationState uint8

// The states.
const (
	AnyDestination DestinationState = iota
	PausedDestination
	BrokenDestination  // its breaker is not closed
	FailingDestination // its last attempts failed
	WaitingDestination // something is due and not started
)

// A DestinationQuery selects the lanes of an account and their order. A zero field
// selects all.
type DestinationQuery struct {
	Host      string // of lanes to hosts
	Prefix    string // of the name; of a flow, with or without FlowPrefix
	State     DestinationState
	ByPending bool // those with the most pending first, one page of them; else by ID
	After     uint64
	Limit     int
}

// Destinations are up to Limit lanes of an account, those after After. next is
// what to list on after; 0: this was the last page. A lane is there while
// something is pending in it or set for it, and for a while after its last
// attempt.
func (e *Engine) Destinations(_ context.Context, a AccountID, q DestinationQuery) (page []Destination, next uint64, err error) {
	if err := e.reads.begin(); err != nil {
		return nil, 0, err
	}
	defer e.reads.end()
	p := destinationPage{query: q, now: e.opts.Now()}
	e.eachLane(a, q.After, func(d *Destination) { p.take(d) })
	page, next = p.done()
	return page, next, nil
}

// destinationPage gathers the first lanes of those that a query selects.
type destinationPage struct {
	query DestinationQuery
	now   time.Time
	list  []Destination
	more  bool
}

func (p *destinationPage) take(d *Destination) {
	if !p.query.selects(d, p.now) {
		return
	}
	if p.more && p.compare(d, &p.list[p.query.Limit-1]) > 0 {
		return // as many come before it as there is room for
	}
	p.list = append(p.list, *d)
	if len(p.list) >= 2*p.query.Limit+1 {
		p.cut()
	}
}

// compare is the order of the page.
func (p *destinationPage) compare(x, y *Destination) int {
	if p.query.ByPending {
		return cmp.Or(cmp.Compare(y.Pending, x.Pending), x.OldestDue.Compare(y.OldestDue), cmp.Compare(x.ID, y.ID))
	}
	return cmp.Compare(x.ID, y.ID)
}

// cut lets go of what is not on the page.
func (p *destinationPage) cut() {
	slices.SortFunc(p.list, func(x, y Destination) int { return p.compare(&x, &y) })
	if len(p.list) > p.query.Limit {
		clear(p.list[p.query.Limit:])
		p.list, p.more = p.list[:p.query.Limit], true
	}
}

func (p *destinationPage) done() (page []Destination, next uint64) {
	p.cut()
	if p.more && !p.query.ByPending {
		next = p.list[len(p.list)-1].ID
	}
	return p.list, next
}

func (q *DestinationQuery) selects(d *Destination, now time.Time) bool {
	if q.Host != "" && d.Name.Host() != q.Host {
		return false
	}
	if !strings.HasPrefix(d.Name.Text, q.Prefix) && !strings.HasPrefix(d.Name.String(), q.Prefix) {
		return false
	}
	switch q.State {
	case PausedDestination:
		return d.Paused
	case BrokenDestination:
		return d.Breaker != scheduler.Closed
	case FailingDestination:
		return !d.FailingSince.IsZero()
	case WaitingDestination:
		return !d.OldestDue.IsZero() && !d.OldestDue.After(now)
	}
	return true
}

// lanesAtOnce is how many places of the scheduler are looked at under its lock at
// once: it takes less time than an attempt does.
const lanesAtOnce = 256

// eachView calls fn with the view of every lane of an account, 0: of all, and
// gives the scheduler's lock up in between.
func (d *dispatcher) eachView(a AccountID, fn func(*scheduler.LaneView)) {
	var part []scheduler.LaneView
	for from := uint32(0); ; {
		part = part[:0]
		d.mu.Lock()
		from = d.sched.Lanes(from, lanesAtOnce, d.now(), func(v scheduler.LaneView) {
			if a == 0 || v.Key.Account == uint64(a) {
				part = append(part, v)
			}
		})
		d.mu.Unlock()
		for i := range part {
			fn(&part[i])
		}
		if from == 0 {
			return
		}
	}
}

// view is what the scheduler knows of a lane; the zero view if nothing.
func (d *dispatcher) view(l state.Lane) (v scheduler.LaneView, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sched.Lane(laneKey(l), d.now())
}

// eachLane calls fn with every lane of an account that has had traffic lately, or
// for which something is set, of those with an ID above after.
func (e *Engine) eachLane(a AccountID, after uint64, fn func(*Destination)) {
	quiet := make(map[uint64]struct{}) // lanes for which something is set, and that were not met
	for _, set := range e.state().Directory().Settings(a) {
		quiet[set.Destination] = struct{}{}
	}
	visit := func(l state.Lane, v *scheduler.LaneView) {
		if l.Destination <= after {
			return
		}
		if d := e.destination(l, v); d.Name != (LaneName{}) {
			fn(&d)
		}
	}
	e.dispatcher().eachView(a, func(v *scheduler.LaneView) {
		delete(quiet, v.Key.Destination)
		visit(stateLane(v.Key), v)
	})
	for dest := range quiet {
		visit(state.Lane{Account: a, Destination: dest}, new(scheduler.LaneView))
	}
}

// destination brings together what is known of a lane.
func (e *Engine) destination(l state.Lane, v *scheduler.LaneView) Destination {
	d := Destination{
		ID: l.Destination, Name: e.nameOf(l),
		Pending: int64(v.Young), InFlight: v.InFlight, Limit: v.Limit, Pace: v.Pace,
		Breaker: v.Breaker, ProbeAt: timeOrZero(v.ProbeAt), RetryAfterUntil: timeOrZero(v.HoldUntil), FailingSince: timeOrZero(v.FailingSince),
		Successes: v.Successes, Failures: v.Failures, P50: v.P50, P99: v.P99,
	}
	if b, ok := e.state().Backlog(l); ok {
		d.Pending += b.Pending
	}
	if set, ok := e.state().Directory().Setting(l); ok {
		d.Rate, d.Parallelism, d.Paused = set.Rate, set.Parallelism, set.Paused
	}
	if v.Waits {
		d.OldestDue, d.WaitingFor = timeOrZero(v.OldestDue), v.Reason.String()
	}
	if note, ok := e.lanes.of(l); ok {
		d.LastError = note.error
	}
	return d
}

// timeOrZero is a moment of the scheduler's; its zero is none.
func timeOrZero(t scheduler.Time) time.Time {
	if t == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(t)).UTC()
}

// waitingFor is why a delivery's attempt that is due then is not under way; empty
// if it is.
func (e *Engine) waitingFor(l state.Lane, id DeliveryID, due time.Time) string {
	d := e.dispatcher()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sched.Busy(scheduler.ID(id)) {
		return ""
	}
	return d.sched.WaitingFor(laneKey(l), schedulerTime(due), d.now()).String()
}

// LaneName is what a lane is called.
type LaneName = lane.Name

// FlowPrefix marks the name of a flow where that of a host could stand.
const FlowPrefix = lane.FlowPrefix

// Breaker says whether a lane makes attempts.
type Breaker = scheduler.Breaker

// See package scheduler.
const (
	BreakerClosed   = scheduler.Closed
	BreakerOpen     = scheduler.Open     // none
	BreakerHalfOpen = scheduler.HalfOpen // one, to see how it ends
)
