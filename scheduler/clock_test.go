package scheduler

import (
	"testing"
	"time"
)

// A clock that is set back an hour holds a lane for no longer than it would have
// been held, where nothing that waits is due by the clock only.
func TestAClockThatIsSetBackHoldsNobody(t *testing.T) {
	for name, limits := range map[string]LaneLimits{"rate": {Rate: 1}, "none": {}} {
		t.Run(name, func(t *testing.T) {
			w := newSim(t, 1, Options{LaneConcurrency: 1})
			l := w.lane(home, limited(2, time.Millisecond, Throttled, 0))
			w.limit(l, limits)
			for range 1000 {
				w.send(l, Fresh, -2*3_600_000)
			}
			w.run(10)
			w.jump(-3_600_000)
			starts := l.starts
			w.run(20)
			if l.starts-starts < 10 {
				t.Errorf("%d attempts within 20 s of the jump", l.starts-starts)
			}
		})
	}
}
