package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/job"
	"github.com/harepost/harepost/engine/state"
)

// Replay puts a finished delivery back into its lane: the same id, attempts
// that go on counting, a budget that begins anew. It does not expire any more.
// Errors: ErrNotFound, ErrPending, ErrPayloadGone, ErrSuspended.
func (e *Engine) Replay(ctx context.Context, a AccountID, id DeliveryID) (Delivery, error) {
	if err := e.Ready(); err != nil {
		return Delivery{}, err
	}
	if owner, ok := e.state().Directory().Account(a); ok && owner.Suspended {
		return Delivery{}, ErrSuspended
	}
	return e.controlOne(ctx, a, id, job.Replay, func(f *state.Stored) error {
		switch {
		case !f.Status.Final():
			return ErrPending
		case f.Status == StatusCanceled && e.dispatcher().busy(id):
			// Its attempt is still under way. One that ended otherwise may be busy for
			// the moment until the scheduler hears of its end, which it does before
			// it hears of the replay.
			return fmt.Errorf("%w: an attempt is under way", ErrPending)
		}
		if _, err := e.state().Body(f); errors.Is(err, state.ErrNotFound) {
			return ErrPayloadGone
		} else if err != nil {
			return fmt.Errorf("engine: body of %s: %w", id, err)
		}
		return nil
	}, ErrPending)
}

// Cancel ends a pending delivery. An attempt that is under way goes on; it is
// recorded, and is the last. Errors: ErrNotFound, ErrFinished.
func (e *Engine) Cancel(ctx context.Context, a AccountID, id DeliveryID) (Delivery, error) {
	return e.controlOne(ctx, a, id, job.Cancel, func(f *state.Stored) error {
		if f.Status.Final() {
			return ErrFinished
		}
		return nil
	}, ErrFinished)
}

// controlOne does one thing to one delivery. late is the error when it has
// changed between the look at it and the command.
func (e *Engine) controlOne(ctx context.Context, a AccountID, id DeliveryID, k JobKind,
	allowed func(*state.Stored) error, late error,
) (Delivery, error) {
	e.control.Lock()
	defer e.control.Unlock()
	term := e.reign.Load()
	err := e.look(a, id, allowed)
	if err != nil {
		return Delivery{}, err
	}
	c := command.Control{Kind: k, Account: a, At: e.now().UnixMilli(), IDs: []DeliveryID{id}}
	changed, err := e.proposeControl(ctx, term, command.AppendControl(nil, &c))
	if err != nil {
		return Delivery{}, err
	}
	if changed == 0 {
		return Delivery{}, late
	}
	e.metrics.controlled(k, changed, 0)
	return e.Delivery(ctx, a, id, ReadOptions{})
}

// look finds a delivery and asks whether something may be done to it.
func (e *Engine) look(a AccountID, id DeliveryID, allowed func(*state.Stored) error) error {
	if err := e.reads.begin(); err != nil {
		return err
	}
	defer e.reads.end()
	found, err := e.state().Find(a, id)
	if errors.Is(err, state.ErrNotFound) {
		return ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("engine: look up %s: %w", id, err)
	}
	return allowed(&found)
}
