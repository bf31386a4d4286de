package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/wal"
)

// A Log is what the engine needs of its log: bytes go in, and come out in one
// order once they are durable. Package wal is that log on one machine, see
// openWAL; raft is that log on several, see [Replica].
//
// What is durable goes to the [Machine] that the log was opened for, in order.
//
// The term that comes with each command is that of the reign in which it was
// decided, as Machine.Lead had it. A log on several machines refuses it with
// ErrNotLeader once that reign is over, and no entry of another term has an effect.
type Log interface {
	// Replay calls fn with the commands of the entries from index from on that the
	// log has when it is opened and that are known to be for good: on one machine
	// all, on several those up to LogOptions.Applied. It is called before Start.
	Replay(from uint64, fn func(Committed) error) error

	// FirstIndex is that of the oldest entry, 0 when there is none.
	FirstIndex() uint64

	// Start begins to call the Machine.
	Start() error

	// Append queues a command and returns at once. The command must not change
	// until it was committed and applied. cookie comes back with the commit, or
	// with Machine.Lost or Refused. The error is ErrOverloaded when the queue is full, and
	// nothing was kept then.
	Append(term uint64, cmd []byte, cookie any) error

	// AppendBatch is Append for several commands that arrive together: all are
	// queued, or none.
	AppendBatch(term uint64, batch []Proposal) error

	// AppendLater is Append for commands that must not be refused and that nobody
	// waits for: it waits for room, and the command may be held back for some
	// milliseconds, to share a commit with one that somebody does wait for.
	AppendLater(term uint64, cmd []byte, cookie any) error

	// MayDispatch reports whether it is certain that no other node leads at this
	// moment. It is asked before each attempt and is cheap.
	MayDispatch() bool

	// Release says that entries below low are not needed any more by this state.
	Release(low uint64) error

	// CopyTo writes the durable entries from index from on into a new log of the
	// same kind in dir, and returns the index of the last one: on several machines
	// those up to what is committed.
	CopyTo(dir string, from uint64) (last uint64, err error)

	// MostBytes is the longest command that it takes.
	MostBytes() int

	// Bytes is the size of the log on disk.
	Bytes() int64

	// NoSpace is why the log cannot make room for more than it has begun, nil
	// while it can: what it still takes should be the records of attempts.
	NoSpace() error

	// Close commits what is queued, if it can, and returns when the log has come
	// to rest and calls the Machine no more.
	Close() error
}

// A Machine is what a log drives: the engine's state, and its role. Its methods
// are called one at a time but for Lead, Follow, Lost, Refused, Failed, Flush and
// Checkpoint.
type Machine interface {
	// Commit takes durable commands, in the log's order, several of which may share
	// an index and then come in one call. It may block, which is how a state that
	// falls behind slows the log down. batch is the caller's again when it returns;
	// the commands and cookies are the machine's. Indexes that the state holds
	// already are fine: they only bring back what it has of them in memory.
	Commit(batch []Committed)

	// Lead makes the engine accept and deliver, from what was committed before. It
	// returns when all that a reign begins with is committed, so what is committed or
	// lost meanwhile must be told.
	Lead(term uint64) error

	// Follow ends that. Attempts under way end by themselves, and are not recorded.
	Follow() error

	// Lost hands cookies back of commands whose outcome is unknown and that will
	// not be told: whoever waits for them gets ErrUnknown.
	Lost(cookies []any)

	// Refused hands cookies back of commands that are in no log, nor will be:
	// whoever waits for them gets ErrNotLeader. The reign is over, or about to be.
	Refused(cookies []any)

	// Failed says that the log has failed for good. The process should end.
	Failed(error)

	// Settle waits until what Commit was given is applied, writes what of it is in
	// memory only, so that no index up to now is needed any more to read it back,
	// and returns the index. It is durable only after Flush. It fails, and may be
	// tried later, while the state is ahead of the log, as after Restore.
	Settle() (applied uint64, err error)

	// GiveUp has the state go on without the entries up to its end that it needs and that
	// the log has not told, so that Settle does not fail for them, and returns how many
	// they are. What was accepted by them, and had no attempt yet, is lost: it is for
	// when nobody has them any more.
	GiveUp() (entries uint64, err error)

	// Flush makes the state durable, and returns what is: the index up to which it
	// holds everything, and the lowest one that it still needs of the log.
	Flush(ctx context.Context) (applied, low uint64, err error)

	// Checkpoint makes a copy of the state in dir, which does not exist yet, and
	// returns the index up to which it holds everything. The copy shares files
	// with the state, which costs nothing until the state lets go of them.
	Checkpoint(ctx context.Context, dir string) (applied uint64, err error)

	// Restore replaces the state by the one in dir, which is moved away. When it
	// fails the process should end: the next start goes on with it.
	Restore(dir string) error
}

// A Replica opens a log on several machines for an engine. Package raftstore has
// the one there is.
type Replica interface {
	// Prepare is called before the state in the engine's directory dir is opened:
	// it may hand over a state that replaces it, as a directory that the engine moves
	// away. restore is empty if there is none.
	Prepare(fs vfs.FS, dir string) (restore string, err error)

	OpenLog(LogOptions) (Log, error)

	// LeadsAlone reports whether no other node can lead in this one's place: then the
	// engine does not open without the keys of its data.
	LeadsAlone() bool
}

// LogOptions are what a log needs to know.
type LogOptions struct {
	FS           vfs.FS
	Dir          string // the log's own, which it makes
	SegmentBytes int64
	ReserveBytes int64 // left free on the disk for the state
	QueueBytes   int64
	LogBytes     int64  // above that size entries should become unnecessary
	Applied      uint64 // what the state holds already
	Low          uint64 // the lowest index that it needs
	Machine      Machine
	Observe      func(wal.Commit)
	Now          func() time.Time
	Logger       *slog.Logger
}

// A Proposal is a command on its way to the log.
type Proposal struct {
	Cmd    []byte
	Cookie any
}

// Committed is a durable command with its place in the log.
type Committed struct {
	Index  uint64
	Cmd    []byte
	Cookie any // of who proposed it here; nil if that was elsewhere
}

// walLog is a wal.Log as the engine's Log: on one machine there is one reign, which
// begins with Start and ends with Close.
type walLog struct {
	*wal.Log
	machine Machine
}

// The only reign of a log on one machine, and the term of its entries.
const walTerm = 1

// entryCommand marks the entries of the log that are the engine's commands. Those of
// other types are a replicated log's own, and are not looked at.
const entryCommand wal.EntryType = 0

func walEntry(cmd []byte, cookie any) wal.Entry {
	return wal.Entry{Term: walTerm, Type: entryCommand, Data: cmd, Cookie: cookie}
}

func (l walLog) Append(_ uint64, cmd []byte, cookie any) error {
	return walError(l.Log.Append(walEntry(cmd, cookie)))
}

func (l walLog) AppendBatch(_ uint64, batch []Proposal) error {
	entries := make([]wal.Entry, len(batch))
	for i, p := range batch {
		entries[i] = walEntry(p.Cmd, p.Cookie)
	}
	return walError(l.Log.AppendBatch(entries))
}

func (l walLog) AppendLater(_ uint64, cmd []byte, cookie any) error {
	return walError(l.Log.AppendLater(walEntry(cmd, cookie)))
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

// Replay reads entries that a replicated log has written, too.
func (l walLog) Replay(from uint64, fn func(Committed) error) error {
	return l.Log.Replay(wal.Index(from), func(w wal.Entry) error {
		return EachCommand(w, func(cmd []byte) error { return fn(Committed{Index: uint64(w.Index), Cmd: cmd}) })
	})
}

// EachCommand calls fn with the commands of an entry, as parts of it.
func EachCommand(w wal.Entry, fn func(cmd []byte) error) error {
	if w.Type != entryCommand {
		return nil
	}
	return command.Each(w.Data, w.Term, fn)
}

func (l walLog) FirstIndex() uint64 { return uint64(l.Log.FirstIndex()) }

func (l walLog) Start() error {
	l.Log.Start()
	return l.machine.Lead(walTerm)
}

// MayDispatch is true: there is no other node.
func (l walLog) MayDispatch() bool { return true }

func (l walLog) Release(low uint64) error { return l.TruncateFront(wal.Index(low)) }

func (l walLog) CopyTo(dir string, from uint64) (uint64, error) {
	last, err := l.Log.CopyTo(dir, wal.Index(from))
	return uint64(last), err
}

func (l walLog) MostBytes() int { return l.MaxEntryBytes() }

func (l walLog) Bytes() int64 { return l.SizeBytes() }

// openWAL opens the log of a single node.
func openWAL(o LogOptions) (Log, error) {
	var batch []Committed
	l, err := wal.Open(o.Dir, wal.Options{
		FS:           o.FS,
		SegmentBytes: o.SegmentBytes,
		ReserveBytes: o.ReserveBytes,
		QueueBytes:   o.QueueBytes,
		AppliedIndex: wal.Index(o.Applied),
		Committed: func(entries []wal.Entry) {
			batch = batch[:0]
			for i := range entries {
				e := &entries[i]
				batch = append(batch, Committed{uint64(e.Index), e.Data, e.Cookie})
			}
			o.Machine.Commit(batch)
			clear(batch)
		},
		Failed:  o.Machine.Failed,
		Observe: o.Observe,
		Logger:  o.Logger,
	})
	if err != nil {
		return nil, err
	}
	return walLog{l, o.Machine}, nil
}
