package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/state"
)

// findTries bounds how often a look-up follows a delivery that moves while it
// is being read.
const findTries = 5

// reads are the look-ups under way. Close waits for them: the state must not
// be read once it is closed.
type reads struct {
	mu     sync.RWMutex
	closed bool
}

// begin begins a look-up; ErrClosed. If there is no error, end ends it.
func (r *reads) begin() error {
	r.mu.RLock()
	if r.closed {
		r.mu.RUnlock()
		return ErrClosed
	}
	return nil
}

func (r *reads) end() { r.mu.RUnlock() }

func (r *reads) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
}

// Delivery looks a delivery up; ErrNotFound. A delivery is found from the
// moment on at which its Send returned.
func (e *Engine) Delivery(_ context.Context, a AccountID, id DeliveryID, o ReadOptions) (Delivery, error) {
	if err := e.reads.begin(); err != nil {
		return Delivery{}, err
	}
	defer e.reads.end()
	for try := 1; ; try++ {
		found, err := e.state().Find(a, id)
		if errors.Is(err, state.ErrNotFound) {
			return Delivery{}, ErrNotFound
		}
		if err != nil {
			return Delivery{}, fmt.Errorf("engine: look up %s: %w", id, err)
		}
		d, err := delivery.View(found.Status, &found.Row)
		if err != nil {
			return Delivery{}, fmt.Errorf("engine: look up %s: %w", id, err)
		}
		if err := e.waitsForOrder(a, &found, &d); err != nil {
			return Delivery{}, fmt.Errorf("engine: order of %s: %w", id, err)
		}
		if !d.Status.Final() && !d.WaitsForOrder {
			d.WaitingFor = e.waitingFor(state.Lane{Account: a, Destination: d.Lane}, id, d.NextAttemptAt)
		}
		if !o.Payload {
			d.Headers = nil
			return d, e.openView(a, &d, &found.Row, false)
		}
		d.Body, err = e.state().Body(&found)
		if err == nil {
			return d, e.openView(a, &d, &found.Row, true)
		}
		if !errors.Is(err, state.ErrNotFound) {
			return Delivery{}, fmt.Errorf("engine: body of %s: %w", id, err)
		}
		// It ended between the two reads, and its body moved with it; or retention
		// has dropped the body.
		if try == findTries {
			d.BodyDropped = true
			return d, e.openView(a, &d, &found.Row, false)
		}
	}
}

// Deliveries is a page of an account's deliveries, newest first, after the id
// after (zero: from the newest on).
func (e *Engine) Deliveries(_ context.Context, a AccountID, f Filter, after DeliveryID, limit int) (Page, error) {
	if err := e.reads.begin(); err != nil {
		return Page{}, err
	}
	defer e.reads.end()
	page, err := e.state().List(a, &f, after, limit)
	if err != nil {
		return Page{}, fmt.Errorf("engine: %w", err)
	}
	return page, nil
}
