package engine

import "fmt"

// A share is what one account has of a gate: sends inside, and sends that wait. It
// is there while there are any, and for a second or two after. All of it is guarded
// by the gate's lock.
type share struct {
	account AccountID
	inside  int  // units
	came    bool // a send, since tidy

	first, last *waiter // those who wait, in order of arrival
	length      int

	held       bool   // none of it enters, see throttle
	prev, next *share // in the ring of those that wait and are not held; nil: not in it
}

// A waiter is a send that waits at the gate.
type waiter struct {
	share      *share
	units      int
	turn       chan *ticket // its place inside; nil: it is refused
	waits      bool         // nothing was said yet
	prev, next *waiter
}

const (
	// unitSends and unitBytes are what a unit is: the part of a frame, and of the
	// applier's time, that others wait behind.
	unitSends = 16
	unitBytes = 64 << 10
)

// unitsOf is how many units some sends are that are accepted together, whose
// bodies have so many bytes.
func unitsOf(sends, bytes int) int {
	return 1 + max((sends-1)/unitSends, bytes/unitBytes)
}

// shareOf is the share of an account, a new one if need be.
func (g *gate) shareOf(a AccountID) *share {
	s := g.shares[a]
	if s == nil {
		s = &share{account: a}
		g.shares[a] = s
	}
	s.came = true
	return s
}

// mostShares bounds those that are kept of accounts that have nothing in them.
const mostShares = 4096

// left gives up a share that is empty, if there are too many.
func (g *gate) left(s *share) {
	if s.empty() && len(g.shares) > mostShares {
		delete(g.shares, s.account)
	}
}

func (s *share) empty() bool { return s.inside == 0 && s.first == nil }

// tidy gives up the shares of accounts of which nothing has come since it was
// called last: they are not sending any more, and the others may have more.
func (g *gate) tidy() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for a, s := range g.shares {
		if s.empty() && !s.came {
			delete(g.shares, a)
		}
		s.came = false
	}
	g.grant()
}

// queue has a send wait. When too many do, it is in the place of the newest of the
// account of which most wait; if that is its own, it is refused.
func (g *gate) queue(s *share, units int) (*waiter, error) {
	if g.waiting >= g.most {
		longest := g.longest()
		if longest.length <= s.length+1 {
			g.left(s)
			return nil, fmt.Errorf("%w: %d sends wait to be accepted, %d of them the account's", ErrOverloaded, g.waiting, s.length)
		}
		w := longest.last
		g.remove(w)
		w.turn <- nil
		g.left(longest)
	}
	w := &waiter{share: s, units: units, turn: make(chan *ticket, 1), waits: true, prev: s.last}
	if s.last == nil {
		s.first = w
	} else {
		s.last.next = w
	}
	s.last = w
	s.length++
	g.waiting++
	g.enlist(s)
	return w, nil
}

// longest is the share of which most sends wait. One of all may be asked of: what
// waits is at most what there are connections.
func (g *gate) longest() *share {
	var longest *share
	for _, s := range g.shares {
		if longest == nil || s.length > longest.length {
			longest = s
		}
	}
	return longest
}

// remove takes a send out of its queue.
func (g *gate) remove(w *waiter) {
	s := w.share
	if w.prev == nil {
		s.first = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		s.last = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.prev, w.next, w.waits = nil, nil, false
	s.length--
	g.waiting--
	if s.first == nil {
		g.delist(s)
	}
}

// hold keeps an account's sends from entering.
func (g *gate) hold(s *share) {
	s.held = true
	g.delist(s)
}

// letGo lets them enter again.
func (g *gate) letGo(s *share) {
	s.held = false
	g.enlist(s)
}

// enlist gives a share the last turn, if it is to have one.
func (g *gate) enlist(s *share) {
	if s.next != nil || s.first == nil || s.held {
		return
	}
	if g.turn == nil {
		g.turn, s.prev, s.next = s, s, s
		return
	}
	s.prev, s.next = g.turn.prev, g.turn
	s.prev.next, s.next.prev = s, s
}

// delist takes a share out of the ring of turns.
func (g *gate) delist(s *share) {
	if s.next == nil {
		return
	}
	if g.turn == s {
		g.turn = s.next
	}
	if s.next == s {
		g.turn = nil
	}
	s.prev.next, s.next.prev = s.next, s.prev
	s.prev, s.next = nil, nil
}
