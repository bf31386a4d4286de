package bench

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestRateGrammar(t *testing.T) {
	check := func(text string, ramp bool, steps ...float64) {
		t.Helper()
		r, err := ParseRate(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			return
		}
		if r.ramp != ramp || len(r.steps) != len(steps) {
			t.Errorf("%s: %+v", text, r)
			return
		}
		for i := range steps {
			if r.steps[i] != steps[i] {
				t.Errorf("%s: step %d is %g, want %g", text, i, r.steps[i], steps[i])
			}
		}
		if again, err := ParseRate(r.String()); err != nil || again.String() != r.String() {
			t.Errorf("%s becomes %s, which is read as %s, %v", text, r, again, err)
		}
	}
	check("2000", false, 2000)
	check("0.5", false, 0.5)
	check("100..10000", true, 100, 10000)
	check("1000,2000,4000", false, 1000, 2000, 4000)
	for _, bad := range []string{"", "0", "-1", "many", "1..", "..1", "1..2..3", "1,,2", "1,2..3", "NaN", "Inf", "1e9"} {
		if r, err := ParseRate(bad); err == nil {
			t.Errorf("%q is read as %+v", bad, r)
		}
	}
}

// momentsOf returns every moment of a schedule.
func momentsOf(t interface{ Fatalf(string, ...any) }, s *schedule) []time.Duration {
	var moments []time.Duration
	for {
		at, ok := s.next()
		if !ok {
			return moments
		}
		if len(moments) > 0 && at < moments[len(moments)-1] {
			t.Fatalf("%s comes after %s", at, moments[len(moments)-1])
		}
		moments = append(moments, at)
	}
}

// countBefore counts the moments below d.
func countBefore(moments []time.Duration, d time.Duration) (n int) {
	for _, at := range moments {
		if at < d {
			n++
		}
	}
	return n
}

func TestSchedulesMakeAsManySendsAsTheRateSays(t *testing.T) {
	check := func(text string, warmup time.Duration, at time.Duration, wantBefore, want int) {
		t.Helper()
		r, err := ParseRate(text)
		if err != nil {
			t.Fatal(err)
		}
		moments := momentsOf(t, newSchedule(r, warmup, 10*time.Second, 1, false, 1))
		// One more or less: a moment may be on the border.
		if got := countBefore(moments, at); abs(got-wantBefore) > 1 || abs(len(moments)-want) > 1 {
			t.Errorf("%s after %s: %d sends in %s and %d in all, want %d and %d", text, warmup, got, at, len(moments), wantBefore, want)
		}
		if moments[0] != 0 {
			t.Errorf("%s begins after %s", text, moments[0])
		}
	}
	check("2000", 0, 5*time.Second, 10_000, 20_000)
	check("2000", time.Second, time.Second, 2000, 22_000)
	// A quarter of a ramp from nothing is in its first half.
	check("0.01..2000", 0, 5*time.Second, 2500, 10_000)
	check("2000..0.01", 0, 5*time.Second, 7500, 10_000)
	check("100..300", time.Second, 6*time.Second, 100+750, 100+2000)
	check("100,200,700,1000", 0, 5*time.Second, 750, 5000)
	check("100,200", 2*time.Second, 7*time.Second, 200+500, 200+1500)
}

func abs(n int) int { return max(n, -n) }

// Each request of a batch stands for so many sends.
func TestBatchesAreDueAtTheRateOfTheirSends(t *testing.T) {
	moments := momentsOf(t, newSchedule(ConstantRate(1000), 0, time.Second, 100, false, 1))
	if len(moments) != 10 {
		t.Fatalf("%d batches of 100 in a second at 1,000/s", len(moments))
	}
	if gap := moments[1] - moments[0]; gap != 100*time.Millisecond {
		t.Errorf("batches are %s apart, want 100 ms", gap)
	}
}

// Whatever the profile, a schedule ends, goes forward and stays in its time.
func TestSchedulesStayInTheirTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Float64Range(1, 2000)
		r := Rate{steps: rapid.SliceOfN(rate, 1, 4).Draw(t, "steps")}
		if len(r.steps) == 2 {
			r.ramp = rapid.Bool().Draw(t, "ramp")
		}
		warmup := time.Duration(rapid.IntRange(0, 1000).Draw(t, "warm-up, ms")) * time.Millisecond
		duration := time.Duration(rapid.IntRange(1, 2000).Draw(t, "duration, ms")) * time.Millisecond
		s := newSchedule(r, warmup, duration, rapid.IntRange(1, 10).Draw(t, "each"), rapid.Bool().Draw(t, "Poisson"), rapid.Uint64().Draw(t, "seed"))
		for _, at := range momentsOf(t, s) {
			if at < 0 || at > warmup+duration+time.Microsecond {
				t.Fatalf("a send is due at %s of %s", at, warmup+duration)
			}
		}
	})
}

// Gaps of a Poisson process are exponential: their variance is the square of
// their mean, the median is ln 2 of it. Even arrivals have no variance.
func TestPoissonGapsAreExponential(t *testing.T) {
	const rate = 1000
	moments := momentsOf(t, newSchedule(ConstantRate(rate), 0, 200*time.Second, 1, true, 7))
	if n := float64(len(moments)); math.Abs(n-200*rate) > 4*math.Sqrt(200*rate) {
		t.Errorf("%g arrivals in 200 s at %d/s", n, rate)
	}
	var sum, squares float64
	shorter := 0
	for i := 1; i < len(moments); i++ {
		gap := (moments[i] - moments[i-1]).Seconds() * rate
		sum, squares = sum+gap, squares+gap*gap
		if gap < math.Ln2 {
			shorter++
		}
	}
	n := float64(len(moments) - 1)
	mean := sum / n
	variance := squares/n - mean*mean
	if math.Abs(mean-1) > 0.01 || math.Abs(variance-1) > 0.03 || math.Abs(float64(shorter)/n-0.5) > 0.005 {
		t.Errorf("gaps have a mean of %.4f and a variance of %.4f of the rate's, %.4f are below ln 2; want 1, 1, 0.5",
			mean, variance, float64(shorter)/n)
	}
	again := momentsOf(t, newSchedule(ConstantRate(rate), 0, 200*time.Second, 1, true, 7))
	if len(again) != len(moments) || again[100] != moments[100] {
		t.Error("the same seed makes other arrivals")
	}
	if other := momentsOf(t, newSchedule(ConstantRate(rate), 0, time.Second, 1, true, 8)); other[0] == moments[0] {
		t.Error("another seed makes the same arrivals")
	}
}

// A ramp's arrivals at random are as many in each part as the even ones.
func TestPoissonArrivalsFollowTheRamp(t *testing.T) {
	r, err := ParseRate("100..1900")
	if err != nil {
		t.Fatal(err)
	}
	moments := momentsOf(t, newSchedule(r, 0, 100*time.Second, 1, true, 3))
	first := float64(countBefore(moments, 50*time.Second))
	if want := 50 * (100 + 1000) / 2.0; math.Abs(first-want) > 4*math.Sqrt(want) {
		t.Errorf("%g arrivals in the first half, want about %g", first, want)
	}
}
