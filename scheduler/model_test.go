package scheduler

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// model is the world around a scheduler, simple enough to be right: a log
// whose entries reach the disk late, a disk queue per lane, page reads that
// take their time, attempts that end before their results are recorded. It
// knows every delivery that is alive and what may happen to it.
type model struct {
	s    *Scheduler
	pick func(n int) int // a number in [0, n)

	now     Time
	behind  Time   // until then the wheel may stand still: the clock went back
	next    uint64 // log index of the next entry
	written uint64 // entries before it are on disk
	log     []logged
	disk    map[LaneKey]map[ID]Item
	live    map[ID]*delivery
	ids     []ID // of live, in a repeatable order
	resume  map[LaneKey]Time
	reads   []*pageRead
	flights map[LaneKey]int

	suspended map[uint64]bool

	mood []int // actions, each as often as it is likely
	hot  int   // the lane that gets most sends; 4 and above: none

	started, stale int // attempts; page entries that were over or busy when answered
}

type logged struct {
	index uint64
	id    ID
}

type delivery struct {
	k        LaneKey
	item     Item
	logIndex uint64
	state    itemState // itemStored stands for waiting
	returned bool      // out of log order among the young: may stay young for longer
	place    int       // in ids
}

type pageRead struct {
	PageRequest
	read  bool
	items []Item
	more  bool
}

func newModel(o Options, pick func(int) int) *model {
	return &model{
		s: New(o), pick: pick, now: 1_700_000_000_000, next: 1, written: 1,
		disk: map[LaneKey]map[ID]Item{}, live: map[ID]*delivery{},
		resume: map[LaneKey]Time{}, flights: map[LaneKey]int{},
		suspended: map[uint64]bool{},
	}
}

func (m *model) lane() LaneKey {
	if m.hot < 4 && m.pick(8) != 0 {
		return LaneKey{Account: uint64(m.hot / 2), Destination: uint64(m.hot % 2)}
	}
	return LaneKey{Account: uint64(m.pick(2)), Destination: uint64(m.pick(2))}
}

// soon draws a due time: often now, sometimes ties, sometimes far away.
func (m *model) soon() Time {
	switch m.pick(8) {
	case 0:
		return m.now - Time(m.pick(3000))
	case 1:
		return m.now + Time(m.pick(50))
	case 2:
		return m.now + Time(m.pick(10_000))
	case 3:
		return m.now + Time(m.pick(20_000_000))
	default:
		return m.now
	}
}

func (m *model) newID() ID {
	var id ID
	for {
		binary.BigEndian.PutUint32(id[:], uint32(m.pick(1<<20)))
		if m.live[id] == nil {
			return id
		}
	}
}

func (m *model) remember(d *delivery) {
	d.place = len(m.ids)
	m.ids = append(m.ids, d.item.ID)
	m.live[d.item.ID] = d
}

func (m *model) forget(d *delivery) {
	last := len(m.ids) - 1
	m.ids[d.place] = m.ids[last]
	m.live[m.ids[d.place]].place = d.place
	m.ids = m.ids[:last]
	delete(m.live, d.item.ID)
}

func (m *model) put(k LaneKey, it Item) {
	if m.disk[k] == nil {
		m.disk[k] = map[ID]Item{}
	}
	m.disk[k][it.ID] = it
}

// accept is a send: in memory now, on disk when the log is applied.
func (m *model) accept() error {
	for range 1 + m.pick(20) {
		d := &delivery{k: m.lane(), item: Item{ID: m.newID(), Due: m.soon(), Attempt: 1}, logIndex: m.next, state: itemStored}
		m.remember(d)
		m.log = append(m.log, logged{m.next, d.item.ID})
		m.s.Add(d.k, d.item, m.next, m.now)
		if m.pick(3) == 0 {
			m.next++ // several deliveries may share an entry
		}
	}
	m.next++
	return nil
}

// apply writes a part of the log to disk; the watermark follows later.
func (m *model) apply() error {
	n := m.pick(len(m.log) + 1)
	for n < len(m.log) && n > 0 && m.log[n].index == m.log[n-1].index {
		n++ // an entry is applied whole
	}
	for _, e := range m.log[:n] {
		if d := m.live[e.id]; d != nil && d.logIndex == e.index {
			m.put(d.k, d.item)
		}
		m.written = e.index + 1
	}
	m.log = slices.Delete(m.log, 0, n)
	return nil
}

func (m *model) watermark() error {
	m.s.StoredBelow(m.written - uint64(m.pick(2)))
	return nil
}

func (m *model) startOne() error {
	d, ok := m.s.Next(m.now)
	if !ok {
		return nil
	}
	m.started++
	l := m.live[d.Item.ID]
	switch {
	case l == nil:
		return fmt.Errorf("started %v, which is over", d)
	case l.state != itemStored:
		return fmt.Errorf("started %v twice", d)
	case l.item != d.Item || l.k != d.Lane:
		return fmt.Errorf("started %v, want %v in %v", d, l.item, l.k)
	case d.Item.Due > m.now:
		return fmt.Errorf("started %v early, now %d", d, m.now)
	case m.suspended[d.Lane.Account]:
		return fmt.Errorf("started %v of an account that is suspended", d)
	case m.resume[d.Lane] > m.now:
		return fmt.Errorf("started %v in a lane held until %d, now %d", d, m.resume[d.Lane], m.now)
	case m.flights[d.Lane] >= m.s.opts.LaneConcurrency:
		return fmt.Errorf("started %v over the limit of its lane", d)
	}
	l.state = itemInFlight
	m.flights[d.Lane]++
	return nil
}

func (m *model) start() error {
	for range 1 + m.pick(10) {
		if err := m.startOne(); err != nil {
			return err
		}
	}
	return nil
}

// some returns a delivery that is alive, if one in a given state is found.
func (m *model) some(states ...itemState) *delivery {
	if len(m.ids) == 0 {
		return nil
	}
	from := m.pick(len(m.ids))
	for i := range m.ids {
		if d := m.live[m.ids[(from+i)%len(m.ids)]]; slices.Contains(states, d.state) {
			return d
		}
	}
	return nil
}

func (m *model) end() error {
	for range 1 + m.pick(8) {
		if d := m.some(itemInFlight); d != nil {
			d.state = itemUnrecorded
			m.flights[d.k]--
			m.s.Done(d.k, d.item.ID, m.ended(), m.now)
		}
	}
	return nil
}

// ended is how an attempt ended that says nothing of its destination: what a
// lane finds out has tests of its own.
func (m *model) ended() Ended { return Ended{Took: time.Duration(m.pick(100)) * time.Millisecond} }

// record applies a result, mostly of what has ended; sometimes of what is in
// flight, or waits, as a cancellation does.
func (m *model) record() error {
	for range 1 + m.pick(8) {
		d := m.some(itemUnrecorded)
		if m.pick(10) == 0 {
			d = m.some(itemInFlight, itemStored)
		}
		if d == nil {
			continue
		}
		m.recordOne(d, m.pick(3) == 0)
	}
	return nil
}

func (m *model) recordOne(d *delivery, retry bool) {
	if d.state == itemInFlight {
		m.flights[d.k]--
	}
	delete(m.disk[d.k], d.item.ID)
	m.s.Recorded(d.k, d.item.ID)
	if !retry {
		m.forget(d)
		return
	}
	d.item.Due, d.item.Attempt, d.logIndex, d.state = m.soon(), d.item.Attempt+1, 0, itemStored
	d.item.Class = Retry + Class(m.pick(8)/7)
	m.put(d.k, d.item)
	m.s.Add(d.k, d.item, 0, m.now)
}

func (m *model) giveBack() error {
	if d := m.some(itemInFlight); d != nil {
		d.state, d.returned = itemStored, true
		m.flights[d.k]--
		resume := m.now + Time(m.pick(100))
		m.resume[d.k] = max(m.resume[d.k], resume)
		m.s.Return(d.k, d.item.ID, resume, m.now)
	}
	return nil
}

func (m *model) ask() error {
	if p, ok := m.s.NextPage(); ok {
		m.reads = append(m.reads, &pageRead{PageRequest: p})
	}
	return nil
}

func (m *model) read() error {
	if len(m.reads) == 0 {
		return nil
	}
	p := m.reads[m.pick(len(m.reads))]
	if p.read {
		return nil
	}
	p.read = true
	for _, it := range m.disk[p.Lane] {
		if it.Position().Compare(p.From) >= 0 {
			p.items = append(p.items, it)
		}
	}
	slices.SortFunc(p.items, func(a, b Item) int { return a.Position().Compare(b.Position()) })
	if p.more = len(p.items) > p.Limit; p.more {
		p.items = p.items[:p.Limit]
	}
	return nil
}

func (m *model) answer() error {
	if len(m.reads) == 0 {
		return nil
	}
	i := m.pick(len(m.reads))
	p := m.reads[i]
	if !p.read && m.pick(4) != 0 {
		return nil
	}
	m.reads = slices.Delete(m.reads, i, i+1)
	if !p.read {
		m.s.PageFailed(p.Lane, m.now)
		return nil
	}
	for _, it := range p.items {
		if d := m.live[it.ID]; d == nil || d.item != it || d.state != itemStored {
			m.stale++
		}
	}
	m.s.Paged(p.Lane, p.items, p.more, m.now)
	return nil
}

func (m *model) suspend() error {
	account := uint64(m.pick(2))
	if m.suspended[account] = m.pick(3) == 0; m.suspended[account] {
		m.s.Suspend(account)
	} else {
		m.s.Resume(account, m.now)
		for _, r := range m.s.byKey {
			m.s.lanes.at(r).pace = 0 // ramps have stories of their own, and would start little here
		}
	}
	return nil
}

func (m *model) tick() error {
	switch m.pick(40) {
	case 0:
		m.behind = max(m.behind, m.now+2*tickMs)
		m.now -= Time(m.pick(2000))
	case 1:
		m.now += Time(m.pick(40_000_000))
	case 2, 3:
		m.now += Time(m.pick(10_000))
	default:
		m.now += Time(m.pick(30))
	}
	m.wake()
	return nil
}

func (m *model) wake() {
	m.s.Wake(m.now)
	for k, at := range m.resume {
		if at <= m.now {
			delete(m.resume, k) // it has been; a clock that goes back does not renew it
		}
	}
}

// step does one thing. What it does rather than another is a matter of mood,
// which changes now and then: floods, disks that stand still, pages that take
// for ever and results that come all at once are where the hard cases are.
func (m *model) step() error {
	actions := [...]func() error{
		m.accept, m.apply, m.watermark, m.start, m.end, m.record,
		m.giveBack, m.ask, m.read, m.answer, m.tick, m.suspend,
	}
	if m.pick(60) == 0 || m.mood == nil {
		m.mood = make([]int, 0, 64)
		for i := range actions {
			for range 1 << m.pick(4) {
				m.mood = append(m.mood, i)
			}
		}
		m.hot = m.pick(8)
	}
	i := m.mood[m.pick(len(m.mood))]
	if i == 0 && len(m.live) > 300 {
		i = 3
	}
	return actions[i]()
}

// check compares the scheduler with the model.
func (m *model) check() error {
	if err := invariants(m.s); err != nil {
		return err
	}
	young := 0
	for id, d := range m.live {
		i, inMemory := m.s.byID[id]
		if d.state != itemStored {
			if !inMemory || m.s.items.at(i).state != d.state {
				return fmt.Errorf("%x is busy, but the scheduler does not know", id)
			}
			continue
		}
		if d.logIndex >= m.s.storedBelow || d.returned {
			young++
		}
		if inMemory {
			if n := m.s.items.at(i); n.item() != d.item || !n.waiting() {
				return fmt.Errorf("%x waits as %+v, the scheduler has %+v", id, d.item, n)
			}
			continue
		}
		l := m.s.lanes.at(m.s.byKey[d.k])
		switch {
		case d.logIndex >= m.s.storedBelow:
			return fmt.Errorf("%x is young and not in memory", id)
		case !l.onDisk || d.item.Position().Compare(l.diskNext) < 0:
			return fmt.Errorf("%x is neither in memory nor where the lane will look for it", id)
		case m.disk[d.k][id] != d.item:
			return fmt.Errorf("%x is not in memory and not on disk", id)
		}
	}
	if st := m.s.Stats(); !m.s.unsettled() && st.YoungItems > young {
		return fmt.Errorf("%d young items in memory, %d may be", st.YoungItems, young)
	}
	return m.checkOldest()
}

// checkOldest recomputes what OldestDue says from the heads of the lanes. A
// head that became due since the latest Wake may be missing.
func (m *model) checkOldest() error {
	got, ok := m.s.OldestDue(m.now)
	want, any := Time(0), false
	for _, r := range m.s.byKey {
		due, waits := m.s.first(m.s.lanes.at(r))
		if inHeap := *m.s.duePlaces.at(uint32(r)) != 0; waits && due <= m.now && inHeap && (!any || due < want) {
			want, any = due, true
		}
	}
	if ok != any || ok && got != want {
		return fmt.Errorf("oldest due is %d (%t), want %d (%t)", got, ok, want, any)
	}
	return nil
}

// settle does all that can be done at the present time, and checks that what
// is not started then could not be.
func (m *model) settle() error {
	for {
		before := m.started
		for {
			at, ok := m.s.NextWake()
			if !ok || at > m.now {
				break
			}
			m.wake()
		}
		for {
			m.ask()
			if len(m.reads) == 0 {
				break
			}
			for len(m.reads) > 0 {
				m.read()
				m.answer()
			}
		}
		for more := true; more; {
			n := m.started
			if err := m.startOne(); err != nil {
				return err
			}
			more = m.started > n
		}
		if m.started == before {
			break
		}
	}
	if m.now <= m.behind {
		return nil
	}
	for id, d := range m.live {
		l := m.s.lanes.at(m.s.byKey[d.k])
		late := d.item.Due <= m.now-tickMs && l.resumeAt <= m.now-tickMs && l.pageAt <= m.now-tickMs &&
			l.earliest <= int64(m.now-tickMs)*1000
		if d.state == itemStored && late && !m.suspended[d.k.Account] && m.flights[d.k] < m.s.opts.LaneConcurrency {
			return fmt.Errorf("%x was due at %d, its lane has room, now %d: %+v", id, d.item.Due, m.now, *l)
		}
	}
	return nil
}

// drain lets everything that is alive come to its end.
func (m *model) drain() error {
	m.now = max(m.now, 1_700_000_000_000) // the clock may have been set back a lot
	for account := range m.suspended {
		m.s.Resume(account, m.now)
	}
	clear(m.suspended)
	for round := 0; len(m.live) > 0; round++ {
		if round > 10_000 {
			return fmt.Errorf("%d deliveries do not end", len(m.live))
		}
		if err := m.settle(); err != nil {
			return err
		}
		for _, id := range slices.Clone(m.ids) {
			if d := m.live[id]; d.state != itemStored {
				m.recordOne(d, false)
			}
		}
		m.apply()
		m.s.StoredBelow(m.written)
		if at, ok := m.s.NextWake(); ok {
			m.now = max(m.now, at)
		}
	}
	// A lane may still believe that something is on disk; a page tells it.
	for m.s.Stats().Lanes+m.s.Stats().IdleLanes > 0 {
		if err := m.settle(); err != nil {
			return err
		}
		at, ok := m.s.NextWake()
		if !ok && m.s.Stats().Lanes+m.s.Stats().IdleLanes > 0 {
			return fmt.Errorf("nothing to wait for, but %+v", m.s.Stats())
		}
		m.now = max(m.now, at)
	}
	return emptiness(m.s)
}

func (m *model) run(steps, checkEvery int) error {
	for n := range steps {
		err := m.step()
		if err == nil && n%checkEvery == 0 {
			err = m.check()
		}
		if err == nil && n%389 == 388 {
			err = m.settle()
		}
		if err != nil {
			return fmt.Errorf("step %d: %w", n, err)
		}
	}
	if err := m.check(); err != nil {
		return err
	}
	return m.drain()
}

// tight are bounds that a small model reaches.
var tight = Options{LaneConcurrency: 5, InitialConcurrency: 5, HeadItems: 16, PageItems: 6, MemoryItems: 60}

func TestEveryDeliveryIsStartedOnceAndNoneIsLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		small := rapid.IntRange(0, 1<<20)
		pick := func(n int) int { return small.Draw(t, "n") % n }
		steps := rapid.IntRange(1, 150).Draw(t, "steps")
		if err := newModel(tight, pick).run(steps, 1); err != nil {
			t.Fatal(err)
		}
	})
}

// TestEveryDeliveryIsStartedOnceAtLength is the same with long histories,
// without the means to shrink them. HAREPOST_SCHEDULER_STEPS sets how many
// steps, HAREPOST_SEED repeats one history.
func TestEveryDeliveryIsStartedOnceAtLength(t *testing.T) {
	steps := envInt(t, "HAREPOST_SCHEDULER_STEPS", 40_000)
	seed := uint64(envInt(t, "HAREPOST_SEED", int(time.Now().UnixNano())))
	const history = 4000
	started, stale := 0, 0
	for ; steps > 0; steps -= history {
		t.Logf("HAREPOST_SEED=%d", seed)
		rnd := rand.New(rand.NewPCG(seed, 0))
		o := tight
		o.LaneConcurrency = 1 + rnd.IntN(20)
		o.InitialConcurrency = o.LaneConcurrency
		o.HeadItems = 16 + rnd.IntN(30)
		o.PageItems = 1 + rnd.IntN(20)
		m := newModel(o, rnd.IntN)
		if err := m.run(min(steps, history), 20); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		started, stale = started+m.started, stale+m.stale
		seed++
	}
	t.Logf("%d attempts started, %d stale entries in pages", started, stale)
	if stale == 0 {
		t.Error("no page showed anything stale: the model does not reach the hard cases")
	}
}

func envInt(t *testing.T, name string, def int) int {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		return def
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}
