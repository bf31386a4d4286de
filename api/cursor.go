package api

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"

	"github.com/harepost/harepost/engine"
)

// A cursor is where the next page of a list begins: the id of the last
// delivery seen, with a checksum, so that a cut or mistyped one is refused
// instead of read as another place. Its bytes, before base64url:
//
//	0  version, 1
//	1  delivery id
//	17 CRC-32C of the bytes before, little endian
//	21
//
// It holds nothing of the filter: it is a place among the account's
// deliveries, whatever is looked for from there on.
const (
	cursorVersion = 1
	cursorBytes   = 1 + len(engine.DeliveryID{}) + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendCursor(b []byte, id engine.DeliveryID) []byte {
	var raw [cursorBytes]byte
	raw[0] = cursorVersion
	copy(raw[1:], id[:])
	binary.LittleEndian.PutUint32(raw[17:], crc32.Checksum(raw[:17], castagnoli))
	return base64.RawURLEncoding.AppendEncode(b, raw[:])
}

func parseCursor(s string) (id engine.DeliveryID, ok bool) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(raw) != cursorBytes || raw[0] != cursorVersion ||
		binary.LittleEndian.Uint32(raw[17:]) != crc32.Checksum(raw[:17], castagnoli) {
		return id, false
	}
	copy(id[:], raw[1:])
	return id, true
}
