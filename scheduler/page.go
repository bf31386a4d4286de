package scheduler

import "fmt"

const (
	// pageRetryMs is how long a lane waits after a page that failed.
	pageRetryMs = 250

	// A lane's first page has firstPage items. The next has twice as many if it
	// is wanted within hotPage milliseconds, and half as many if not within coldPage.
	firstPage = 4
	hotPage   = 500
	coldPage  = 5000
	// mostPage bounds the doublings: 8,192 items.
	mostPage = 11
)

// page is a request that is out.
type page struct {
	from Position
	// recorded holds the deliveries recorded while the page is out that the
	// snapshot being read may still show. Nothing at or past from starts
	// while the page is out, so they are at most those that were busy when
	// it was handed out, and those recorded without an attempt.
	recorded map[ID]struct{}
}

// pageItems is how many items a page asks for: at most half a head, so that
// a page and what was left before it fit into one.
func (s *Scheduler) pageItems(l *lane) int {
	return min(s.opts.PageItems, firstPage<<l.pageSize, s.headItems(l)/2)
}

// warm fits the size of the lane's pages to how fast it uses them up.
func (s *Scheduler) warm(l *lane) {
	switch age := s.now - l.pagedAt; {
	case l.pagedAt == 0 || age < 0:
	case age < hotPage && firstPage<<l.pageSize < s.opts.PageItems:
		l.pageSize = min(l.pageSize+1, mostPage)
	case age > coldPage && l.pageSize > 0:
		l.pageSize--
	}
}

// pageNeeded reports whether what the lane has on disk is due, and what it
// has in memory is about to run out: asking a quarter of a page early keeps
// a lane busy while its next page is read.
func (s *Scheduler) pageNeeded(l *lane) bool {
	return l.onDisk && l.diskNext.Due <= s.now && int(l.stored.count) <= s.pageItems(l)/4
}

// wantPage puts the lane into the list of wanted pages if it needs one.
func (s *Scheduler) wantPage(r laneRef, l *lane) {
	if l.page != pageNone || l.pageAt > s.now || !s.pageNeeded(l) {
		return
	}
	l.page = pageWanted
	l.pageNext = 0
	if s.lastWanted == 0 {
		s.firstWanted = r
	} else {
		s.lanes.at(s.lastWanted).pageNext = r
	}
	s.lastWanted = r
	s.pagesWanted++
}

// NextPage hands out the page request that has waited longest. The caller
// then reads the lane's queue on disk, which needs no lock, and answers with
// Paged or PageFailed. Requests are handed out once.
func (s *Scheduler) NextPage() (PageRequest, bool) {
	r := s.firstWanted
	if r == 0 {
		return PageRequest{}, false
	}
	l := s.lanes.at(r)
	s.firstWanted = l.pageNext
	if s.firstWanted == 0 {
		s.lastWanted = 0
	}
	s.pagesWanted--
	s.warm(l)
	l.page, l.pageNext = pageOut, 0
	s.pages[r] = &page{from: l.diskNext, recorded: make(map[ID]struct{})}
	return PageRequest{Lane: l.key, From: l.diskNext, Limit: s.pageItems(l)}, true
}

// Paged answers a page request: items are the first entries of the lane's
// queue at or past the requested position, in order, as one snapshot taken
// after NextPage shows them; more says whether others follow. What the
// snapshot shows but is in memory, busy, or was recorded since is left out.
// The caller keeps items. An answer that was not asked for is ignored.
func (s *Scheduler) Paged(k LaneKey, items []Item, more bool, now Time) {
	if more && len(items) == 0 {
		s.PageFailed(k, now) // nothing was learnt; asking again at once could go on for ever
		return
	}
	s.now = now
	r, l, p := s.takePage(k)
	if p == nil {
		return
	}
	next := p.from
	for _, it := range items {
		if pos := it.Position(); pos.Compare(next) >= 0 {
			next = pos.successor()
		}
		_, known := s.byID[it.ID]
		_, gone := p.recorded[it.ID]
		if !known && !gone && it.Position().Compare(p.from) >= 0 {
			s.wait(l, s.newItem(r, it, 0))
		}
	}
	l.onDisk, l.diskNext, l.pageAt, l.pagedAt = more, next, 0, now
	s.sweep(l)
	s.relieve()
	s.refresh(r, l)
}

// PageFailed answers a page request that could not be read. It is asked for
// again after a quarter of a second.
func (s *Scheduler) PageFailed(k LaneKey, now Time) {
	s.now = now
	r, l, p := s.takePage(k)
	if p == nil {
		return
	}
	l.pageAt = now + pageRetryMs
	s.sweep(l)
	s.refresh(r, l)
}

// takePage ends the lane's page request; the page is nil if none is out.
func (s *Scheduler) takePage(k LaneKey) (laneRef, *lane, *page) {
	r, ok := s.byKey[k]
	if !ok {
		return 0, nil, nil
	}
	p := s.pages[r]
	if p == nil {
		return 0, nil, nil
	}
	delete(s.pages, r)
	l := s.lanes.at(r)
	l.page = pageNone
	return r, l, p
}

// sweep lets go of what was kept only because a page was out.
func (s *Scheduler) sweep(l *lane) {
	for i := l.stored.head; i != 0; {
		n := s.items.at(i)
		next := n.next
		if leftToDisk(l, n.position()) {
			s.unwait(l, i)
			s.forget(i)
		}
		i = next
	}
	s.trim(l)
}

// Restore makes a lane known at start that has a queue on disk and nothing in
// memory: first is the position of the queue's first entry, or any before it.
// Nothing is read until that moment. Restore belongs before the first
// NextPage; it panics if it comes to undermine a page that is out.
func (s *Scheduler) Restore(k LaneKey, first Position, now Time) {
	s.now = now
	r, l := s.laneFor(k)
	if l.onDisk && first.Compare(l.diskNext) >= 0 {
		return
	}
	if l.page == pageOut {
		panic(fmt.Sprintf("scheduler: restore of lane %x at %+v while its page from %+v is out", k, first, l.diskNext))
	}
	l.onDisk, l.diskNext = true, first
	s.sweep(l)
	s.refresh(r, l)
}
