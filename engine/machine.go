package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/errors/oserror"

	"github.com/harepost/harepost/engine/state"
	"github.com/harepost/harepost/wal"
)

// machine is the engine as its log drives it.
type machine struct{ *Engine }

// Commit implements Machine. It waits when the applier is commitsAhead batches
// behind, which holds the log back in turn.
func (m machine) Commit(batch []Committed) {
	e := m.Engine
	c := <-e.spare
	c.take(batch)
	// The keeper looks once a second, in which a fast sender can fill what is
	// left of a segment.
	if e.log.NoSpace() != nil {
		e.space.short.Store(true)
	}
	e.commits <- c
}

// turn has the applier call fn between two commits, and waits until it has. The
// error is ErrUnknown after a failure, with which fn was not called.
func (e *Engine) turn(fn func() error) error {
	c := <-e.spare
	done := make(chan error, 1)
	c.turn = func() {
		select {
		case <-e.failed:
			done <- fmt.Errorf("%w: %w", ErrUnknown, e.failure)
		default:
			done <- fn()
		}
	}
	e.commits <- c
	return <-done
}

// Lead implements Machine.
func (m machine) Lead(term uint64) error {
	if err := m.turn(func() error { return m.beginReign(term) }); err != nil {
		return err
	}
	ctx := context.Background()
	if err := m.keyAccounts(ctx, term); err != nil {
		return err
	}
	return m.openOperator(ctx, term)
}

// Follow implements Machine.
func (m machine) Follow() error { return m.turn(m.endReign) }

// Lost implements Machine.
func (m machine) Lost(cookies []any) { m.giveBack(cookies, ticketLost) }

// Refused implements Machine.
func (m machine) Refused(cookies []any) { m.giveBack(cookies, ticketRefused) }

// giveBack tells who waits for commands what is known of them.
func (m machine) giveBack(cookies []any, fate ticketFate) {
	for _, cookie := range cookies {
		switch c := cookie.(type) {
		case *ticket:
			c.fate.Store(int32(fate))
			select {
			case c.done <- struct{}{}:
			default: // the engine has failed, and said so
			}
		case *attempted:
			c.release() // made again by who leads then
		}
	}
}

// Failed implements Machine.
func (m machine) Failed(err error) { m.fail(err) }

// Settle implements Machine.
func (m machine) Settle() (applied uint64, err error) {
	err = m.turn(func() error {
		st := m.state()
		if applied = st.Applied(); applied > m.heard && st.Low() <= applied {
			return fmt.Errorf("engine: the state is at %d, and of what it has in memory only that up to %d is known", applied, m.heard)
		}
		if err := st.Settle(); err != nil {
			m.fail(fmt.Errorf("engine: %w", err))
			return err
		}
		return nil
	})
	return applied, err
}

// GiveUp implements Machine.
func (m machine) GiveUp() (entries uint64, err error) {
	err = m.turn(func() error {
		st := m.state()
		known := max(m.heard, st.Low()-1)
		if st.Applied() <= known {
			return nil
		}
		entries = st.Applied() - known
		if err := st.GiveUp(); err != nil {
			m.fail(fmt.Errorf("engine: %w", err))
			return err
		}
		m.heard = st.Applied()
		return nil
	})
	return entries, err
}

// Flush implements Machine.
func (m machine) Flush(ctx context.Context) (applied, low uint64, err error) {
	if err := m.reads.begin(); err != nil {
		return 0, 0, err
	}
	defer m.reads.end()
	if err := m.state().FlushContext(ctx); err != nil {
		return 0, 0, err
	}
	return m.state().Durable()
}

// Checkpoint implements Machine.
func (m machine) Checkpoint(ctx context.Context, dir string) (applied uint64, err error) {
	if err := m.reads.begin(); err != nil {
		return 0, err
	}
	defer m.reads.end()
	// What is flushed the receiver need not be sent as log.
	if err := m.state().FlushContext(ctx); err != nil {
		return 0, err
	}
	applied, _, err = m.state().Checkpoint(dir)
	return applied, err
}

// Restore implements Machine.
func (m machine) Restore(dir string) error {
	return m.turn(func() error {
		err := m.replaceState(dir)
		if err != nil {
			err = fmt.Errorf("engine: take over the state that was received: %w", err)
			m.fail(err)
		}
		return err
	})
}

// The names under which a state waits to take the place of another, and under
// which that one waits to be removed.
const (
	newStateDir = "state.new"
	oldStateDir = "state.old"
)

// replaceState puts the state in dir in the place of the engine's. The applier
// calls it. That it has the name newStateDir is what makes it happen: a start goes
// on from there, see adoptState.
func (e *Engine) replaceState(dir string) error {
	// Whoever reads the state, and each chore, finishes first; the next sees the new one.
	e.chores.Lock()
	defer e.chores.Unlock()
	e.reads.mu.Lock()
	defer e.reads.mu.Unlock()
	if err := e.offerState(dir); err != nil {
		return err
	}
	if err := e.state().Close(); err != nil {
		return err
	}
	if err := e.adoptState(); err != nil {
		return err
	}
	st, err := state.Open(e.opts.FS.PathJoin(e.dir, stateDir), e.opts.State)
	if err != nil {
		return err
	}
	e.stored.Store(st)
	e.heard = 0 // of this state nothing yet
	if err := e.vault.renew(st.Directory()); err != nil {
		e.tellLocked(err)
	}
	return nil
}

// offerState gives the state in dir the name under which it is going to be the
// engine's, whatever happens.
func (e *Engine) offerState(dir string) error {
	fs := e.opts.FS
	if err := fs.RemoveAll(fs.PathJoin(e.dir, newStateDir)); err != nil {
		return err
	}
	if err := fs.Rename(dir, fs.PathJoin(e.dir, newStateDir)); err != nil {
		return err
	}
	return errors.Join(wal.SyncDir(fs, e.dir), wal.SyncDir(fs, fs.PathDir(dir)))
}

// adoptState finishes what offerState began, if it did. The state is closed.
func (e *Engine) adoptState() error {
	fs := e.opts.FS
	now, fresh, old := fs.PathJoin(e.dir, stateDir), fs.PathJoin(e.dir, newStateDir), fs.PathJoin(e.dir, oldStateDir)
	if _, err := fs.Stat(fresh); err != nil {
		if oserror.IsNotExist(err) {
			return fs.RemoveAll(old)
		}
		return err
	}
	if _, err := fs.Stat(now); err == nil {
		if err := errors.Join(fs.RemoveAll(old), fs.Rename(now, old)); err != nil {
			return err
		}
	}
	if err := errors.Join(fs.Rename(fresh, now), wal.SyncDir(fs, e.dir)); err != nil {
		return err
	}
	return fs.RemoveAll(old)
}
