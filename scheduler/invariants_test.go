package scheduler

import (
	"fmt"
	"slices"
)

// invariants walks everything the scheduler holds and returns the first thing
// that the comments in this package promise and that is not so.
func invariants(s *Scheduler) error {
	if err := wheelInvariants(s.wheel); err != nil {
		return err
	}
	var waiting, stored, busy, flights, ready, wanted, inHeap, idle int
	var banded [bands]int
	for k, r := range s.byKey {
		l := s.lanes.at(r)
		if l.key != k {
			return fmt.Errorf("lane %d: key %v, want %v", r, l.key, k)
		}
		n, err := heapInvariants(s, r, l)
		if err != nil {
			return fmt.Errorf("lane %d: %w", r, err)
		}
		if err := laneInvariants(s, r, l); err != nil {
			return fmt.Errorf("lane %d: %w", r, err)
		}
		waiting += n
		stored += int(l.stored.count)
		busy += int(l.busy)
		flights += int(l.flights)
		if l.ready {
			ready++
		}
		if l.isIdle {
			idle++
		}
		banded[l.band] += int(l.flights)
		if l.page == pageWanted {
			wanted++
		}
		if *s.duePlaces.at(uint32(r)) != 0 {
			inHeap++
		}
	}
	st := s.Stats()
	got := []int{st.Items, st.Items - st.YoungItems, st.Busy, st.InFlight, st.PagesWanted, st.DueLanes, len(s.byID), st.IdleLanes}
	want := []int{waiting, stored, busy, flights, wanted, inHeap, waiting + busy, idle}
	if !slices.Equal(got, want) {
		return fmt.Errorf("counts are %v, want %v", got, want)
	}
	for b := range s.turns {
		if int(s.turns[b].flights) != banded[b] {
			return fmt.Errorf("band %d counts %d flights, its lanes have %d", b, s.turns[b].flights, banded[b])
		}
	}
	return turnInvariants(s, ready)
}

// heapInvariants checks a lane's heap and its list, and returns its size.
func heapInvariants(s *Scheduler, r laneRef, l *lane) (int, error) {
	size, stored := 0, int32(0)
	var walk func(i, parent itemRef) error
	walk = func(i, parent itemRef) error {
		if i == 0 {
			return nil
		}
		n := s.items.at(i)
		switch {
		case n.parent != parent:
			return fmt.Errorf("item %d: parent %d, want %d", i, n.parent, parent)
		case parent != 0 && n.before(s.items.at(parent)):
			return fmt.Errorf("item %d comes before its parent", i)
		case !n.waiting() || n.lane != r || s.byID[n.id] != i:
			return fmt.Errorf("item %d in the heap: %+v", i, *n)
		case n.rank != s.items.at(n.right).rank+1 || s.items.at(n.left).rank < s.items.at(n.right).rank:
			return fmt.Errorf("item %d: ranks do not lean left", i)
		case n.state == itemYoung && n.logIndex == 0:
			return fmt.Errorf("item %d is on disk and young", i)
		case n.state == itemStored && !s.onDisk(n.logIndex):
			return fmt.Errorf("item %d may not be on disk yet", i)
		case n.state == itemStored && leftToDisk(l, n.position()):
			return fmt.Errorf("item %d is kept past diskNext", i)
		}
		size++
		if n.state == itemStored {
			stored++
		}
		if err := walk(n.left, i); err != nil {
			return err
		}
		return walk(n.right, i)
	}
	for _, root := range l.waiting {
		if err := walk(root, 0); err != nil {
			return 0, err
		}
	}
	listed := int32(0)
	for i := l.stored.head; i != 0; i = s.items.at(i).next {
		listed++
	}
	if stored != l.stored.count || listed != stored {
		return 0, fmt.Errorf("%d stored items in the heap, %d listed, %d counted", stored, listed, l.stored.count)
	}
	if int(stored) > s.opts.HeadItems && l.page != pageOut {
		return 0, fmt.Errorf("%d stored items in memory, bound %d", stored, s.opts.HeadItems)
	}
	return size, nil
}

// laneInvariants checks that the lane is in the structures it belongs to.
func laneInvariants(s *Scheduler, r laneRef, l *lane) error {
	due, waits := s.first(l)
	_, startable := s.choose(l)
	now := s.now
	s.now = 1 << 60
	_, inMemory := s.choose(l) // at any time: the clock may have gone back since
	s.now = now
	inHeap := *s.duePlaces.at(uint32(r)) != 0
	var inWheel bool
	if int(r>>chunkBits) < len(s.wheel.entries.chunks) {
		inWheel = s.wheel.entries.at(uint32(r)).list != listNone
	}
	if inHeap {
		if e := s.due.entries[*s.duePlaces.at(uint32(r))-1]; laneRef(e.ref) != r || Time(e.key) != due {
			return fmt.Errorf("due heap holds %+v, its first item is due at %d", e, due)
		}
	}
	if waits && (l.set.Paused || s.accounts.at(l.account).suspended) {
		if inHeap || inWheel || l.ready {
			return fmt.Errorf("held back, but in heap %t, in wheel %t, ready %t", inHeap, inWheel, l.ready)
		}
		return nil
	}
	switch {
	case l.isIdle != (!waits && l.busy == 0):
		return fmt.Errorf("idle: %t, waits: %t, busy: %d", l.isIdle, waits, l.busy)
	case l.band != l.belongs():
		return fmt.Errorf("in band %d, belongs to %d", l.band, l.belongs())
	case !waits && l.busy == 0 && !inWheel:
		return fmt.Errorf("nothing in it, and nothing wakes it")
	case l.flights > s.limit(l):
		return fmt.Errorf("%d in flight", l.flights)
	case waits && !inHeap && !inWheel:
		return fmt.Errorf("forgotten: first item is due at %d, now %d", due, s.now)
	case !waits && (inHeap || inWheel && l.busy > 0 || l.ready):
		return fmt.Errorf("nothing waits: in heap %t, in wheel %t, ready %t", inHeap, inWheel, l.ready)
	case l.ready && !(inHeap && inMemory && l.flights < s.limit(l)):
		return fmt.Errorf("ready: in heap %t, in memory %t, %d in flight", inHeap, inMemory, l.flights)
	case inHeap && !l.ready && startable && l.page == pageNone && l.flights < s.limit(l) && !inWheel:
		return fmt.Errorf("could start an item, is not ready, and nothing wakes it")
	case inHeap && !inMemory && l.onDisk && l.page == pageNone && !inWheel:
		return fmt.Errorf("waits for a page that nobody wants")
	case (l.page == pageOut) != (s.pages[r] != nil):
		return fmt.Errorf("page state %d, page %v", l.page, s.pages[r])
	case l.page != pageNone && !l.onDisk:
		return fmt.Errorf("wants a page of nothing")
	}
	return nil
}

// turnInvariants checks that every ready lane has one turn, in its band.
func turnInvariants(s *Scheduler, ready int) error {
	seen, lanes := 0, 0
	for b := range s.turns {
		t := &s.turns[b]
		before := seen
		for i, e := range t.accounts.entries {
			sh := &s.accounts.at(accountRef(e.ref)).shares[b]
			if *t.places.at(e.ref) != uint32(i+1) || e.key != sh.tag || len(sh.lanes.entries) == 0 || t.accounts.entries[max(i-1, 0)/4].key > e.key {
				return fmt.Errorf("band %d: account %d has no good turn: %+v, %+v", b, e.ref, e, sh)
			}
			for j, e := range sh.lanes.entries {
				l := s.lanes.at(laneRef(e.ref))
				if *s.lanePlaces.at(e.ref) != uint32(j+1) || e.key != l.tag || !l.ready || l.band != band(b) || sh.lanes.entries[max(j-1, 0)/4].key > e.key {
					return fmt.Errorf("band %d: lane %d has no good turn: %+v", b, e.ref, e)
				}
				seen++
			}
		}
		if t.ready != seen-before {
			return fmt.Errorf("band %d counts %d ready lanes of %d", b, t.ready, seen-before)
		}
	}
	if seen != ready {
		return fmt.Errorf("%d lanes have turns, %d are ready", seen, ready)
	}
	young := map[uint64]int{}
	for i := s.young.head; i != 0; i = s.items.at(i).next {
		young[s.lanes.at(s.items.at(i).lane).key.Account]++
	}
	for id, a := range s.byAccount {
		lanes += int(s.accounts.at(a).lanes)
		if s.Young(id) != young[id] {
			return fmt.Errorf("account %d counts %d young items of %d", id, s.Young(id), young[id])
		}
	}
	if len(young) != s.YoungAccounts() {
		return fmt.Errorf("%d accounts with young items, counted %d", len(young), s.YoungAccounts())
	}
	if lanes != len(s.byKey) {
		return fmt.Errorf("accounts count %d lanes of %d", lanes, len(s.byKey))
	}
	return nil
}

// wheelInvariants checks that every entry is in the list it belongs to.
func wheelInvariants(w *wheel) error {
	count := 0
	for list := range uint16(listCount) {
		prev := uint32(0)
		for key := w.lists[list].head; key != 0; key = w.entries.at(key).next {
			e := w.entries.at(key)
			if e.list != list || e.prev != prev {
				return fmt.Errorf("wheel: key %d in list %d: %+v", key, list, *e)
			}
			if want := w.listFor(e.due); list != want && list != listExpired {
				return fmt.Errorf("wheel at %d: key %d due %d is in list %d, want %d", w.now, key, e.due, list, want)
			}
			if list == listFar && e.due < w.farMin {
				return fmt.Errorf("wheel: far key %d due %d before %d", key, e.due, w.farMin)
			}
			prev = key
			count++
		}
		if w.lists[list].tail != prev {
			return fmt.Errorf("wheel: list %d ends at %d, want %d", list, w.lists[list].tail, prev)
		}
	}
	if count != w.count {
		return fmt.Errorf("wheel: %d entries, counted %d", count, w.count)
	}
	return nil
}

// emptiness reports what a drained scheduler still holds.
func emptiness(s *Scheduler) error {
	if st := s.Stats(); st != (Stats{}) {
		return fmt.Errorf("drained, but %+v", st)
	}
	if s.wheel.count != 0 || len(s.pages) != 0 || s.flying.head != 0 || s.firstWanted != 0 {
		return fmt.Errorf("drained, but %d wheel entries, %d pages, flying %d, wanted %d", s.wheel.count, len(s.pages), s.flying.head, s.firstWanted)
	}
	if n := int(s.items.last) - len(s.items.free); n != 0 {
		return fmt.Errorf("drained, but %d items are not freed", n)
	}
	if n := int(s.lanes.last) - len(s.lanes.free); n != 0 {
		return fmt.Errorf("drained, but %d lanes are not freed", n)
	}
	if n := int(s.accounts.last) - len(s.accounts.free); n != 0 {
		return fmt.Errorf("drained, but %d accounts are not freed", n)
	}
	return nil
}
