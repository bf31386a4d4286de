package engine

import (
	"context"

	"github.com/harepost/harepost/engine/command"
)

// sweepDeliveries is how many pending deliveries one step of a sweep drops: it
// holds up the applier for some milliseconds.
const sweepDeliveries = 8192

// sweepSoon has the keeper look for deleted accounts.
func (e *Engine) sweepSoon() {
	select {
	case e.sweeping <- struct{}{}:
	default:
	}
}

// sweep makes one step of what deleting accounts leaves to do. The keeper looks
// at its other duties between two steps, and each waits for the one before, so
// that sends and attempts get their turns in the log.
func (e *Engine) sweep() {
	deleted := e.state().Directory().Deleted()
	term := e.reign.Load()
	if len(deleted) == 0 || term == 0 {
		return
	}
	err := e.propose(context.Background(), term, command.AppendSweepAccount(nil, deleted[0], sweepDeliveries))
	if err != nil {
		if e.ended() == nil && e.leads() {
			e.opts.Logger.Error("engine: sweep a deleted account; it will be tried again", "account", deleted[0], "error", err)
		}
		return
	}
	if e.state().Directory().IsDeleted(deleted[0]) {
		e.sweepSoon()
		return
	}
	e.opts.Logger.Info("a deleted account is swept", "account", deleted[0])
	e.sweepSoon() // for the next
}
