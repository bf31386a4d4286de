package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/state"
)

// findTries bounds how often a look-up follows a delivery that moves while it
// is being read.
const findTries = 5

// Delivery looks a delivery up; ErrNotFound. A delivery is found from the
// moment on at which its Send returned.
func (e *Engine) Delivery(_ context.Context, a AccountID, id DeliveryID, o ReadOptions) (Delivery, error) {
	for range findTries {
		found, err := e.state.Find(a, id)
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
		if !o.Payload {
			d.Headers = nil
			return d, nil
		}
		d.Body, err = e.state.Body(&found)
		if err == nil {
			return d, nil
		}
		if !errors.Is(err, state.ErrNotFound) {
			return Delivery{}, fmt.Errorf("engine: body of %s: %w", id, err)
		}
		// It ended between the two reads, and its body moved with it.
	}
	return Delivery{}, ErrNotFound
}

// Deliveries is a page of an account's deliveries, newest first, after the id
// after (zero: from the newest on).
func (e *Engine) Deliveries(_ context.Context, a AccountID, f Filter, after DeliveryID, limit int) (Page, error) {
	page, err := e.state.List(a, &f, after, limit)
	if err != nil {
		return Page{}, fmt.Errorf("engine: %w", err)
	}
	return page, nil
}
