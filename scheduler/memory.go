package scheduler

import "slices"

// settleItems is how many young items one call of StoredBelow or Wake finds
// to be on disk, and settleAtAdd how many one Add does: more than it brings,
// so that the work that is left over shrinks under any load.
const (
	settleItems = 1024
	settleAtAdd = 2
)

// wait makes an item with no links wait in its lane.
func (s *Scheduler) wait(l *lane, i itemRef) {
	n := s.items.at(i)
	l.waiting[n.class] = s.items.push(l.waiting[n.class], i)
	if s.onDisk(n.logIndex) {
		n.state = itemStored
		s.items.append(&l.stored, i)
		s.stored++
	} else {
		n.state = itemYoung
		s.countYoung(l, +1)
		s.items.append(&s.young, i)
	}
}

// unwait takes a waiting item out of its lane. It stays in the slab.
func (s *Scheduler) unwait(l *lane, i itemRef) {
	n := s.items.at(i)
	l.waiting[n.class] = s.items.remove(l.waiting[n.class], i)
	if n.state == itemStored {
		s.items.unlink(&l.stored, i)
		s.stored--
	} else {
		s.countYoung(l, -1)
		s.items.unlink(&s.young, i)
	}
}

// forget takes an item that is in no heap or list out of memory.
func (s *Scheduler) forget(i itemRef) {
	delete(s.byID, s.items.at(i).id)
	s.items.put(i)
}

// onDisk reports whether the items of a log entry are certainly on disk.
func (s *Scheduler) onDisk(logIndex uint64) bool { return logIndex < s.storedBelow }

// leftToDisk reports whether a stored item at p need not be in memory,
// because it is found there when the lane's queue is read on from diskNext.
// While a page is out it might be missing from what is being read, or be
// behind it when the answer moves diskNext.
func leftToDisk(l *lane, p Position) bool {
	return l.onDisk && l.page != pageOut && p.Compare(l.diskNext) >= 0
}

const (
	// farMs is how much later than now an item is due that may wait on disk, in
	// milliseconds: reading it back then is little beside what it waits for.
	farMs = 10_000
	// farPart is the part of MemoryItems from which on such items do so.
	farPart = 16
)

// leaveFar leaves a stored item at p, and with it all of its lane that come later,
// to the disk when it is due much later and memory is not empty: what waits for the
// retries of a hundred thousand dead destinations is none of it.
func (s *Scheduler) leaveFar(l *lane, p Position) {
	if s.stored < s.opts.MemoryItems/farPart || p.Due < s.now+farMs || l.page == pageOut ||
		l.onDisk && p.Compare(l.diskNext) >= 0 {
		return
	}
	l.onDisk, l.diskNext = true, p
	s.sweep(l)
}

// settle looks at up to n young items and lets go of those that are on disk
// and need not be in memory. The young list is in log order, but for items
// returned and for logs that are not in order; those are found later, never
// too early.
func (s *Scheduler) settle(n int) {
	for ; n > 0 && s.unsettled(); n-- {
		i := s.young.head
		it := s.items.at(i)
		l := s.lanes.at(it.lane)
		if leftToDisk(l, it.position()) {
			// The lane's moment does not change: diskNext comes first. But this
			// may have been the fresh item that it could start.
			r := it.lane
			s.unwait(l, i)
			s.forget(i)
			if l.ready {
				s.refresh(r, l)
			}
			continue
		}
		s.items.unlink(&s.young, i)
		s.countYoung(l, -1)
		it.state = itemStored
		s.items.append(&l.stored, i)
		s.stored++
		s.trim(l)
	}
}

// unsettled reports whether the first young item is on disk.
func (s *Scheduler) unsettled() bool {
	return s.young.head != 0 && s.onDisk(s.items.at(s.young.head).logIndex)
}

// headItems is how many stored items a lane may have in memory now: two pages,
// which are as large as the lane is hot. While there is room, what is there may
// stay up to usualHead; when memory is short it is less.
func (s *Scheduler) headItems(l *lane) int {
	most := min(s.opts.HeadItems, 2*firstPage<<l.pageSize)
	if s.stored <= s.opts.MemoryItems/2 {
		return max(most, min(s.opts.HeadItems, usualHead))
	}
	return most
}

// usualHead is the head that any lane may have while there is room.
const usualHead = 256

// shrink lets go of all of a lane's head but one small page.
func (s *Scheduler) shrink(l *lane) {
	l.pageSize = 0
	s.trimTo(l, minHeadItems)
}

// trim leaves the last stored items of an oversize head to the disk. It goes
// down to half of the bound, so that the next trim is half a head away and
// its sort costs each item that passes O(log) only. The items that are kept
// are the first, so the lane's moment does not change.
func (s *Scheduler) trim(l *lane) { s.trimTo(l, s.headItems(l)) }

func (s *Scheduler) trimTo(l *lane, most int) {
	if int(l.stored.count) <= most || l.page == pageOut {
		return
	}
	all := s.scratch[:0]
	for i := l.stored.head; i != 0; i = s.items.at(i).next {
		all = append(all, i)
	}
	slices.SortFunc(all, func(a, b itemRef) int {
		return s.items.at(a).position().Compare(s.items.at(b).position())
	})
	drop := all[most/2:]
	// No page is out, so every stored item is before the old diskNext.
	l.onDisk, l.diskNext = true, s.items.at(drop[0]).position()
	for _, i := range drop {
		s.unwait(l, i)
		s.forget(i)
	}
	s.scratch = all[:0]
}

// relieve trims one lane, the next in line, when memory is more than half
// full: heads that were filled while there was room shrink too, without a
// walk over all lanes at once.
func (s *Scheduler) relieve() {
	if s.stored <= s.opts.MemoryItems/2 {
		return
	}
	if s.hand++; s.hand > s.lanes.last {
		s.hand = 1
	}
	if l := s.lanes.at(s.hand); l.account != 0 {
		s.trim(l)
	}
}
