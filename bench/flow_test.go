package bench

import (
	"testing"
	"time"
)

// A second of silence, two of 30 attempts each, one of 10, two of 20.
func TestTimelineAboveARate(t *testing.T) {
	line := timeline{Began: moment(time.Hour)}
	for _, n := range []uint32{0, 3, 3, 1, 2, 2} {
		for range second {
			line.Attempts = append(line.Attempts, n)
		}
	}
	check := func(from time.Duration, rate, above float64, longest time.Duration) {
		t.Helper()
		at := line.Began + moment(from)
		if got := line.above(at, rate); got != above {
			t.Errorf("from %s: %g above %g/s, want %g", from, got, rate, above)
		}
		if got := line.longestAbove(at, rate); got != longest {
			t.Errorf("from %s: above %g/s for %s, want %s", from, rate, got, longest)
		}
	}
	// One step after the moment is the first that is looked at.
	const after = 900 * time.Millisecond
	check(after, 30, 0, 0)
	check(after, 29, 2, 2*time.Second)
	check(after, 15, 40, 2700*time.Millisecond) // until the second of which 7 tenths are after the fall to 10
	check(after, 9, 65, 5*time.Second)
	check(3900*time.Millisecond, 15, 10, 2*time.Second)
	check(time.Hour, 0, 0, 0)
}
