package wal

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A spare is a file that can become a segment by getting a header and a name.
type spare struct {
	file  vfs.File
	name  string
	bytes int64
}

func (s *spare) close() error {
	if s == nil {
		return nil
	}
	return s.file.Close()
}

// spares is the preparer's stock, guarded by Log.mu.
type spares struct {
	ready    *spare   // one, open, for the writer to take
	recycled []string // names of files of SegmentBytes, at most Options.Spares
	wanted   bool     // the writer waits
	whole    bool     // the small first one was made
	noSpace  error    // why the last try to make one failed for want of space
	retryDue bool
	retry    *time.Timer
	made     uint64 // for names
}

// spaceRetry is how long the preparer waits before it asks a full disk again.
const spaceRetry = time.Second

// prepare is the preparer's goroutine: it keeps a segment file ready, so that the writer need not wait
// for zeros to be written, and turns those that were given up into the next ones. (The model is etcd's
// file pipeline.)
func (l *Log) prepare() {
	for {
		drops, make, ok := l.nextChore()
		if !ok {
			return
		}
		if len(drops) > 0 {
			if err := l.dropSegments(drops); err != nil {
				l.fail(err)
			}
		}
		if make {
			l.makeSpare()
		}
	}
}

// nextChore waits for work. It answers false when the writer is gone.
func (l *Log) nextChore() (drops []*segment, makeSpare, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		if l.idle || l.failed != nil {
			if l.spares.retry != nil {
				l.spares.retry.Stop()
			}
			return nil, false, false
		}
		drops = l.droppableLocked()
		p := &l.spares
		makeSpare = p.ready == nil && (p.noSpace == nil || p.retryDue || p.wanted)
		if len(drops) > 0 || makeSpare {
			return drops, makeSpare, true
		}
		l.chores.Wait()
	}
}

// droppableLocked takes the dropped segments that nobody reads any more.
func (l *Log) droppableLocked() []*segment {
	if !l.dropsDue {
		return nil
	}
	l.dropsDue = false
	var free, pinned []*segment
	for _, s := range l.drops {
		if s.pins > 0 {
			pinned = append(pinned, s)
		} else {
			free = append(free, s)
		}
	}
	l.drops = pinned
	return free
}

// dropSegments lets files go that are no longer part of the log. Meta says so first: what is left of
// them after a crash is then known to be garbage, in whatever order the removals reached the disk.
func (l *Log) dropSegments(drops []*segment) error {
	l.mu.Lock()
	first := l.segments[0].number
	l.mu.Unlock()
	if err := l.meta.update(func(m *metaState) { m.firstSegment = max(m.firstSegment, first) }); err != nil {
		return err
	}
	for _, s := range drops {
		if err := l.recycle(s); err != nil {
			return err
		}
	}
	if err := l.d.sync(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.spares.noSpace != nil {
		l.spares.retryDue = true // what was dropped may have made room
	}
	return nil
}

// recycle keeps the file as a spare, or removes it when there are enough or it has another size.
func (l *Log) recycle(s *segment) error {
	l.mu.Lock()
	enough := len(l.spares.recycled) >= l.o.Spares || s.bytes != l.o.SegmentBytes
	name := l.spareNameLocked()
	l.mu.Unlock()
	if enough {
		if err := l.d.fs.Remove(l.d.path(s.name)); err != nil {
			return fmt.Errorf("remove segment %d: %w", s.number, err)
		}
		return nil
	}
	if err := l.d.fs.Rename(l.d.path(s.name), l.d.path(name)); err != nil {
		return fmt.Errorf("recycle segment %d: %w", s.number, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spares.recycled = append(l.spares.recycled, name)
	return nil
}

func (l *Log) spareNameLocked() string {
	l.spares.made++
	return fmt.Sprintf("%08x%s", l.spares.made, spareSuffix)
}

// makeSpare gets a file ready, a recycled one if there is one. A full disk is not the end yet: nothing
// that was acknowledged is touched, and the active segment still has room. It becomes the end when the
// writer needs the file and cannot have it.
func (l *Log) makeSpare() {
	l.mu.Lock()
	p := &l.spares
	recycled, size := "", l.o.SegmentBytes
	name := l.spareNameLocked()
	if n := len(p.recycled); n > 0 {
		recycled, p.recycled = p.recycled[n-1], p.recycled[:n-1]
	} else if !p.whole {
		size = min(size, firstSegmentBytes)
	}
	p.whole, p.retryDue = true, false
	reserve := l.o.ReserveBytes
	if p.wanted {
		reserve = 0
	}
	l.mu.Unlock()

	s, err := l.openSpare(recycled, name, size, reserve)
	if errors.Is(err, errStopped) {
		return
	}
	l.mu.Lock()
	full := errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
	switch {
	case err == nil:
		p.ready, p.noSpace = s, nil
	case full && !p.wanted:
		l.o.Logger.Warn("wal: no space for the next segment", "error", err)
		p.noSpace, p.retry = err, time.AfterFunc(spaceRetry, l.retrySpace)
	default:
		l.mu.Unlock()
		l.fail(fmt.Errorf("prepare a segment: %w", err))
		return
	}
	l.chores.Broadcast()
	l.mu.Unlock()
}

func (l *Log) openSpare(recycled, name string, size, reserve int64) (*spare, error) {
	if recycled != "" {
		f, err := l.d.fs.OpenReadWrite(l.d.path(recycled), vfs.WriteCategoryUnspecified)
		if err != nil {
			return nil, err
		}
		return &spare{f, recycled, size}, nil
	}
	if err := l.d.hasRoom(size + reserve); err != nil {
		return nil, err
	}
	f, err := l.d.createFilled(name, size, l.stopping)
	if err != nil {
		return nil, err
	}
	return &spare{f, name, size}, nil
}

func (l *Log) stopping() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.idle || l.failed != nil
}

func (l *Log) retrySpace() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spares.retryDue = true
	l.chores.Broadcast()
}

// NoSpace is the error that keeps the log from preparing its next segment because the disk is full, nil
// when there is none. The log still takes entries until the active segment is full, then it fails: a
// warning to stop accepting, to truncate, and to finish what can be finished.
func (l *Log) NoSpace() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.spares.noSpace
}

// takeSpare gives the writer a file with room for a frame of need bytes, and waits for it if it must.
func (l *Log) takeSpare(need int64) (*spare, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := &l.spares
	p.wanted = true
	defer func() { p.wanted = false }()
	for {
		if l.failed != nil {
			return nil, l.failed
		}
		s := p.ready
		if s == nil {
			l.chores.Broadcast()
			l.chores.Wait()
			continue
		}
		p.ready = nil
		l.chores.Broadcast()
		if roomBytes(s.bytes) >= need {
			return s, nil
		}
		// The small first one, and a large entry.
		l.mu.Unlock()
		err := errors.Join(s.close(), l.d.fs.Remove(l.d.path(s.name)))
		l.mu.Lock()
		if err != nil {
			return nil, fmt.Errorf("remove a small segment: %w", err)
		}
	}
}
