package wal

import (
	"encoding/binary"
	"hash/crc32"
)

// frameKind says what a frame is for.
type frameKind uint8

const (
	kindEntries  frameKind = 1 // entries: one group commit
	kindTruncate frameKind = 2 // the log's next index is now this frame's first index; ends the segment
	kindSeal     frameKind = 3 // the segment is complete; payload is its offset table; ends the segment
	kindMark     frameKind = 4 // no entries; says that what lies before it is synced
)

// flagReset, on a truncation: every entry before it is gone, also those below the new next index.
const flagReset uint16 = 1

const (
	frameHeaderBytes = 40
	frameAlignBytes  = 8

	// maxFrameBytes bounds a frame's payload, stored and uncompressed, in the format itself: no reader
	// allocates more than this for a frame, whatever the header says.
	maxFrameBytes = 64 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// frameSeed is where the checksum of every frame of a segment starts. For one salt different numbers
// give different seeds, and a CRC is a bijection of its seed: so a frame left over from an earlier
// life of the file never verifies under the new number, which is certain and not merely likely. The
// salt is random and secret: without it, a payload could carry the image of a valid frame, and a
// power cut at the right moment would make recovery refuse because of it.
func frameSeed(salt uint64, number uint32) uint32 {
	var b [12]byte
	binary.LittleEndian.PutUint64(b[:8], salt)
	binary.LittleEndian.PutUint32(b[8:], number)
	return crc32.Checksum(b[:], castagnoli)
}

// frameHeader is a frame's first 40 bytes, little-endian:
//
//	 0  u32 CRC32C over bytes 4.. of the header and the payload, seeded by frameSeed
//	 4  u32 stored payload length
//	 8  u64 first index: of the first entry, or the next index where there is none
//	16  u32 entry count
//	20  u32 uncompressed payload length
//	24  u64 synced offset: everything before it was synced when the frame was built
//	32  u8  kind
//	33  u8  codec
//	34  u16 flags
//	36  u32 CRC of the frame before it, or of the segment header
type frameHeader struct {
	crc         uint32
	storedBytes uint32
	first       Index
	count       uint32
	rawBytes    uint32
	synced      int64
	kind        frameKind
	codec       codec
	flags       uint16
	previous    uint32
}

func (h *frameHeader) put(b []byte) {
	le := binary.LittleEndian
	le.PutUint32(b[4:], h.storedBytes)
	le.PutUint64(b[8:], uint64(h.first))
	le.PutUint32(b[16:], h.count)
	le.PutUint32(b[20:], h.rawBytes)
	le.PutUint64(b[24:], uint64(h.synced))
	b[32] = byte(h.kind)
	b[33] = byte(h.codec)
	le.PutUint16(b[34:], h.flags)
	le.PutUint32(b[36:], h.previous)
}

func parseFrameHeader(b []byte) frameHeader {
	le := binary.LittleEndian
	return frameHeader{
		crc:         le.Uint32(b),
		storedBytes: le.Uint32(b[4:]),
		first:       Index(le.Uint64(b[8:])),
		count:       le.Uint32(b[16:]),
		rawBytes:    le.Uint32(b[20:]),
		synced:      int64(le.Uint64(b[24:])),
		kind:        frameKind(b[32]),
		codec:       codec(b[33]),
		flags:       le.Uint16(b[34:]),
		previous:    le.Uint32(b[36:]),
	}
}

// finishFrame completes a frame whose payload already lies in b after room for the header: it fills
// in the stored length, writes header and checksum, and pads with zeros. It returns the bytes to write
// and the frame's checksum.
func finishFrame(b []byte, h *frameHeader, seed uint32) ([]byte, uint32) {
	h.storedBytes = uint32(len(b) - frameHeaderBytes)
	h.put(b)
	h.crc = crc32.Update(seed, castagnoli, b[4:])
	binary.LittleEndian.PutUint32(b, h.crc)
	for len(b)%frameAlignBytes != 0 {
		b = append(b, 0)
	}
	return b, h.crc
}

// plausible tells why a header cannot belong to a frame at off in a segment of size bytes, before its
// checksum is looked at; "" if it can. It is what keeps a damaged length from being believed.
func (h *frameHeader) plausible(off, size int64) string {
	switch {
	case h.kind < kindEntries || h.kind > kindMark:
		return "no frame here"
	case h.storedBytes > maxFrameBytes || off+frameHeaderBytes+int64(h.storedBytes) > size:
		return "frame is longer than the segment"
	case h.rawBytes > maxFrameBytes:
		return "frame's payload is longer than the format allows"
	case h.synced < headerBytes || h.synced > off || h.synced%frameAlignBytes != 0:
		return "frame's synced offset is impossible"
	case (h.kind == kindEntries) != (h.count > 0):
		return "frame's entry count does not fit its kind"
	case h.first == 0:
		return "frame has no index"
	}
	return ""
}

// frameBytes is what a frame with a payload of n bytes takes in the segment.
func frameBytes(n int) int64 {
	return (frameHeaderBytes + int64(n) + frameAlignBytes - 1) &^ (frameAlignBytes - 1)
}
