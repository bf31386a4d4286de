package engine

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/harepost/harepost/engine/account"
)

func limiterOf(perMinute int) *limiter {
	return &limiter{rate: func(account.ID) int { return perMinute }}
}

// A wait is exact: after it a send passes, a nanosecond before it none does.
func TestRateLimitWaitIsExact(t *testing.T) {
	rng := rand.New(rand.NewPCG(seedOf(t), 7))
	for _, perMinute := range []int{1, 3, 7, 59, 60, 61, 1000, 123_457, MaxRatePerMinute, 1 << 60} {
		l, now := limiterOf(perMinute), time.Now()
		if taken, wait := l.takeUpTo(1, perMinute, now); perMinute <= MaxRatePerMinute && (taken != perMinute || wait != 0) {
			t.Fatalf("%d a minute: a full bucket gives %d, and a wait of %s", perMinute, taken, wait)
		}
		for range 100 {
			now = now.Add(time.Duration(rng.Int64N(3000)))
			_, wait := l.takeUpTo(1, 1<<30, now)
			if wait <= 0 {
				t.Fatalf("%d a minute: an empty bucket gives no wait", perMinute)
			}
			if again := l.take(1, now.Add(wait-1)); again != 1 {
				t.Fatalf("%d a minute: a nanosecond before the %s are over the wait is %s", perMinute, wait, again)
			}
			if again := l.take(1, now.Add(wait)); again != 0 {
				t.Fatalf("%d a minute: after %s there is a further wait of %s", perMinute, wait, again)
			}
			now = now.Add(wait)
		}
	}
}

// Over any time no more passes than the rate and one full bucket, and no less.
func TestRateLimitIsTheRate(t *testing.T) {
	const perMinute = 90
	l, now, passed := limiterOf(perMinute), time.Now(), 0
	for range 10 * 60 * 100 { // ten minutes in steps of 10 ms
		taken, _ := l.takeUpTo(1, 5, now)
		passed += taken
		now = now.Add(10 * time.Millisecond)
	}
	if want := perMinute + 10*perMinute; passed < want-1 || passed > want {
		t.Errorf("%d sends passed in ten minutes, want %d", passed, want)
	}
}

// A batch takes as many tokens as there are.
func TestRateLimitTakesWhatThereIs(t *testing.T) {
	l, now := limiterOf(10), time.Now()
	if taken, wait := l.takeUpTo(1, 4, now); taken != 4 || wait != 0 {
		t.Errorf("4 of 10: %d, %s", taken, wait)
	}
	if taken, wait := l.takeUpTo(1, 9, now); taken != 6 || wait != 6*time.Second {
		t.Errorf("9 of the 6 left: %d, %s", taken, wait)
	}
	if taken, _ := l.takeUpTo(2, 9, now); taken != 9 {
		t.Errorf("another account got %d of 9", taken)
	}
	if taken, wait := limiterOf(0).takeUpTo(1, 1000, now); taken != 1000 || wait != 0 {
		t.Errorf("without a limit: %d, %s", taken, wait)
	}
}

// A clock that is set back holds nothing up for longer than the rate says.
func TestRateLimitSurvivesAClockSetBack(t *testing.T) {
	l, now := limiterOf(60), time.Now()
	l.takeUpTo(1, 60, now)
	back := now.Add(-time.Hour)
	if wait := l.take(1, back); wait != time.Second {
		t.Errorf("an hour back: a wait of %s", wait)
	}
	if wait := l.take(1, back.Add(time.Second)); wait != 0 {
		t.Errorf("a second later there is a further wait of %s", wait)
	}
}

// Accounts that do not send any more cost no memory.
func TestRateLimitForgetsIdleAccounts(t *testing.T) {
	l, now := limiterOf(60), time.Now()
	for a := range account.ID(1000) {
		l.take(a+1, now)
	}
	now = now.Add(2 * time.Minute)
	l.take(5000, now)
	if n := len(l.buckets); n != 1 {
		t.Errorf("%d buckets are kept for one account that sends", n)
	}
}
