package state

import (
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
)

func (s *State) pebbleOptions() *pebble.Options {
	o := &pebble.Options{
		FS:                          s.opts.FS,
		ReadOnly:                    s.opts.ReadOnly,
		Cache:                       s.cache,
		FormatMajorVersion:          FormatVersion,
		DisableWAL:                  true,
		MemTableSize:                uint64(s.opts.MemTableBytes),
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       8,
		L0StopWritesThreshold:       1000,
		LBaseMaxBytes:               64 << 20,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 2 },
		Logger:                      pebbleLogger{s.opts.Logger, s.stuckWith},
		EventListener:               s.eventListener(),
	}
	o.Experimental.EnableDeleteOnlyCompactionExcises = func() bool { return true }
	o.Experimental.SpanPolicyFunc = tableOfItsOwn
	o.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionFastest })
	for i := range o.Levels {
		o.Levels[i].BlockSize = 32 << 10
		o.Levels[i].IndexBlockSize = 256 << 10
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		o.Levels[i].FilterType = sstable.TableFilter
	}
	return o
}

// tableOfItsOwn ends a table where the next space of keys begins. What is written
// with every batch, as the applied index is, then lies in small tables by itself.
// In one table with rows it would span from the oldest of them to the newest, so
// that each flush overlapped all before it, and every finished row was compacted
// though nothing of it had changed.
func tableOfItsOwn(start []byte) (policy pebble.SpanPolicy, end []byte, err error) {
	if len(start) == 0 || start[0] == 0xff {
		return policy, nil, nil
	}
	return policy, []byte{start[0] + 1}, nil
}

const (
	// A flush or compaction that fails is tried again by Pebble at once, with
	// new files. After mostBackgroundErrors in a row it is not going to succeed.
	mostBackgroundErrors = 20
	backgroundErrorPause = 50 * time.Millisecond
)

func (s *State) eventListener() *pebble.EventListener {
	var failures atomic.Int64
	return &pebble.EventListener{
		FlushEnd: func(i pebble.FlushInfo) {
			if i.Err == nil {
				failures.Store(0)
				signal(s.flushed)
			}
		},
		BackgroundError: func(err error) {
			if errors.Is(err, syscall.ENOSPC) {
				// A full disk is not a broken one: there may be room again. Until
				// then memtables fill up, then Apply waits, then the log's queue
				// fills up, and sends are refused long before.
				if s.NoSpace() == nil {
					s.opts.Logger.Error("state: no room for background work, it is tried again", "error", err)
				}
				s.fullAt.Store(time.Now().UnixNano())
				time.Sleep(backgroundErrorPause)
				return
			}
			switch n := failures.Add(1); {
			case n < mostBackgroundErrors:
				s.opts.Logger.Error("state: background work failed, it is tried again", "error", err)
				// Pebble holds its lock here. That is wanted: without the pause it
				// would try, and log, some 20,000 times a second.
				time.Sleep(backgroundErrorPause)
			case n == mostBackgroundErrors:
				s.breakDown(fmt.Errorf("state: background work fails again and again: %w", err))
			}
		},
		DataCorruption: func(i pebble.DataCorruptionInfo) {
			s.breakDown(fmt.Errorf("state: corruption in %s: %w", i.Path, i.Details))
		},
	}
}

// ErrNoSpace says that the disk has no room for what Pebble has to write.
var ErrNoSpace = errors.New("state: no space left on the disk")

// noSpaceFor is how long a write that found no room is remembered. Pebble
// tries again many times within it.
const noSpaceFor = 5 * time.Second

// NoSpace is ErrNoSpace while Pebble finds no room for what it has to write.
func (s *State) NoSpace() error {
	if at := s.fullAt.Load(); at != 0 && time.Since(time.Unix(0, at)) < noSpaceFor {
		return ErrNoSpace
	}
	return nil
}

func (s *State) breakDown(err error) {
	s.breakOnce.Do(func() { close(s.broken) })
	s.opts.Failed(err)
}

// ErrBroken says that the state cannot be written any more.
var ErrBroken = errors.New("state: broken")

// stuckWith breaks the state down from inside Pebble, which holds its locks and
// must not go on, and ends when the process does.
func (s *State) stuckWith(err error) {
	s.stuck.Store(true)
	s.breakDown(err)
	select {}
}

// pebbleLogger passes Pebble's log on. Pebble's Fatalf must not return: it
// says that a write to the state failed, after which memory and disk may
// differ, or that Pebble itself is wrong.
type pebbleLogger struct {
	*slog.Logger
	diskFailed func(error) // does not return
}

func (l pebbleLogger) Infof(format string, args ...any) {
	l.Debug("state: " + fmt.Sprintf(format, args...))
}

func (l pebbleLogger) Errorf(format string, args ...any) {
	l.Error("state: " + fmt.Sprintf(format, args...))
}

// Fatalf is for the disk's owner if the disk is the reason: a full one deserves
// a sentence, and the status of a storage failure. All else is a bug of ours or
// of Pebble's, and its stack is wanted.
func (l pebbleLogger) Fatalf(format string, args ...any) {
	text := "state: " + fmt.Sprintf(format, args...)
	for _, arg := range args {
		if err, ok := arg.(error); ok {
			if errno, ok := errors.AsType[syscall.Errno](err); ok {
				l.diskFailed(&diskError{text, errno})
			}
		}
	}
	panic(text)
}

// A diskError is what Pebble said in its own words, and the system's reason.
type diskError struct {
	text  string
	errno syscall.Errno
}

func (e *diskError) Error() string { return e.text }
func (e *diskError) Unwrap() error { return e.errno }
