package scheduler

import "time"

// laneRef is the index of a lane in Scheduler.lanes; 0 is none.
type laneRef uint32

// accountRef is the index of an account in Scheduler.accounts; 0 is none.
type accountRef uint32

// pageState says where a lane's page request stands.
type pageState uint8

const (
	pageNone   pageState = iota
	pageWanted           // in the list that NextPage takes from
	pageOut              // handed out, not answered
)

// lane is one account's traffic to one destination.
type lane struct {
	key     LaneKey
	account accountRef

	waiting [classes]itemRef // roots of the heaps of items in memory that wait
	stored  itemList         // those of them that are on disk
	young   int32            // those that are not known to be
	busy    int32            // taken by Next, not recorded
	flights int32            // of those, not Done
	turn    uint8            // place in classTurns

	// While onDisk, waiting items at or past diskNext may be on disk only.
	// Every waiting item before diskNext, and every young one, is in memory.
	onDisk   bool
	diskNext Position

	page     pageState
	pageSize uint8   // a page has firstPage<<pageSize items
	pageAt   Time    // no page is wanted before: the last one failed
	pagedAt  Time    // when the last one came
	pageNext laneRef // in the list of wanted pages

	resumeAt Time // nothing is dispatched before: an item was returned

	ready bool // has a turn
	band  band
	tag   int64 // in the turns of its account

	isIdle             bool // nothing in it: in the list of idle lanes
	idlePrev, idleNext laneRef

	control
}

// account is what the lanes of one account share: their place in turn.
type account struct {
	id        uint64
	lanes     int32
	young     int32 // items of its lanes that are young, see Young
	suspended bool  // nothing of it is started, see Suspend
	shares    [bands]share
}

// first returns when the lane's first waiting item is due, in memory or on
// disk; false if nothing waits.
func (s *Scheduler) first(l *lane) (due Time, ok bool) {
	if l.onDisk {
		due, ok = l.diskNext.Due, true
	}
	for _, i := range l.waiting {
		if i == 0 {
			continue
		}
		if n := s.items.at(i); !ok || n.due < due {
			due, ok = n.due, true
		}
	}
	return due, ok
}

// classTurns is how the classes of one lane share it: four, two and one of
// seven starts, and the whole where the others have nothing due.
var classTurns = [...]Class{Fresh, Retry, Fresh, Replay, Fresh, Retry, Fresh}

// choose returns the class whose first item is next; false if the lane has
// none in memory that is due. Items of other classes than Fresh wait until
// everything before them has been read from disk. A fresh one need not: first
// attempts are not to wait for a backlog of retries to be read.
func (s *Scheduler) choose(l *lane) (Class, bool) {
	var can [classes]bool
	any := false
	for c, i := range l.waiting {
		if i == 0 {
			continue
		}
		n := s.items.at(i)
		if n.due <= s.now && (!l.onDisk || Class(c) == Fresh || n.position().Compare(l.diskNext) < 0) {
			can[c], any = true, true
		}
	}
	if !any {
		return 0, false
	}
	for at := int(l.turn); ; at++ {
		if c := classTurns[at%len(classTurns)]; can[c] {
			return c, true
		}
	}
}

// refresh puts the lane where it now belongs; every change to a lane ends
// here. A lane with something due is in the due heap, and is ready, full,
// held off, or waits for a page. A lane whose first item is due later is in
// the wheel only. One that is paused, or whose account is suspended, is
// nowhere. A lane with nothing at all is idle, and gone after a while.
func (s *Scheduler) refresh(r laneRef, l *lane) {
	s.reband(r, l)
	due, waits := s.first(l)
	if waits || l.busy > 0 {
		s.unidle(r, l)
	}
	if waits && (l.set.Paused || s.accounts.at(l.account).suspended) {
		s.due.remove(&s.duePlaces, uint32(r))
		s.unready(r, l)
		s.wheel.cancel(uint32(r))
		return
	}
	if !waits || due > s.now {
		s.due.remove(&s.duePlaces, uint32(r))
		s.unready(r, l)
		switch {
		case waits:
			s.wheel.set(uint32(r), due)
		case l.busy > 0:
			s.wheel.cancel(uint32(r))
		default:
			s.idle(r, l)
		}
		return
	}
	s.due.set(&s.duePlaces, uint32(r), int64(due))
	s.refreshDue(r, l)
}

// refreshDue is refresh for a lane that has something due.
func (s *Scheduler) refreshDue(r laneRef, l *lane) {
	held := s.heldUntil(l)
	if _, ok := s.choose(l); ok && held <= s.now && l.flights < s.limit(l) {
		s.makeReady(r, l)
	} else {
		s.unready(r, l)
	}
	wake := held
	if held <= s.now { // a lane that is held off for long needs no more than it has
		s.wantPage(r, l)
		if l.page == pageNone && s.pageNeeded(l) {
			wake = l.pageAt
		}
	}
	if wake > s.now {
		s.wheel.set(uint32(r), wake)
	} else {
		s.wheel.cancel(uint32(r))
	}
}

const (
	// idleFor is how long a lane with nothing in it is remembered, with what it
	// has found out about its destination.
	idleFor = Time(time.Minute / time.Millisecond)
	// brokenFor is how long after the time of its probe one whose breaker is open.
	brokenFor = Time(10 * time.Minute / time.Millisecond)
)

// idle keeps a lane that has nothing for a while, or lets go of it.
func (s *Scheduler) idle(r laneRef, l *lane) {
	held := s.heldUntil(l)
	until := max(held, min(l.usedAt, s.now)+idleFor)
	if l.breaker != Closed {
		until = max(until, min(l.probeAt, s.now+mostOpen)+brokenFor)
	}
	if l.usedAt == 0 {
		until = held // no attempt has ended: there is nothing to remember
	}
	if until <= s.now {
		s.removeLane(r, l)
		return
	}
	s.wheel.set(uint32(r), until)
	if l.isIdle {
		return
	}
	l.isIdle, l.idlePrev = true, s.lastIdle
	if s.lastIdle == 0 {
		s.firstIdle = r
	} else {
		s.lanes.at(s.lastIdle).idleNext = r
	}
	s.lastIdle = r
	if s.idleLanes++; s.idleLanes > s.opts.IdleLanes {
		s.removeLane(s.firstIdle, s.lanes.at(s.firstIdle))
	}
}

// unidle takes the lane out of the list of idle ones.
func (s *Scheduler) unidle(r laneRef, l *lane) {
	if !l.isIdle {
		return
	}
	if l.idlePrev == 0 {
		s.firstIdle = l.idleNext
	} else {
		s.lanes.at(l.idlePrev).idleNext = l.idleNext
	}
	if l.idleNext == 0 {
		s.lastIdle = l.idlePrev
	} else {
		s.lanes.at(l.idleNext).idlePrev = l.idlePrev
	}
	l.isIdle, l.idlePrev, l.idleNext = false, 0, 0
	s.idleLanes--
}

// laneFor returns the lane of a key, a new one if need be.
func (s *Scheduler) laneFor(k LaneKey) (laneRef, *lane) {
	if r, ok := s.byKey[k]; ok {
		return r, s.lanes.at(r)
	}
	a, ok := s.byAccount[k.Account]
	if !ok {
		a = s.accounts.take()
		_, suspended := s.suspended[k.Account]
		s.accounts.at(a).id, s.accounts.at(a).suspended = k.Account, suspended
		s.byAccount[k.Account] = a
	}
	s.accounts.at(a).lanes++
	r := s.lanes.take()
	l := s.lanes.at(r)
	l.key, l.account, l.set = k, a, s.limits[k]
	l.band, l.window, l.threshold = bandUnknown, float32(s.opts.InitialConcurrency), float32(s.mostLimit(l))
	s.byKey[k] = r
	return r, l
}

// removeLane forgets a lane that has no turn and is not in the due heap.
func (s *Scheduler) removeLane(r laneRef, l *lane) {
	s.unidle(r, l)
	s.wheel.cancel(uint32(r))
	delete(s.byKey, l.key)
	ar := l.account
	if a := s.accounts.at(ar); a.lanes > 1 {
		a.lanes--
	} else {
		delete(s.byAccount, a.id)
		s.accounts.put(ar)
	}
	s.lanes.put(r)
}
