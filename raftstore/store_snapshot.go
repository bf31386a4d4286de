package raftstore

import (
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/harepost/harepost/wal"
)

// A snapshot is the place of one in the log.
type snapshot struct{ index, term uint64 }

// When raft (v1.8.0) installs a snapshot, it deletes the whole log of a monotonic store, and forgets to forget
// where that log ended: to the node itself its last entry stays the one that it had. If that is above the
// snapshot, which it is where a deposed leader had a long tail of its own, the node refuses whatever comes
// behind the snapshot, since it looks up the entry before it and finds none; the leader goes back entry by
// entry, sends the snapshot again, and so on without a pause, until the node is restarted or the cluster has
// passed the old tail.
//
//	raft's idea of it    1 ............ S ............. L
//	the log                       (empty)
//	the leader sends                    S+1, S+2 ...      GetLog(S), GetLog(S+1): not found
//
// So the store says what raft ought to know: that there is the snapshot's entry at S, with its term, and that
// from S+1 to L there is something that no leader has (term 0). raft then deletes from S+1 on, and stores what
// it was sent. With that the ghosts are gone. They are in memory only, as is what raft has wrong.
type ghosts struct {
	over snapshot
	last uint64 // L; 0: there are none
}

// Installed says that a snapshot was received which ends with that entry, and that the state is about to be
// taken from it. Call it before raft has the snapshot restored (the end of SnapshotSink.Close is a good place);
// raft then deletes the log as a whole, and GetLog helps it to go on behind the snapshot: until the next
// StoreLogs it gives an entry of that term at index, and entries of term 0, without data, from there to where
// the log ended.
func (s *Store) Installed(index, term uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = snapshot{index, term}
}

// Replace removes all entries, durably before it returns, since the state is about to
// be replaced by that of a snapshot that ends with an entry of that index and term. The
// next entry has the index after it. For what raft still believes see Installed.
func (s *Store) Replace(index, term uint64) error {
	s.Installed(index, term)
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end()
	last := uint64(s.log.LastIndex())
	s.tail.reset()
	if err := s.log.Reset(wal.Index(index) + 1); err != nil {
		return s.stop(fmt.Errorf("delete the log before entry %d: %w", index+1, err))
	}
	s.raise(last)
	s.cursors.rest()
	return nil
}

// raise makes the ghosts of a log that was deleted as a whole and ended with last.
func (s *Store) raise(last uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over.index > 0 && s.over.index < last {
		s.ghosts = ghosts{s.over, last}
	}
}

// lay is the end of the ghosts.
func (s *Store) lay() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ghosts = ghosts{}
}

// ghost gives an entry that only raft believes in, or raft.ErrLogNotFound.
func (s *Store) ghost(index uint64, log *raft.Log) error {
	s.mu.Lock()
	g := s.ghosts
	s.mu.Unlock()
	if index < g.over.index || index > g.last || g.last == 0 {
		return raft.ErrLogNotFound
	}
	*log = raft.Log{Index: index, Type: raft.LogNoop}
	if index == g.over.index {
		log.Term = g.over.term
	}
	return nil
}

// Align is for a start: it makes the log fit the newest snapshot, which ends with that entry. A process that
// was stopped between the installation of a snapshot and the deletion of the log has a log left that may end
// before the snapshot, where raft cannot go on behind it, or that has another entry in the snapshot's place, in
// which case all it has from there on was never committed. Such a log is deleted, durably; any other stays as it
// is. Call it after Start and before raft gets the store.
func (s *Store) Align(index, term uint64) error {
	first, last := uint64(s.log.FirstIndex()), uint64(s.log.LastIndex())
	if first == 0 || index < first {
		return nil
	}
	if index <= last {
		var l raft.Log
		if err := s.GetLog(index, &l); err != nil {
			return fmt.Errorf("raftstore: read the snapshot's entry %d: %w", index, err)
		}
		if l.Term == term {
			return nil
		}
	}
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end()
	s.o.Logger.Info("raftstore: the log does not reach the snapshot, or has another entry in its place; it is deleted",
		"first", first, "last", last, "snapshot_index", index, "snapshot_term", term)
	s.tail.reset()
	if err := s.log.Reset(wal.Index(index) + 1); err != nil {
		return s.stop(fmt.Errorf("delete the log before entry %d: %w", index+1, err))
	}
	s.cursors.rest()
	return nil
}
