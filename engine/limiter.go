package engine

import (
	"sync"
	"time"

	"github.com/harepost/harepost/engine/account"
)

// limiter is a token bucket per account. It holds a bucket only for accounts
// that have sent within the last two minutes: an older one would be full.
//
// Tokens are counted in whole parts, as many to a token as a minute has
// nanoseconds: a nanosecond then brings as many parts as the rate has tokens
// to the minute, and nothing is ever rounded. So the wait that a refusal names
// is exact: after it a token is there, a nanosecond before it is not.
type limiter struct {
	// rate is an account's tokens to the minute, see [Options.RatePerMinute];
	// 0 or less: it has no bound.
	rate func(account.ID) int

	mu      sync.Mutex
	buckets map[account.ID]*bucket
	swept   time.Time
}

type bucket struct {
	parts int64 // at the moment at
	at    time.Time
}

// tokenParts is how many parts make a token.
const tokenParts = int64(time.Minute)

// MaxRatePerMinute is the highest rate limit; a higher one counts as this. It
// keeps a full bucket's parts within an int64.
const MaxRatePerMinute = 50_000_000

// take takes a token, or says how long until there is one.
func (l *limiter) take(a account.ID, now time.Time) time.Duration {
	_, wait := l.takeUpTo(a, 1, now)
	return wait
}

// takeUpTo takes n tokens, or as many as there are. wait is how long until
// there is a further one; 0 if all n were taken.
func (l *limiter) takeUpTo(a account.ID, n int, now time.Time) (taken int, wait time.Duration) {
	rate := int64(min(l.rate(a), MaxRatePerMinute))
	if rate <= 0 {
		return n, 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.bucket(a, rate, now)
	taken = int(min(int64(n), b.parts/tokenParts))
	b.parts -= int64(taken) * tokenParts
	if taken < n {
		wait = time.Duration((tokenParts - b.parts + rate - 1) / rate)
	}
	return taken, wait
}

// bucket is the account's bucket, filled up to now. A minute fills it.
func (l *limiter) bucket(a account.ID, rate int64, now time.Time) *bucket {
	if l.buckets == nil {
		l.buckets = make(map[account.ID]*bucket)
	}
	if now.Sub(l.swept).Abs() > time.Minute {
		l.sweep(now)
	}
	full := rate * tokenParts
	b := l.buckets[a]
	if b == nil {
		b = &bucket{parts: full, at: now}
		l.buckets[a] = b
	}
	// A clock that is set back brings nothing, and must not hold up what
	// comes from then on.
	gone := min(max(now.Sub(b.at), 0), time.Minute)
	b.parts = min(full, b.parts+min(int64(gone)*rate, full))
	b.at = now
	return b
}

func (l *limiter) sweep(now time.Time) {
	l.swept = now
	for a, b := range l.buckets {
		if now.Sub(b.at) > time.Minute {
			delete(l.buckets, a)
		}
	}
}
