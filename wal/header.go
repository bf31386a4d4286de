package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"time"
)

const (
	// headerBytes is the size of a segment's header page and the offset of its first frame.
	headerBytes   = 4096
	formatVersion = 1

	segmentMagic  = "harewal\n"
	segmentSuffix = ".wal"
	spareSuffix   = ".spare"
	metaName      = "meta"
	lockName      = "LOCK"
	tempSuffix    = ".tmp"
	failedSuffix  = ".FAILED"
)

// segmentHeader is a segment's first page, little-endian. The rest of the page is zero.
//
//	   0  magic "harewal\n"
//	   8  u32 format version
//	  12  u32 segment number, from 1
//	  16  u64 first index: of the next entry when the segment began
//	  24  16 bytes identity
//	  40  u64 salt of the checksums
//	  48  u32 number of the segment before, 0 for the first of all
//	  52  u32 CRC of that segment's last frame
//	  56  u64 offset at which that segment ends: frames there and beyond are void
//	  64  u32 dictionary id, 0
//	  68  u32 0
//	  72  i64 created, nanoseconds of Unix time; for people, nothing depends on it
//	4092  u32 CRC32C over the page before it
type segmentHeader struct {
	version     uint32
	number      uint32
	first       Index
	identity    [16]byte
	salt        uint64
	previous    uint32
	previousCRC uint32
	previousEnd int64
	dictionary  uint32
	created     time.Time
	crc         uint32
}

// encode fills the page and notes its checksum, which the first frame refers to.
func (h *segmentHeader) encode(b []byte) {
	clear(b[:headerBytes])
	le := binary.LittleEndian
	copy(b, segmentMagic)
	le.PutUint32(b[8:], h.version)
	le.PutUint32(b[12:], h.number)
	le.PutUint64(b[16:], uint64(h.first))
	copy(b[24:], h.identity[:])
	le.PutUint64(b[40:], h.salt)
	le.PutUint32(b[48:], h.previous)
	le.PutUint32(b[52:], h.previousCRC)
	le.PutUint64(b[56:], uint64(h.previousEnd))
	le.PutUint32(b[64:], h.dictionary)
	le.PutUint64(b[72:], uint64(h.created.UnixNano()))
	h.crc = putPageCRC(b)
}

func parseSegmentHeader(b []byte) (segmentHeader, error) {
	le := binary.LittleEndian
	if err := checkPage(b, segmentMagic); err != nil {
		return segmentHeader{}, err
	}
	h := segmentHeader{
		version:     le.Uint32(b[8:]),
		number:      le.Uint32(b[12:]),
		first:       Index(le.Uint64(b[16:])),
		salt:        le.Uint64(b[40:]),
		previous:    le.Uint32(b[48:]),
		previousCRC: le.Uint32(b[52:]),
		previousEnd: int64(le.Uint64(b[56:])),
		dictionary:  le.Uint32(b[64:]),
		created:     time.Unix(0, int64(le.Uint64(b[72:]))),
		crc:         le.Uint32(b[headerBytes-4:]),
	}
	copy(h.identity[:], b[24:40])
	return h, nil
}

func (h *segmentHeader) fileName() string {
	return fmt.Sprintf("%020d-%08x%s", uint64(h.first), h.number, segmentSuffix)
}

// parseSegmentName is strict: what it accepts is exactly what fileName writes.
func parseSegmentName(name string) (first Index, number uint32, ok bool) {
	stem, found := strings.CutSuffix(name, segmentSuffix)
	if !found || len(stem) != 29 {
		return 0, 0, false
	}
	f, err1 := strconv.ParseUint(stem[:20], 10, 64)
	n, err2 := strconv.ParseUint(stem[21:], 16, 32)
	if err1 != nil || err2 != nil || f == 0 || n == 0 {
		return 0, 0, false
	}
	h := segmentHeader{first: Index(f), number: uint32(n)}
	return h.first, h.number, h.fileName() == name
}

// A page (segment header or meta slot) ends with a CRC32C of what comes before it. Later formats keep
// magic, version and checksum where they are, so that an old program can tell "newer" from "damaged".
func putPageCRC(b []byte) uint32 {
	crc := crc32.Checksum(b[:headerBytes-4], castagnoli)
	binary.LittleEndian.PutUint32(b[headerBytes-4:], crc)
	return crc
}

var errPage = errors.New("header page")

func checkPage(b []byte, magic string) error {
	le := binary.LittleEndian
	if len(b) < headerBytes {
		return fmt.Errorf("%w: it is short", errPage)
	}
	if crc32.Checksum(b[:headerBytes-4], castagnoli) != le.Uint32(b[headerBytes-4:]) {
		return fmt.Errorf("%w: its checksum does not fit", errPage)
	}
	if string(b[:8]) != magic {
		return fmt.Errorf("%w: it is of another kind", errPage)
	}
	if v := le.Uint32(b[8:]); v != formatVersion {
		return fmt.Errorf("%w: %w: version %d, known is %d", errPage, ErrVersion, v, formatVersion)
	}
	return nil
}
