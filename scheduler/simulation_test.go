package scheduler

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// A sim is a world of accounts, receivers, a disk and workers around a
// scheduler, in simulated time: a loop over events that knows no other clock.
// At every start it checks what must hold whatever happens, see started.
type sim struct {
	testing.TB
	seed uint64
	rnd  *rand.Rand
	s    *Scheduler
	opts Options

	at         int64 // what time it really is, in microseconds since the start
	skew       Time  // by how much the scheduler's clock is wrong
	frozen     Time  // the scheduler's clock stands still there; 0: it runs
	clockWrong bool  // it has been wrong: what is to happen when is not known from outside
	events     []simEvent
	order      int // of events at the same time
	wakeAt     int64

	lanes   map[LaneKey]*simLane
	sorted  []*simLane
	live    map[ID]*simDelivery
	nextID  uint64
	life    int // how often the scheduler was started: what belongs to an earlier one is over
	reading int // pages on their way
	pages   int // read
	flights int

	attempts  int   // a delivery ends after so many; 0: never
	roomTime  int64 // for how long, in microseconds, there was a free slot
	suspended map[uint64]bool
	onStart   func(*simLane, *simDelivery)
	onEnd     func(*simLane, *simDelivery, Ended)
}

type simEvent struct {
	at    int64
	order int
	do    func()
}

type simLane struct {
	key      LaneKey
	receiver receiver
	limits   LaneLimits
	disk     []Item // in order of their positions; some are stale
	waiting  int    // deliveries that are not over and not busy
	flights  int

	starts, healthy, refused, failed int
	worker                           int64   // worker time in microseconds of what has ended
	waits                            []int64 // of started first attempts, in microseconds, from when they were due

	// What is known from outside of what may be started.
	holdUntil int64 // real time; of the latest Retry-After
	opened    int64 // when the breaker opened
	isOpen    bool
	probes    int // attempts in flight that began while it was open
	rateSince int64
	rateCount float64
	rateLeast float64 // least of what count/rate - time has been
	rateSlack float64 // starts that changes of limits, clock and life allow
}

type simDelivery struct {
	id    ID
	lane  *simLane
	item  Item
	busy  bool
	added int64 // real time: the later of when it was added and due
	room  int64 // roomTime then
	began int64
	probe bool
}

// A receiver says how an attempt that arrives ends.
type receiver func(w *sim, l *simLane) (v Verdict, took time.Duration, retryAfter time.Duration)

func newSim(t testing.TB, seed uint64, o Options) *sim {
	w := &sim{
		TB: t, seed: seed, rnd: rand.New(rand.NewPCG(seed, 1)), s: New(o), opts: o.withDefaults(),
		lanes: map[LaneKey]*simLane{}, live: map[ID]*simDelivery{}, suspended: map[uint64]bool{}, wakeAt: 1 << 62,
	}
	w.s.Wake(w.clock())
	return w
}

func (w *sim) fail(format string, args ...any) {
	w.Helper()
	w.Fatalf("HAREPOST_SEED=%d, at %.3f s: %s", w.seed, float64(w.at)/1e6, fmt.Sprintf(format, args...))
}

// clock is what the scheduler is told that time it is.
func (w *sim) clock() Time {
	if w.frozen != 0 {
		return w.frozen
	}
	return clock + Time(w.at/1000) + w.skew
}

func seconds(s float64) int64 { return int64(s * 1e6) }

// in has something happen after a while, in microseconds.
func (w *sim) in(wait int64, do func()) {
	w.order++
	w.events = append(w.events, simEvent{w.at + max(wait, 0), w.order, do})
	i := len(w.events) - 1
	for ; i > 0 && w.events[i].before(w.events[(i-1)/2]); i = (i - 1) / 2 {
		w.events[i], w.events[(i-1)/2] = w.events[(i-1)/2], w.events[i]
	}
}

func (e simEvent) before(f simEvent) bool { return e.at < f.at || e.at == f.at && e.order < f.order }

func (w *sim) pop() simEvent {
	e, n := w.events[0], len(w.events)-1
	w.events[0] = w.events[n]
	w.events[n] = simEvent{}
	w.events = w.events[:n]
	for i := 0; ; {
		c := 2*i + 1
		if c+1 < n && w.events[c+1].before(w.events[c]) {
			c++
		}
		if c >= n || w.events[i].before(w.events[c]) {
			return e
		}
		w.events[i], w.events[c] = w.events[c], w.events[i]
		i = c
	}
}

// every repeats something at intervals of its own.
func (w *sim) every(interval func() int64, do func()) {
	w.in(interval(), func() { do(); w.every(interval, do) })
}

// run plays the world for so many seconds.
func (w *sim) run(s float64) {
	end := w.at + seconds(s)
	w.runUntil(func() bool { return w.at >= end || len(w.events) == 0 || w.events[0].at > end })
	w.pass(end)
}

func (w *sim) runUntil(over func() bool) {
	w.pump()
	for !over() && len(w.events) > 0 {
		e := w.pop()
		w.pass(e.at)
		e.do()
		w.pump()
	}
}

func (w *sim) pass(to int64) {
	if w.flights < w.opts.Slots {
		w.roomTime += max(to-w.at, 0)
	}
	w.at = max(w.at, to)
}

// pump does what there is to do now: the timekeeper's, the readers' and the
// workers' part.
func (w *sim) pump() {
	for n := 0; ; n++ {
		at, ok := w.s.NextWake()
		if !ok || at > w.clock() {
			break
		}
		if n > 100_000 {
			w.fail("Wake is asked for without end")
		}
		w.s.Wake(w.clock())
	}
	for w.reading < 8 {
		p, ok := w.s.NextPage()
		if !ok {
			break
		}
		w.readPage(p)
	}
	for {
		d, ok := w.s.Next(w.clock())
		if !ok {
			break
		}
		w.started(d)
	}
	w.listen()
	if at, ok := w.s.NextWake(); ok { // the timekeeper sleeps for a second at most
		wait := min(int64(at-w.clock())*1000, 1e6)
		if w.at+wait < w.wakeAt || w.wakeAt <= w.at {
			w.wakeAt = w.at + max(wait, 1)
			w.in(max(wait, 1), func() { w.s.Wake(w.clock()) })
		}
	}
}

// listen follows what the scheduler tells of breakers.
func (w *sim) listen() {
	for e, ok := w.s.NextEvent(); ok; e, ok = w.s.NextEvent() {
		l := w.lanes[e.Lane]
		l.isOpen = e.Kind == BreakerOpened
		if l.isOpen {
			l.opened, l.probes = w.at, 0
		}
	}
}

func (w *sim) lane(k LaneKey, r receiver) *simLane {
	l := &simLane{key: k, receiver: r}
	w.lanes[k] = l
	w.sorted = append(w.sorted, l)
	return l
}

// send adds a delivery that is due after a while.
func (w *sim) send(l *simLane, c Class, wait Time) *simDelivery {
	w.nextID++
	d := &simDelivery{lane: l}
	binary.BigEndian.PutUint64(d.id[8:], w.nextID)
	w.live[d.id] = d
	l.waiting++
	w.add(d, Item{ID: d.id, Due: w.clock() + wait, Attempt: 1, Class: c})
	return d
}

func (w *sim) add(d *simDelivery, it Item) {
	d.item = it
	d.added = w.at + int64(max(it.Due-w.clock(), 0))*1000
	d.room = w.roomTime
	l := d.lane
	for len(l.disk) > 0 && w.stale(l.disk[0]) {
		l.disk = l.disk[1:]
	}
	i, _ := slices.BinarySearchFunc(l.disk, it, func(a, b Item) int { return a.Position().Compare(b.Position()) })
	l.disk = slices.Insert(l.disk, i, it)
	w.s.Add(l.key, it, 0, w.clock())
}

// stale reports whether the disk would not have the entry any more.
func (w *sim) stale(it Item) bool {
	d := w.live[it.ID]
	return d == nil || d.item != it
}

func (w *sim) readPage(p PageRequest) {
	life, l := w.life, w.lanes[p.Lane]
	w.reading++
	w.pages++
	w.in(500+w.rnd.Int64N(3000), func() {
		if life != w.life {
			return
		}
		w.reading--
		i, _ := slices.BinarySearchFunc(l.disk, p.From, func(it Item, p Position) int { return it.Position().Compare(p) })
		var items []Item
		for ; i < len(l.disk) && len(items) <= p.Limit; i++ {
			if !w.stale(l.disk[i]) {
				items = append(items, l.disk[i])
			}
		}
		more := len(items) > p.Limit
		w.s.Paged(p.Lane, items[:min(len(items), p.Limit)], more, w.clock())
	})
}

// started checks that an attempt may start, and makes it.
func (w *sim) started(got Dispatch) {
	d := w.live[got.Item.ID]
	if d == nil || d.busy || d.item != got.Item || d.lane.key != got.Lane {
		w.fail("started %+v, which is %+v", got, d)
	}
	l := d.lane
	w.mayStart(l, d)
	d.busy, d.began, d.probe = true, w.at, l.isOpen
	l.waiting--
	l.starts++
	l.flights++
	w.flights++
	if d.item.Attempt == 1 {
		l.waits = append(l.waits, w.at-d.added)
	}
	if w.onStart != nil {
		w.onStart(l, d)
	}
	v, took, retryAfter := l.receiver(w, l)
	life := w.life
	w.in(took.Microseconds(), func() {
		if life == w.life {
			w.ended(d, Ended{Verdict: v, Took: took, RetryAfter: retryAfter})
		}
	})
}

func (w *sim) ended(d *simDelivery, e Ended) {
	l := d.lane
	l.flights--
	w.flights--
	l.worker += e.Took.Microseconds()
	switch e.Verdict {
	case Healthy:
		l.healthy++
	case Faulty:
		l.failed++
	default:
		l.refused++
	}
	if d.probe {
		l.probes--
	}
	if e.RetryAfter > 0 {
		l.holdUntil = max(l.holdUntil, w.at+min(e.RetryAfter, time.Hour).Microseconds())
	}
	w.s.Done(l.key, d.id, e, w.clock())
	if w.onEnd != nil {
		w.onEnd(l, d, e)
	}
	life := w.life
	w.in(w.rnd.Int64N(5000), func() {
		if life == w.life {
			w.record(d, e)
		}
	})
}

// record ends the delivery, or has it tried again.
func (w *sim) record(d *simDelivery, e Ended) {
	d.busy = false
	w.s.Recorded(d.lane.key, d.id)
	if e.Verdict == Healthy || w.attempts > 0 && int(d.item.Attempt) >= w.attempts {
		delete(w.live, d.id)
		return
	}
	wait := time.Second << min(d.item.Attempt-1, 5)
	wait = time.Duration(w.rnd.Int64N(int64(wait)))
	if e.RetryAfter > wait {
		wait = e.RetryAfter
	}
	d.lane.waiting++
	w.add(d, Item{ID: d.id, Due: w.clock() + Time(wait/time.Millisecond), Attempt: d.item.Attempt + 1, Class: Retry})
}

// mayStart is what holds whatever happens.
func (w *sim) mayStart(l *simLane, d *simDelivery) {
	w.Helper()
	sl := w.s.lanes.at(w.s.byKey[l.key])
	t := &w.s.turns[sl.band]
	parallel := w.opts.LaneConcurrency
	if l.limits.Parallelism > 0 {
		parallel = l.limits.Parallelism
	}
	switch {
	case d.item.Due > w.clock():
		w.fail("%v: started %d ms early", l.key, d.item.Due-w.clock())
	case w.flights >= w.opts.Slots:
		w.fail("more than %d in flight", w.opts.Slots)
	case t.flights > t.most+1:
		w.fail("band %d has %d of %d slots", sl.band, t.flights, t.most)
	case l.flights >= parallel:
		w.fail("%v: %d in flight, %d may be", l.key, l.flights+1, parallel)
	case l.limits.Paused:
		w.fail("%v: started though it is paused", l.key)
	case w.suspended[l.key.Account]:
		w.fail("%v: started though its account is suspended", l.key)
	case !w.clockWrong && w.at < l.holdUntil-1000:
		w.fail("%v: started %d us before the end of its Retry-After", l.key, l.holdUntil-w.at)
	}
	if l.isOpen {
		if l.probes++; l.probes > 1 {
			w.fail("%v: %d probes at once", l.key, l.probes)
		}
		if !w.clockWrong && w.at-l.opened < int64(firstOpen)*1000-1000 {
			w.fail("%v: a probe %d us after the breaker has opened", l.key, w.at-l.opened)
		}
	}
	w.keepsRate(l)
}

// keepsRate checks that in no stretch of time more was started than the set
// rate and its burst allow. With n starts in a stretch of d seconds:
// n <= 1 + rate*(d + paceBurst), which is to say that n/rate - d is at most
// 1/rate + paceBurst above the least that it has been.
func (w *sim) keepsRate(l *simLane) {
	w.Helper()
	if l.limits.Rate == 0 {
		return
	}
	passed := float64(w.at-l.rateSince) / 1e6
	l.rateLeast = min(l.rateLeast, l.rateCount/l.limits.Rate-passed)
	l.rateCount++
	excess := l.rateCount/l.limits.Rate - passed - l.rateLeast
	// The clock has milliseconds: one may seem to have passed that has just begun.
	if excess > (1+l.rateSlack)/l.limits.Rate+paceBurst/1e6+0.0011 {
		w.fail("%v: %.1f starts more than %v/s allow", l.key, excess*l.limits.Rate, l.limits.Rate)
	}
}

func (w *sim) limit(l *simLane, limits LaneLimits) {
	l.limits = limits
	l.rateSince, l.rateCount, l.rateLeast, l.rateSlack = w.at, 0, 0, 0
	w.s.SetLimits(l.key, limits, w.clock())
}

// clockChanges allows every lane that is paced one start and a burst at once.
func (w *sim) clockChanges() {
	w.clockWrong = true
	for _, l := range w.sorted {
		l.rateSlack += 1 + l.limits.Rate*paceBurst/1e6
	}
}

// jump moves the scheduler's clock.
func (w *sim) jump(by Time) {
	w.skew += by
	w.clockChanges()
}

// restart starts the scheduler anew, as after a crash: what was in flight is
// made again.
func (w *sim) restart() {
	w.life++
	w.reading, w.flights, w.wakeAt = 0, 0, 1<<62
	w.s = New(w.opts)
	w.s.Wake(w.clock())
	for a, suspended := range w.suspended {
		if suspended {
			w.s.Suspend(a)
		}
	}
	for _, l := range w.sorted {
		l.flights, l.waiting, l.isOpen, l.probes, l.holdUntil = 0, 0, false, 0, 0
		l.rateSlack += 1 + l.limits.Rate*paceBurst/1e6
		if l.limits != (LaneLimits{}) {
			w.s.SetLimits(l.key, l.limits, w.clock())
		}
	}
	for _, d := range w.live {
		d.busy, d.added, d.room = false, w.at, w.roomTime
		d.lane.waiting++
	}
	for _, l := range w.sorted {
		l.disk = slices.DeleteFunc(l.disk, w.stale)
		if len(l.disk) > 0 {
			w.s.Restore(l.key, l.disk[0].Position(), w.clock())
		}
	}
}

// arrivals sends to a lane at a rate per second, evenly or as they come.
func (w *sim) arrivals(l *simLane, rate float64, even bool, until int64) {
	var next func()
	next = func() {
		if w.at >= until {
			return
		}
		w.send(l, Fresh, 0)
		wait := 1e6 / rate
		if !even {
			wait *= w.rnd.ExpFloat64()
		}
		w.in(int64(wait), next)
	}
	w.in(int64(w.rnd.Float64()*1e6/rate), next)
}

// quantile of times in microseconds.
func quantileOf(times []int64, part float64) time.Duration {
	if len(times) == 0 {
		return 0
	}
	t := slices.Clone(times)
	slices.Sort(t)
	return time.Duration(t[min(int(part*float64(len(t))), len(t)-1)]) * time.Microsecond
}

// Receivers.

// steady answers after the same time, always well.
func steady(took time.Duration) receiver {
	return func(*sim, *simLane) (Verdict, time.Duration, time.Duration) { return Healthy, took, 0 }
}

// varied answers well after times that are distributed exponentially.
func varied(mean time.Duration) receiver {
	return func(w *sim, _ *simLane) (Verdict, time.Duration, time.Duration) {
		return Healthy, time.Duration(w.rnd.ExpFloat64() * float64(mean)), 0
	}
}

// blackHole never answers.
func blackHole(*sim, *simLane) (Verdict, time.Duration, time.Duration) {
	return Overloaded, 30 * time.Second, 0
}

// dead refuses connections.
func dead(*sim, *simLane) (Verdict, time.Duration, time.Duration) {
	return Faulty, time.Millisecond, 0
}

// limited takes so many per second, evenly but for a tenth of a second's worth,
// and refuses what is above it.
func limited(perSecond float64, took time.Duration, refusal Verdict, retryAfter time.Duration) receiver {
	var next int64
	interval := int64(1e6 / perSecond)
	return func(w *sim, _ *simLane) (Verdict, time.Duration, time.Duration) {
		if next-w.at > max(100_000, interval/2) {
			return refusal, 2 * time.Millisecond, retryAfter
		}
		next = max(next, w.at) + interval
		return Healthy, took, 0
	}
}

// outage is a receiver that is another one from then until then.
func outage(from, until int64, instead, otherwise receiver) receiver {
	return func(w *sim, l *simLane) (Verdict, time.Duration, time.Duration) {
		if w.at >= from && w.at < until {
			return instead(w, l)
		}
		return otherwise(w, l)
	}
}

// sometimes is another receiver for a part of the attempts.
func sometimes(part float64, instead, otherwise receiver) receiver {
	return func(w *sim, l *simLane) (Verdict, time.Duration, time.Duration) {
		if w.rnd.Float64() < part {
			return instead(w, l)
		}
		return otherwise(w, l)
	}
}

// refuses answers at once with a refusal.
func refuses(v Verdict, retryAfter time.Duration) receiver {
	return func(*sim, *simLane) (Verdict, time.Duration, time.Duration) {
		return v, 2 * time.Millisecond, retryAfter
	}
}

// loaded gets slower with what it has in flight, and times out.
func loaded(base time.Duration, good int) receiver {
	return func(w *sim, l *simLane) (Verdict, time.Duration, time.Duration) {
		took := base * time.Duration(1+l.flights*l.flights/(good*good))
		if took > 30*time.Second {
			return Overloaded, 30 * time.Second, 0
		}
		return Healthy, took, 0
	}
}
