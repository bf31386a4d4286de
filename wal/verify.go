package wal

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A Report is what Verify found.
type Report struct {
	Identity  [16]byte
	Segments  []SegmentReport
	Frames    int64
	Entries   int64 // as stored, also those that a truncation cut
	First     Index // oldest live entry, 0 when there is none
	Last      Index // last one, the unproven tail included; 0 when there is none
	TornTail  bool  // an unfinished write follows the last frame; Open will drop it
	Unproven  int64 // entries of the last write, which Open will copy to a new segment
	Failure   string
	Leftovers []string // files that Open will remove
	Findings  []error  // what is wrong, most often *CorruptionError; none means that Open accepts the directory
}

// A SegmentReport describes one file of the log.
type SegmentReport struct {
	Number  uint32
	Name    string
	First   Index // live entries; Last < First when there are none
	Last    Index
	Frames  int64
	Entries int64
	Bytes   int64 // of the file
	Used    int64 // of that, header and frames
}

// Verify reads a log that nobody has open, decodes every entry, and changes nothing. fs may be nil for
// the operating system's. Damage is in the report; the error is for a directory that cannot be read, or
// is in use (ErrLocked).
func Verify(fs vfs.FS, dir string) (Report, error) {
	if fs == nil {
		fs = vfs.Default
	}
	d := directory{fs: fs, dir: dir}
	if !exists(fs, dir) {
		return Report{}, fmt.Errorf("wal: %s does not exist", dir)
	}
	// Where there never was a log there is no lock file either, and none is made.
	if exists(fs, d.path(lockName)) {
		lock, err := lockDirectory(d)
		if err != nil {
			return Report{}, err
		}
		r, err := verify(d)
		return r, errors.Join(err, lock.Close())
	}
	return verify(d)
}

func verify(d directory) (Report, error) {
	v := verifier{perSegment: map[uint32]*SegmentReport{}}
	p := &inspection{d: d, collect: true, visit: v.visit}
	if err := p.run(); err != nil {
		return Report{}, err
	}
	r := Report{Identity: p.meta.identity, Frames: p.frames, Entries: p.entries, Findings: p.findings, Failure: readNote(d), Leftovers: p.garbage()}
	for _, s := range p.segments {
		g := v.of(s.number)
		g.Name, g.First, g.Last, g.Bytes, g.Used = s.name, s.start, s.last, s.bytes, s.end
		r.Segments = append(r.Segments, *g)
		if r.First == 0 && !s.empty() {
			r.First = s.start
		}
	}
	if p.last != nil {
		r.TornTail = p.last.torn
		r.Unproven = int64(p.last.end()) - int64(p.last.proven.next)
		if r.First == 0 && r.Unproven > 0 {
			r.First = p.last.proven.next
		}
		if r.First > 0 {
			r.Last = p.next() - 1
		}
	}
	return r, nil
}

// A verifier decodes what an Open only checksums.
type verifier struct {
	d          decoder
	perSegment map[uint32]*SegmentReport
}

func (v *verifier) of(number uint32) *SegmentReport {
	if v.perSegment[number] == nil {
		v.perSegment[number] = &SegmentReport{Number: number}
	}
	return v.perSegment[number]
}

func (v *verifier) visit(s *segmentScan, f *frame) error {
	g := v.of(s.number)
	g.Frames++
	g.Entries += int64(f.count)
	if f.kind != kindEntries {
		return nil
	}
	next := f.first
	all := source{first: f.first, last: f.first + Index(f.count) - 1}
	bad, err := v.d.frame(f, &all, &next, func(Entry) error { return nil })
	if err == nil && bad != "" {
		err = s.corrupt(f.off, bad)
	}
	return err
}
