package engine

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"
)

// A gate bounds the sends that are being accepted at once. Accepting is cheaper
// than delivering, and every connection brings a goroutine of its own: without
// a bound a few thousand senders leave the attempts next to no processor, and
// what is accepted piles up undelivered. Those beyond it wait, and cost nothing
// while they do; when too many wait, or one has waited too long, a send is
// refused before anything was done for it but to count it against its account's
// rate.
//
// What there is to enter is units: a send is one, a large one or a part of a batch
// as many as it is heavy. They are shared among accounts:
//
//   - Accounts that wait take turns; within an account it is first come, first
//     served.
//   - While others send too, an account has at most an equal part of them, or a
//     quarter where that is more: what it has inside is what others' sends wait
//     behind in the log, and for a processor.
//   - The last units, the reserve, are for accounts that have less than an equal
//     part. So one that sends little enters at once beside any number of those
//     that take all they get.
//   - When too many wait, the newest of the account with the longest queue is
//     refused.
//
// An account alone has all units but the reserve, as if there were no accounts.
type gate struct {
	units   int // that are handed out to whoever comes
	reserve int // further ones, see fits
	most    int // sends that may wait
	all     []*ticket

	throttle throttle

	mu      sync.Mutex
	tickets []*ticket // those that nobody has
	free    int       // units, of both kinds; what enters an empty place may overdraw them
	shares  map[AccountID]*share
	turn    *share // of those that wait and may go on, the next; nil: there is none
	waiting int    // sends of all accounts
	limit   int    // young deliveries an account that may go on has at most; 0: any number
	failed  bool   // the engine has
}

const (
	// gateWait is the longest that a send waits for its turn.
	gateWait = time.Second
	// gateQueue is how many may wait for each unit, of all accounts together.
	gateQueue = 4
	// gateReserve is the part of the units that there are beside them, as a reserve.
	gateReserve = 4
	// gatePart is the part of the units that an account has in any case, if there
	// are so many.
	gatePart = 4
	// leastSendsAtOnce is the default where there are few processors: a group
	// commit of so many costs hardly more than one of a few.
	leastSendsAtOnce  = 256
	sendsPerProcessor = 64
)

// defaultSendsAtOnce is Options.SendsAtOnce on this machine.
func defaultSendsAtOnce() int {
	return max(leastSendsAtOnce, sendsPerProcessor*runtime.GOMAXPROCS(0))
}

func (g *gate) init(sendsAtOnce int) {
	g.units = sendsAtOnce
	g.reserve = (sendsAtOnce + gateReserve - 1) / gateReserve
	g.most = gateQueue * sendsAtOnce
	g.free = g.units + g.reserve
	g.shares = make(map[AccountID]*share)
	for range g.free {
		g.all = append(g.all, newTicket())
	}
	g.tickets = append(g.tickets, g.all...)
}

// enter waits until a send of so many units of an account may be accepted, and
// returns a ticket, which is to be given back by leave. The error is ErrOverloaded.
func (g *gate) enter(ctx context.Context, a AccountID, units int) (*ticket, error) {
	held := g.throttle.holds(a)
	g.mu.Lock()
	s := g.shareOf(a)
	if held && g.limit > 0 { // or nobody is to be held back any more
		g.hold(s)
	}
	if s.first == nil && !s.held && g.fits(s, units) {
		t := g.admit(s, units)
		g.mu.Unlock()
		t.waited = false
		return t, nil
	}
	w, err := g.queue(s, units)
	g.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return g.wait(ctx, w)
}

// fits reports whether so many units more of an account may enter now.
func (g *gate) fits(s *share, units int) bool {
	if s.inside == 0 {
		return g.free > 0
	}
	equal := g.units / len(g.shares)
	if g.free-units < g.reserve {
		return g.free >= units && s.inside+units <= equal
	}
	return s.inside+units <= max(equal, g.units/gatePart)
}

// admit lets a send enter. There is a ticket for each unit, and so for each send.
func (g *gate) admit(s *share, units int) *ticket {
	last := len(g.tickets) - 1
	t := g.tickets[last]
	g.tickets = g.tickets[:last]
	t.share, t.units = s, units
	s.inside += units
	g.free -= units
	return t
}

func (g *gate) leave(t *ticket) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := t.share
	s.inside -= t.units
	g.free += t.units
	if g.failed { // the applier may have it still: nobody gets it any more
		t = newTicket()
		t.done <- struct{}{} // as wake does
	}
	t.clear()
	t.share = nil
	g.tickets = append(g.tickets, t)
	g.left(s)
	g.grant()
}

// grant lets in who waits and may enter, an account's turn after the other.
func (g *gate) grant() {
	for passed := (*share)(nil); g.turn != nil && g.free > 0 && g.turn != passed; {
		s := g.turn
		g.turn = s.next
		if !g.fits(s, s.first.units) {
			if passed == nil {
				passed = s
			}
			continue
		}
		passed = nil
		w := s.first
		g.remove(w)
		t := g.admit(s, w.units)
		t.waited = true
		w.turn <- t
	}
}

// wait waits for the turn of w.
func (g *gate) wait(ctx context.Context, w *waiter) (*ticket, error) {
	timeout := time.NewTimer(gateWait)
	defer timeout.Stop()
	var err error
	select {
	case t := <-w.turn:
		return t.orRefused()
	case <-timeout.C:
		err = fmt.Errorf("%w: no turn within %s", ErrOverloaded, gateWait)
	case <-ctx.Done():
		err = fmt.Errorf("%w: %w", ErrOverloaded, ctx.Err())
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !w.waits {
		return (<-w.turn).orRefused() // it was decided at the same moment
	}
	s := w.share
	g.remove(w)
	g.left(s)
	return nil, err
}

// orRefused is the ticket of one who waited; nil: another has come in its place.
func (t *ticket) orRefused() (*ticket, error) {
	if t == nil {
		return nil, fmt.Errorf("%w: too many sends of the account wait to be accepted", ErrOverloaded)
	}
	return t, nil
}

// holdBack keeps accounts with more than so many young deliveries from entering,
// until it is called again; 0: nobody.
func (g *gate) holdBack(limit int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.limit = limit
	for a, s := range g.shares {
		if limit > 0 && g.throttle.young(a) > limit {
			g.hold(s)
		} else {
			g.letGo(s)
		}
	}
	g.grant()
}

// queued is how many sends wait.
func (g *gate) queued() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waiting
}

// wake makes everyone who waits for a ticket look whether the engine has failed,
// and everyone who will. A ticket has room for one word: where the applier's is
// in it, its waiter comes by itself.
func (g *gate) wake() {
	g.mu.Lock()
	g.failed = true
	g.mu.Unlock()
	for _, t := range g.all {
		select {
		case t.done <- struct{}{}:
		default:
		}
	}
}
