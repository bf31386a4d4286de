package scheduler

import (
	"math/bits"
	"time"
)

// Growth is how the ceiling of the delay grows from attempt to attempt.
type Growth uint8

// The two forms of growth.
const (
	Exponential Growth = iota // base, twice the base, four times, ...
	Fixed                     // always the base
)

// Jitter is how the delay is drawn below its ceiling.
type Jitter uint8

// The two forms of jitter.
const (
	JitterFull Jitter = iota // uniform in [0, ceiling], both ends included
	JitterNone               // exactly the ceiling
)

// MaxRetryAfter is the longest Retry-After that is followed; a longer one is
// cut to it.
const MaxRetryAfter = 12 * time.Hour

// Backoff says how long to wait between the attempts of one delivery. Delays
// are whole milliseconds; fractions of BaseDelay and MaxDelay are dropped.
type Backoff struct {
	Growth            Growth
	Jitter            Jitter
	BaseDelay         time.Duration // ceiling of the first delay
	MaxDelay          time.Duration // caps the ceiling, whatever the growth
	RespectRetryAfter bool          // a Retry-After replaces the computed delay
}

// Delay returns the time to wait after failed failed attempts, counted from
// 1. The draw is a pure function of random, which is to be uniform over all
// 64-bit values.
func (b Backoff) Delay(failed int, random uint64) time.Duration {
	ceiling := b.ceilingMs(failed)
	if b.Jitter == JitterNone {
		return time.Duration(ceiling) * time.Millisecond
	}
	// The high word of random*(n) is uniform in [0, n) up to n/2^64, which at
	// twelve hours is one part in 4*10^11. (Lemire, "Fast random integer
	// generation in an interval", 2019, without its rejection step.)
	draw, _ := bits.Mul64(random, ceiling+1)
	return time.Duration(draw) * time.Millisecond
}

func (b Backoff) ceilingMs(failed int) uint64 {
	base := uint64(max(b.BaseDelay.Milliseconds(), 0))
	most := uint64(max(b.MaxDelay.Milliseconds(), 0))
	doublings := max(failed-1, 0)
	switch {
	case b.Growth == Fixed || base == 0:
		return min(base, most)
	case doublings >= bits.LeadingZeros64(base):
		return most // base<<doublings does not fit 64 bits, most does
	}
	return min(base<<doublings, most)
}

// Next returns when the next attempt is due, now being the end of the failed
// one. A Retry-After that was given replaces the delay if the delivery
// respects it: without jitter, rounded up to a millisecond, cut to
// MaxRetryAfter, and ignored if negative.
func (b Backoff) Next(now Time, failed int, retryAfter time.Duration, hasRetryAfter bool, random uint64) Time {
	if hasRetryAfter && b.RespectRetryAfter && retryAfter >= 0 {
		wait := min(retryAfter, MaxRetryAfter) + time.Millisecond - 1
		return now + Time(wait/time.Millisecond)
	}
	return now + Time(b.Delay(failed, random)/time.Millisecond)
}
