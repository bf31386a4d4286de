package scheduler

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// wheelModel is the wheel as a list that is sorted when it is asked.
type wheelModel struct {
	w       *wheel
	pick    func(int) int
	now     Time // the clock, which may be behind the wheel
	tick    tick
	set     map[uint32]timed
	expired []uint32
	serial  int
}

type timed struct {
	at     Time
	due    tick
	serial int
}

func newWheelModel(pick func(int) int) *wheelModel {
	const start = 1_700_000_000_000
	return &wheelModel{w: newWheel(start), pick: pick, now: start, tick: start / tickMs, set: map[uint32]timed{}}
}

// span draws a time in milliseconds that ends in any of the levels.
func (m *wheelModel) span() Time {
	spans := [...]int{1, 10, 40, 2560, 5000, 163_840, 400_000, 10_485_760, 30_000_000}
	i := m.pick(len(spans) + 1)
	if i == len(spans) {
		return Time(m.pick(1<<20)) * 31_000 // up to a year
	}
	return Time(m.pick(spans[i] + 1))
}

func (m *wheelModel) step() error {
	key := uint32(1 + m.pick(40))
	switch m.pick(6) {
	case 0, 1, 2:
		at := m.now + m.span() - Time(m.pick(30))
		due := max(tick((at+tickMs-1)/tickMs), m.tick+1)
		if old, ok := m.set[key]; !ok || old.due != due {
			m.serial++
			m.set[key] = timed{at, due, m.serial}
		}
		m.dropExpired(key)
		m.w.set(key, at)
	case 3:
		delete(m.set, key)
		m.dropExpired(key)
		m.w.cancel(key)
	case 4:
		m.advance(m.now + m.span())
	case 5:
		if m.pick(4) == 0 {
			m.advance(m.now - Time(m.pick(3000)))
		} else if at, ok := m.w.next(); ok {
			m.advance(max(m.now, at))
		}
	}
	return m.check()
}

func (m *wheelModel) dropExpired(key uint32) {
	m.expired = slices.DeleteFunc(m.expired, func(k uint32) bool { return k == key })
}

func (m *wheelModel) advance(now Time) {
	m.now = now
	m.w.advance(now)
	target := tick(now / tickMs)
	if target < m.tick-rebaseTicks {
		m.tick = target
		return
	}
	m.tick = max(m.tick, target)
	var due []uint32
	for key, e := range m.set {
		if e.due <= m.tick {
			due = append(due, key)
		}
	}
	slices.SortFunc(due, func(a, b uint32) int {
		x, y := m.set[a], m.set[b]
		return cmp.Or(cmp.Compare(x.due, y.due), cmp.Compare(x.serial, y.serial))
	})
	for _, key := range due {
		delete(m.set, key)
	}
	m.expired = append(m.expired, due...)
}

func (m *wheelModel) check() error {
	if err := wheelInvariants(m.w); err != nil {
		return err
	}
	if m.pick(3) != 0 {
		for len(m.expired) > 0 {
			key, ok := m.w.takeExpired()
			if !ok || key != m.expired[0] {
				return fmt.Errorf("expired %d (%t), want %v", key, ok, m.expired)
			}
			m.expired = m.expired[1:]
		}
		if key, ok := m.w.takeExpired(); ok {
			return fmt.Errorf("%d expired early or twice", key)
		}
	}
	if m.w.count != len(m.set)+len(m.expired) {
		return fmt.Errorf("%d entries, want %d", m.w.count, len(m.set)+len(m.expired))
	}
	next, ok := m.w.next()
	if len(m.expired) > 0 {
		if !ok || next > m.tick.start() {
			return fmt.Errorf("next is %d (%t), but something has expired", next, ok)
		}
		return nil
	}
	if ok != (len(m.set) > 0) {
		return fmt.Errorf("next is %t with %d entries", ok, len(m.set))
	}
	for key, e := range m.set {
		if next > e.due.start() || next <= m.tick.start() {
			return fmt.Errorf("next is %d, key %d is due at %d, now %d", next, key, e.due.start(), m.tick.start())
		}
	}
	return nil
}

func TestWheelIsASortedList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		small := rapid.IntRange(0, 1<<24)
		m := newWheelModel(func(n int) int { return small.Draw(t, "n") % n })
		for n := range rapid.IntRange(1, 60).Draw(t, "steps") {
			if err := m.step(); err != nil {
				t.Fatalf("step %d: %v", n, err)
			}
		}
	})
}

// TestWheelIsASortedListAtLength runs longer: HAREPOST_WHEEL_STEPS sets how
// many steps, HAREPOST_SEED repeats a run.
func TestWheelIsASortedListAtLength(t *testing.T) {
	steps := envInt(t, "HAREPOST_WHEEL_STEPS", 20_000)
	seed := uint64(envInt(t, "HAREPOST_SEED", int(time.Now().UnixNano())))
	t.Logf("HAREPOST_SEED=%d", seed)
	m := newWheelModel(rand.New(rand.NewPCG(seed, 0)).IntN)
	for n := range steps {
		if err := m.step(); err != nil {
			t.Fatalf("seed %d, step %d: %v", seed, n, err)
		}
	}
}

// expireOne follows next until key expires, and returns when, and after how
// many calls of advance.
func expireOne(t *testing.T, w *wheel, key uint32) (Time, int) {
	t.Helper()
	for calls := 1; calls < 100; calls++ {
		at, ok := w.next()
		if !ok {
			t.Fatalf("key %d is lost", key)
		}
		w.advance(at)
		if got, ok := w.takeExpired(); ok {
			if got != key {
				t.Fatalf("key %d expired, want %d", got, key)
			}
			return at, calls
		}
	}
	t.Fatalf("key %d does not expire", key)
	return 0, 0
}

func TestWheelExpiresWithinATickAndAFewWakes(t *testing.T) {
	const start Time = 1_700_000_000_003
	check := func(wait Time, mostWakes int) {
		t.Helper()
		w := newWheel(start)
		w.set(7, start+wait)
		at, wakes := expireOne(t, w, 7)
		if late := at - start - wait; late < 0 || late >= tickMs {
			t.Errorf("after %d ms: %d ms late", wait, late)
		}
		if wakes > mostWakes {
			t.Errorf("after %d ms: woken %d times, want at most %d", wait, wakes, mostWakes)
		}
	}
	check(1, 1)
	check(10, 2)
	check(2_560, 2)
	check(163_840, 3)
	check(10_485_760, 4)
	check(365*24*3600*1000, 4) // a year: far is one cascade more
	check(100*365*24*3600*1000, 4)
}

func TestWheelExpiresOneTickInTheOrderItWasSet(t *testing.T) {
	const start Time = 1_700_000_000_000
	w := newWheel(start)
	at := start + 20_000_000
	for key := uint32(1); key <= 100; key++ {
		w.set(key, at) // all of them far
	}
	for key := uint32(101); key <= 120; key++ {
		w.advance(start + Time(key-100)*999_900)
		w.set(key, at) // each nearer to the end, through all the levels
	}
	w.advance(at + 10)
	for want := uint32(1); want <= 120; want++ {
		if key, ok := w.takeExpired(); key != want || !ok {
			t.Fatalf("expired %d (%t), want %d", key, ok, want)
		}
	}
}

func TestWheelKeepsOrderOverALeap(t *testing.T) {
	w := newWheel(0)
	const hour = 3_600_000
	for key := uint32(1); key <= 210; key++ {
		w.set(key, 100*hour+Time(key%7)*5*hour)
	}
	w.advance(1000 * hour)
	for i := range uint32(7) {
		for n := range uint32(30) {
			want := n*7 + i
			if i == 0 {
				want += 7 // there is no key 0
			}
			if key, _ := w.takeExpired(); key != want {
				t.Fatalf("expired %d, want %d", key, want)
			}
		}
	}
}

func TestWheelLeapsOverCenturiesAtOnce(t *testing.T) {
	const century = 100 * 365 * 24 * 3600 * 1000
	w := newWheel(0)
	now := Time(0)
	for range 1000 { // tick by tick this would be 3*10^14 steps
		for key := uint32(1); key <= 100; key++ {
			w.set(key, now+Time(key)*(century/100))
		}
		now += century
		w.advance(now)
		for want := uint32(1); want <= 100; want++ {
			if key, _ := w.takeExpired(); key != want {
				t.Fatalf("expired %d, want %d", key, want)
			}
		}
	}
}

func TestWheelFollowsAClockThatIsSetBack(t *testing.T) {
	const start Time = 1_700_000_000_000
	w := newWheel(start)
	w.set(1, start+50)
	w.advance(start - 3_600_000)
	if _, ok := w.takeExpired(); ok {
		t.Fatal("expired because the clock went back")
	}
	w.set(2, start-3_600_000+100)
	if at, _ := expireOne(t, w, 2); at != start-3_600_000+100 {
		t.Errorf("key 2 expires at %d, an hour and 100 ms before %d wanted", at, start)
	}
	if at, _ := expireOne(t, w, 1); at != start+50 {
		t.Errorf("key 1 expires at %d, want %d", at, start+50)
	}
}

func TestAKeySetAgainAfterItExpiredWaitsAgain(t *testing.T) {
	const start Time = 1_700_000_000_000
	w := newWheel(start)
	w.set(1, start+50)
	w.advance(start + 50)
	w.advance(start - 3_600_000) // before it was taken
	w.set(1, start+50)
	if _, ok := w.takeExpired(); ok {
		t.Fatal("expired an hour early")
	}
	if at, _ := expireOne(t, w, 1); at != start+50 {
		t.Errorf("expires at %d, want %d", at, start+50)
	}
}

func TestWheelStandsStillForASmallStepBack(t *testing.T) {
	const start Time = 1_700_000_000_000
	w := newWheel(start)
	w.advance(start - 900)
	w.set(1, start-850)
	w.advance(start - 860)
	if _, ok := w.takeExpired(); ok {
		t.Fatal("expired early")
	}
	if at, _ := expireOne(t, w, 1); at != start+tickMs {
		t.Fatalf("expires at %d, want the next tick after %d", at, start)
	}
}

func TestCancelledKeysDoNotExpire(t *testing.T) {
	w := newWheel(0)
	for key := uint32(1); key < 5000; key++ {
		w.set(key, Time(key)*97_003)
	}
	for key := uint32(1); key < 6000; key++ {
		w.cancel(key)
	}
	if at, ok := w.next(); ok {
		t.Fatalf("empty, but next is %d", at)
	}
	w.advance(1 << 40)
	if key, ok := w.takeExpired(); ok {
		t.Fatalf("%d expired", key)
	}
}
