package engine

import (
	"context"
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
	lanes := time.NewTicker(topEvery)
	defer lanes.Stop()
	var guard leapGuard
	for {
		select {
		case <-watch.C:
			e.chore(e.watchSpace)
			e.chore(e.watchQuota)
			e.gate.tidy()
		case <-keep.C:
			e.chore(func() { e.retainIfBelieved(&guard) })
			e.chore(e.releaseOrders)
			e.chore(e.keepLastUse)
			e.dispatcher().trim()
			e.sweepSoon() // if a step has failed
		case <-lanes.C:
			e.chore(e.lookAtLanes)
		case <-e.sweeping:
			e.chore(e.sweep)
		case <-e.stop:
			return
		case <-e.failed:
			return
		}
	}
}

func (e *Engine) retainIfBelieved(g *leapGuard) {
	if !e.leads() {
		return
	}
	if g.last.IsZero() {
		// A clock is set wrong most often while a machine starts.
		finished, err := e.state().Finished()
		if err != nil {
			e.opts.Logger.Error("engine: look for the newest delivery; retention waits", "error", err)
			return
		}
		if g.last = e.opts.Now(); finished != nil {
			g.last = time.UnixMilli(min(finished.Newest, g.last.UnixMilli()))
		}
	}
	believed, leapt := g.look(e.opts.Now())
	if leapt > 0 {
		e.opts.Logger.Error("the clock has leapt ahead of what was last known: nothing is dropped for its age until it has stayed so for a while",
			"leapt", leapt, "hold", leapHold)
	}
	if believed {
		e.retain()
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
	pass := retention{
		finished:    bound(e.opts.RetainFinished),
		dead:        bound(e.opts.RetainDead),
		idempotency: bound(e.opts.IdempotencyWindow),
	}
	if e.opts.RetainPayload > 0 {
		pass.bodies = bound(e.opts.RetainPayload)
	}
	if pass == e.retained {
		return
	}
	if err := e.retainAll(pass); err != nil {
		e.opts.Logger.Error("engine: retention; it will be tried again", "error", err)
		return
	}
	e.retained = pass
}

// A retention is the bounds of one pass, in Unix milliseconds.
type retention struct{ finished, dead, idempotency, bodies int64 }

func (e *Engine) retainAll(pass retention) error {
	term := e.reign.Load()
	rows, bodies := int64(-1), int64(-1) // of nothing
	err := e.eachSpan(func(first, last AccountID) error {
		c := command.Retain{First: first, Last: last, Finished: pass.finished, Dead: pass.dead}
		if first == 0 {
			c.Idempotency = pass.idempotency
		}
		needed, bytes, err := e.state().NeedsRetain(c)
		if err != nil || !needed {
			return err
		}
		rows = max(rows, 0) + bytes
		return e.propose(context.Background(), term, command.AppendRetain(nil, &c))
	})
	if err == nil && pass.bodies > 0 {
		err = e.eachSpan(func(first, last AccountID) error {
			c := command.DropBodies{First: first, Last: last, Before: pass.bodies}
			needed, bytes, err := e.state().NeedsDropBodies(c)
			if err != nil || !needed {
				return err
			}
			bodies = max(bodies, 0) + bytes
			return e.propose(context.Background(), term, command.AppendDropBodies(nil, &c))
		})
	}
	if rows >= 0 {
		e.dropped(droppedForAge, rows, time.UnixMilli(pass.finished), "dead_letters_until", time.UnixMilli(pass.dead).UTC())
	}
	if bodies >= 0 {
		e.dropped(droppedBodies, bodies, time.UnixMilli(pass.bodies))
	}
	return err
}

// dropped tells what a pass has dropped, and from before when.
func (e *Engine) dropped(why dropReason, diskBytes int64, until time.Time, more ...any) {
	e.metrics.dropped[why].passes.Inc()
	e.metrics.dropped[why].bytes.Add(int(diskBytes))
	e.opts.Logger.Info("retention dropped "+dropWords[why],
		append([]any{"until", until.UTC(), "bytes_about", diskBytes}, more...)...)
}

// leapGuard keeps retention from believing a clock that was set far ahead by
// mistake: what it drops then, nobody brings back. A leap is believed after
// leapHold, in which it can be seen in the log and be corrected. A machine that
// slept looks the same, and loses nothing by it.
type leapGuard struct {
	last  time.Time // zero: none yet; after a start, of the newest delivery
	holds int       // ticks to come in which nothing is dropped
}

const (
	leapMost = time.Hour // more than that between two looks, keepEvery apart, is a leap
	leapHold = time.Hour
)

// look is called every keepEvery, and reports whether the clock may be believed;
// and how far it has just leapt, if it has.
func (g *leapGuard) look(now time.Time) (believed bool, leapt time.Duration) {
	now = now.Round(0) // the clock on the wall, not the time that went by
	if ahead := now.Sub(g.last); !g.last.IsZero() && ahead > leapMost {
		leapt = ahead
		g.holds = int(leapHold / keepEvery)
	}
	g.last = now
	if g.holds > 0 {
		g.holds--
		return false, leapt
	}
	return true, 0
}

// chore does something for which the state must not be replaced meanwhile.
func (e *Engine) chore(do func()) {
	e.chores.RLock()
	defer e.chores.RUnlock()
	do()
}

// release lets the log go of what the state has made durable. The state calls
// it after each flush.
func (e *Engine) release(_, low uint64) {
	select {
	case <-e.started:
	default:
		return // still replaying; the next flush will do it
	}
	if !e.backups.held(low) {
		if err := e.log.Release(low); err != nil && e.ended() == nil {
			e.fail(err)
		}
	}
	// What a young delivery holds no flush cuts: without this every commit would
	// ask for one.
	e.flushAt.Store(e.log.Bytes() + e.opts.LogBytes/8)
	e.flushing.Store(false)
}
