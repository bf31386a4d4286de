package wal

import (
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// After a failed write or sync nothing is certain: the kernel may have dropped the bytes and report
// success the next time, while reads still show them. So there is no second try. The log fails for
// good, leaves a note, and the next Open copies what was not yet known to be synced to a new place.

// fail makes err the end of the log, unless it has ended before, and gives the error that everyone
// gets. Where the writer runs, it does the rest when it comes to it, so that Failed never overtakes a
// Committed.
func (l *Log) fail(err error) error {
	l.mu.Lock()
	first, writer := l.failed == nil, l.started && !l.idle
	if first {
		l.failed = fmt.Errorf("%w: %w", ErrFailed, err)
		l.wakeLocked()
	}
	err = l.failed
	l.mu.Unlock()
	if first && !writer {
		l.bury()
	}
	return err
}

// bury is the last act on a failed log: queue and waiters go, a note stays.
func (l *Log) bury() {
	l.mu.Lock()
	err, r := l.failed, l.request
	clear(l.queue)
	l.queue, l.queueBytes, l.request = nil, 0, nil
	l.idle = true
	l.wakeLocked()
	l.mu.Unlock()
	l.leaveNote(err)
	if r != nil {
		r.done <- err
	}
	l.o.Failed(err)
}

// failedPath is the note's place: beside the log's directory, not in it, since that one just failed.
func (d directory) failedPath() string {
	return d.fs.PathJoin(d.parent(), d.fs.PathBase(d.dir)+failedSuffix)
}

// leaveNote writes the note, as well as it can: on a disk that just failed, that may be not at all,
// and nothing depends on it (recovery distrusts the unproven tail in any case). It tells the operator,
// and the next start, what happened.
func (l *Log) leaveNote(failure error) {
	if err := writeNote(l.d, fmt.Sprintf("%s %v\n", l.o.Now().UTC().Format(time.RFC3339), failure)); err != nil {
		l.o.Logger.Warn("wal: could not leave a note of the failure", "path", l.d.failedPath(), "error", err)
	}
}

func writeNote(d directory, text string) error {
	f, err := d.fs.Create(d.failedPath(), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte(text))
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return SyncDir(d.fs, d.parent())
}

// readNote gives the note of an earlier failure, "" if there is none.
func readNote(d directory) string {
	f, err := d.fs.Open(d.failedPath())
	if err != nil {
		return ""
	}
	buf := make([]byte, 1024)
	n, _ := f.Read(buf)
	if err := f.Close(); err != nil || n == 0 {
		return "(unreadable)"
	}
	return string(buf[:n])
}

func removeNote(d directory) error {
	if err := d.fs.Remove(d.failedPath()); err != nil {
		return err
	}
	return SyncDir(d.fs, d.parent())
}
