package engine

import (
	"context"
	"errors"
	"math"
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
			e.keepLastUse()
			e.dispatcher.trim()
			e.sweepSoon() // if a step has failed
		case <-e.sweeping:
			e.sweep()
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
	err := errors.Join(e.log.NoSpace(), e.state.NoSpace())
	e.noSpace.Store(err != nil)
	if was := e.toldFull; was != (err != nil) {
		e.toldFull = !was
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

const (
	// retainStep is how finely retention cuts: once an hour there is an hour
	// more to drop, and nothing to look for in between.
	retainStep = time.Hour

	// retainAccounts is how many accounts one command looks at. An account
	// takes some 16 µs of the applier's time.
	retainAccounts = 256
)

// retain drops what is past its retention, if there is anything.
func (e *Engine) retain() {
	now := e.opts.Now()
	bound := func(age time.Duration) int64 { return now.Add(-age).Truncate(retainStep).UnixMilli() }
	pass := command.Retain{
		Finished:    bound(e.opts.RetainFinished),
		Dead:        bound(e.opts.RetainDead),
		Idempotency: bound(e.opts.IdempotencyWindow),
	}
	if pass == e.retained {
		return
	}
	c := pass
	accounts := e.state.Directory().Accounts()
	for {
		c.Last = math.MaxUint64
		more := len(accounts) > retainAccounts
		if more {
			c.Last = accounts[retainAccounts-1]
			accounts = accounts[retainAccounts:]
		}
		if err := e.retainSome(c); err != nil {
			e.opts.Logger.Error("engine: retention; it will be tried again", "error", err)
			return
		}
		if !more {
			break
		}
		c.First, c.Idempotency = c.Last+1, 0
	}
	e.retained = pass
}

// retainSome commits one command of a pass, if it would drop anything.
func (e *Engine) retainSome(c command.Retain) error {
	needed, err := e.state.NeedsRetain(c)
	if err != nil || !needed {
		return err
	}
	return e.propose(context.Background(), command.AppendRetain(nil, &c))
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
	if e.backups.held(low) {
		return
	}
	if err := e.log.Release(low); err != nil && e.ended() == nil {
		e.fail(err)
	}
}
