package wal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// An inspection reads a directory as it is and changes nothing. Open and Verify both begin with one,
// so that what the second reports is what the first would do.
type inspection struct {
	d       directory
	collect bool // Verify: go on after a finding where that makes sense
	visit   func(*segmentScan, *frame) error

	listing  listing
	fresh    bool // nothing here yet
	meta     metaState
	metaSlot int
	headers  []segmentHeader // of the live segments, by number
	segments []*segment
	last     *segmentScan // of the newest segment
	dead     []string     // segments that front truncation gave up
	leftover string       // a segment that was being made, and never used

	frames   int64
	entries  int64 // as stored, also those that a truncation cut
	findings []error
}

// find notes a problem, or hands it back when the first one is to end the inspection.
func (p *inspection) find(err error) error {
	if !p.collect {
		return err
	}
	p.findings = append(p.findings, err)
	return nil
}

func (p *inspection) run() error {
	var err error
	if p.listing, err = p.d.list(); err != nil {
		return fmt.Errorf("wal: list %s: %w", p.d.dir, err)
	}
	for _, name := range p.listing.strangers {
		err := &CorruptionError{File: name, Offset: -1, Reason: "file is named like a segment, but not as this log names them"}
		if err := p.find(err); err != nil {
			return err
		}
	}
	if !p.listing.meta {
		if len(p.listing.segments) > 0 {
			return p.find(&CorruptionError{File: metaName, Offset: -1, Reason: "missing, but there are segments"})
		}
		p.fresh = true
		return nil
	}
	if p.meta, p.metaSlot, err = readMeta(p.d.fs, p.d.path(metaName)); err != nil {
		return p.find(err)
	}
	if err := p.selectSegments(); err != nil {
		return err
	}
	return p.scanAll()
}

// selectSegments sorts the files by number into those that are part of the log, older ones that were
// being removed, and at most one that was being made.
func (p *inspection) selectSegments() error {
	byNumber := make(map[uint32]string, len(p.listing.segments))
	for _, name := range p.listing.segments {
		_, number, _ := parseSegmentName(name)
		switch other, twice := byNumber[number]; {
		case number < p.meta.firstSegment:
			p.dead = append(p.dead, name)
			continue
		case twice:
			err := &CorruptionError{Segment: number, File: name, Offset: -1, Reason: "segment number exists twice, also as " + other}
			if err := p.find(err); err != nil {
				return err
			}
		case number == p.meta.lastSegment+1:
			p.leftover = name
		case number > p.meta.lastSegment:
			err := &CorruptionError{Segment: number, File: name, Offset: -1,
				Reason: fmt.Sprintf("segment is newer than meta, which ends with %d", p.meta.lastSegment)}
			if err := p.find(err); err != nil {
				return err
			}
		}
		byNumber[number] = name
	}
	if p.meta.lastSegment == 0 {
		return nil
	}
	for number := p.meta.firstSegment; number <= p.meta.lastSegment && number > 0; number++ {
		if err := p.addHeader(number, byNumber[number]); err != nil {
			return err
		}
		if len(p.findings) > 0 && byNumber[number] == "" {
			break // one finding for the gap, not one for each number
		}
	}
	return nil
}

func (p *inspection) addHeader(number uint32, name string) error {
	if name == "" {
		return p.find(p.missing(number))
	}
	h, err := p.readHeader(name)
	if err != nil {
		return p.find(err)
	}
	p.headers = append(p.headers, h)
	return nil
}

func (p *inspection) missing(number uint32) error {
	e := &CorruptionError{Segment: number, File: fmt.Sprintf("*-%08x%s", number, segmentSuffix), Offset: -1,
		Reason: fmt.Sprintf("segment is missing; meta has %d to %d", p.meta.firstSegment, p.meta.lastSegment)}
	if n := len(p.headers); n > 0 {
		e.First = p.headers[n-1].first
	}
	return e
}

// readHeader reads a segment's first page and holds it against name and meta. A header is synced
// before the file gets its name, so that a bad one is never an unfinished start.
func (p *inspection) readHeader(name string) (segmentHeader, error) {
	first, number, _ := parseSegmentName(name)
	bad := func(reason string, err error) error {
		return &CorruptionError{Segment: number, File: name, Offset: 0, First: first, Reason: reason, Err: err}
	}
	r, err := openFrameReader(p.d.fs, p.d.path(name))
	if err != nil {
		return segmentHeader{}, fmt.Errorf("wal: open segment %d: %w", number, err)
	}
	h, err := r.header()
	if closeErr := r.close(); closeErr != nil {
		return segmentHeader{}, fmt.Errorf("wal: close segment %d: %w", number, closeErr)
	}
	switch {
	case errors.Is(err, errPage):
		return segmentHeader{}, bad(err.Error(), err)
	case err != nil:
		return segmentHeader{}, fmt.Errorf("wal: read segment %d: %w", number, err)
	case h.number != number || h.first != first:
		return segmentHeader{}, bad(fmt.Sprintf("header is that of %s", h.fileName()), nil)
	case h.identity != p.meta.identity:
		return segmentHeader{}, bad("segment belongs to another log", ErrIdentity)
	case h.salt != p.meta.salt:
		return segmentHeader{}, bad("segment has another log's salt", nil)
	case h.previous != number-1:
		return segmentHeader{}, bad(fmt.Sprintf("segment follows %d", h.previous), nil)
	}
	return h, nil
}

func (p *inspection) scanAll() error {
	for i := range p.headers {
		var after *segmentHeader
		if i+1 < len(p.headers) {
			after = &p.headers[i+1]
		}
		if err := p.scanOne(&p.headers[i], after); err != nil {
			return err
		}
	}
	if p.leftover != "" {
		return p.checkLeftover()
	}
	return nil
}

func (p *inspection) scanOne(h, after *segmentHeader) (err error) {
	if after != nil && after.number != h.number+1 {
		return nil // the gap was found before
	}
	r, err := openFrameReader(p.d.fs, p.d.path(h.fileName()))
	if err != nil {
		return fmt.Errorf("wal: open segment %d: %w", h.number, err)
	}
	defer func() { err = errors.Join(err, r.close()) }()
	s, err := p.scan(r, h, after)
	var damage *CorruptionError
	if errors.As(err, &damage) {
		if after != nil && damage.First > 0 {
			damage.Last = after.first - 1
		}
		err = p.find(damage)
	} else if err != nil {
		return fmt.Errorf("wal: read segment %d: %w", h.number, err)
	}
	if err != nil {
		return err
	}
	p.add(s, h, after)
	return nil
}

func (p *inspection) scan(r *frameReader, h, after *segmentHeader) (*segmentScan, error) {
	read, err := r.header()
	if err != nil {
		return nil, err
	}
	s := newSegmentScan(r, &read)
	if p.visit != nil {
		s.visit = func(f *frame) error { return p.visit(s, f) }
	}
	if after != nil {
		return s, p.joined(s, after)
	}
	p.last = s
	return s, s.newest()
}

// joined scans a sealed segment and checks that the next one begins where it ends.
func (p *inspection) joined(s *segmentScan, after *segmentHeader) error {
	if err := s.sealed(after); err != nil {
		return err
	}
	if s.at.next != after.first {
		return s.corrupt(s.at.off, fmt.Sprintf("segment ends before entry %d, the next begins with %d", s.at.next, after.first))
	}
	return nil
}

func (p *inspection) add(s *segmentScan, h, after *segmentHeader) {
	p.frames += s.frames
	p.entries += s.entries
	g := &segment{number: h.number, name: s.name, start: h.first, last: s.proven.next - 1,
		end: s.proven.off, crc: s.proven.crc, bytes: s.r.size, points: s.points}
	g.points = slices.DeleteFunc(g.points, func(q point) bool { return q.off >= g.end })
	p.segments = append(p.segments, g)
	if after == nil || s.truncate == nil {
		return
	}
	g.last = s.truncate.before - 1
	cutAll(p.segments, s.truncate.next, s.truncate.reset)
}

// checkLeftover makes sure that the segment beyond meta's last holds nothing of its own. Meta is
// written before the first frame of a new segment is acknowledged, so that such a file is an unfinished
// start (or recovery's copy of the tail, which is still where it was) and may be thrown away. If it has
// more than that, meta has gone back in time.
func (p *inspection) checkLeftover() error {
	h, err := p.readHeader(p.leftover)
	if err != nil {
		return p.find(err)
	}
	r, err := openFrameReader(p.d.fs, p.d.path(p.leftover))
	if err != nil {
		return fmt.Errorf("wal: open segment %d: %w", h.number, err)
	}
	r.seed = frameSeed(h.salt, h.number)
	s := newSegmentScan(r, &h)
	err = s.newest()
	if closeErr := r.close(); closeErr != nil {
		return fmt.Errorf("wal: close segment %d: %w", h.number, closeErr)
	}
	if err == nil && s.entries > 0 && (p.last == nil || s.at.next > p.last.end()) {
		err = s.corrupt(headerBytes, fmt.Sprintf("meta ends with segment %d, but this one holds entries to %d", p.meta.lastSegment, s.at.next-1))
	}
	if err != nil {
		return p.find(err)
	}
	return nil
}

// next is the index after the last entry, the unproven tail included.
func (p *inspection) next() Index {
	if p.last == nil {
		return 1
	}
	return p.last.end()
}

// checkApplied compares with what the state already holds.
func (p *inspection) checkApplied(applied Index) error {
	if p.next() > applied {
		return nil
	}
	e := &CorruptionError{File: metaName, Offset: -1, First: p.next(), Last: applied, Err: ErrBehind,
		Reason: fmt.Sprintf("the state has applied entry %d, but the log ends with %d", applied, p.next()-1)}
	if p.last != nil {
		e.Segment, e.File, e.Offset = p.last.number, p.last.name, p.last.bad
	}
	return e
}

func lockDirectory(d directory) (io.Closer, error) {
	c, err := d.fs.Lock(d.path(lockName))
	var path *os.PathError
	switch {
	case errors.As(err, &path): // the file cannot even be opened
		return nil, fmt.Errorf("wal: lock %s: %w", d.dir, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %s: %w", ErrLocked, d.dir, err)
	}
	return c, nil
}

func exists(fs vfs.FS, path string) bool {
	_, err := fs.Stat(path)
	return err == nil
}
