package engine

import (
	"context"
	"time"
)

// A compactor gives room back that was dropped and is taken up still, when the
// data is at its limit and nothing finished is left to drop.
type compactor struct {
	wanted chan struct{} // room for one
}

const (
	// compactPause is the least between two rounds: they read and write all there
	// is. It doubles, up to compactPauseMost, while a round gains less than a
	// compactGain-th: then what is there is pending.
	compactPause     = 30 * time.Second
	compactPauseMost = 15 * time.Minute
	compactGain      = 50
)

func (c *compactor) init() { c.wanted = make(chan struct{}, 1) }

func (c *compactor) wake() {
	select {
	case c.wanted <- struct{}{}:
	default:
	}
}

// compact is the compactor's life.
func (e *Engine) compact() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	e.keeper.Go(func() { // a round is long
		defer cancel()
		select {
		case <-e.stop:
		case <-e.failed:
		}
	})
	pause := compactPause
	for {
		select {
		case <-e.compactor.wanted:
		case <-ctx.Done():
			return
		}
		e.chores.RLock()
		before := e.state().DiskBytes()
		err := e.state().Reclaim(ctx)
		gained := before - e.state().DiskBytes()
		e.chores.RUnlock()
		if err != nil && ctx.Err() == nil {
			e.opts.Logger.Error("engine: compact the data to make room; it will be tried again", "error", err)
		}
		if err == nil && gained >= before/compactGain {
			pause = compactPause
		} else {
			pause = min(2*pause, compactPauseMost)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}
