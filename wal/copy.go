package wal

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
)

// CopyTo is CopyRange to the last durable entry.
func (l *Log) CopyTo(dir string, from Index) (last Index, err error) {
	return l.CopyRange(dir, from, math.MaxUint64)
}

// CopyRange writes the durable entries from index from up to last, or to the end where that comes first,
// into a new log in dir, which must not exist yet, and answers the index of the last one, from-1 if there
// is none. The copy is closed and whole on disk, and has this log's identity and stable bytes. It needs no
// goroutine and waits for nothing: when the disk has no room, that is its error. What is appended meanwhile
// is not in it. On error, what is in dir is for the caller to remove.
//
// The entries must be there when it begins, and stay there however long it takes.
func (l *Log) CopyRange(dir string, from, last Index) (copied Index, err error) {
	fail := func(err error) (Index, error) { return 0, fmt.Errorf("wal: copy to %s: %w", dir, err) }
	if exists(l.o.FS, dir) {
		return fail(errors.New("it exists"))
	}
	sources, err := l.pin(from)
	if err != nil {
		return fail(err)
	}
	defer l.unpin(sources)
	wanted := 0
	for wanted < len(sources) && sources[wanted].first <= last {
		sources[wanted].last = min(sources[wanted].last, last)
		wanted++
	}
	c, err := Open(dir, Options{
		FS: l.o.FS, Identity: l.identity, Compression: l.o.Compression,
		Now: l.o.Now, Rand: l.o.Rand, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return fail(err)
	}
	c.next = from
	err = c.fillFrom(l, sources[:wanted])
	if stable := l.Stable(); err == nil && len(stable) > 0 {
		err = c.SetStable(stable)
	}
	if err := errors.Join(err, c.Close()); err != nil {
		return fail(err)
	}
	return c.next - 1, nil
}

// fillFrom writes pieces of another log into this one, which is new and was not started: a segment for
// each piece, and an empty one if there is none, whose header says where the log goes on.
func (l *Log) fillFrom(from *Log, sources []source) error {
	if len(sources) == 0 {
		if err := l.beginCopy("copy", 0, nil); err != nil {
			return err
		}
	}
	for i := range sources {
		if err := l.copySource(from, &sources[i]); err != nil {
			return err
		}
	}
	return l.w.mark(true)
}

// beginCopy ends the segment before and makes the next one, with room for frames of so many bytes.
func (l *Log) beginCopy(name string, frames int64, fill func() error) error {
	w, open := &l.w, l.w.file != nil
	if err := w.seal(); err != nil {
		return err
	}
	h := l.nextHeader(l.next)
	if open {
		h.previousEnd, h.previousCRC = w.end, w.crc // the seal included
	}
	size := (frames + frames/8 + 5*headerBytes) &^ (headerBytes - 1)
	f, err := l.d.createFilled(name+tempSuffix, size, func() bool { return false })
	if err != nil {
		return err
	}
	return w.begin(&spare{f, name + tempSuffix, size}, h, fill)
}

func (l *Log) copySource(from *Log, s *source) (err error) {
	r, err := openFrameReader(from.d.fs, from.d.path(s.name))
	if err != nil {
		return fmt.Errorf("open segment %d: %w", s.segment.number, err)
	}
	defer func() { err = errors.Join(err, r.close()) }()
	r.seed = frameSeed(from.salt, s.segment.number)
	return l.beginCopy("copy", s.end-s.from, func() error {
		var d decoder
		for off := s.from; off < s.end && l.next <= s.last; {
			f, bad, err := r.frameAt(off)
			if err != nil {
				return fmt.Errorf("read segment %d: %w", s.segment.number, err)
			}
			if bad == "" && f.kind == kindEntries {
				bad, err = l.w.copyEntries(&f, s, &d)
			}
			if err != nil {
				return err
			}
			if bad != "" {
				return &CorruptionError{Segment: s.segment.number, File: s.name, Offset: off, First: l.next, Last: s.last, Reason: bad}
			}
			off = f.end()
		}
		if l.next <= s.last {
			return &CorruptionError{Segment: s.segment.number, File: s.name, Offset: s.end, First: l.next, Last: s.last, Reason: "entries are missing"}
		}
		return nil
	})
}

// copyEntries writes those entries of a frame that the source covers. A whole frame is copied as it is,
// but it is decoded before: what is handed on as a copy is known to be readable.
func (w *writer) copyEntries(f *frame, s *source, d *decoder) (bad string, err error) {
	first := w.l.next
	next := first
	w.frame = append(w.frame[:0], make([]byte, frameHeaderBytes)...)
	var term uint64
	var entries []Entry
	if bad, err := d.frame(f, s, &next, func(e Entry) error {
		w.frame = appendEntry(w.frame, &e, term)
		term = e.Term
		entries = append(entries, Entry{Index: e.Index})
		return nil
	}); bad != "" || err != nil || len(entries) == 0 {
		return bad, err
	}
	var h frameHeader
	var frame []byte
	if f.first == first && f.count == uint32(len(entries)) {
		frame = append(append(w.packed[:0], make([]byte, frameHeaderBytes)...), f.payload...)
		h, w.packed = f.frameHeader, frame
	} else {
		frame, h = w.pack(entries)
	}
	at := w.end
	if err := w.put(frame, &h); err != nil {
		return "", err
	}
	w.synced = w.end // true as soon as the file has its name
	return "", w.publish(next-1, at)
}
