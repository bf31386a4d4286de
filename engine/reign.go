package engine

import (
	"context"
	"fmt"
	"time"
)

// beginReign makes this node the one that accepts and delivers. The applier calls
// it, when the state has all that was committed before.
func (e *Engine) beginReign(term uint64) error {
	if err := e.ended(); err != nil {
		return err
	}
	if err := e.vault.renew(e.state().Directory()); err != nil {
		return err
	}
	d := newDispatcher(e, term)
	if err := d.restore(); err != nil {
		return err
	}
	e.replaceDispatcher(d)
	d.start()
	e.reign.Store(term)
	e.clerk.signal()
	e.sweepSoon()
	return nil
}

// endReign ends it. Attempts under way end by themselves.
func (e *Engine) endReign() error {
	e.reign.Store(0)
	e.replaceDispatcher(newDispatcher(e, 0))
	return nil
}

// replaceDispatcher puts a dispatcher in the place of the one there is, which is
// stopped.
func (e *Engine) replaceDispatcher(d *dispatcher) {
	if old := e.dispatching.Swap(d); old.term != 0 {
		old.halt()
		e.past.Go(func() {
			old.stop(0)
			old.wait()
		})
	}
}

// Quiesce lets no further attempt begin, and waits until those under way have ended and
// are on record, at most until ctx ends: what another node would make again if it took
// over before. Sends are still accepted. Resume undoes it, and so does the next reign.
func (e *Engine) Quiesce(ctx context.Context) error {
	d := e.dispatcher()
	d.rest(true)
	look := time.NewTicker(quiesceLook)
	defer look.Stop()
	for d.unfinished() > 0 {
		select {
		case <-look.C:
		case <-e.failed:
			return fmt.Errorf("%w: %w", ErrUnknown, e.failure)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Resume lets attempts begin again after Quiesce, also after one that has failed. Where
// another node leads by now it does nothing.
func (e *Engine) Resume() { e.dispatcher().rest(false) }

const quiesceLook = 5 * time.Millisecond

// unfinished is how many attempts are under way or not on record.
func (d *dispatcher) unfinished() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sched.Stats().Busy
}

// leads reports whether this node accepts and delivers.
func (e *Engine) leads() bool { return e.reign.Load() != 0 }

// uncommitted is ErrUnknown if what the ticket is of was lost, ErrNotLeader if it was
// refused, and nil if it is committed.
func (t *ticket) uncommitted() error {
	switch ticketFate(t.fate.Load()) {
	case ticketLost:
		return fmt.Errorf("%w: this node does not lead any more; try again, with an idempotency key if it must not be done twice", ErrUnknown)
	case ticketRefused:
		return ErrNotLeader
	}
	return nil
}
