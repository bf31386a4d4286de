package wal

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// windowBytes is how much a frameReader reads ahead: large enough for the disk, small enough for a
// segment's scan to stay in the cache.
const windowBytes = 256 << 10

// A frameReader reads one segment file front to back through one window of memory. The window grows
// to the largest frame met, which is bounded by the file and by maxFrameBytes.
type frameReader struct {
	file   vfs.File
	size   int64
	seed   uint32
	base   int64 // file offset of window[0]
	window []byte
	ahead  int // read at least this much at a time; 0: windowBytes
}

func openFrameReader(fs vfs.FS, path string) (*frameReader, error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &frameReader{file: f, size: info.Size()}, nil
}

func (r *frameReader) close() error { return r.file.Close() }

// header reads and checks the segment's first page, and sets the seed by it.
func (r *frameReader) header() (segmentHeader, error) {
	if r.size < headerBytes {
		return segmentHeader{}, fmt.Errorf("%w: file has %d bytes", errPage, r.size)
	}
	b, err := r.view(0, headerBytes)
	if err != nil {
		return segmentHeader{}, err
	}
	h, err := parseSegmentHeader(b)
	if err == nil {
		r.seed = frameSeed(h.salt, h.number)
	}
	return h, err
}

// view gives n bytes at off, which must lie within the file. They are valid until the next view.
func (r *frameReader) view(off int64, n int) ([]byte, error) {
	if off < r.base || off+int64(n) > r.base+int64(len(r.window)) {
		if err := r.fill(off, n); err != nil {
			return nil, err
		}
	}
	at := off - r.base
	return r.window[at : at+int64(n) : at+int64(n)], nil
}

func (r *frameReader) fill(off int64, n int) error {
	ahead := windowBytes
	if r.ahead > 0 {
		ahead = r.ahead
	}
	want := int(min(int64(max(n, ahead)), r.size-off))
	if want < n {
		return fmt.Errorf("read %d bytes at %d: %w", n, off, io.ErrUnexpectedEOF)
	}
	if cap(r.window) < want {
		r.window = make([]byte, want)
	}
	r.base, r.window = off, r.window[:want]
	got, err := r.file.ReadAt(r.window, off)
	if got == want {
		return nil
	}
	r.window = r.window[:0]
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at %d: %w", want, off, err)
}

// A frame is one as it lies in the file. The payload is valid until the reader moves on.
type frame struct {
	frameHeader
	off     int64
	payload []byte
}

func (f *frame) end() int64 { return f.off + frameBytes(len(f.payload)) }

// frameAt reads the frame at off and verifies it by itself; how it fits to its neighbours is for the
// caller. A non-empty bad says why there is no valid frame; err is for reads that failed.
func (r *frameReader) frameAt(off int64) (f frame, bad string, err error) {
	if off+frameHeaderBytes > r.size {
		return frame{}, "segment ends within a frame header", nil
	}
	b, err := r.view(off, frameHeaderBytes)
	if err != nil {
		return frame{}, "", err
	}
	h := parseFrameHeader(b)
	if bad := h.plausible(off, r.size); bad != "" {
		return frame{}, bad, nil
	}
	b, err = r.view(off, frameHeaderBytes+int(h.storedBytes))
	if err != nil {
		return frame{}, "", err
	}
	if crc32.Update(r.seed, castagnoli, b[4:]) != h.crc {
		return frame{}, "frame checksum does not fit", nil
	}
	return frame{frameHeader: h, off: off, payload: b[frameHeaderBytes:]}, "", nil
}

// lookAhead searches from off to the end of the file for a valid frame that promises that more than
// bad bytes were synced: then what was found damaged at bad had been acknowledged. Indexes below next
// cannot be in such a frame; to ask for that before its checksum keeps the search short in a recycled
// file full of old frames, or in a payload made to look like them.
func (r *frameReader) lookAhead(off, bad int64, next Index) (at int64, found bool, err error) {
	const stepBytes = 64 << 10
	for ; off+frameHeaderBytes <= r.size; off += stepBytes {
		b, err := r.view(off, int(min(stepBytes+frameHeaderBytes, r.size-off)))
		if err != nil {
			return 0, false, err
		}
		for i := 0; i+frameHeaderBytes <= len(b) && i < stepBytes; i += frameAlignBytes {
			// Zeros, which are most of what is here, end at the kind.
			if k := frameKind(b[i+32]); k < kindEntries || k > kindMark || !mayProve(b[i:], off+int64(i), r.size, bad, next) {
				continue
			}
			_, wrong, err := r.frameAt(off + int64(i))
			if err != nil {
				return 0, false, err
			}
			if wrong == "" {
				return off + int64(i), true, nil
			}
			if b, err = r.view(off, len(b)); err != nil { // frameAt may have moved the window
				return 0, false, err
			}
		}
	}
	return 0, false, nil
}

// mayProve tells whether the header at b is worth a checksum in lookAhead.
func mayProve(b []byte, off, size, bad int64, next Index) bool {
	const indexSpan = 1 << 32 // more entries than a segment can hold
	h := parseFrameHeader(b)
	if h.synced <= bad || h.plausible(off, size) != "" {
		return false
	}
	return h.kind == kindTruncate || h.first >= next && h.first-next <= indexSpan
}
