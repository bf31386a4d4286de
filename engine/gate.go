package engine

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"
)

// A gate bounds the sends that are being accepted at once. Accepting is cheaper
// than delivering, and every connection brings a goroutine of its own: without
// a bound a few thousand senders leave the attempts next to no processor, and
// what is accepted piles up undelivered. Those beyond it wait in order, and cost
// nothing while they do; when too many wait, or one has waited too long, a send
// is refused before anything was
// done for it but to count it against its account's rate.
type gate struct {
	throttle throttle
	slots    chan *ticket // those that nobody has
	all      []*ticket
	waiting  atomic.Int64
	most     int64 // that may wait
}

const (
	// gateWait is the longest that a send waits for its turn.
	gateWait = time.Second
	// gateQueue is how many may wait for each slot.
	gateQueue = 4
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
	g.slots = make(chan *ticket, sendsAtOnce)
	for range sendsAtOnce {
		t := newTicket()
		g.all = append(g.all, t)
		g.slots <- t
	}
	g.most = gateQueue * int64(sendsAtOnce)
}

// enter waits for a slot, and a ticket that comes with it. It is to be given back
// by leave. The error is ErrOverloaded.
func (g *gate) enter(ctx context.Context) (*ticket, error) {
	if g.throttle.held.Load() == nil {
		select {
		case t := <-g.slots:
			t.waited = false
			return t, nil
		default:
		}
	}
	defer g.waiting.Add(-1)
	if n := g.waiting.Add(1); n > g.most {
		return nil, fmt.Errorf("%w: %d sends wait to be accepted", ErrOverloaded, n-1)
	}
	timeout := time.NewTimer(gateWait)
	defer timeout.Stop()
	for {
		slots, held := g.slots, g.throttle.held.Load()
		var goOn chan struct{}
		if held != nil {
			slots, goOn = nil, *held
		}
		select {
		case t := <-slots: // in the order of arrival, as channels do in practice
			t.waited = true
			return t, nil
		case <-goOn:
		case <-timeout.C:
			return nil, fmt.Errorf("%w: no turn within %s", ErrOverloaded, gateWait)
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrOverloaded, ctx.Err())
		}
	}
}

func (g *gate) leave(t *ticket) {
	t.young, t.ignored = nil, false
	g.slots <- t
}

// wake makes everyone who waits for a ticket look whether the engine has failed,
// and everyone who will. A ticket has room for one word: where the applier's is
// in it, its waiter comes by itself.
func (g *gate) wake() {
	for _, t := range g.all {
		select {
		case t.done <- struct{}{}:
		default:
		}
	}
}
