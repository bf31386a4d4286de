package wal

import (
	"errors"
	"fmt"
)

// A source is a pinned piece of the log: the entries first to last of one segment, which end before end.
type source struct {
	segment     *segment
	name        string
	first, last Index
	from, end   int64
}

// Replay calls fn with the durable entries from index from (0: the oldest) to the last one there is when
// it begins, in order. What an entry points to is valid during the call only. It ends with fn's error,
// as it is. An index below the oldest entry, or behind the next one, is ErrNotFound; the next one itself
// is not, and gives nothing.
func (l *Log) Replay(from Index, fn func(Entry) error) error {
	sources, err := l.pin(from)
	if err != nil {
		return err
	}
	defer l.unpin(sources)
	var d decoder
	for i := range sources {
		if err := l.replayOne(&sources[i], &d, fn); err != nil {
			return err
		}
	}
	return nil
}

// Read gives one durable entry, as a copy that is the caller's, or ErrNotFound.
func (l *Log) Read(i Index) (Entry, error) {
	sources, err := l.pin(i)
	if err != nil {
		return Entry{}, err
	}
	defer l.unpin(sources)
	if i == 0 || len(sources) == 0 {
		return Entry{}, fmt.Errorf("%w: %d", ErrNotFound, i)
	}
	s := &sources[0]
	s.last = i
	var found Entry
	err = l.replayOne(s, &decoder{ahead: pointBytes}, func(e Entry) error {
		found = e
		found.Ext = append([]byte(nil), e.Ext...)
		found.Data = append([]byte(nil), e.Data...)
		return nil
	})
	if err == nil && found.Index != i {
		err = &CorruptionError{Segment: s.segment.number, File: s.name, Offset: s.from, First: i, Last: i, Reason: "entry is not where the offset table says"}
	}
	return found, err
}

// pin collects what holds the entries from an index on, and keeps the files from being recycled.
func (l *Log) pin(from Index) ([]source, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing {
		return nil, ErrClosed // the directory may be another's by now
	}
	first := l.firstLocked()
	if from == 0 {
		from = first
	}
	if first == 0 && from != 0 && from != l.next || from < first || from > l.next {
		return nil, fmt.Errorf("%w: %d, the log holds %d to %d", ErrNotFound, from, first, l.next-1)
	}
	var sources []source
	for _, s := range l.segments {
		if s.empty() || s.last < from {
			continue
		}
		s.pins++
		sources = append(sources, source{segment: s, name: s.name, first: max(from, s.start), last: s.last, from: s.from(from), end: s.end})
	}
	return sources, nil
}

func (l *Log) unpin(sources []source) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range sources {
		s.segment.pins--
	}
	if len(l.drops) > 0 {
		l.dropsDue = true
		l.chores.Broadcast()
	}
}

// A decoder holds the memory that frames are decompressed into, from one to the next.
type decoder struct {
	scratch []byte
	ahead   int
}

func (l *Log) replayOne(s *source, d *decoder, fn func(Entry) error) (err error) {
	r, err := openFrameReader(l.d.fs, l.d.path(s.name))
	if err != nil {
		return fmt.Errorf("wal: open segment %d: %w", s.segment.number, err)
	}
	defer func() { err = errors.Join(err, r.close()) }()
	r.seed, r.ahead = frameSeed(l.salt, s.segment.number), d.ahead
	next := s.first
	for off := s.from; off < s.end && next <= s.last; {
		f, bad, err := r.frameAt(off)
		if err != nil {
			return fmt.Errorf("wal: read segment %d: %w", s.segment.number, err)
		}
		if bad == "" {
			bad, err = d.frame(&f, s, &next, fn)
			if err != nil {
				return err
			}
		}
		if bad != "" {
			return &CorruptionError{Segment: s.segment.number, File: s.name, Offset: off, First: next, Last: s.last, Reason: bad}
		}
		off = f.end()
	}
	if next <= s.last {
		return &CorruptionError{Segment: s.segment.number, File: s.name, Offset: s.end, First: next, Last: s.last, Reason: "entries are missing"}
	}
	return nil
}

// frame hands out the entries of one frame that the source covers.
func (d *decoder) frame(f *frame, s *source, next *Index, fn func(Entry) error) (bad string, err error) {
	if f.kind != kindEntries {
		return "", nil
	}
	if f.first > *next {
		return fmt.Sprintf("frame begins with entry %d, expected %d", f.first, *next), nil
	}
	raw, grown, err := decodePayload(&f.frameHeader, f.payload, d.scratch)
	d.scratch = grown
	if err != nil {
		return err.Error(), nil
	}
	entries := entryDecoder{rest: raw, next: f.first}
	for range f.count {
		e, err := entries.entry()
		if err != nil {
			return err.Error(), nil
		}
		if e.Index != *next || e.Index > s.last {
			continue // before the first one asked for, or cut off by a truncation
		}
		*next++
		if err := fn(e); err != nil {
			return "", err
		}
	}
	if !entries.done() {
		return "frame has bytes behind its last entry", nil
	}
	return "", nil
}
