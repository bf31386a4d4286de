package wal

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// A Log is an open write-ahead log. Its methods may be called from any goroutine.
type Log struct {
	o        Options
	d        directory
	lock     io.Closer
	meta     *metaFile
	identity [16]byte
	salt     uint64
	recovery Recovery
	w        writer // Open fills it in, then the writer's goroutine owns it

	mu sync.Mutex // everything below; never held across disk, callbacks or channels

	work    sync.Cond // wakes the writer: queue, request, closing, failed
	queue   []Entry   // taken by Append, not yet by the writer
	urgent  bool      // somebody waits for an entry of the queue
	due     bool      // later has passed: what can wait has waited
	later   *time.Timer
	request *request  // a truncation that waits for the writer, or is with it
	room    sync.Cond // wakes AppendWait, and truncations that wait for their turn
	waiting int       // goroutines in AppendWait
	// queueBytes counts an entry from Append until Committed has returned.
	queueBytes int64
	nextAppend Index // what the next entry gets

	segments []*segment // live, by number; the last one is the newest
	next     Index      // what follows the last durable entry

	chores   sync.Cond // wakes the preparer, and the writer when it waits for a segment
	spares   spares
	drops    []*segment // given up by TruncateFront, still on disk
	dropsDue bool       // drops is worth another look

	started bool
	closing bool
	idle    bool  // the writer is gone: the preparer may go too
	failed  error // wraps ErrFailed; sticky
	running sync.WaitGroup

	closeOnce sync.Once
	closeErr  error
}

// Append hands an entry to the writer and returns at once, before it is written: Committed tells when
// it is durable. Entries are committed in the order in which Append took them. The error is ErrQueueFull,
// ErrTooLarge, ErrIndex, ErrTruncating or ErrClosed, with which nothing was kept; or it wraps ErrFailed.
//
// Entries may be appended before Start, up to the queue's bound; they are written once it was called.
func (l *Log) Append(e Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting > 0 && l.failed == nil && !l.closing {
		return ErrQueueFull // those in AppendWait were here first, and have nowhere else to go
	}
	return l.appendLocked(&e, true)
}

// MaxEntryBytes is the largest Ext and Data together that Append takes.
func (l *Log) MaxEntryBytes() int { return l.o.MaxEntryBytes }

// AppendBatch hands several entries to the writer as one: they are queued next to each other, or none of
// them is, and go into as few frames as they fit in. The errors are Append's. The entries' indexes must be
// 0; they are set.
func (l *Log) AppendBatch(entries []Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting > 0 && l.failed == nil && !l.closing {
		return ErrQueueFull
	}
	bytes := int64(0)
	for i := range entries {
		bytes += entries[i].queueBytes()
		if entries[i].bytes() > int64(l.o.MaxEntryBytes) {
			return ErrTooLarge
		}
		if entries[i].Index != 0 {
			return ErrIndex
		}
	}
	if l.queueBytes+bytes > l.o.QueueBytes {
		return ErrQueueFull
	}
	for i := range entries {
		// What is left to refuse one of them would have refused the first.
		if err := l.appendLocked(&entries[i], true); err != nil {
			return err
		}
	}
	return nil
}

// AppendWait is Append for entries that must not be refused for want of room: it waits instead, and
// goes before Append while it does. It must not be called from Committed.
func (l *Log) AppendWait(e Entry) error { return l.appendWait(&e, true) }

// AppendLater is AppendWait for entries whose commit nobody waits for: they go into the frame of the next
// entry that somebody does wait for, or, when none comes, are written Options.Later after they came. Order
// is kept as among all entries.
func (l *Log) AppendLater(e Entry) error { return l.appendWait(&e, false) }

func (l *Log) appendWait(e *Entry, urgent bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		err := l.appendLocked(e, urgent)
		if err != ErrQueueFull && err != ErrTruncating {
			return err
		}
		l.hurryLocked() // there is no room before the queue is written
		l.waiting++
		l.room.Wait()
		l.waiting--
	}
}

func (l *Log) appendLocked(e *Entry, urgent bool) error {
	bytes := e.queueBytes()
	switch {
	case l.failed != nil:
		return l.failed
	case l.closing:
		return ErrClosed
	case e.bytes() > int64(l.o.MaxEntryBytes):
		return ErrTooLarge
	case l.request != nil:
		return ErrTruncating
	case l.queueBytes+bytes > l.o.QueueBytes:
		return ErrQueueFull
	case e.Index != 0 && e.Index != l.nextAppend:
		return fmt.Errorf("%w: index %d, expected %d", ErrIndex, e.Index, l.nextAppend)
	}
	e.Index = l.nextAppend
	l.nextAppend++
	l.queueBytes += bytes
	l.queue = append(l.queue, *e)
	if urgent {
		l.hurryLocked()
	} else if len(l.queue) == 1 {
		l.later.Reset(l.o.Later)
	}
	return nil
}

// hurryLocked has the writer take the queue, if there is one, as soon as it can.
func (l *Log) hurryLocked() {
	if !l.urgent && len(l.queue) > 0 {
		l.urgent = true
		l.work.Signal()
	}
}

// isDue runs when later has passed.
func (l *Log) isDue() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.due = true
	l.work.Signal()
}

// FirstIndex is the index of the oldest entry that is still here, 0 when there is none.
func (l *Log) FirstIndex() Index {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.firstLocked()
}

func (l *Log) firstLocked() Index {
	for _, s := range l.segments {
		if !s.empty() {
			return s.start
		}
	}
	return 0
}

// LastIndex is the index of the last durable entry, 0 when there is none.
func (l *Log) LastIndex() Index {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.firstLocked() == 0 {
		return 0
	}
	return l.next - 1
}

// NextIndex is the index that follows the last durable entry. It is known also when the log is empty.
func (l *Log) NextIndex() Index {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next
}

// SizeBytes is the size of the files that hold live entries.
func (l *Log) SizeBytes() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var n int64
	for _, s := range l.segments {
		n += s.bytes
	}
	return n
}

// BytesFrom is how much of the files the durable entries from index i on take, as far as the log has them: as they were
// written, and up to 64 KiB too much, since not every entry's place is known.
func (l *Log) BytesFrom(i Index) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var n int64
	for _, s := range l.segments {
		if !s.empty() && s.last >= i {
			n += s.end - s.from(i)
		}
	}
	return n
}

// Identity is the one that the directory was made with.
func (l *Log) Identity() [16]byte { return l.identity }

// Recovery says what Open found.
func (l *Log) Recovery() Recovery { return l.recovery }

// Err is nil, or the failure that ended the log.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// Stable gives what SetStable last kept, nil if nothing.
func (l *Log) Stable() []byte {
	return append([]byte(nil), l.meta.get().stable...)
}

// SetStable keeps a few bytes, at most MaxStableBytes, beside the log, atomically and synced before it
// returns: a term and a vote, say. b may be reused afterwards. An error other than for its length is
// final for the log as a whole.
func (l *Log) SetStable(b []byte) error {
	if len(b) > MaxStableBytes {
		return fmt.Errorf("wal: %d stable bytes, at most %d fit", len(b), MaxStableBytes)
	}
	if err := l.usable(); err != nil {
		return err
	}
	kept := append([]byte(nil), b...)
	switch err := l.meta.update(func(m *metaState) { m.stable = kept }); {
	case err == ErrClosed: // since usable
		return err
	case err != nil:
		return l.fail(err)
	}
	return nil
}

func (l *Log) usable() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed != nil {
		return l.failed
	}
	if l.closing {
		return ErrClosed
	}
	return nil
}

// Start starts the goroutines: the writer, and the preparer of segments. Calling it again does nothing.
func (l *Log) Start() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closing {
		l.startLocked()
	}
}

func (l *Log) startLocked() {
	if l.started || l.failed != nil {
		return
	}
	l.started = true
	l.running.Go(l.w.run)
	l.running.Go(l.prepare)
}

// Close commits what was appended, syncs, and returns when the goroutines are gone and the directory is
// free. It may be called again, and gives the same error: that of a log that has failed, or nil.
func (l *Log) Close() error {
	l.closeOnce.Do(func() { l.closeErr = l.close() })
	return l.closeErr
}

func (l *Log) close() error {
	l.mu.Lock()
	if len(l.queue) > 0 {
		l.startLocked()
	}
	l.closing = true
	if !l.started {
		l.idle = true
	}
	l.wakeLocked()
	l.mu.Unlock()
	l.running.Wait()
	l.later.Stop()

	l.mu.Lock()
	failed, spare := l.failed, l.spares.ready
	l.spares.ready = nil
	l.mu.Unlock()
	err := errors.Join(l.w.close(), spare.close(), l.meta.close(), l.lock.Close())
	if failed != nil {
		return failed
	}
	if err != nil {
		return fmt.Errorf("wal: close: %w", err)
	}
	return nil
}

// wakeLocked wakes everyone, after a change that concerns all.
func (l *Log) wakeLocked() {
	l.work.Broadcast()
	l.room.Broadcast()
	l.chores.Broadcast()
}
