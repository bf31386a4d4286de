package raftstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/raft"

	"github.com/harepost/harepost/engine"
	"github.com/harepost/harepost/engine/command"
)

// fsm is the engine as raft's state machine. raft calls it one call at a time.
type fsm struct {
	n       *Node
	machine engine.Machine
	batch   []engine.Committed
}

var _ raft.BatchingFSM = (*fsm)(nil)

// Apply implements raft.FSM.
func (f *fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch implements raft.BatchingFSM.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	f.batch = f.batch[:0]
	for _, l := range logs {
		if l.Type == raft.LogConfiguration && f.n.cfg.Members != nil {
			f.n.cfg.Members.Configured(l.Index, raft.DecodeConfiguration(l.Data))
		}
		if l.Type != raft.LogCommand {
			continue
		}
		if err := f.take(l); err != nil {
			// Every node finds the same; to go on would be to skip what was acknowledged.
			f.machine.Failed(fmt.Errorf("raftstore: entry %d of the log: %w", l.Index, err))
		}
	}
	if len(f.batch) > 0 {
		f.machine.Commit(f.batch)
		clear(f.batch)
	}
	return make([]any, len(logs))
}

// take appends an entry's commands to batch.
func (f *fsm) take(l *raft.Log) error {
	first := len(f.batch)
	err := command.Each(l.Data, l.Term, func(cmd []byte) error {
		f.batch = append(f.batch, engine.Committed{Index: l.Index, Cmd: cmd})
		return nil
	})
	if err != nil {
		f.batch = f.batch[:first]
		return err
	}
	mine := f.batch[first:]
	var cookies []any
	head, _, err := command.ParseBatch(l.Data)
	if err == nil && head.Term == l.Term { // of a void one raft's future tells
		var took time.Duration
		if cookies, took, err = f.n.batcher.claimApplied(head, len(mine)); err != nil {
			return err
		}
		if cookies != nil {
			f.n.metrics.commit.Update(took.Seconds())
		}
	} else if err == nil {
		f.n.loseVoid(head)
	}
	for i := range mine {
		if cookies != nil {
			mine[i].Cookie = cookies[i]
		} else if command.IsAccept(mine[i].Cmd) {
			// It stays in memory until it was attempted, and is not to hold the entry.
			mine[i].Cmd = bytes.Clone(mine[i].Cmd)
		}
	}
	return nil
}

// loseVoid tells who waits for the commands of a batch that another reign made void.
func (n *Node) loseVoid(head command.Batch) {
	if head.Proposer != n.batcher.proposer {
		return
	}
	if f := n.batcher.claim(head.Number); f != nil {
		n.batcher.lost(f.cookies)
	}
}

// Snapshot implements raft.FSM.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	applied, err := f.machine.Settle()
	if err != nil {
		return nil, err
	}
	return &ownSnapshot{n: f.n, machine: f.machine, applied: applied}, nil
}

// ownSnapshot is a snapshot that this node takes of itself: that the state is durable
// is all there is to it.
type ownSnapshot struct {
	n       *Node
	machine engine.Machine
	applied uint64
}

// Persist implements raft.FSMSnapshot.
func (s *ownSnapshot) Persist(sink raft.SnapshotSink) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), flushWait)
	defer cancel()
	applied, low, err := s.machine.Flush(ctx)
	if err == nil && (applied < s.applied || low <= s.applied) {
		err = fmt.Errorf("raftstore: the state is durable up to %d and needs the log from %d, not up to %d", applied, low, s.applied)
	}
	if err != nil {
		return errors.Join(err, sink.Cancel())
	}
	s.n.store.Hold(low)
	sink.(*SnapshotSink).Own(applied)
	err = sink.Close()
	if err == nil {
		s.n.metrics.snapshot.Update(time.Since(began).Seconds())
	}
	return err
}

// Release implements raft.FSMSnapshot.
func (s *ownSnapshot) Release() {}

// flushWait bounds a flush; on a full disk it would not end.
const flushWait = time.Minute

// Restore implements raft.FSM. The log goes first: what it has belongs to another past
// than the state that comes.
func (f *fsm) Restore(source io.ReadCloser) error {
	dir, index, term, ok := ReceivedDir(source)
	if !ok {
		return errors.New("raftstore: a snapshot that was not received has nothing to restore")
	}
	if err := f.n.store.Replace(index, term); err != nil {
		return err
	}
	if err := f.machine.Restore(dir); err != nil {
		return err
	}
	f.n.store.Hold(index + 1)
	f.n.configuredBySnapshot()
	return nil
}
