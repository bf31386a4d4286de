package wal

import (
	"errors"
	"fmt"
)

// A Cursor reads single entries, for callers that ask for one after the other: it keeps the file open
// and the last frame decoded, so that entries n, n+1, n+2 cost together about what Replay costs, where
// Read begins each time at the nearest point of the offset table. Any other order is right too, and costs
// what Read costs.
//
// Between two calls it holds nothing back: a segment that it last read may be dropped and recycled. What
// it keeps in memory is a window of its file and one decoded frame; where a frame was larger than
// cursorKeepBytes, not even that.
//
// A Cursor is for one goroutine at a time. It may be used while others append and truncate: an entry comes
// as it was at some moment of the call.
type Cursor struct {
	l *Log
	d decoder

	segment *segment // where reader stands; nil: nowhere
	reader  *frameReader
	off     int64          // of the frame after the decoded one
	at      int64          // of the decoded one
	first   Index          // the decoded frame has first to last; first 0: none
	last    Index          //
	marks   []entryDecoder // before every markEntries-th of its entries, as far as they were decoded
	next    entryDecoder   // where decoding stopped
	found   segmentWindow  // of the call under way
}

// A segmentWindow is what a call may see of the pinned segment.
type segmentWindow struct {
	segment *segment
	last    Index
	from    int64 // the nearest known frame at or before the entry
	end     int64
}

const (
	// markEntries is how far apart the places in a decoded frame lie at which decoding can begin.
	markEntries = 64
	// cursorKeepBytes is the largest window and decoded frame that a cursor keeps from call to call.
	cursorKeepBytes = 8 << 20
)

// Cursor makes a cursor. Close it when it is no longer needed; the log does not know of it.
func (l *Log) Cursor() *Cursor { return &Cursor{l: l} }

// Close gives back the file. The cursor can be used again, it then begins anew.
func (c *Cursor) Close() error {
	r := c.reader
	c.segment, c.reader, c.first, c.marks, c.next, c.d = nil, nil, 0, nil, entryDecoder{}, decoder{}
	if r == nil {
		return nil
	}
	return r.close()
}

// Read gives one durable entry, as a copy that is the caller's, or ErrNotFound or ErrClosed. Any other
// error means that the log cannot be read there, and a CorruptionError that it is damaged.
func (c *Cursor) Read(i Index) (Entry, error) {
	if err := c.pin(i); err != nil {
		return Entry{}, err
	}
	defer c.unpin()
	e, err := c.read(i)
	if err != nil {
		return Entry{}, errors.Join(err, c.Close())
	}
	e.Ext = append([]byte(nil), e.Ext...)
	e.Data = append([]byte(nil), e.Data...)
	if cap(c.reader.window) > cursorKeepBytes || cap(c.d.scratch) > cursorKeepBytes {
		c.forget()
	}
	return e, nil
}

func (c *Cursor) forget() {
	c.first, c.marks, c.next = 0, nil, entryDecoder{}
	c.d.scratch, c.reader.window = nil, nil
}

// pin finds the segment of an entry and keeps its file from being recycled during the call.
func (c *Cursor) pin(i Index) error {
	l := c.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing {
		return ErrClosed
	}
	first := l.firstLocked()
	if first == 0 || i < first || i >= l.next {
		return fmt.Errorf("%w: %d, the log holds %d to %d", ErrNotFound, i, first, l.next-1)
	}
	// Where the segment of the last call still has the entry, what was read there is still right: a truncation
	// ends a segment, so that an index which is given again lies in a later one, and this one no longer reaches
	// up to it. A dropped one is left as it was by truncations, and after a reset its indexes may come again.
	s := c.segment
	if s == nil || s.dropped || i < s.start || i > s.last {
		s = l.holderLocked(i)
	}
	s.pins++
	c.found = segmentWindow{segment: s, last: s.last, from: s.from(i), end: s.end}
	return nil
}

// holderLocked is the segment of an entry that the log holds.
func (l *Log) holderLocked(i Index) *segment {
	for _, s := range l.segments {
		if s.start <= i && i <= s.last {
			return s
		}
	}
	panic(fmt.Sprintf("wal: entry %d below next index %d is in no segment", i, l.next))
}

func (c *Cursor) unpin() {
	l := c.l
	l.mu.Lock()
	defer l.mu.Unlock()
	c.found.segment.pins--
	if len(l.drops) > 0 {
		l.dropsDue = true
		l.chores.Broadcast()
	}
	c.found = segmentWindow{}
}

func (c *Cursor) read(i Index) (Entry, error) {
	w := &c.found
	if w.segment != c.segment {
		if err := c.open(w.segment); err != nil {
			return Entry{}, err
		}
	}
	c.reader.size = w.end // so that the window never has bytes from before they were written
	if c.first == 0 || i < c.first || i > c.last {
		if err := c.seek(i); err != nil {
			return Entry{}, err
		}
	}
	return c.entry(i)
}

func (c *Cursor) open(s *segment) error {
	if c.reader != nil {
		old := c.reader
		c.segment, c.reader = nil, nil
		if err := old.close(); err != nil {
			return fmt.Errorf("wal: close a segment that was read: %w", err)
		}
	}
	r, err := openFrameReader(c.l.d.fs, c.l.d.path(s.name))
	if err != nil {
		return fmt.Errorf("wal: open segment %d: %w", s.number, err)
	}
	r.seed = frameSeed(c.l.salt, s.number)
	c.segment, c.reader, c.first, c.off = s, r, 0, 0
	return nil
}

// seek decodes the frame that holds an entry: from where the last one ended if that is on the way, else
// from the nearest point of the offset table.
func (c *Cursor) seek(i Index) error {
	w := &c.found
	onward := c.first != 0 && i > c.last && c.off >= w.from
	c.reader.ahead = 0
	if !onward {
		c.off, c.reader.ahead = w.from, pointBytes
	}
	c.first = 0
	for c.off < w.end {
		f, bad, err := c.reader.frameAt(c.off)
		if err != nil {
			return fmt.Errorf("wal: read segment %d: %w", w.segment.number, err)
		}
		if bad != "" {
			return c.corrupt(c.off, i, bad)
		}
		c.off = f.end()
		if f.kind != kindEntries || f.first+Index(f.count) <= i {
			continue
		}
		if f.first > i {
			return c.corrupt(f.off, i, fmt.Sprintf("frame begins with entry %d, expected at most %d", f.first, i))
		}
		return c.decode(&f, i)
	}
	return c.corrupt(w.end, i, "entries are missing")
}

func (c *Cursor) decode(f *frame, i Index) error {
	raw, grown, err := decodePayload(&f.frameHeader, f.payload, c.d.scratch)
	c.d.scratch = grown
	if err != nil {
		return c.corrupt(f.off, i, err.Error())
	}
	c.at, c.first, c.last = f.off, f.first, f.first+Index(f.count)-1
	c.next = entryDecoder{rest: raw, next: f.first}
	c.marks = c.marks[:0]
	return nil
}

// entry gives one of the decoded frame's entries.
func (c *Cursor) entry(i Index) (Entry, error) {
	if i < c.next.next { // back, to the mark before it
		c.next = c.marks[(i-c.first)/markEntries]
	}
	if known := Index(len(c.marks)); known > 0 {
		if m := min((i-c.first)/markEntries, known-1); c.marks[m].next > c.next.next {
			c.next = c.marks[m]
		}
	}
	for {
		if n := c.next.next - c.first; n%markEntries == 0 && n/markEntries == Index(len(c.marks)) {
			c.marks = append(c.marks, c.next)
		}
		e, err := c.next.entry()
		if err != nil {
			return Entry{}, c.corrupt(c.at, i, err.Error())
		}
		if e.Index == i {
			return e, nil
		}
	}
}

func (c *Cursor) corrupt(off int64, i Index, reason string) *CorruptionError {
	s := c.found.segment
	return &CorruptionError{Segment: s.number, File: s.name, Offset: off, First: i, Last: c.found.last, Reason: reason}
}
