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
	leastPace = 0.5
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
	// mostStep is by what part one answer raises a pace above its threshold, in the
	// minute after it was cut: a destination that takes few is to refuse few.
	mostStep = 0.01
	// holdPatience is how many times as long as a hold the pace stays away from
	// what brought the hold about; mostPatience, in seconds, is where that ends.
	holdPatience = 5
	mostPatience = 30
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
	before         float32 // share that was refused in the trial before; 0: there was none
	taken, refused uint16
	until          Time // after a trial in vain: refusals say nothing of the pace
}

const (
	// trialCount attempts are enough to tell; trialTime is for lanes with fewer.
	trialCount = 20
	trialTime  = Time(10 * time.Second / time.Millisecond)
	// A trial is in vain if vainShare to mostVain are refused, as in the one before,
	// and not vainGain times as large a part is taken as then. What has a limit takes
	// all of a pace below it, or twice the part of half the pace. That is believed
	// for vainPause.
	// A lane with rampStart starts per second and more has so many attempts in a
	// trial that fastVain is enough: what has a limit refuses next to none of them.
	vainShare = 0.2
	fastVain  = 0.05
	mostVain  = 0.75
	vainGain  = 1.25
	vainPause = Time(30 * time.Second / time.Millisecond)
)

// begin is called when the pace is cut. The first of several trials in a row is
// compared with nothing.
func (t *trial) begin(now Time) {
	before := float32(0)
	if t.attempts() >= trialCount {
		before = t.share()
	}
	*t = trial{began: now, before: before}
}

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
func (t *trial) vain(now Time, pace float32) bool {
	share, least := t.share(), float32(vainShare)
	if pace >= rampStart {
		least = fastVain
	}
	return t.attempts() >= trialCount && now >= t.until && min(share, t.before) >= least &&
		share <= mostVain && 1-share < vainGain*(1-t.before)
}

// mayCut reports whether the refusal of an attempt tells something new. Refusals
// are told sooner than successes: a trial lasts until both have come.
func (l *lane) mayCut(begun, now Time) bool {
	t := &l.trial
	lasted := now - t.began
	return t.began == 0 || begun > t.began && (lasted >= trialTime ||
		t.attempts() >= trialCount && lasted >= 4*Time(l.latency/1000))
}

// giveUpPace ends a trial in vain.
func (l *lane) giveUpPace(now Time) {
	l.trial = trial{until: now + vainPause}
	l.pace, l.threshold = 0, math.MaxFloat32
}

// rate is the lower of the pace and what was set; 0: neither.
func (l *lane) rate() float64 {
	rate := l.set.Rate
	if pace := float64(l.pace); pace > 0 && (rate == 0 || pace < rate) {
		rate = pace
	}
	return rate
}

// longestInterval between two starts: a rate below one a day is one a day.
const longestInterval = int64(24 * time.Hour / time.Microsecond)

// interval returns the microseconds from one start to the next, rounded up so
// that the rate is not exceeded.
func interval(rate float64) int64 {
	return int64(math.Ceil(min(1e6/rate, float64(longestInterval))))
}

// started spaces the next start from one at now.
func (l *lane) started(now Time) {
	rate := l.rate()
	if rate == 0 {
		return
	}
	t := int64(now) * 1000
	l.earliest = max(l.earliest, t-paceBurst) + interval(rate)
}

// pacedUntil returns when the next attempt may start; not after now if at once.
func (l *lane) pacedUntil(now Time) Time {
	rate := l.rate()
	if rate == 0 {
		l.earliest = 0
		return 0
	}
	// Further off than an interval: the clock went back, or the rate was raised.
	if most := int64(now)*1000 + interval(rate); l.earliest > most {
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
	l.trial = trial{}
	l.easeOff(now)
}

// easeOff is a ramp that is quick only up to the threshold that is known.
func (l *lane) easeOff(from Time) {
	if l.slowFrom == 0 {
		l.slowFrom = math.MaxFloat32
	}
	if l.pace == 0 || l.pace > rampStart {
		l.pace = rampStart
	}
	l.pacedAt, l.paceBound = from, false
}

// slacken goes back to less than what the destination has lately coped with.
func (l *lane) slacken(now Time) {
	rate := l.recentGoodput(now) * paceCut
	if l.pace > 0 {
		// Not below half at once: one second of a slow lane says little.
		rate = min(max(rate, l.pace/2), l.pace*paceCut)
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
	growth := float32(rampGrowth) * min(since, longestGrowth)
	if l.pace >= l.slowFrom {
		growth = min(growth, l.slowGrowth(since, now))
	}
	l.pace *= 1 + growth
	l.pacedAt, l.paceBound = now, false
	if l.pace >= noPace {
		l.pace = 0
	}
}

// slowGrowth is by what part the pace grows, above its threshold, with an answer
// so many seconds after the one before. Where a refusal costs a hold, all goes
// slower, so that the lane is held for a small part of the time only.
func (l *lane) slowGrowth(since float32, now Time) float32 {
	cut := float32(max(now-l.reducedAt, 0)) / 1000
	hold := min(float32(max(l.holdUntil-l.reducedAt, 0))/1000, mostPatience)
	slower := 1 + holdPatience*hold
	return min(slowGrowth/slower*(1+cut/slower)*min(since, longestGrowth), mostStep*(1+cut/60))
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
