package scheduler

import (
	"encoding/binary"
	"math"
	"time"
)

// Breaker is where the breaker of a lane stands.
type Breaker uint8

// The states of a breaker.
const (
	Closed   Breaker = iota // attempts are made
	Open                    // none is, until ProbeAt
	HalfOpen                // one is under way that will tell
)

var breakerNames = [...]string{"closed", "open", "half_open"}

// String is the public word.
func (b Breaker) String() string { return breakerNames[b] }

const (
	// A breaker opens after Options.TripAfter failures in a row, if no more than
	// those are under way, or when more than half of at least twice as many attempts
	// within the window of health have failed.
	defaultTrip = 10
	// It opens for firstOpen, and twice as long each time up to mostOpen, until
	// it has stayed closed for forgetTrips.
	firstOpen   = Time(5 * time.Second / time.Millisecond)
	mostOpen    = Time(10 * time.Minute / time.Millisecond)
	forgetTrips = Time(time.Minute / time.Millisecond)
)

// fuse is the breaker of a lane (Nygard, "Release It!", 2007). What becomes due
// while it is open waits, and costs no attempt. A delivery that fails again and
// again by itself does not open it: of failures in a row of one delivery only
// the first counts.
type fuse struct {
	breaker  Breaker
	opened   uint8  // how often it has since it was last well for a while
	streak   uint16 // failures in a row
	lastFail uint32 // a mark of the delivery that failed last; 0: none
	probeAt  Time   // when an open breaker lets one attempt through
	closedAt Time
}

// tell has the breaker know how an attempt of a delivery ended.
func (s *Scheduler) tell(l *lane, id ID, probe bool, v Verdict) {
	if !v.failed() {
		l.streak, l.lastFail, l.failingSince = 0, 0, 0
		if probe {
			s.closeBreaker(l)
		}
		return
	}
	if l.failingSince == 0 {
		l.failingSince = s.now
	}
	mark := markOf(id)
	again := mark == l.lastFail
	l.lastFail = mark
	switch {
	case probe:
		s.openBreaker(l)
		return
	case again:
		l.repeated()
		return
	case l.streak < math.MaxUint16:
		l.streak++
	}
	if l.breaker == Closed && s.opts.TripAfter > 0 && l.trips(s.opts.TripAfter) {
		if s.now-l.closedAt > forgetTrips {
			l.opened = 0
		}
		s.openBreaker(l)
		s.report(l.key, BreakerOpened)
	}
}

// trips reports whether what the lane has seen opens its breaker.
func (l *lane) trips(after int) bool {
	underWay := int(l.flights)
	if l.failing(2*after, underWay) {
		return true
	}
	if well, bad, _ := l.counts(); well > bad && l.crowded(hungShare) {
		after *= 2 // where a part fails all the time, there are longer streaks by chance
	}
	return int(l.streak) >= max(after, underWay)
}

func (s *Scheduler) openBreaker(l *lane) {
	l.breaker = Open
	l.probeAt = s.now + min(firstOpen<<min(l.opened, 10), mostOpen)
	l.opened = min(l.opened+1, 11)
	s.shrink(l)
}

func (s *Scheduler) closeBreaker(l *lane) {
	l.breaker, l.closedAt = Closed, s.now
	l.clearWindow(s.now)
	l.window, l.threshold = 1, float32(s.mostLimit(l))
	l.ramp(s.now)
	// The oftener it has opened of late, the more slowly it begins.
	l.pace = max(leastPace, min(l.pace, rampStart/float32(int(1)<<(l.opened-1))))
	s.report(l.key, BreakerClosed)
}

func markOf(id ID) uint32 {
	return max(1, binary.BigEndian.Uint32(id[12:])^binary.BigEndian.Uint32(id[4:]))
}

// EventKind says what has happened to a lane.
type EventKind uint8

// The kinds of events.
const (
	BreakerOpened EventKind = 1 + iota // not told again when a probe has failed
	BreakerClosed
)

// An Event is something that happened to a lane.
type Event struct {
	Lane LaneKey
	Kind EventKind
	At   Time
}

// maxEvents bounds the events that nobody has taken yet; later ones are lost.
const maxEvents = 1024

func (s *Scheduler) report(k LaneKey, kind EventKind) {
	if len(s.events) < maxEvents {
		s.events = append(s.events, Event{k, kind, s.now})
	}
}

// NextEvent takes the event that has waited longest.
func (s *Scheduler) NextEvent() (Event, bool) {
	if len(s.events) == 0 {
		return Event{}, false
	}
	e := s.events[0]
	s.events = append(s.events[:0], s.events[1:]...)
	return e, true
}
