package scheduler

import "fmt"

// A Scheduler says which attempt to start next. The package comment explains
// it. It is not safe for concurrent use.
type Scheduler struct {
	opts Options
	now  Time // the time of the latest call that had one

	items    itemHeap
	lanes    slab[laneRef, lane]
	accounts slab[accountRef, account]

	byID      map[ID]itemRef // items in memory, waiting and busy
	byKey     map[LaneKey]laneRef
	byAccount map[uint64]accountRef
	suspended map[uint64]struct{} // accounts, with lanes or without

	turns      [bands]turns // lanes that may start something
	bandTurn   band         // that was served last
	lanePlaces places       // in the turns of their accounts
	due        keyHeap      // lanes with something due and not started, by when the first was
	duePlaces  places
	wheel      *wheel // lanes by the next moment at which something changes by itself

	limits map[LaneKey]LaneLimits // that were set
	events []Event                // that nobody has taken, at most maxEvents
	flying itemList               // attempts in flight, by when they started, but for the late ones

	firstIdle, lastIdle laneRef // lanes with nothing in them; the first became so first
	idleLanes           int

	storedBelow uint64   // items of log entries before it are on disk
	young       itemList // waiting items not known to be on disk, in log order
	stored      int      // waiting items in memory that are on disk
	hand        laneRef  // the lane that relieve trimmed last
	scratch     []itemRef

	pages                   map[laneRef]*page // requests that are out
	firstWanted, lastWanted laneRef           // requests that are not handed out
	pagesWanted             int

	busy, flights int

	youngAccounts int // that have young items
}

// New returns an empty scheduler.
func New(o Options) *Scheduler {
	s := &Scheduler{
		opts:        o.withDefaults(),
		items:       itemHeap{newSlab[itemRef, item]()},
		lanes:       newSlab[laneRef, lane](),
		accounts:    newSlab[accountRef, account](),
		byID:        make(map[ID]itemRef),
		byKey:       make(map[LaneKey]laneRef),
		byAccount:   make(map[uint64]accountRef),
		suspended:   make(map[uint64]struct{}),
		limits:      make(map[LaneKey]LaneLimits),
		wheel:       newWheel(0),
		storedBelow: 1, // log index 0: on disk already
		pages:       make(map[laneRef]*page),
	}
	s.turns[bandSwift].most = int32(s.opts.Slots)
	s.turns[bandUnknown].most = int32(max(1, s.opts.Slots/2))
	s.turns[bandSlow].most = int32(max(1, s.opts.Slots/4))
	return s
}

// Add makes an item wait in its lane. logIndex is the log entry that brought
// it, if that is not certainly on disk until StoredBelow says so; 0 if the
// item is on disk already, as a retry is. An item that waits or is busy at
// the same position is left alone; one that waits at another position is
// replaced. The retry of a delivery is added after Recorded: Add panics if
// the delivery is busy at another position, because the Recorded still to
// come would lose the item.
func (s *Scheduler) Add(k LaneKey, it Item, logIndex uint64, now Time) {
	s.now = now
	s.settle(settleAtAdd)
	s.relieve()
	if i, ok := s.byID[it.ID]; ok && !s.replaced(i, it) {
		return
	}
	r, l := s.laneFor(k)
	if s.onDisk(logIndex) {
		s.leaveFar(l, it.Position())
	}
	if !s.onDisk(logIndex) || !leftToDisk(l, it.Position()) {
		s.wait(l, s.newItem(r, it, logIndex))
		s.trim(l)
	}
	s.refresh(r, l)
}

// replaced makes room for another position of a delivery that is in memory.
// It is false if the delivery has that very position.
func (s *Scheduler) replaced(i itemRef, it Item) bool {
	n := s.items.at(i)
	if n.position() == it.Position() {
		return false
	}
	if !n.waiting() {
		panic(fmt.Sprintf("scheduler: add of %x, attempt %d, while attempt %d of it is busy", it.ID, it.Attempt, n.attempt))
	}
	r := n.lane
	s.drop(i)
	s.refresh(r, s.lanes.at(r))
	return true
}

func (s *Scheduler) newItem(r laneRef, it Item, logIndex uint64) itemRef {
	i := s.items.take()
	n := s.items.at(i)
	n.id, n.due, n.attempt, n.class, n.lane, n.logIndex = it.ID, it.Due, it.Attempt, it.Class, r, logIndex
	s.byID[it.ID] = i
	return i
}

// StoredBelow says that the items of every log entry before index are on
// disk. A lower index than before changes nothing. It does a bounded part of
// what follows from it; Add and Wake do the rest, and NextWake asks for it.
func (s *Scheduler) StoredBelow(index uint64) {
	s.storedBelow = max(s.storedBelow, index)
	s.settle(settleItems)
}

// Next takes an item that is due, in fair turns; false if no lane may start
// one. The item is busy until Recorded or Return; its attempt counts against
// its lane's limit and the slots until Done.
func (s *Scheduler) Next(now Time) (Dispatch, bool) {
	s.now = now
	for {
		r, ok := s.nextTurn()
		if !ok {
			return Dispatch{}, false
		}
		l := s.lanes.at(r)
		if c, ok := s.choose(l); ok && s.heldUntil(l) <= now {
			d := s.take(r, l, c)
			s.refresh(r, l)
			return d, true
		}
		s.refresh(r, l) // the clock went back; the lane has no turn any more
	}
}

// take starts the first item of a class of a lane whose turn it is.
func (s *Scheduler) take(r laneRef, l *lane, c Class) Dispatch {
	for classTurns[int(l.turn)%len(classTurns)] != c {
		l.turn++
	}
	l.turn = (l.turn + 1) % uint8(len(classTurns))
	i := l.waiting[c]
	n := s.items.at(i)
	s.unwait(l, i)
	s.serve(l)
	n.start(s.now, l.cost())
	s.charge(r, l, l.cost())
	s.items.append(&s.flying, i)
	l.busy++
	l.flights++
	s.busy++
	s.flights++
	s.turns[l.band].flights++
	l.started(s.now)
	if l.breaker == Open {
		l.breaker = HalfOpen
	}
	return Dispatch{Lane: l.key, Item: n.item()}
}

// Done says that an attempt has ended, and how: its lane may start another.
// The delivery stays busy. Done of what is not in flight does nothing.
func (s *Scheduler) Done(k LaneKey, id ID, e Ended, now Time) {
	s.now = now
	i, ok := s.byID[id]
	if !ok {
		return
	}
	n := s.items.at(i)
	r := n.lane
	l := s.lanes.at(r)
	if n.state != itemInFlight || l.key != k {
		return
	}
	begun, expected := n.begun(now)
	full := l.flights >= s.limit(l)
	s.land(l, i)
	s.charge(r, l, max(e.Took.Microseconds(), leastCost)-expected)
	s.judge(l, n, begun, full, e)
	s.refresh(r, l)
}

// land frees the slot of an item in flight.
func (s *Scheduler) land(l *lane, i itemRef) {
	n := s.items.at(i)
	if !n.late {
		s.items.unlink(&s.flying, i)
	}
	n.land()
	l.flights--
	s.flights--
	s.turns[l.band].flights--
}

// Recorded says that the delivery's present entry is over and that no read of
// the disk begun from now on shows it: the result of its attempt is applied,
// or it was cancelled. It takes the delivery out of memory whether it is
// busy, in flight (then it also is Done) or waits. If there is a retry, the
// caller adds it before it lets go of the lock.
func (s *Scheduler) Recorded(k LaneKey, id ID) {
	i, ok := s.byID[id]
	if !ok {
		// On disk only, or not at all.
		if r := s.byKey[k]; s.lanes.at(r).page == pageOut {
			s.pages[r].recorded[id] = struct{}{}
		}
		return
	}
	n := s.items.at(i)
	r := n.lane
	l := s.lanes.at(r)
	if l.page == pageOut && n.position().Compare(l.diskNext) >= 0 {
		s.pages[r].recorded[id] = struct{}{}
	}
	s.drop(i)
	s.refresh(r, l)
}

// Cancel says that the delivery's present entry is over, as Recorded does, but
// leaves one that is busy: its attempt goes on, and its end is Recorded's.
func (s *Scheduler) Cancel(k LaneKey, id ID) {
	if !s.Busy(id) {
		s.Recorded(k, id)
	}
}

// Busy reports whether Next has given out a delivery that is not recorded yet.
func (s *Scheduler) Busy(id ID) bool {
	i, ok := s.byID[id]
	return ok && !s.items.at(i).waiting()
}

// drop takes an item out of memory, whatever its state.
func (s *Scheduler) drop(i itemRef) {
	n := s.items.at(i)
	l := s.lanes.at(n.lane)
	if n.waiting() {
		s.unwait(l, i)
	} else {
		s.unbusy(l, i)
	}
	s.forget(i)
}

func (s *Scheduler) unbusy(l *lane, i itemRef) {
	n := s.items.at(i)
	if n.state == itemInFlight {
		s.land(l, i)
		s.judge(l, n, s.now, false, Ended{})
	}
	l.busy--
	s.busy--
}

// Return gives back an item whose attempt was not started: it waits again, at
// its old position. Its lane starts nothing before resume, which may be now.
func (s *Scheduler) Return(k LaneKey, id ID, resume, now Time) {
	s.now = now
	i, ok := s.byID[id]
	if !ok {
		return
	}
	n := s.items.at(i)
	r := n.lane
	l := s.lanes.at(r)
	if n.waiting() || l.key != k {
		return
	}
	s.unbusy(l, i)
	l.resumeAt = max(l.resumeAt, resume)
	if s.onDisk(n.logIndex) && leftToDisk(l, n.position()) {
		s.forget(i)
	} else {
		s.wait(l, i)
		s.trim(l)
	}
	s.refresh(r, l)
}

// wakeLanes is how many lanes one call of Wake looks at.
const wakeLanes = 4096

// Wake looks at the lanes whose moment has come, a bounded number at once;
// NextWake says whether there are more.
func (s *Scheduler) Wake(now Time) {
	s.now = now
	s.settle(settleItems)
	s.markLate()
	if s.wheel.wentBack(now) {
		// Moments that were reckoned from the time before mean nothing now: all
		// lanes are looked at again, or they would be held for as long again.
		s.wheel.expireAll()
	}
	s.wheel.advance(now)
	for range wakeLanes {
		key, ok := s.wheel.takeExpired()
		if !ok {
			return
		}
		r := laneRef(key)
		s.refresh(r, s.lanes.at(r))
	}
}

// NextWake returns when Wake is to be called next; false if time alone will
// change nothing. Any call may bring the moment forward. A moment that is not
// in the future means at once: Wake left something over.
func (s *Scheduler) NextWake() (Time, bool) {
	if s.unsettled() {
		return s.now, true
	}
	at, ok := s.wheel.next()
	if late, flying := s.nextLate(); flying && (!ok || late < at) {
		return late, true
	}
	return at, ok
}

// markLate finds the attempts that have taken long and counts their lanes
// among the slow ones: a destination that never answers is not to be waited
// for until its attempts time out.
func (s *Scheduler) markLate() {
	for {
		at, ok := s.nextLate()
		if !ok || at > s.now {
			return
		}
		i := s.flying.head
		n := s.items.at(i)
		s.items.unlink(&s.flying, i)
		n.late = true
		l := s.lanes.at(n.lane)
		l.slow = true
		s.refresh(n.lane, l)
	}
}

// nextLate returns when the attempt that has taken longest becomes late.
func (s *Scheduler) nextLate() (Time, bool) {
	if s.flying.head == 0 {
		return 0, false
	}
	begun, _ := s.items.at(s.flying.head).begun(s.now)
	return begun + slowAfter, true
}

// Stats returns the present counts, in O(1).
func (s *Scheduler) Stats() Stats {
	return Stats{
		Accounts:    len(s.byAccount),
		Lanes:       len(s.byKey) - s.idleLanes,
		IdleLanes:   s.idleLanes,
		ReadyLanes:  s.takeable(),
		DueLanes:    len(s.due.entries),
		Items:       s.stored + int(s.young.count),
		YoungItems:  int(s.young.count),
		Busy:        s.busy,
		InFlight:    s.flights,
		PagesWanted: s.pagesWanted,
		PagesOut:    len(s.pages),
	}
}

// Unrecorded is how many attempts have ended and are not recorded.
func (s *Scheduler) Unrecorded() int { return s.busy - s.flights }

// OldestDue returns the earliest due time of what is due and not started, as
// of the latest Wake: now minus it is how late the scheduler's caller is.
func (s *Scheduler) OldestDue(now Time) (Time, bool) {
	e, ok := s.due.first()
	return Time(e.key), ok && Time(e.key) <= now
}
