package bench

import (
	"cmp"
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// A generation is a generator at work, in a process of its own.
type generation struct {
	part *part
	stop context.CancelFunc
	far  atomic.Pointer[Generating] // what it said last

	warm     chan struct{} // closed when the warm-up is over
	measured chan struct{} // closed when the measuring is
	ended    chan struct{} // closed when the fields below are set
	done     Generated
	cpu      time.Duration
	err      error
}

// startGenerator starts the load. Whoever calls it waits for its end.
func startGenerator(ctx context.Context, child []string, o GeneratorOptions) (*generation, error) {
	ctx, cancel := context.WithTimeout(ctx, o.Warmup+o.Duration+4*answerWait)
	p, err := startPart(ctx, child, roleGenerator, o)
	if err != nil {
		cancel()
		return nil, err
	}
	g := &generation{part: p, stop: cancel, warm: make(chan struct{}), measured: make(chan struct{}), ended: make(chan struct{})}
	g.far.Store(new(Generating))
	go g.listen() // ends with the process; wait waits for it
	return g, nil
}

// listen hears what the generator says until it is done or gone.
func (g *generation) listen() {
	defer close(g.ended)
	defer g.stop()
	for {
		var said generatorSaid
		if g.err = g.part.hear("load", &said); g.err != nil {
			break
		}
		if said.Done != nil {
			g.done = *said.Done
			break
		}
		if said.Generating != nil {
			if said.Generating.Measuring && !g.far.Load().Measuring {
				close(g.warm)
			}
			if said.Generating.Measured {
				close(g.measured)
			}
			g.far.Store(said.Generating)
		}
	}
	if err := g.part.close(); err != nil {
		g.err = err // it says why the line was not heard, too
	}
	if state := g.part.cmd.ProcessState; state != nil {
		g.cpu = state.UserTime() + state.SystemTime()
	}
}

// until waits for warm or measured.
func (g *generation) until(reached <-chan struct{}) error {
	select {
	case <-reached:
		return nil
	case <-g.ended:
	}
	select {
	case <-reached: // both at once
		return nil
	default:
		return cmp.Or(g.err, errors.New("bench: the load ended early"))
	}
}

// warmedUp waits until the measuring has begun.
func (g *generation) warmedUp() error { return g.until(g.warm) }

// wait waits for the end of the load.
func (g *generation) wait() (Generated, error) {
	<-g.ended
	return g.done, g.err
}
