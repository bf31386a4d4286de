package scheduler

import (
	"math"
	"time"
)

// A Verdict is what the end of an attempt says about its destination.
type Verdict uint8

// The verdicts.
const (
	NoVerdict  Verdict = iota // nothing was attempted, or it failed for a reason of our own
	Healthy                   // it answered as one does that is well; also by refusing the delivery
	Throttled                 // it asks for fewer: 429
	Overloaded                // it could not keep up: a timeout, 503
	Faulty                    // it failed otherwise: no connection, another 5xx
)

func (v Verdict) failed() bool { return v == Overloaded || v == Faulty }

// Ended says how an attempt ended.
type Ended struct {
	Verdict Verdict
	Took    time.Duration // worker time; charged to the lane's share
	// RetryAfter is for how long the destination wants nothing; 0: it did not
	// say. It holds the whole lane, for an hour at most.
	RetryAfter time.Duration
}

// LaneLimits are what somebody has set for a lane. They bound what its lane
// finds out by itself.
type LaneLimits struct {
	Parallelism int     // most attempts in flight; 0: Options.LaneConcurrency
	Rate        float64 // most attempts started per second; 0: no bound
	Paused      bool    // nothing is started
}

const (
	// limitCut is what is left of a lane's limit after a sign of overload.
	limitCut = 0.7
	// maxHold bounds how long a Retry-After holds a lane.
	maxHold = Time(time.Hour / time.Millisecond)
	// quickRefusal is within what a refusal comes of a destination that has time
	// to answer.
	quickRefusal = time.Second
	// A hold is followed by a ramp where the pace is not known, and also where it
	// is if the hold was longer than longHold.
	longHold = 10 * time.Second
	// slowAfter is when an attempt, or the usual one of a lane, is slow.
	slowAfter = Time(3 * time.Second / time.Millisecond)
	// Where fewer than these parts of the attempts of late were refused, or were
	// not answered, it is not for being too many.
	refusalShare = 0.05
	hungShare    = 0.2
	// slowStreak of failures in a row put a lane among the slow ones.
	slowStreak = 3
)

// control is what a lane has found out about its destination. The limit of
// attempts in flight follows additive increase and multiplicative decrease
// (Chiu and Jain, 1989), with the slow start and the threshold of TCP Reno.
type control struct {
	set LaneLimits

	window    float32 // limit of attempts in flight
	threshold float32 // up to it the window doubles with every round of attempts
	reducedAt Time    // attempts that began by then tell nothing new of overload
	holdUntil Time    // Retry-After: nothing is started before
	usedAt    Time    // when an attempt ended last

	slow bool // see bandSlow

	pacing
	fuse
	health
}

// SetLimits sets what an operator or a sender wants of a lane, for good: also
// if it has no traffic now. The zero LaneLimits take it back. A lane that is
// not paused any more ramps up.
func (s *Scheduler) SetLimits(k LaneKey, limits LaneLimits, now Time) {
	s.now = now
	if !(limits.Rate > 0) { // also if it is no number
		limits.Rate = 0
	}
	limits.Parallelism = max(limits.Parallelism, 0)
	if limits == (LaneLimits{}) {
		delete(s.limits, k)
	} else {
		s.limits[k] = limits
	}
	r, ok := s.byKey[k]
	if !ok {
		return
	}
	l := s.lanes.at(r)
	resumed := l.set.Paused && !limits.Paused
	l.set = limits
	if resumed {
		l.ramp(now)
	}
	s.refresh(r, l)
}

// limit is how many attempts of the lane may be in flight.
func (s *Scheduler) limit(l *lane) int32 {
	if l.breaker != Closed {
		return 1
	}
	return max(1, min(int32(l.window), s.mostLimit(l)))
}

func (s *Scheduler) mostLimit(l *lane) int32 {
	if l.set.Parallelism > 0 {
		return int32(min(l.set.Parallelism, math.MaxInt32))
	}
	return int32(s.opts.LaneConcurrency)
}

// judge has the lane learn from the end of an attempt. full says that the
// lane's limit was used up while it was under way.
func (s *Scheduler) judge(l *lane, n *item, begun Time, full bool, e Ended) {
	probe := l.breaker == HalfOpen // nothing else is in flight
	if e.Verdict == NoVerdict {
		if probe {
			l.breaker, l.probeAt = Open, s.now // it has proved nothing: the next one
		}
		return
	}
	if s.now < l.usedAt {
		l.rewind(s.now)
	}
	l.usedAt = s.now
	if probe {
		l.latency = 0 // what it was before is over
	}
	l.observe(e, s.now)
	s.adapt(l, begun, full, e)
	s.tell(l, n.id, probe, e.Verdict)
	if e.RetryAfter > 0 {
		l.hold(e.RetryAfter, s.now)
	}
}

// rewind has nothing that the lane has seen be later than now: the clock went
// back, and what was seen would else be the latest for as long again.
func (l *lane) rewind(now Time) {
	l.reducedAt = min(l.reducedAt, now)
	l.pacedAt = min(l.pacedAt, now)
	l.closedAt = min(l.closedAt, now)
	l.failingSince = min(l.failingSince, now)
	l.trial = trial{}
}

// adapt moves the lane's limit and its pace.
func (s *Scheduler) adapt(l *lane, begun Time, full bool, e Ended) {
	switch {
	case e.Verdict == Healthy:
		if most := float32(s.mostLimit(l)); full && l.window < most {
			if l.window < l.threshold {
				l.window++
			} else {
				l.window += 1 / l.window
			}
			l.window = min(l.window, most)
		}
		l.trial.count(begun, true)
		l.quicken(s.now)
	case e.Verdict == Throttled, e.Verdict == Overloaded:
		l.trial.count(begun, false)
		if l.pace > 2*leastPace && l.mayCut(begun, s.now) && l.trial.vain(s.now, l.pace) {
			// Fewer attempts at once were refused as often as many: what is refused
			// is not for being too many, and the lane need not suffer for it.
			l.giveUpPace(s.now)
		}
		if s.now < l.trial.until && e.Took < quickRefusal {
			return
		}
		s.cut(l, begun, e)
	}
}

// cut answers a sign of overload, once for the attempts that were in flight.
func (s *Scheduler) cut(l *lane, begun Time, e Ended) {
	// A few that hang while the others are answered tell of a path that is broken
	// for some, not of too many.
	if e.Took >= quickRefusal && l.streak < slowStreak && !l.crowded(hungShare) {
		return
	}
	if begun > l.reducedAt {
		l.reducedAt = s.now
		l.window = max(1, min(l.window, float32(s.mostLimit(l)))*limitCut)
		l.threshold = l.window
	}
	// Where nothing succeeds there is no pace to be found: that is the breaker's.
	asked := e.Verdict == Throttled || e.RetryAfter > 0
	if l.mayCut(begun, s.now) && (asked || l.crowded(refusalShare) && l.recentGoodput(s.now) > 0) {
		l.trial.begin(s.now)
		l.slacken(s.now)
	}
}

// hold starts nothing for a while, and then begins slowly.
func (l *lane) hold(d time.Duration, now Time) {
	until := now + min(Time((d+time.Millisecond-1)/time.Millisecond), maxHold)
	l.holdUntil = max(l.holdUntil, until)
	if l.pace == 0 || d > longHold {
		l.easeOff(until)
	}
}

// heldUntil returns when the lane may start something, as far as time alone
// decides; not after now if it may. A moment that is further off than its kind
// can be was set before the clock went back.
func (s *Scheduler) heldUntil(l *lane) Time {
	l.resumeAt = min(l.resumeAt, s.now+maxHold)
	l.holdUntil = min(l.holdUntil, s.now+maxHold)
	until := max(l.resumeAt, l.holdUntil)
	if l.breaker == Open {
		l.probeAt = min(l.probeAt, s.now+mostOpen)
		until = max(until, l.probeAt)
	}
	if paced := l.pacedUntil(s.now); paced > until {
		until = paced
		if paced > s.now {
			l.paceBinds()
		}
	}
	return until
}
