package bench

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestBehavioursAreRead(t *testing.T) {
	check := func(path string, want behaviour) {
		t.Helper()
		got, err := parseBehaviour(path)
		if err != nil || *got != want {
			t.Errorf("%s: %+v, %v; want %+v", path, got, err, want)
		}
	}
	check("/", behaviour{})
	check("/orders/b/fail=1:500", behaviour{})
	check("/b/group=15", behaviour{group: 15})
	check("/b/delay=50ms/orders", behaviour{delay: delay{middle: 50 * time.Millisecond}})
	check("/b/delay=uniform:10ms:90ms", behaviour{delay: delay{shape: delayUniform, middle: 50 * time.Millisecond, width: 40 * time.Millisecond}})
	check("/b/delay=exp:1s", behaviour{delay: delay{shape: delayExponential, middle: time.Second}})
	check("/b/delay=lognormal:1s:0.5", behaviour{delay: delay{shape: delayLognormal, middle: time.Second, sigma: 0.5}})
	check("/b/fail=0.25:503,retry-after=2/", behaviour{fail: failure{0.25, 503}, retryAfter: 2})
	check("/b/fail=1:hole", behaviour{fail: failure{1, mannerHole}})
	check("/b/fail=0.5:reset,fail-first=3:half:0.1", behaviour{
		fail: failure{0.5, mannerReset}, first: firstFailures{3, failure{0.1, mannerHalf}}})
	check("/b/fail-first=2:429", behaviour{first: firstFailures{2, failure{1, 429}}})
	check("/b/drip=10:20ms", behaviour{drip: drip{10, 20 * time.Millisecond}})
}

func TestBehavioursThatMakeNoSenseAreRefused(t *testing.T) {
	check := func(words, want string) {
		t.Helper()
		if _, err := parseBehaviour("/b/" + words); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error with %q", words, err, want)
		}
	}
	check("", "no such word")
	check("explode=1", "no such word")
	check("group=16", "from 0 to 15")
	check("group=1,group=1", "twice")
	check("delay=-1s", "not above 0")
	check("delay=1h", "not above 0")
	check("delay=gauss:1s", "no distribution")
	check("delay=uniform:90ms:10ms", "from 90ms")
	check("delay=lognormal:1s", "sigma")
	check("fail=0:500", "ratio")
	check("fail=1.1:500", "ratio")
	check("fail=NaN:500", "ratio")
	check("fail=0.5", "no way to fail")
	check("fail=0.5:200", "no way to fail")
	check("fail-first=0:500", "from 1")
	check("retry-after=0", "from 1")
	check("drip=0:1ms", "from 1")
	check("drip=5", "duration")
}

// The dice are fair: over many sends the shares are those asked for, within
// four standard deviations.
func TestSharesAreThoseAskedFor(t *testing.T) {
	const n = 100_000
	check := func(name string, ratio float64, count int) {
		t.Helper()
		if d := math.Abs(float64(count) - n*ratio); d > 4*math.Sqrt(n*ratio*(1-ratio)) {
			t.Errorf("%s: %d of %d, want a share of %g", name, count, n, ratio)
		}
	}
	b := behaviour{fail: failure{0.1, 500}, first: firstFailures{2, failure{0.3, 503}}}
	var first, second, third, both int
	for sequence := range uint32(n) {
		d := dice{seed: 7, sequence: sequence, arrival: 1}
		one := b.manner(d) == 503
		d.arrival = 2
		two := b.manner(d) == 503
		d.arrival = 3
		if one {
			first++
		}
		if one && two {
			both++
		}
		if b.manner(d) == 500 {
			third++
		}
		d.seed = 8
		if b.manner(d) == 500 {
			second++
		}
	}
	check("the first arrival", 0.3, first)
	check("any arrival", 0.1, third)
	check("any arrival with another seed", 0.1, second)
	if both != first {
		t.Errorf("%d sends fail at their first arrival and %d of them at their second", first, both)
	}
}

func TestDelaysAreOfTheirDistribution(t *testing.T) {
	const n = 100_000
	check := func(text string, least, mean, most time.Duration) {
		t.Helper()
		l, err := parseDelay(text)
		if err != nil {
			t.Fatal(err)
		}
		var sum time.Duration
		for sequence := range uint32(n) {
			d := l.draw(dice{seed: 7, sequence: sequence})
			if d < least || d > most {
				t.Fatalf("%s: %s, want from %s to %s", text, d, least, most)
			}
			sum += d
		}
		if got := sum / n; got < mean*98/100 || got > mean*102/100 {
			t.Errorf("%s: %s on average, want %s", text, got, mean)
		}
	}
	check("50ms", 50*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond)
	check("uniform:10ms:90ms", 10*time.Millisecond, 50*time.Millisecond, 90*time.Millisecond)
	check("exp:50ms", 0, 50*time.Millisecond, time.Second)
	// The mean of a lognormal distribution is its median times exp(sigma²/2).
	check("lognormal:50ms:0.5", 0, time.Duration(50*math.Exp(0.125)*float64(time.Millisecond)), time.Second)
	check("exp:3m", 0, 3*time.Minute-time.Duration(math.Exp(-5.0/3)*float64(3*time.Minute)), longestDelay)
}

func TestArrivalsAreNumberedUpTo255(t *testing.T) {
	var a arrivalNumbers
	for want := uint32(1); want <= 300; want++ {
		if got := a.next(maxSends - 1); got != min(want, 255) {
			t.Fatalf("arrival %d is numbered %d", want, got)
		}
	}
	for _, sequence := range []uint32{0, maxSends - 2, arrivalPage} {
		if got := a.next(sequence); got != 1 {
			t.Errorf("the first arrival of %d is numbered %d", sequence, got)
		}
	}
}
