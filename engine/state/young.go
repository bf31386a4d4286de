package state

import (
	"sync"

	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/delivery"
)

// A Young is a delivery that is in the log and in memory only. Make one with
// [NewYoung] and hand it to Apply with the entry that accepts it.
type Young struct {
	ID      delivery.ID
	Account account.ID
	Due     int64 // of its first attempt, Unix milliseconds
	Accept  command.Accept

	// Set by the state.
	index      uint64
	position   int64 // see State.logBytes
	list       *youngList
	prev, next *Young // neighbours in list, by id
	gone       bool   // written to Pebble, in a batch that may not be committed yet
}

// Lane is the lane of its deliveries.
func (y *Young) Lane() Lane { return Lane{y.Account, y.Accept.Destination} }

// Index is the index of the entry that accepted it.
func (y *Young) Index() uint64 { return y.index }

func (y *Young) bytes() int64 { return int64(len(y.Accept.Record) + len(y.Accept.Body)) }

// inlineBodyBytes is the longest body that is kept inside its row, where it costs no
// key of its own but is read by every list that passes it. It is no option: what can be
// dropped before its row is the same on all nodes.
const inlineBodyBytes = 1 << 10

// row is the delivery's row and the body that goes elsewhere, if it does: where it is
// from then on, whatever becomes of the delivery.
func (y *Young) row() (delivery.Row, []byte) {
	w, body := delivery.Row{UpdatedAt: y.ID.UnixMilli(), Record: y.Accept.Record}, y.Accept.Body
	if len(body) > inlineBodyBytes || y.Accept.Apart && len(body) > 0 {
		return w, body
	}
	w.HasBody, w.Body = true, body
	return w, nil
}

// youngList is the young of one account, in the order of their ids.
type youngList struct{ first, last *Young }

// insert puts y in its place. Ids are drawn just before the log orders the
// sends, so the place is at the end or a few steps before it.
func (l *youngList) insert(y *Young) {
	at := l.last
	for at != nil && compareIDs(at.ID, y.ID) > 0 {
		at = at.prev
	}
	y.list, y.prev = l, at
	if at == nil {
		y.next, l.first = l.first, y
	} else {
		y.next, at.next = at.next, y
	}
	if y.next == nil {
		l.last = y
	} else {
		y.next.prev = y
	}
}

func (l *youngList) remove(y *Young) {
	if y.prev == nil {
		l.first = y.next
	} else {
		y.prev.next = y.next
	}
	if y.next == nil {
		l.last = y.prev
	} else {
		y.next.prev = y.prev
	}
	y.prev, y.next, y.list = nil, nil, nil
}

// youngSet is all the young: by id and by account for readers, and in log
// order for the applier.
type youngSet struct {
	mu    sync.RWMutex
	byID  map[delivery.ID]*Young
	lists map[account.ID]*youngList

	// The applier's own: all in log order; those that are gone stay until they
	// come to the front.
	queue     []*Young
	front     int
	bytes     int64
	storedLow uint64 // low as Pebble has it; what Rebuild starts from
}

func (s *youngSet) init() {
	s.byID = make(map[delivery.ID]*Young)
	s.lists = make(map[account.ID]*youngList)
}

func (s *youngSet) setLow(low uint64) { s.storedLow = low }

func (s *youngSet) len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.byID)
}

// add makes ys visible to readers. Applier only.
func (s *youngSet) add(ys []*Young) {
	if len(ys) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, y := range ys {
		s.byID[y.ID] = y
		l := s.lists[y.Account]
		if l == nil {
			l = new(youngList)
			s.lists[y.Account] = l
		}
		l.insert(y)
		s.queue = append(s.queue, y)
		s.bytes += y.bytes()
	}
}

// remove takes out what Pebble has by now. Applier only, after the commit: a
// reader that does not find a delivery here finds it there.
func (s *youngSet) remove(ys []*Young) {
	if len(ys) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, y := range ys {
		delete(s.byID, y.ID)
		l := y.list
		l.remove(y)
		if l.first == nil {
			delete(s.lists, y.Account)
		}
		// The queue may hold y for a while; its bytes it need not.
		s.bytes -= y.bytes()
		y.Accept.Record, y.Accept.Body = nil, nil
	}
}

// get returns the row of a young delivery, and its body.
func (s *youngSet) get(id delivery.ID) (a account.ID, record, body []byte, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	y := s.byID[id]
	if y == nil {
		return 0, nil, nil, false
	}
	return y.Account, y.Accept.Record, y.Accept.Body, true
}

// of are the young of an account that are not gone, by id. Applier only.
func (s *youngSet) of(a account.ID) (ys []*Young) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if l := s.lists[a]; l != nil {
		for y := l.first; y != nil; y = y.next {
			if !y.gone {
				ys = append(ys, y)
			}
		}
	}
	return ys
}

// oldest is the first in log order that is not gone, nil if there is none.
// Applier only.
func (s *youngSet) oldest() *Young {
	for s.front < len(s.queue) {
		if y := s.queue[s.front]; !y.gone {
			return y
		}
		s.queue[s.front] = nil
		s.front++
	}
	s.queue, s.front = s.queue[:0], 0
	return nil
}

// compact keeps the queue's slice from growing at its end for ever.
func (s *youngSet) compact() {
	if s.front > 1024 && s.front > len(s.queue)/2 {
		n := copy(s.queue, s.queue[s.front:])
		clear(s.queue[n:])
		s.queue, s.front = s.queue[:n], 0
	}
}

// low is the index of the oldest, or next if there is none. Applier only.
func (s *youngSet) low(next uint64) uint64 {
	if s.storedLow != 0 { // not rebuilt yet
		return s.storedLow
	}
	if y := s.oldest(); y != nil {
		return y.index
	}
	return next
}
