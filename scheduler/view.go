package scheduler

import "time"

// A LaneView is what can be seen of a lane.
type LaneView struct {
	Key      LaneKey
	Young    int // waiting in memory, not known to be on disk
	Held     int // waiting in memory, on disk too
	InFlight int
	Limit    int        // of attempts in flight, as the lane has found it
	Limits   LaneLimits // what was set
	Pace     float64    // starts per second that the lane is held to by its own finding; 0: none

	Breaker   Breaker
	ProbeAt   Time // if it is open
	HoldUntil Time // Retry-After; 0: none

	Waits     bool   // something waits, due or not
	OldestDue Time   // of the first that waits
	Reason    Reason // why the first that waits is not started
	Slow      bool

	FailingSince        Time // the first failure after the last success; 0: none
	Successes, Failures int  // of the last minute
	P50, P99            time.Duration
}

// Reason is why an item that waits is not started.
type Reason uint8

// The reasons.
const (
	Due         Reason = iota // its time has not come
	Turn                      // nothing but other lanes' turns and its lane's queue are before it
	Concurrency               // as many attempts as may be are in flight
	Rate                      // by the set rate, or since the lane is held to a pace
	RetryAfter                // the destination asked for it
	BreakerOpen               // the destination fails
	Paused                    // somebody has paused the destination
	Suspended                 // the account is
)

var reasonNames = [...]string{"due", "turn", "concurrency", "rate", "retry_after", "breaker", "paused", "suspended"}

// String is the public word.
func (r Reason) String() string { return reasonNames[r] }

// WaitingFor says why an item of a lane that is due then, and not busy, is not
// started.
func (s *Scheduler) WaitingFor(k LaneKey, due, now Time) Reason {
	if _, suspended := s.suspended[k.Account]; suspended {
		return Suspended
	}
	if s.limits[k].Paused {
		return Paused
	}
	if due > now {
		return Due
	}
	r, ok := s.byKey[k]
	if !ok {
		return Turn
	}
	l := s.lanes.at(r)
	switch {
	case l.holdUntil > now:
		return RetryAfter
	case l.breaker == HalfOpen, l.breaker == Open && l.probeAt > now:
		return BreakerOpen
	case l.flights >= s.limit(l):
		return Concurrency
	case l.rate() > 0 && l.earliest > int64(now)*1000:
		return Rate
	}
	return Turn
}

// Lane returns the view of a lane; false if nothing is known of it.
func (s *Scheduler) Lane(k LaneKey, now Time) (LaneView, bool) {
	r, ok := s.byKey[k]
	if !ok {
		return LaneView{}, false
	}
	return s.view(s.lanes.at(r), now), true
}

// Lanes visits the lanes in the n places after from, and returns the place to
// go on after; 0: there is none. It begins with 0. A lane that comes or goes
// between two calls is visited once or not at all.
func (s *Scheduler) Lanes(from uint32, n int, now Time, visit func(LaneView)) (next uint32) {
	for ; n > 0; n-- {
		if from++; laneRef(from) > s.lanes.last {
			return 0
		}
		if l := s.lanes.at(laneRef(from)); l.account != 0 {
			visit(s.view(l, now))
		}
	}
	return from
}

func (s *Scheduler) view(l *lane, now Time) LaneView {
	v := LaneView{
		Key: l.key, Young: int(l.young), Held: int(l.stored.count), InFlight: int(l.flights),
		Limit: int(s.limit(l)), Limits: l.set, Pace: float64(l.pace),
		Breaker: l.breaker, Slow: l.band == bandSlow, FailingSince: l.failingSince,
		P50: l.times.quantile(0.5), P99: l.times.quantile(0.99),
	}
	if l.breaker == Open {
		v.ProbeAt = l.probeAt
	}
	if l.holdUntil > now {
		v.HoldUntil = l.holdUntil
	}
	if now-l.windowAt < healthWindow {
		v.Successes, v.Failures, _ = l.counts()
	}
	if v.OldestDue, v.Waits = s.first(l); v.Waits {
		v.Reason = s.WaitingFor(l.key, v.OldestDue, now)
	}
	return v
}
