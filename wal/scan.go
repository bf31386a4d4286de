package wal

import (
	"encoding/binary"
	"fmt"
	"math"
)

// pointBytes is how far apart the points of a segment's offset table lie at least.
const pointBytes = 64 << 10

// A point says where the frame beginning with an index lies.
type point struct {
	first Index
	off   int64
}

// A boundary is a place between two frames, and the state of the log there.
type boundary struct {
	off  int64
	crc  uint32 // of the frame that ends here, or of the segment header
	next Index
}

// maxUnprovenFrames: one write is outstanding at a time, and each frame says what was synced before
// it, so that more than a mark and the frame after it never lack that word.
const maxUnprovenFrames = 4

// A segmentScan walks the frames of one segment in order and checks each against its neighbours.
type segmentScan struct {
	r      *frameReader
	name   string
	number uint32

	at       boundary
	proven   boundary   // everything before it was synced, as a later frame says
	unproven []boundary // starts of the valid frames from there on
	tail     []point    // frames of entries among these
	points   []point
	truncate *truncation // the frame that ended the segment by cutting the log, if one did
	ended    bool

	frames  int64
	entries int64
	visit   func(*frame) error // sees every valid frame, may be nil

	bad    int64 // newest segment: where valid frames end
	torn   bool  // newest segment: something of an unfinished write lies there
	reason string
}

type truncation struct {
	off    int64
	before Index // the next index as it was
	next   Index // and as it is from here
	reset  bool
}

// end is the next index that the segment's own entries lead to, without a truncation behind them.
func (s *segmentScan) end() Index {
	if s.truncate != nil {
		return s.truncate.before
	}
	return s.at.next
}

func newSegmentScan(r *frameReader, h *segmentHeader) *segmentScan {
	start := boundary{off: headerBytes, crc: h.crc, next: h.first}
	return &segmentScan{r: r, name: h.fileName(), number: h.number, at: start, proven: start}
}

func (s *segmentScan) corrupt(off int64, reason string) *CorruptionError {
	return &CorruptionError{Segment: s.number, File: s.name, Offset: off, First: s.at.next, Reason: reason}
}

// sealed walks a segment that another follows. That one's header says where this one ends and with
// which checksum, so there is nothing to weigh: each byte up to there must be right, and whatever lies
// beyond is void (the torn end of an earlier life, or frames that recovery copied on).
func (s *segmentScan) sealed(after *segmentHeader) error {
	for s.at.off < after.previousEnd {
		f, bad, err := s.r.frameAt(s.at.off)
		if err != nil {
			return err
		}
		if bad != "" {
			return s.corrupt(s.at.off, bad)
		}
		if err := s.accept(&f); err != nil {
			return err
		}
	}
	if s.at.off != after.previousEnd || s.at.crc != after.previousCRC {
		return s.corrupt(s.at.off, fmt.Sprintf("segment does not end as segment %d says (offset %d, checksum %08x; found %08x)",
			after.number, after.previousEnd, after.previousCRC, s.at.crc))
	}
	s.proven, s.unproven, s.tail = s.at, nil, nil
	return nil
}

// newest walks the last segment to the first place without a valid frame, and tells a torn tail from
// damage: the write that was under way when the process or the machine stopped may be missing or in
// pieces, nothing else may be.
func (s *segmentScan) newest() error {
	for {
		f, bad, err := s.r.frameAt(s.at.off)
		if err != nil {
			return err
		}
		if bad != "" {
			s.bad, s.reason = s.at.off, bad
			break
		}
		if err := s.accept(&f); err != nil {
			return err
		}
	}
	at, found, err := s.r.lookAhead(s.bad+frameAlignBytes, s.bad, s.at.next)
	if err != nil {
		return err
	}
	if found {
		return s.corrupt(s.bad, fmt.Sprintf("%s, yet the frame at %d says that this place was synced", s.reason, at))
	}
	return s.noteTorn()
}

// noteTorn tells an unfinished write from a clean end, for the report only: a header that follows on
// from the last frame was ours.
func (s *segmentScan) noteTorn() error {
	if s.bad+frameHeaderBytes > s.r.size {
		return nil
	}
	b, err := s.r.view(s.bad, frameHeaderBytes)
	if err != nil {
		return err
	}
	h := parseFrameHeader(b)
	s.torn = h.previous == s.at.crc && h.first == s.at.next
	return nil
}

// accept takes the next frame into account, or says why it cannot stand where it does. A valid frame
// that does not follow from the one before is never a torn write: no segment is written twice.
func (s *segmentScan) accept(f *frame) error {
	switch {
	case s.ended:
		return s.corrupt(f.off, "frame behind the end of the segment")
	case f.previous != s.at.crc:
		return s.corrupt(f.off, "frame does not follow the one before it")
	case f.synced < s.proven.off:
		return s.corrupt(f.off, "frame knows less synced than the one before it")
	case f.kind != kindTruncate && f.first != s.at.next:
		return s.corrupt(f.off, fmt.Sprintf("frame begins with entry %d, expected %d", f.first, s.at.next))
	case f.codec > codecS2 || f.flags&^flagReset != 0:
		return &CorruptionError{Segment: s.number, File: s.name, Offset: f.off, First: s.at.next,
			Reason: fmt.Sprintf("codec %d, flags %#x are unknown", f.codec, f.flags), Err: ErrVersion}
	}
	s.unproven = append(s.unproven, s.at)
	if err := s.prove(f); err != nil {
		return err
	}
	if err := s.take(f); err != nil {
		return err
	}
	s.frames++
	s.at.off, s.at.crc = f.end(), f.crc
	if s.visit != nil {
		return s.visit(f)
	}
	return nil
}

// prove moves the proven boundary to where the frame says.
func (s *segmentScan) prove(f *frame) error {
	for i, b := range s.unproven {
		if b.off == f.synced {
			s.proven = b
			s.unproven = append(s.unproven[:0], s.unproven[i:]...)
			break
		}
	}
	if s.proven.off != f.synced {
		return s.corrupt(f.off, "frame's synced offset is not between two frames")
	}
	if len(s.unproven) > maxUnprovenFrames {
		return s.corrupt(f.off, "too many frames without a sync between them")
	}
	for len(s.tail) > 0 && s.tail[0].off < s.proven.off {
		s.tail = s.tail[1:]
	}
	return nil
}

func (s *segmentScan) take(f *frame) error {
	switch f.kind {
	case kindEntries:
		if uint64(f.count) > math.MaxUint64-uint64(s.at.next) {
			return s.corrupt(f.off, "frame runs past the last possible index")
		}
		s.points = addPoint(s.points, f.first, f.off)
		s.tail = append(s.tail, point{f.first, f.off})
		s.entries += int64(f.count)
		s.at.next += Index(f.count)
	case kindSeal:
		s.ended = true
		if string(f.payload) != string(appendTable(nil, s.points)) {
			return s.corrupt(f.off, "offset table does not fit the segment")
		}
	case kindTruncate:
		s.ended = true
		reset := f.flags&flagReset != 0
		if !reset && f.first > s.at.next {
			return s.corrupt(f.off, fmt.Sprintf("truncation to entry %d, but the log ends at %d", f.first, s.at.next-1))
		}
		s.truncate = &truncation{off: f.off, before: s.at.next, next: f.first, reset: reset}
		s.at.next = f.first
	}
	return nil
}

// addPoint is the rule by which the writer and every reader build the same offset table.
func addPoint(points []point, first Index, off int64) []point {
	if n := len(points); n > 0 && off-points[n-1].off < pointBytes {
		return points
	}
	return append(points, point{first, off})
}

const tablePointBytes = 16

// appendTable encodes an offset table: per point, u64 index and u64 offset.
func appendTable(dst []byte, points []point) []byte {
	for _, p := range points {
		dst = binary.LittleEndian.AppendUint64(dst, uint64(p.first))
		dst = binary.LittleEndian.AppendUint64(dst, uint64(p.off))
	}
	return dst
}

// endReserveBytes is kept free at the end of a segment: for the seal with its offset table, a
// truncation, and a mark.
func endReserveBytes(segmentBytes int64) int64 {
	points := segmentBytes/pointBytes + 1
	return frameBytes(int(points*tablePointBytes)) + 2*frameHeaderBytes
}

// roomBytes is what a segment of that size has for frames of entries.
func roomBytes(segmentBytes int64) int64 {
	return segmentBytes - headerBytes - endReserveBytes(segmentBytes)
}
