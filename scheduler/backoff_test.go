package scheduler

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestBackoffWithoutJitterWaitsExactlyTheCeiling(t *testing.T) {
	defaults := Backoff{Growth: Exponential, Jitter: JitterNone, BaseDelay: time.Second, MaxDelay: time.Hour}
	check := func(b Backoff, failed int, want time.Duration) {
		t.Helper()
		if got := b.Delay(failed, 12345); got != want {
			t.Errorf("%+v after %d failed attempts: waits %v, want %v", b, failed, got, want)
		}
	}
	with := func(change func(*Backoff)) Backoff { b := defaults; change(&b); return b }
	fixed := func(b *Backoff) { b.Growth = Fixed }

	check(defaults, 1, time.Second)
	check(defaults, 2, 2*time.Second)
	check(defaults, 4, 8*time.Second)
	check(defaults, 12, 2048*time.Second)
	check(defaults, 13, time.Hour)
	check(defaults, 24, time.Hour)
	check(defaults, 0, time.Second) // never less than the first ceiling
	check(with(fixed), 1, time.Second)
	check(with(fixed), 24, time.Second)

	longest := with(func(b *Backoff) { b.BaseDelay, b.MaxDelay = time.Minute, 12*time.Hour })
	check(longest, 25, 12*time.Hour)
	check(longest, math.MaxInt, 12*time.Hour)
	uncapped := with(func(b *Backoff) { b.BaseDelay, b.MaxDelay = time.Minute, math.MaxInt64 })
	check(uncapped, 25, time.Minute<<24)
	check(uncapped, 64, (math.MaxInt64/time.Millisecond)*time.Millisecond)

	low := func(b *Backoff) { b.BaseDelay, b.MaxDelay = time.Minute, time.Second }
	check(with(low), 1, time.Second) // max_delay caps the base
	check(with(func(b *Backoff) { low(b); fixed(b) }), 1, time.Second)
	check(with(func(b *Backoff) { b.BaseDelay = 1500 * time.Microsecond }), 2, 2*time.Millisecond)
	check(with(func(b *Backoff) { b.BaseDelay = -time.Second }), 9, 0)
}

func TestBackoffOfTheContractTakesThirteenHours(t *testing.T) {
	b := Backoff{Jitter: JitterNone, BaseDelay: time.Second, MaxDelay: time.Hour}
	var sum time.Duration
	for failed := 1; failed < 25; failed++ {
		sum += b.Delay(failed, 0)
	}
	if want := 47295 * time.Second; sum != want {
		t.Fatalf("24 waits are %v in all, want %v", sum, want)
	}
}

func TestFullJitterReachesBothEndsAndNothingElse(t *testing.T) {
	b := Backoff{BaseDelay: 4 * time.Millisecond, MaxDelay: time.Second}
	var seen [5]int
	const draws = 5000
	for i := range uint64(draws) {
		// The golden ratio's multiples are spread evenly over all 64-bit values.
		seen[b.Delay(1, i*0x9E3779B97F4A7C15)/time.Millisecond]++
	}
	for ms, n := range seen {
		if n < draws/5-50 || n > draws/5+50 {
			t.Errorf("%d ms drawn %d times of %d, want about a fifth", ms, n, draws)
		}
	}
	if lo, hi := b.Delay(1, 0), b.Delay(1, math.MaxUint64); lo != 0 || hi != 4*time.Millisecond {
		t.Errorf("ends are %v and %v, want 0s and 4ms", lo, hi)
	}
}

func TestJitterStaysWithinItsCeiling(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := Backoff{
			Growth:    Growth(rapid.IntRange(0, 1).Draw(t, "growth")),
			BaseDelay: time.Duration(rapid.Int64().Draw(t, "base")),
			MaxDelay:  time.Duration(rapid.Int64().Draw(t, "max")),
		}
		failed := rapid.IntRange(-1, 100).Draw(t, "failed")
		random := rapid.Uint64().Draw(t, "random")
		none := b
		none.Jitter = JitterNone
		got, ceiling := b.Delay(failed, random), none.Delay(failed, random)
		if got < 0 || got > ceiling || ceiling > max(b.MaxDelay, 0) || got%time.Millisecond != 0 {
			t.Fatalf("%+v: drew %v of %v", b, got, ceiling)
		}
	})
}

func TestRetryAfterReplacesTheDelay(t *testing.T) {
	b := Backoff{Jitter: JitterNone, BaseDelay: time.Second, MaxDelay: time.Hour, RespectRetryAfter: true}
	check := func(b Backoff, retryAfter time.Duration, has bool, want Time) {
		t.Helper()
		if got := b.Next(1000, 1, retryAfter, has, 0); got != want {
			t.Errorf("Retry-After %v (given: %t): next at %d, want %d", retryAfter, has, got, want)
		}
	}
	check(b, 5*time.Second, true, 6000)
	check(b, 0, true, 1000)
	check(b, 5*time.Second, false, 2000)
	check(b, -time.Second, true, 2000)
	check(b, 1500*time.Microsecond, true, 1002) // never early
	check(b, 13*time.Hour, true, 1000+12*3600*1000)
	check(b, math.MaxInt64, true, 1000+12*3600*1000)
	b.RespectRetryAfter = false
	check(b, 5*time.Second, true, 2000)
}
