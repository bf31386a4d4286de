package wal

import "fmt"

// A request asks the writer for a truncation. It is executed when everything appended before it is
// committed; while it is pending, Append refuses.
type request struct {
	next  Index
	reset bool
	done  chan error // has room for the answer
}

// TruncateFront lets go of the oldest segments as far as all their entries are below keep. What it drops
// is gone from the log at once and from the disk soon; after a crash some of it may be back. It returns
// without waiting for the disk. The newest segment always stays.
func (l *Log) TruncateFront(keep Index) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed != nil {
		return l.failed
	}
	if l.closing {
		return ErrClosed
	}
	l.dropLocked(keep)
	return nil
}

func (l *Log) dropLocked(keep Index) {
	n := 0
	for n < len(l.segments)-1 && (l.segments[n].empty() || l.segments[n].last < keep) {
		n++
	}
	if n == 0 {
		return
	}
	for _, s := range l.segments[:n] {
		s.dropped = true
	}
	l.drops = append(l.drops, l.segments[:n]...)
	l.segments = append([]*segment(nil), l.segments[n:]...)
	l.dropsDue = true
	l.chores.Broadcast()
}

// TruncateBack removes all entries above last, durably before it returns. The next entry then gets
// last+1. What is appended at the same time from other goroutines is refused with ErrTruncating. The
// log must have been started. After an error the truncation may or may not have happened.
func (l *Log) TruncateBack(last Index) error {
	return l.truncate(&request{next: last + 1, done: make(chan error, 1)})
}

// Reset removes all entries, durably before it returns; the next one then gets index next, which may be
// any from 1: for a log whose state was replaced by a newer snapshot. Otherwise as TruncateBack.
func (l *Log) Reset(next Index) error {
	if next == 0 {
		return fmt.Errorf("wal: reset to index 0")
	}
	return l.truncate(&request{next: next, reset: true, done: make(chan error, 1)})
}

func (l *Log) truncate(r *request) error {
	l.mu.Lock()
	for l.request != nil && l.failed == nil && !l.closing {
		l.room.Wait()
	}
	err := l.failed
	switch {
	case err != nil:
	case l.closing:
		err = ErrClosed
	case !l.started:
		err = fmt.Errorf("wal: truncate before Start")
	default:
		l.request = r
		l.work.Signal()
	}
	l.mu.Unlock()
	if err != nil {
		return err
	}
	return <-r.done
}

// truncate executes a request on the writer's goroutine, with the queue empty. It is never a cut in
// place: a frame says what is gone, and a new segment begins with the next index. The new segment's
// entry in meta is what makes it happen; after a crash before that, recovery drops the frame.
func (w *writer) truncate(r *request) error {
	l := w.l
	l.mu.Lock()
	next := l.next
	l.mu.Unlock()
	if r.reset || r.next < next {
		if err := w.cut(r); err != nil {
			return err
		}
	}
	l.mu.Lock()
	if l.failed != nil { // elsewhere, meanwhile
		l.mu.Unlock()
		return l.failed
	}
	l.request = nil
	l.room.Broadcast()
	l.mu.Unlock()
	r.done <- nil
	return nil
}

func (w *writer) cut(r *request) error {
	l := w.l
	if w.file == nil { // nothing written in this life: the frame needs a segment to stand in
		l.mu.Lock()
		next := l.next
		l.mu.Unlock()
		if err := w.rotate(next, 0); err != nil {
			return err
		}
	}
	var b [frameHeaderBytes]byte
	h := &frameHeader{kind: kindTruncate, first: r.next}
	if r.reset {
		h.flags = flagReset
	}
	if err := w.write(b[:], h, nil); err != nil {
		return fmt.Errorf("truncate to %d: %w", r.next-1, err)
	}
	w.segment.cutShort = true
	if err := w.rotate(r.next, 0); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	cutAll(l.segments, r.next, r.reset)
	l.next, l.nextAppend = r.next, r.next
	if r.reset {
		l.dropLocked(r.next)
	}
	return nil
}
