package engine

import (
	"time"

	"github.com/harepost/harepost/engine/command"
)

const (
	watchEvery = time.Second
	keepEvery  = time.Minute
)

// keep does what need not be done at once.
func (e *Engine) keep() {
	watch := time.NewTicker(watchEvery)
	defer watch.Stop()
	keep := time.NewTicker(keepEvery)
	defer keep.Stop()
	for {
		select {
		case <-watch.C:
			e.watchSpace()
		case <-keep.C:
			e.retain()
			e.dispatcher.trim()
		case <-e.stop:
			return
		case <-e.failed:
			return
		}
	}
}

// watchSpace refuses sends while the disk has no room for the log to grow, and
// takes them again when it has. A flush may give room: the log is cut after it.
func (e *Engine) watchSpace() {
	err := e.log.NoSpace()
	if was := e.noSpace.Swap(err != nil); was != (err != nil) {
		if err == nil {
			e.opts.Logger.Info("the disk has room again: sends are accepted")
			return
		}
		e.opts.Logger.Error("the disk is full: sends are refused, deliveries go on", "error", err)
		if err := e.state.FlushSoon(); err != nil {
			e.opts.Logger.Error("engine: flush to free the log", "error", err)
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
