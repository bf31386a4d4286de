package scheduler

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

	waiting itemRef  // root of the heap of items in memory that wait
	stored  itemList // those of them that are on disk
	busy    int32    // taken by Next, not recorded
	flights int32    // of those, not Done

	// While onDisk, waiting items at or past diskNext may be on disk only.
	// Every waiting item before diskNext, and every young one, is in memory.
	onDisk   bool
	diskNext Position

	page     pageState
	pageAt   Time    // no page is wanted before: the last one failed
	pageNext laneRef // in the list of wanted pages

	resumeAt Time // nothing is dispatched before: an item was returned

	ready              bool // in the ring of its account
	ringPrev, ringNext laneRef
}

// account is what the lanes of one account share: their place in turn.
type account struct {
	id         uint64
	lanes      int32
	suspended  bool    // nothing of it is started, see Suspend
	turn       laneRef // ready lane whose turn is next; 0: none is ready
	prev, next accountRef
}

// limit is how many attempts of the lane may be in flight.
func (s *Scheduler) limit(*lane) int32 { return int32(s.opts.LaneConcurrency) }

// first returns when the lane's first waiting item is due. inMemory is false
// if that item, or an earlier one, may be on disk only. ok is false if
// nothing waits.
func (s *Scheduler) first(l *lane) (due Time, inMemory, ok bool) {
	if l.waiting == 0 {
		return l.diskNext.Due, false, l.onDisk
	}
	n := s.items.at(l.waiting)
	if l.onDisk && n.position().Compare(l.diskNext) >= 0 {
		return l.diskNext.Due, false, true
	}
	return n.due, true, true
}

// refresh puts the lane where it now belongs; every change to a lane ends
// here. A lane with something due is in the due heap, and is ready, full,
// held off, or waits for a page. A lane whose first item is due later is in
// the wheel only. One whose account is suspended is nowhere. A lane with nothing at all is gone, once it is not held off.
func (s *Scheduler) refresh(r laneRef, l *lane) {
	due, inMemory, waits := s.first(l)
	if waits && s.accounts.at(l.account).suspended {
		s.due.remove(r)
		s.unready(r, l)
		s.wheel.cancel(uint32(r))
		return
	}
	if !waits || due > s.now {
		s.due.remove(r)
		s.unready(r, l)
		switch {
		case waits:
			s.wheel.set(uint32(r), due)
		case l.busy > 0:
			s.wheel.cancel(uint32(r))
		case l.resumeAt > s.now: // still held off, should something come
			s.wheel.set(uint32(r), l.resumeAt)
		default:
			s.removeLane(r, l)
		}
		return
	}
	s.due.set(r, due)
	if inMemory && l.resumeAt <= s.now && l.flights < s.limit(l) {
		s.makeReady(r, l)
	} else {
		s.unready(r, l)
	}
	s.wantPage(r, l)
	if wake := s.heldUntil(l); wake > s.now {
		s.wheel.set(uint32(r), wake)
	} else {
		s.wheel.cancel(uint32(r))
	}
}

// heldUntil returns the next moment at which a lane with something due must
// be looked at again though nothing happens to it; not after now if none.
func (s *Scheduler) heldUntil(l *lane) Time {
	wake := l.resumeAt
	if l.page == pageNone && s.pageNeeded(l) && (wake <= s.now || l.pageAt < wake) {
		wake = l.pageAt
	}
	return wake
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
	l.key, l.account = k, a
	s.byKey[k] = r
	return r, l
}

// removeLane forgets a lane that is in no ring and not in the due heap.
func (s *Scheduler) removeLane(r laneRef, l *lane) {
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

// makeReady gives the lane the last place in its account's ring, and the
// account the last place in the ring of accounts, if they are not in.
func (s *Scheduler) makeReady(r laneRef, l *lane) {
	if l.ready {
		return
	}
	l.ready = true
	s.readyLanes++
	a := s.accounts.at(l.account)
	if a.turn != 0 {
		next := s.lanes.at(a.turn)
		l.ringPrev, l.ringNext = next.ringPrev, a.turn
		s.lanes.at(next.ringPrev).ringNext = r
		next.ringPrev = r
		return
	}
	a.turn, l.ringPrev, l.ringNext = r, r, r
	if s.turn == 0 {
		s.turn, a.prev, a.next = l.account, l.account, l.account
		return
	}
	next := s.accounts.at(s.turn)
	a.prev, a.next = next.prev, s.turn
	s.accounts.at(next.prev).next = l.account
	next.prev = l.account
}

// unready takes the lane out of its ring, and its account if it was the last.
func (s *Scheduler) unready(r laneRef, l *lane) {
	if !l.ready {
		return
	}
	l.ready = false
	s.readyLanes--
	a := s.accounts.at(l.account)
	if l.ringNext != r {
		s.lanes.at(l.ringPrev).ringNext = l.ringNext
		s.lanes.at(l.ringNext).ringPrev = l.ringPrev
		if a.turn == r {
			a.turn = l.ringNext
		}
		return
	}
	a.turn = 0
	if a.next == l.account {
		s.turn = 0
		return
	}
	s.accounts.at(a.prev).next = a.next
	s.accounts.at(a.next).prev = a.prev
	if s.turn == l.account {
		s.turn = a.next
	}
}
