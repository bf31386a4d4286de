package raftstore

import (
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/harepost/harepost/wal"
)

// A snapshot is the place of one in the log.
type snapshot struct{ index, term uint64 }

// raft (v1.8.0) does not cope with a log that begins behind a snapshot, as one does whose entries were deleted
// because the snapshot took their place, in two ways. In both, a follower refuses what it is sent because it
// looks up the entry before it and finds none; the leader goes back entry by entry, and sends the snapshot again.
//
//   - The answer to the first entries behind a snapshot is lost, and the leader repeats them. The entry before
//     them is the snapshot's last one, which is not in the log.
//   - The follower's old log was longer than the snapshot, as that of a deposed leader with a tail of its own may
//     be. raft deletes it, and forgets to forget where it ended. Then the snapshot is sent over and over, without
//     a pause, until the node is restarted or the cluster has passed the old tail.
//
// So the store says what raft ought to know: there is the snapshot's entry at S, with its term; and, until
// something is stored, from S+1 to where the log ended there is something that no leader has (term 0), which raft
// then "deletes" before it stores what it was sent. All this is in memory only, as is what raft has wrong.
//
//	raft's idea of it    1 ............ S ............. L
//	the log                       (empty)
//	the leader sends                    S+1, S+2 ...
//	raft looks up                       GetLog(S), GetLog(S+1)
//
// No node sends such entries on: to send S it would have to find S-1, and a node whose log was cut short so is
// elected by nobody before it has stored something.

// Installed says that a snapshot was received which ends with that entry, and that the state is about to be
// taken from it. Call it before raft has the snapshot restored (the end of SnapshotSink.Close is a good place).
// From then on GetLog gives an entry of that term at index, without data, if there is none; and when raft then
// deletes the log as a whole, entries of term 0 from there to where the log ended, until the next StoreLogs.
func (s *Store) Installed(index, term uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over, s.fresh = snapshot{index, term}, true
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

// raise notes where a log ended that was deleted as a whole.
func (s *Store) raise(last uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ghost = 0
	if s.fresh {
		s.ghost, s.fresh = last, false
	}
}

// lay forgets it.
func (s *Store) lay() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ghost = 0
}

// getAbsent gives what GetLog says of an entry that the log does not have.
func (s *Store) getAbsent(index uint64, log *raft.Log) error {
	s.mu.Lock()
	over, ghost := s.over, s.ghost
	s.mu.Unlock()
	switch {
	case index == over.index && index > 1: // raft sends entry 1 without looking for one before it
		*log = raft.Log{Index: index, Term: over.term, Type: raft.LogNoop}
	case index > over.index && index <= ghost:
		*log = raft.Log{Index: index, Type: raft.LogNoop}
	default:
		return raft.ErrLogNotFound
	}
	return nil
}

// Align is for a start: it makes the log fit the newest snapshot, which ends with that entry. A process that
// was stopped between the installation of a snapshot and the deletion of the log has a log left that may end
// before the snapshot, where raft cannot go on behind it, or that has another entry in the snapshot's place, in
// which case all it has from there on was never committed. Such a log is deleted, durably; any other stays as it
// is. The snapshot's entry is known from then on, as after Installed. Call it after Start and before raft gets the store.
func (s *Store) Align(index, term uint64) error {
	s.mu.Lock()
	s.over = snapshot{index, term}
	s.mu.Unlock()
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
