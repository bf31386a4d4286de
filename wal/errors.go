package wal

import (
	"errors"
	"fmt"
)

var (
	// ErrQueueFull is returned by Append when the entry would push the waiting bytes past
	// Options.QueueBytes. Nothing was kept; the caller may answer "busy" or try again.
	ErrQueueFull = errors.New("wal: queue full")

	// ErrClosed is returned once Close was called. Nothing was kept.
	ErrClosed = errors.New("wal: closed")

	// ErrFailed is wrapped by every error that follows the first failed write, sync or directory
	// operation. It is final: whether the entries then waiting are on disk is unknown until the log
	// is opened again.
	ErrFailed = errors.New("wal: log has failed")

	// ErrTooLarge is returned by Append for an entry above Options.MaxEntryBytes. Nothing was kept.
	ErrTooLarge = errors.New("wal: entry too large")

	// ErrTruncating is returned by Append while TruncateBack or Reset is under way: the index that
	// the entry would get is not known yet. Nothing was kept.
	ErrTruncating = errors.New("wal: truncation under way")

	// ErrIndex is returned by Append when Entry.Index is set and is not the next one. Nothing was kept.
	ErrIndex = errors.New("wal: entry is not the next one")

	// ErrNotFound is returned by Read and Replay for an index that the log does not hold.
	ErrNotFound = errors.New("wal: no such entry")

	// ErrLocked means that another process, or another Log of this one, has the directory.
	ErrLocked = errors.New("wal: directory is in use")

	// ErrIdentity means that the directory belongs to another node or cluster.
	ErrIdentity = errors.New("wal: directory belongs to another identity")

	// ErrVersion means that the directory was written by a newer format.
	ErrVersion = errors.New("wal: format is newer than this program")

	// ErrBehind means that the log ends before Options.AppliedIndex: acknowledged entries are missing.
	ErrBehind = errors.New("wal: log ends before the applied index")
)

// A CorruptionError names the place where the log is not what was written. Nothing was changed on
// disk when it is returned.
type CorruptionError struct {
	Segment uint32 // segment number, 0 when the damage is not in a segment
	File    string // file name inside the log's directory
	Offset  int64  // byte offset in the file, -1 when the file as a whole is meant
	First   Index  // first index at stake, 0 when unknown
	Last    Index  // last index at stake, 0 when unknown
	Reason  string // what does not fit, in words
	Err     error  // a sentinel such as ErrBehind, or nil
}

func (e *CorruptionError) Error() string {
	s := "wal: corruption in " + e.File
	if e.Offset >= 0 {
		s += fmt.Sprintf(" at offset %d", e.Offset)
	}
	s += ": " + e.Reason
	switch {
	case e.First == 0:
	case e.Last == 0:
		s += fmt.Sprintf(" (entries from %d)", e.First)
	default:
		s += fmt.Sprintf(" (entries %d to %d)", e.First, e.Last)
	}
	return s
}

// Unwrap gives the sentinel, if there is one.
func (e *CorruptionError) Unwrap() error { return e.Err }
