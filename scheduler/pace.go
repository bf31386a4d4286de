package scheduler

import (
	"math"
	"time"
)

const (
	// paceBurst, in microseconds, is how much of what time has passed unused may
	// be caught up with: what a tick of the wheel may be late, twice.
	paceBurst = 2 * tickMs * 1000
	// rampStart is the pace, in starts per second, at which a lane begins that
	// had been held back; leastPace is the slowest that overload brings about.
	rampStart = 50
	leastPace = 1
	// noPace is where a lane that gets faster is not paced any more.
	noPace = 20_000
	// paceCut is what is left of what the destination has lately coped with.
	paceCut = 0.8
	// forgetPace is how long after the last sign of overload a pace that nothing
	// has run into is dropped.
	forgetPace = Time(time.Minute / time.Millisecond)
	// A pace below its threshold doubles in half a second. Above it, it grows by
	// a twentieth a second at first, and by a twentieth more with every second
	// that has passed since it was cut: it is back in two seconds, and probes
	// carefully from there.
	rampGrowth = 2 * math.Ln2
	slowGrowth = 0.05
	// longestGrowth, in seconds, is what one answer may make up for.
	longestGrowth = 0.5
	// goodputMs is over how long the goodput is counted.
	goodputMs = 1000
	// leastGoodputMs is the least that is counted of the first period.
	leastGoodputMs = 50
)

// pacing spaces the starts of a lane's attempts, by the generic cell rate
// algorithm: a start moves the earliest time of the next one on by the interval.
// The rate is what was set, or the pace that the lane has found: a limit of
// attempts in flight, even of one, does not keep a destination that answers in a
// millisecond to five hundred a second.
type pacing struct {
	earliest  int64   // of the next start, in microseconds since the epoch
	pace      float32 // starts per second; 0: as fast as they come
	slowFrom  float32 // the threshold of the pace
	pacedAt   Time    // when the pace was looked at last
	paceBound bool    // something has waited for the pace since then

	good    uint32 // healthy answers since goodAt
	goodAt  Time
	goodput float32 // healthy answers per second, in the period before

	trial trial
}

// A trial looks whether a slower pace has fewer attempts refused. A destination
// that refuses a third of all, whatever their pace, would otherwise be slowed
// down until nothing is left.
type trial struct {
	began          Time    // attempts begun later count; 0: no trial
	before         float32 // share that was refused
	taken, refused uint16
	until          Time // after a trial in vain: refusals say nothing of the pace
}

const (
	// trialCount attempts are enough to tell; trialTime is for lanes with fewer.
	trialCount = 20
	trialTime  = Time(2 * time.Second / time.Millisecond)
	// vainShare of attempts refused is too many for a pace below what the
	// destination has just coped with, and vainPause how long that is believed.
	vainShare = 0.2
	vainPause = Time(30 * time.Second / time.Millisecond)
)

func (t *trial) begin(now Time, share float32) { *t = trial{began: now, before: share} }

// count counts the end of an attempt.
func (t *trial) count(begun Time, taken bool) {
	switch {
	case t.began == 0 || begun <= t.began:
	case taken:
		add(&t.taken)
	default:
		add(&t.refused)
	}
}

func (t *trial) attempts() int { return int(t.taken) + int(t.refused) }

func (t *trial) share() float32 { return float32(t.refused) / float32(max(1, t.attempts())) }

// vain reports whether the slower pace is refused as much as the one before.
func (t *trial) vain(now Time) bool {
	return t.attempts() >= trialCount && now >= t.until && t.share() >= vainShare && t.share() >= t.before/2
}

// mayCut reports whether the refusal of an attempt tells something new.
func (t *trial) mayCut(begun, now Time) bool {
	return t.began == 0 || begun > t.began && (t.attempts() >= trialCount || now-t.began >= trialTime)
}

// giveUpPace ends a trial in vain.
func (l *lane) giveUpPace(now Time) {
	l.trial = trial{until: now + vainPause}
	l.pace = 0
}

// rate is the lower of the pace and what was set; 0: neither.
func (l *lane) rate() float64 {
	rate := l.set.Rate
	if pace := float64(l.pace); pace > 0 && (rate == 0 || pace < rate) {
		rate = pace
	}
	return rate
}

// started spaces the next start from one at now.
func (l *lane) started(now Time) {
	rate := l.rate()
	if rate == 0 {
		return
	}
	t := int64(now) * 1000
	l.earliest = max(l.earliest, t-paceBurst) + int64(1e6/rate)
}

// pacedUntil returns when the next attempt may start; not after now if at once.
func (l *lane) pacedUntil(now Time) Time {
	rate := l.rate()
	if rate == 0 {
		l.earliest = 0
		return 0
	}
	// Further off than an interval: the clock went back, or the rate was raised.
	if most := int64(now)*1000 + int64(1e6/rate); l.earliest > most {
		l.earliest = most
	}
	return Time((l.earliest + 999) / 1000)
}

func (l *lane) paceBinds() {
	if l.pace > 0 && (l.set.Rate == 0 || float64(l.pace) < l.set.Rate) {
		l.paceBound = true
	}
}

// ramp has a lane that was held back begin slowly, and find out how much its
// destination takes.
func (l *lane) ramp(now Time) {
	l.slowFrom = math.MaxFloat32
	l.easeOff(now)
}

// easeOff is a ramp that is quick only up to the threshold that is known.
func (l *lane) easeOff(now Time) {
	if l.slowFrom == 0 {
		l.slowFrom = math.MaxFloat32
	}
	if l.pace == 0 || l.pace > rampStart {
		l.pace = rampStart
	}
	l.pacedAt, l.paceBound = now, false
	l.trial = trial{}
}

// slacken goes back to less than what the destination has lately coped with.
func (l *lane) slacken(now Time) {
	rate := l.recentGoodput(now) * paceCut
	if l.pace > 0 {
		rate = min(rate, l.pace*paceCut)
	}
	l.pace = max(rate, leastPace)
	l.slowFrom, l.pacedAt, l.paceBound = l.pace, now, false
}

// quicken counts a healthy answer, and raises a pace that something has waited
// for.
func (l *lane) quicken(now Time) {
	l.countGood(now)
	if l.pace == 0 {
		return
	}
	since := float32(max(now-l.pacedAt, 0)) / 1000
	if !l.paceBound {
		if now-l.reducedAt > forgetPace && now-l.pacedAt > forgetPace {
			l.pace = 0
		}
		return
	}
	growth := float32(rampGrowth)
	if l.pace >= l.slowFrom {
		cut := float32(max(now-l.reducedAt, 0)) / 1000
		growth = min(growth, slowGrowth*(1+cut))
	}
	l.pace *= 1 + growth*min(since, longestGrowth)
	l.pacedAt, l.paceBound = now, false
	if l.pace >= noPace {
		l.pace = 0
	}
}

func (l *lane) countGood(now Time) {
	passed := now - l.goodAt
	if passed >= goodputMs || passed < 0 {
		l.goodput = l.recentGoodput(now)
		l.good, l.goodAt = 0, now
	}
	l.good++
}

// recentGoodput is how many healthy answers came per second of late.
func (l *lane) recentGoodput(now Time) float32 {
	passed := now - l.goodAt
	switch {
	case passed <= 0 && l.goodput > 0:
		return l.goodput
	case passed < goodputMs && l.goodput == 0: // it has begun this moment
		return float32(l.good) * goodputMs / float32(max(passed, leastGoodputMs))
	case passed < goodputMs:
		// The period before weighs for what is missing of this one.
		return float32(l.good) + l.goodput*float32(goodputMs-passed)/goodputMs
	}
	return float32(l.good) * goodputMs / float32(passed)
}
