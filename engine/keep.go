package engine

import (
	"time"

	"github.com/harepost/harepost/engine/command"
)

// keepEvery is the pause between two rounds of the keeper.
const keepEvery = time.Minute

// keep does what need not be done at once.
func (e *Engine) keep() {
	t := time.NewTicker(keepEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			e.retain()
			e.dispatcher.trim()
		case <-e.stop:
			return
		case <-e.failed:
			return
		}
	}
}

// retain drops what is past its retention, if there is anything.
func (e *Engine) retain() {
	now := e.opts.Now()
	c := command.Retain{
		Finished:    now.Add(-e.opts.RetainFinished).UnixMilli(),
		Dead:        now.Add(-e.opts.RetainDead).UnixMilli(),
		Idempotency: now.Add(-e.opts.IdempotencyWindow).UnixMilli(),
	}
	needed, err := e.state.NeedsRetain(c)
	if err == nil && needed {
		err = e.log.Append(command.AppendRetain(nil, &c), nil)
	}
	if err != nil {
		e.opts.Logger.Error("engine: retention; it will be tried again", "error", err)
	}
}

// release lets the log go of what the state has made durable. The state calls
// it after each flush.
func (e *Engine) release(_, low uint64) {
	select {
	case <-e.started:
	default:
		return // still replaying; the next flush will do it
	}
	e.flushing.Store(false)
	if err := e.log.Release(low); err != nil && e.Ready() == nil {
		e.fail(err)
	}
}
