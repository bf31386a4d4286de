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

// compactPause is the least between two rounds: they read and write all there is.
const compactPause = 30 * time.Second

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
	go func() { // a round is long
		defer cancel()
		select {
		case <-e.stop:
		case <-e.failed:
		case <-ctx.Done():
		}
	}()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
		case <-ctx.Done():
			return
		}
		select {
		case <-e.compactor.wanted:
		case <-ctx.Done():
			return
		}
		if err := e.state.Reclaim(ctx); err != nil && ctx.Err() == nil {
			e.opts.Logger.Error("engine: compact the data to make room; it will be tried again", "error", err)
		}
		pause.Reset(compactPause)
	}
}
