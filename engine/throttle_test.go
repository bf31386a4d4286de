package engine

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// Sends are held back while that lets deliveries be made, and not otherwise.
func TestThrottle(t *testing.T) {
	const busy, free = 2 * throttleWait, time.Duration(0)
	var v throttling
	now := epochOfThrottle
	waiting := 0
	// during calls hold for d, with so many deliveries made each tick, and
	// reports how long sends were held back.
	during := func(d time.Duration, made int, wait time.Duration) (held time.Duration) {
		for end := now.Add(d); now.Before(end); now = now.Add(throttleTick) {
			waiting = max(waiting-made, 0)
			if v.hold(now, waiting, wait) {
				held += throttleTick
			}
		}
		return held
	}
	waiting = throttleHigh
	if held := during(time.Second, 0, busy); held != 0 {
		t.Errorf("held back for %s with only %d waiting", held, throttleHigh)
	}
	v = throttling{}
	waiting = 20 * throttleHigh
	if held := during(time.Second, 0, free); held != 0 {
		t.Errorf("held back for %s while processors are free", held)
	}
	// The processors are taken, and with nothing to accept they deliver: until
	// few are left.
	longest := time.Duration(0)
	for range 20 {
		longest = max(longest, during(throttleProof, 500, busy))
	}
	if v.holding || waiting != 0 {
		t.Errorf("still held back: %t, %d waiting", v.holding, waiting)
	}
	if longest < throttleProof-2*throttleOpen || throttleProof >= gateWait {
		t.Errorf("held back for %s of %s, which is to be less than %s", longest, throttleProof, gateWait)
	}
	if v.pause != 0 {
		t.Errorf("after a success the next one is put off by %s", v.pause)
	}
	// Nothing is delivered: the targets are dead, or another program has the
	// processors. Half a second, then longer and longer pauses.
	waiting = 20 * throttleHigh
	if held := during(time.Second, 0, busy); held != throttleProof {
		t.Errorf("without any use held back for %s, want %s", held, throttleProof)
	}
	if held := during(5*time.Minute, 0, busy); held > 15*throttleProof {
		t.Errorf("without any use held back for %s of five minutes", held)
	}
	if v.pause != mostThrottlePause {
		t.Errorf("the next try is put off by %s, want %s", v.pause, mostThrottlePause)
	}
	// The processors become free as soon as sends are held back.
	v = throttling{}
	v.hold(now, waiting, busy)
	if held := during(time.Second, 10, free); held > throttleTaken {
		t.Errorf("with free processors held back for %s", held)
	}
}

var epochOfThrottle = time.Unix(1_790_000_000, 0)

// Sends of an account that is held back wait, go on when they may, and are refused
// after a second; those of another one enter meanwhile.
func TestGateHoldsSendsBack(t *testing.T) {
	const busy, quiet = 1, 2
	synctest.Test(t, func(t *testing.T) {
		var g gate
		g.init(4)
		g.throttle.young = func(a AccountID) int { return map[AccountID]int{busy: 100, quiet: 10}[a] }
		hold := func(limit int) {
			g.throttle.limit.Store(int64(limit))
			g.holdBack(limit)
		}
		enter := func(a AccountID) error {
			ticket, err := g.enter(context.Background(), a, 1)
			if err == nil {
				g.leave(ticket)
			}
			return err
		}
		hold(50)
		entered := make(chan error, 1)
		go func() { entered <- enter(busy) }()
		synctest.Wait()
		select {
		case err := <-entered:
			t.Fatalf("a send goes on while sends are held back: %v", err)
		default:
		}
		if err := enter(quiet); err != nil {
			t.Errorf("a send of an account of which few deliveries wait: %v", err)
		}
		hold(0)
		if err := <-entered; err != nil {
			t.Errorf("a send that waited: %v", err)
		}
		hold(5)
		for _, a := range []AccountID{busy, quiet} {
			began := time.Now()
			if err := enter(a); !errors.Is(err, ErrOverloaded) || time.Since(began) != gateWait {
				t.Errorf("held back for long: %v after %s", err, time.Since(began))
			}
		}
		checkGate(t, &g)
	})
}
