package raftstore

import (
	"errors"
	"time"

	"github.com/harepost/harepost/engine"
	"github.com/harepost/harepost/wal"
)

// replicatedLog is the node as the log of its engine.
type replicatedLog struct{ *Node }

var _ engine.Log = replicatedLog{}

// Replay implements engine.Log.
func (l replicatedLog) Replay(from uint64, fn func(engine.Committed) error) error {
	first, err := l.store.FirstIndex()
	if err != nil || first == 0 {
		return err
	}
	last, err := l.store.LastIndex()
	until := l.opts.Applied
	if l.cfg.Single {
		until = last
	}
	if err != nil || last < from || from > until {
		return err
	}
	err = l.store.Replay(max(from, first), func(w wal.Entry) error {
		if uint64(w.Index) > until {
			return errReplayed
		}
		return engine.EachCommand(w, func(cmd []byte) error {
			return fn(engine.Committed{Index: uint64(w.Index), Cmd: cmd})
		})
	})
	if errors.Is(err, errReplayed) {
		return nil
	}
	return err
}

// errReplayed ends a replay at what is known to be committed.
var errReplayed = errors.New("raftstore: what follows may not be committed")

// FirstIndex implements engine.Log: of an empty log nothing is missing, which was
// checked when it was opened.
func (l replicatedLog) FirstIndex() uint64 {
	first, _ := l.store.FirstIndex()
	return min(first, l.opts.Low)
}

// Start implements engine.Log.
func (l replicatedLog) Start() error { return l.Node.start() }

// Append implements engine.Log.
func (l replicatedLog) Append(term uint64, cmd []byte, cookie any) error {
	return l.AppendBatch(term, []engine.Proposal{{Cmd: cmd, Cookie: cookie}})
}

// AppendBatch implements engine.Log.
func (l replicatedLog) AppendBatch(term uint64, batch []engine.Proposal) error {
	for i := range batch {
		if len(batch[i].Cmd) > l.MostBytes() {
			return engine.ErrTooLarge
		}
	}
	return l.batcher.append(term, batch)
}

// AppendLater implements engine.Log.
func (l replicatedLog) AppendLater(term uint64, cmd []byte, cookie any) error {
	if len(cmd) > l.MostBytes() {
		return engine.ErrTooLarge
	}
	return l.batcher.appendLater(term, engine.Proposal{Cmd: cmd, Cookie: cookie})
}

// MayDispatch implements engine.Log.
func (l replicatedLog) MayDispatch() bool { return l.Certain() }

// Release implements engine.Log. What the log is for is as large as the state is not
// durable: a snapshot lets raft drop the rest.
func (l replicatedLog) Release(low uint64) error {
	l.store.Hold(low)
	if l.store.SizeBytes() >= max(l.opts.LogBytes, l.snapshotAt.Load()) {
		l.snapshotSoon()
	}
	return nil
}

// CopyTo implements engine.Log. A node that has not heard of a leader since its start knows
// only what it has applied to be committed.
func (l replicatedLog) CopyTo(dir string, from uint64) (uint64, error) {
	return l.store.CopyTo(dir, from, max(l.raft.CommitIndex(), l.opts.Applied))
}

// MostBytes implements engine.Log.
func (l replicatedLog) MostBytes() int { return l.mostBytes }

// Bytes implements engine.Log.
func (l replicatedLog) Bytes() int64 { return l.store.SizeBytes() }

// NoSpace implements engine.Log.
func (l replicatedLog) NoSpace() error { return l.store.NoSpace() }

// closeWait is how long Close waits for what is queued.
const closeWait = 5 * time.Second

// Close implements engine.Log.
func (l replicatedLog) Close() error {
	n := l.Node
	if n.raft == nil {
		return n.store.Close()
	}
	n.batcher.close(closeWait)
	close(n.stop)
	if err := n.snapshots.Close(); err != nil {
		n.cfg.Logger.Warn("raftstore: close the snapshots", "error", err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- n.raft.Shutdown().Error() }()
	var err error
	select {
	case err = <-stopped:
	case <-n.store.failed: // raft waits for a store that is lost, until that is closed
		_ = n.store.Close()
		err = <-stopped
	}
	return errors.Join(err, n.ended(), n.store.Close())
}
