package engine

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/harepost/harepost/wal"
)

// A Log is what the engine needs of its log: bytes go in, and come out in one
// order once they are durable. Package wal is that log on one machine, see
// openWAL; raft is that log on several.
//
// The log hands what is durable to the committed function that it was opened
// with, in order, one call at a time; the call may block, which is how a state
// that falls behind slows the log down. On its first failure it calls failed,
// once, and from then on nothing is durable that was not before.
type Log interface {
	// Append queues a command and returns at once. The command must not change
	// until it was committed and applied. cookie comes back with the commit. The
	// error is ErrOverloaded when the queue is full, and nothing was kept then.
	Append(cmd []byte, cookie any) error

	// AppendBatch is Append for several commands that arrive together: all are
	// queued, or none.
	AppendBatch(batch []proposal) error

	// AppendLater is Append for commands that must not be refused and that nobody
	// waits for: it waits for room, and the command may be held back for some
	// milliseconds, to share a commit with one that somebody does wait for.
	AppendLater(cmd []byte, cookie any) error

	// Release says that entries below low are not needed any more.
	Release(low uint64) error

	// CopyTo writes the durable entries from index from on into a new log of the
	// same kind in dir, and returns the index of the last one.
	CopyTo(dir string, from uint64) (last uint64, err error)

	// MostBytes is the longest command that it takes.
	MostBytes() int

	// Bytes is the size of the log on disk.
	Bytes() int64

	// NoSpace is why the log cannot make room for more than it has begun, nil
	// while it can: what it still takes should be the records of attempts.
	NoSpace() error

	// Close commits what is queued and returns when the log has come to rest.
	Close() error
}

// A proposal is a command on its way to the log.
type proposal struct {
	cmd    []byte
	cookie any
}

// A committed command with its place in the log.
type committed struct {
	index  uint64
	cmd    []byte
	cookie any
}

// walLog is a wal.Log as the engine's Log.
type walLog struct{ *wal.Log }

// entryCommand marks the entries of the log that are the engine's commands.
const entryCommand wal.EntryType = 0

func (l walLog) Append(cmd []byte, cookie any) error {
	return walError(l.Log.Append(wal.Entry{Term: 1, Type: entryCommand, Data: cmd, Cookie: cookie}))
}

func (l walLog) AppendBatch(batch []proposal) error {
	entries := make([]wal.Entry, len(batch))
	for i, p := range batch {
		entries[i] = wal.Entry{Term: 1, Type: entryCommand, Data: p.cmd, Cookie: p.cookie}
	}
	return walError(l.Log.AppendBatch(entries))
}

func (l walLog) AppendLater(cmd []byte, cookie any) error {
	return walError(l.Log.AppendLater(wal.Entry{Term: 1, Type: entryCommand, Data: cmd, Cookie: cookie}))
}

func walError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, wal.ErrQueueFull):
		return ErrOverloaded
	case errors.Is(err, wal.ErrClosed):
		return ErrClosed
	case errors.Is(err, wal.ErrTooLarge):
		return ErrTooLarge
	}
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}

func (l walLog) Release(low uint64) error { return l.TruncateFront(wal.Index(low)) }

func (l walLog) CopyTo(dir string, from uint64) (uint64, error) {
	last, err := l.Log.CopyTo(dir, wal.Index(from))
	return uint64(last), err
}

func (l walLog) MostBytes() int { return l.MaxEntryBytes() }

func (l walLog) Bytes() int64 { return l.SizeBytes() }

// walOptions are what openWAL needs to know.
type walOptions struct {
	fs           vfs.FS
	segmentBytes int64
	reserveBytes int64 // left free on the disk for the state
	queueBytes   int64
	applied      uint64 // what the state holds already
	committed    func([]committed)
	failed       func(error)
	observe      func(wal.Commit)
	logger       *slog.Logger
}

// openWAL opens the log of a single node. The entries it holds are read with
// its Replay before Start is called.
func openWAL(dir string, o walOptions) (walLog, error) {
	var batch []committed
	l, err := wal.Open(dir, wal.Options{
		FS:           o.fs,
		SegmentBytes: o.segmentBytes,
		ReserveBytes: o.reserveBytes,
		QueueBytes:   o.queueBytes,
		AppliedIndex: wal.Index(o.applied),
		Committed: func(entries []wal.Entry) {
			batch = batch[:0]
			for i := range entries {
				e := &entries[i]
				batch = append(batch, committed{uint64(e.Index), e.Data, e.Cookie})
			}
			o.committed(batch)
			clear(batch)
		},
		Failed:  o.failed,
		Observe: o.observe,
		Logger:  o.logger,
	})
	return walLog{l}, err
}
