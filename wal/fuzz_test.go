package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// mend gives every frame of a damaged segment the checksums that its bytes ask for, so that the fuzzer
// gets past the first check, as a bug of ours would.
func mend(b []byte, h segmentHeader) {
	seed, previous := frameSeed(h.salt, h.number), h.crc
	for off := headerBytes; off+frameHeaderBytes <= len(b); {
		f := parseFrameHeader(b[off:])
		end := off + frameHeaderBytes + int(f.storedBytes)
		if f.storedBytes > maxFrameBytes || end > len(b) {
			return
		}
		binary.LittleEndian.PutUint32(b[off+36:], previous)
		previous = crc32.Update(seed, castagnoli, b[off+4:end])
		binary.LittleEndian.PutUint32(b[off:], previous)
		off += int(frameBytes(int(f.storedBytes)))
	}
}

// FuzzSegment reads arbitrary bytes as the newest segment: no panic, no memory beyond the file's size
// and the format's bound, and whatever is accepted makes sense.
func FuzzSegment(f *testing.F) {
	built, _, _ := builtLogOf(f, rand.New(rand.NewPCG(3, 3)), 40)
	for _, name := range built.segments() {
		f.Add(built[name][headerBytes:5000], true)
		f.Add(built[name][headerBytes:4600], false)
	}
	h := segmentHeader{version: formatVersion, number: 1, first: 1}
	page := make([]byte, headerBytes)
	h.encode(page)
	f.Fuzz(func(t *testing.T, frames []byte, mended bool) {
		if len(frames) > 1<<20 {
			return
		}
		b := append(bytes.Clone(page), frames...)
		if mended {
			mend(b, h)
		}
		r := &frameReader{file: vfs.NewMemFile(b), size: int64(len(b))}
		read, err := r.header()
		if err != nil {
			t.Fatal(err)
		}
		s := newSegmentScan(r, &read)
		v := verifier{perSegment: map[uint32]*SegmentReport{}}
		s.visit = func(f *frame) error { return v.visit(s, f) }
		err = s.newest()
		var damage *CorruptionError
		if err != nil && !errors.As(err, &damage) {
			t.Fatalf("neither taken nor refused as damaged: %v", err)
		}
		if damage != nil && (damage.Offset < headerBytes || damage.Offset > int64(len(b))) {
			t.Fatalf("damage outside the file: %v", damage)
		}
		if s.proven.off > s.at.off || s.at.off > int64(len(b))+frameAlignBytes {
			t.Fatalf("proven to %d, read to %d of %d", s.proven.off, s.at.off, len(b))
		}
		if cap(r.window) > max(len(b), windowBytes) || cap(v.d.scratch) > maxFrameBytes+maxFrameBytes/4 {
			t.Fatalf("window of %d, scratch of %d for a file of %d", cap(r.window), cap(v.d.scratch), len(b))
		}
	})
}

// FuzzOpen damages the newest segment and meta of a real log: Open takes it or refuses it, a second Open
// of what was taken gives the same, and Verify agrees.
func FuzzOpen(f *testing.F) {
	built, _, o := builtLogOf(f, rand.New(rand.NewPCG(4, 4)), 40)
	names := built.segments()
	newest := names[len(names)-1]
	f.Add(built[newest][headerBytes:5000], built[metaName][:headerBytes], false)
	f.Add(built[newest][headerBytes:4500], built[metaName][:200], true)
	f.Add([]byte{}, []byte{}, true)
	f.Fuzz(func(t *testing.T, frames, meta []byte, mended bool) {
		if len(frames) > 64<<10 || len(meta) > 2*headerBytes {
			return
		}
		m := built.clone()
		copy(m[metaName], meta)
		h, err := parseSegmentHeader(m[newest][:headerBytes])
		if err != nil {
			t.Fatal(err)
		}
		m[newest] = append(m[newest][:headerBytes:headerBytes], frames...)
		if mended {
			mend(m[newest], h)
		}
		disk := m.disk(t)
		report, err := Verify(disk, testDir)
		if err != nil {
			t.Fatal(err)
		}
		got, err := recovered(disk, o)
		if err != nil {
			var damage *CorruptionError
			if !errors.As(err, &damage) && !errors.Is(err, ErrVersion) && !errors.Is(err, ErrIdentity) {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		if len(report.Findings) > 0 {
			t.Fatalf("opened, although Verify found %v", report.Findings)
		}
		again, err := recovered(disk, o)
		if err == nil {
			err = prefixOf(again, got, len(got))
		}
		if err != nil {
			t.Fatalf("the second Open gave something else: %v", err)
		}
	})
}

// FuzzEntries decodes arbitrary bytes as a frame's entries: no panic, and what is decoded and encoded
// again decodes to the same.
func FuzzEntries(f *testing.F) {
	b := appendEntry(nil, &Entry{Term: 5, Type: 2, Ext: []byte("ext"), Data: []byte("data")}, 0)
	f.Add(appendEntry(b, &Entry{Term: 4, Data: bytes.Repeat([]byte("x"), 300)}, 5))
	f.Fuzz(func(t *testing.T, b []byte) {
		var entries []Entry
		d := entryDecoder{rest: b, next: 1}
		for !d.done() {
			e, err := d.entry()
			if err != nil {
				break
			}
			entries = append(entries, e)
		}
		var again []byte
		var term uint64
		for i := range entries {
			again = appendEntry(again, &entries[i], term)
			term = entries[i].Term
		}
		d = entryDecoder{rest: again, next: 1}
		for _, want := range entries {
			e, err := d.entry()
			if err != nil || !sameEntry(e, want) {
				t.Fatalf("entry %d came back as %v, %v", want.Index, e, err)
			}
		}
	})
}
