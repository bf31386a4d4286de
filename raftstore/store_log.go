package raftstore

import (
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/harepost/harepost/wal"
)

// IsMonotonic tells raft that there are no gaps between entries here. It then deletes the whole log when a
// snapshot has taken its place.
func (s *Store) IsMonotonic() bool { return true }

// FirstIndex is the index of the oldest entry that is here, 0 when there is none. After a prefix was deleted
// it may be less than what follows on that: the log drops whole segments, and not what Hold keeps.
func (s *Store) FirstIndex() (uint64, error) { return uint64(s.log.FirstIndex()), nil }

// LastIndex is the index of the last durable entry, 0 when there is none.
func (s *Store) LastIndex() (uint64, error) { return uint64(s.log.LastIndex()), nil }

// StoreLog is StoreLogs for one entry.
func (s *Store) StoreLog(log *raft.Log) error { return s.StoreLogs([]*raft.Log{log}) }

// StoreLogs makes entries durable, in as few writes and syncs as their size allows (wal.Options.FrameBytes),
// and returns when all of them are. They follow on from the last one; into an empty log, they begin anywhere.
//
// Data and Extensions are kept by reference, as raft's own stores do: they must not be changed afterwards.
// AppendedAt is not kept: raft uses it for one gauge of the age of its oldest entry, and a leader's time of
// day has no place in what all nodes agree on.
//
// It does not fail while the process runs; see the package comment.
func (s *Store) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	s.storing(time.Now())
	defer s.storing(time.Time{})
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end()
	if err := s.meet(logs[0].Index); err != nil {
		return s.stop(err)
	}
	if err := s.storeLogs(logs); err != nil {
		return s.stop(err)
	}
	return nil
}

// meet brings the log to where the next entry is to have index i. A log that is empty goes there: raft takes
// up after a snapshot, which it may have installed into a log that was empty before, without a word to it.
func (s *Store) meet(i uint64) error {
	next := s.log.NextIndex()
	if i == uint64(next) {
		return nil
	}
	if first := s.log.FirstIndex(); i == 0 || first != 0 {
		return fmt.Errorf("entry %d was to be stored, the log holds %d to %d", i, first, next-1)
	}
	s.tail.reset()
	return s.log.Reset(wal.Index(i))
}

func (s *Store) storeLogs(logs []*raft.Log) error {
	first := logs[0].Index
	entries := make([]wal.Entry, len(logs))
	for i, l := range logs {
		if l.Index != first+uint64(i) {
			return fmt.Errorf("entry %d stands where %d belongs", l.Index, first+uint64(i))
		}
		entries[i] = wal.Entry{Term: l.Term, Type: wal.EntryType(l.Type), Ext: l.Extensions, Data: l.Data}
	}
	done := make(chan struct{})
	s.await(wal.Index(first)+wal.Index(len(logs))-1, done)
	if err := s.append(entries); err != nil {
		return err
	}
	select {
	case <-done:
	case <-s.failed:
	}
	if err := s.Err(); err != nil { // also when both are so: nothing is acknowledged after a failure
		return err
	}
	s.tail.add(logs)
	s.lay()
	return nil
}

// append hands all entries to the log at once, or, where they are more than its queue takes, as it has room.
func (s *Store) append(entries []wal.Entry) error {
	err := s.log.AppendBatch(entries)
	if !errors.Is(err, wal.ErrQueueFull) {
		return tooLarge(err, entries)
	}
	for i := range entries {
		entries[i].Index = 0
		if err := s.log.AppendWait(entries[i]); err != nil {
			return tooLarge(err, entries[i:i+1])
		}
	}
	return nil
}

// tooLarge adds to wal.ErrTooLarge which entry it is.
func tooLarge(err error, entries []wal.Entry) error {
	if !errors.Is(err, wal.ErrTooLarge) {
		return err
	}
	largest := 0
	for _, e := range entries {
		largest = max(largest, len(e.Data)+len(e.Ext))
	}
	return fmt.Errorf("%w: %d bytes", err, largest)
}

// await notes what the StoreLogs under way waits for.
func (s *Store) await(last wal.Index, done chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last, s.done = last, done
}

// storing notes since when a StoreLogs is under way; the zero time: none is.
func (s *Store) storing(since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since = since
}

// Storing is for how long the StoreLogs that is under way has been; 0: none is.
func (s *Store) Storing() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since.IsZero() {
		return 0
	}
	return time.Since(s.since)
}

// committed runs on the writer's goroutine.
func (s *Store) committed(entries []wal.Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == 0 || entries[len(entries)-1].Index < s.last {
		return
	}
	s.last = 0
	close(s.done)
}

// GetLog fills in an entry, or gives raft.ErrLogNotFound, exactly that, as raft compares it with ==. What the
// entry points to may be shared with the store and other readers: it is not to be changed.
//
// An entry that cannot be read is the end of the store, as a write that fails is. For what it says of entries
// that a snapshot took the place of, see Installed.
func (s *Store) GetLog(index uint64, log *raft.Log) error {
	if s.tail.get(index, log) {
		return nil
	}
	if first, last := uint64(s.log.FirstIndex()), uint64(s.log.LastIndex()); first == 0 || index < first || index > last {
		return s.getAbsent(index, log)
	}
	e, err := s.cursors.read(index)
	switch {
	case errors.Is(err, wal.ErrNotFound): // it was there a moment ago
		return s.getAbsent(index, log)
	case err != nil:
		return s.stop(fmt.Errorf("read entry %d: %w", index, err))
	}
	*log = raft.Log{Index: index, Term: e.Term, Type: raft.LogType(e.Type), Data: e.Data, Extensions: e.Ext}
	return nil
}

// DeleteRange deletes the entries from min to max, both included, which must be a prefix of the log, a suffix,
// or all of it; entries that are not here count as deleted. Anything else is an error, and nothing is deleted.
//
//   - All: the log is empty, durably, and the next entry may have any index. raft does that after a snapshot
//     has taken the log's place, so Hold does not count. (It also does so when it compacts with TrailingLogs 0,
//     which therefore must not be set.)
//   - A suffix: it is gone, durably, before the call returns, and does not come back after a crash.
//   - A prefix: whole segments are let go of, as far as all their entries are to be deleted and below Hold.
//     FirstIndex tells what is left. After a crash some of them may be back.
func (s *Store) DeleteRange(min, max uint64) error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end()
	first, last := uint64(s.log.FirstIndex()), uint64(s.log.LastIndex())
	if min > max || first == 0 || max < first || min > last {
		return nil
	}
	var err error
	switch {
	case min <= first && max >= last:
		s.tail.reset()
		err = s.log.Reset(wal.Index(last) + 1)
		s.raise(last)
	case max >= last:
		s.tail.cut(min)
		err = s.log.TruncateBack(wal.Index(min - 1))
	case min <= first:
		err = s.deletePrefix(max + 1)
	default:
		return fmt.Errorf("raftstore: delete entries %d to %d of %d to %d: neither the first nor the last ones", min, max, first, last)
	}
	if err != nil {
		return s.stop(fmt.Errorf("delete entries %d to %d of %d to %d: %w", min, max, first, last, err))
	}
	s.cursors.rest()
	return nil
}

func (s *Store) deletePrefix(keep uint64) error {
	s.mu.Lock()
	keep = min(keep, s.hold)
	s.mu.Unlock()
	if err := s.log.TruncateFront(wal.Index(keep)); err != nil {
		return err
	}
	s.tail.drop(uint64(s.log.FirstIndex()))
	return nil
}
