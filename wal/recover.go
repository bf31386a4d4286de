package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// Recovery is what Open found and did.
type Recovery struct {
	Segments      int
	Frames        int64
	Entries       int64
	TornTail      bool   // an unfinished write was found and dropped
	TornSegment   uint32 // where
	TornOffset    int64
	CopiedEntries int64  // of the last write, which was not yet known to be synced
	Failure       string // the note that a failed log had left, "" if none
	Duration      time.Duration
}

// Open locks the directory, makes it if it is not there, reads and checks everything in it, and gives
// the log. Nothing of the log changes on disk while it checks: a directory that is refused (with a
// CorruptionError, ErrBehind, ErrIdentity, ErrVersion or ErrLocked) is left as it was.
//
// No goroutine runs yet: that is Start's. Before it, Replay brings the state up to the log.
func Open(dir string, options Options) (*Log, error) {
	o, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	d := directory{fs: o.FS, dir: dir}
	if err := makeDirectory(d); err != nil {
		return nil, err
	}
	lock, err := lockDirectory(d)
	if err != nil {
		return nil, err
	}
	l, err := open(d, o)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	l.lock = lock
	l.recovery.Duration = time.Since(begin)
	l.logRecovery()
	return l, nil
}

func makeDirectory(d directory) error {
	if err := d.fs.MkdirAll(d.dir, 0o755); err != nil {
		return fmt.Errorf("wal: make %s: %w", d.dir, err)
	}
	return nil
}

// syncAncestors makes the directory's own name durable, and those of the directories above that may
// have been made with it (in this life or in one that was killed before it came to here). Those further
// up may not be ours to open; they were there before.
func syncAncestors(d directory) error {
	parent := d.parent()
	for dir, below := parent, ""; dir != below && dir != ""; dir, below = d.fs.PathDir(dir), dir {
		f, err := d.fs.OpenDir(dir)
		if err != nil && dir != parent {
			return nil
		}
		if err == nil {
			err = errors.Join(f.Sync(), f.Close())
		}
		if err != nil {
			return fmt.Errorf("wal: sync directory %s: %w", dir, err)
		}
	}
	return nil
}

func open(d directory, o Options) (*Log, error) {
	p := &inspection{d: d}
	if err := p.run(); err != nil {
		return nil, err
	}
	if err := p.checkIdentity(o.Identity); err != nil {
		return nil, err
	}
	if err := p.checkApplied(o.AppliedIndex); err != nil {
		return nil, err
	}
	// From here on the directory is ours to change.
	if err := p.clean(); err != nil {
		return nil, fmt.Errorf("wal: recover %s: %w", d.dir, err)
	}
	if p.fresh {
		if err := p.create(o); err != nil {
			return nil, err
		}
	}
	l, err := newLog(d, o, p)
	if err != nil {
		return nil, err
	}
	if err := l.settle(p); err != nil {
		return nil, errors.Join(fmt.Errorf("wal: recover %s: %w", d.dir, err), l.w.close(), l.meta.close())
	}
	return l, nil
}

func (p *inspection) checkIdentity(want [16]byte) error {
	if !p.fresh && want != [16]byte{} && want != p.meta.identity {
		return fmt.Errorf("%w: %s has %x, not %x", ErrIdentity, p.d.dir, p.meta.identity, want)
	}
	return nil
}

// create makes meta for a new log.
func (p *inspection) create(o Options) error {
	m := metaState{sequence: 1, identity: o.Identity}
	var salt [8]byte
	if _, err := io.ReadFull(o.Rand, salt[:]); err != nil {
		return fmt.Errorf("wal: make salt: %w", err)
	}
	m.salt = binary.LittleEndian.Uint64(salt[:])
	if m.identity == [16]byte{} {
		if _, err := io.ReadFull(o.Rand, m.identity[:]); err != nil {
			return fmt.Errorf("wal: make identity: %w", err)
		}
	}
	p.meta = m
	if err := syncAncestors(p.d); err != nil {
		return err
	}
	return createMeta(p.d, m)
}

func newLog(d directory, o Options, p *inspection) (*Log, error) {
	meta, err := openMeta(d, p.meta, p.metaSlot)
	if err != nil {
		return nil, err
	}
	l := &Log{o: o, d: d, meta: meta, identity: p.meta.identity, salt: p.meta.salt, segments: p.segments, next: 1}
	l.work.L, l.room.L, l.chores.L = &l.mu, &l.mu, &l.mu
	l.later = time.AfterFunc(o.Later, l.isDue)
	l.later.Stop()
	l.w.l = l
	l.recovery = Recovery{Segments: len(p.segments), Frames: p.frames, Entries: p.entries, Failure: readNote(d)}
	if p.last != nil {
		l.next = p.last.proven.next
		l.recovery.TornTail, l.recovery.TornSegment, l.recovery.TornOffset = p.last.torn, p.last.number, p.last.bad
	}
	return l, nil
}

// What was found is made durable, whatever the last life left half done, before anyone builds on it.
// Each step may be cut short by a crash and is then done again by the next Open with the same result:
//
//  1. clean: sync the directory, since its names may have come from memory only; remove what is not
//     part of the log: old segments, spares, a segment that was being made
//  2. settle: write meta, both slots
//  3. copy the unproven tail to a new segment, which becomes the newest by the same steps as always
//  4. remove the note of a failure
func (p *inspection) clean() error {
	if err := p.d.sync(); err != nil {
		return err
	}
	garbage := p.garbage()
	for _, name := range garbage {
		if err := p.d.fs.Remove(p.d.path(name)); err != nil {
			return fmt.Errorf("remove %s: %w", name, err)
		}
	}
	if len(garbage) == 0 {
		return nil
	}
	return p.d.sync()
}

func (p *inspection) garbage() []string {
	names := append(append([]string(nil), p.dead...), p.listing.spares...)
	if p.leftover != "" {
		names = append(names, p.leftover)
	}
	return names
}

func (l *Log) settle(p *inspection) error {
	if err := l.meta.update(func(*metaState) {}); err != nil {
		return err
	}
	if p.last != nil && len(p.last.tail) > 0 {
		if err := l.copyTail(p.last); err != nil {
			return fmt.Errorf("copy the tail of segment %d: %w", p.last.number, err)
		}
	}
	l.nextAppend = l.next
	if l.recovery.Failure != "" {
		return removeNote(l.d)
	}
	return nil
}

// copyTail writes the frames that were not yet known to be synced into a new segment. They are read
// through the page cache, and after a failed sync that is no proof of what the disk has; what is
// synced here is. The old segment stays as it is: the new one's header says where it ends. The mark at
// the end is true as soon as the file has its name, so that a second crash finds nothing left to do.
func (l *Log) copyTail(s *segmentScan) (err error) {
	r, err := openFrameReader(l.d.fs, l.d.path(s.name))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	r.seed = s.r.seed
	tailBytes := s.bad - s.tail[0].off
	size := (tailBytes + tailBytes/8 + 5*headerBytes) &^ (headerBytes - 1)
	size = max(size, min(firstSegmentBytes, l.o.SegmentBytes))
	name := "tail" + tempSuffix
	f, err := l.d.createFilled(name, size, func() bool { return false })
	if err != nil {
		return err
	}
	w := &l.w
	return w.begin(&spare{f, name, size}, l.nextHeader(l.next), func() error {
		for _, t := range s.tail {
			if err := w.copyFrame(r, t.off); err != nil {
				return err
			}
		}
		w.synced = w.end
		return w.mark(false)
	})
}

func (w *writer) copyFrame(r *frameReader, off int64) error {
	f, bad, err := r.frameAt(off)
	if err != nil {
		return err
	}
	if bad != "" {
		return fmt.Errorf("frame at %d was whole a moment ago: %s", off, bad)
	}
	h := f.frameHeader
	w.frame = append(append(w.frame[:0], make([]byte, frameHeaderBytes)...), f.payload...)
	at := w.end
	if err := w.put(w.frame, &h); err != nil {
		return err
	}
	last := h.first + Index(h.count) - 1
	w.l.recovery.CopiedEntries += int64(h.count)
	return w.publish(last, at)
}

func (l *Log) logRecovery() {
	r := &l.recovery
	if r.Failure != "" {
		l.o.Logger.Warn("wal: the last run ended with a failed write", "note", r.Failure)
	}
	if r.TornTail {
		l.o.Logger.Info("wal: dropped an unfinished write", "segment", r.TornSegment, "offset", r.TornOffset)
	}
	l.o.Logger.Info("wal: open", "dir", l.d.dir, "segments", r.Segments, "entries", r.Entries,
		"first", l.FirstIndex(), "next", l.next, "copied", r.CopiedEntries, "took", r.Duration)
}
