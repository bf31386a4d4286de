package delivery

import (
	"encoding/base32"
	"encoding/binary"
	"errors"
	"time"
)

// An ID identifies a delivery. The first 48 bits are the time of acceptance in
// Unix milliseconds, the next 16 count within the millisecond, the last 64 are
// random; so ids sort by time. Those of one process differ in the first half
// already, unless its clock is set back.
//
// Its text form, the public queue_id, is "hr_" and 26 characters of lower-case
// Crockford base32.
type ID [16]byte

// ErrInvalidID says that a text is not the form of an id.
var ErrInvalidID = errors.New("invalid delivery id")

const (
	idPrefix = "hr_"
	idChars  = 26 // 5 bits each

	// alphabet is that of ULIDs in lower case: it sorts as the bytes do and has
	// no letter that reads like a digit.
	alphabet = "0123456789abcdefghjkmnpqrstvwxyz"
)

// crockford reads what Append writes.
var crockford = base32.NewEncoding(alphabet).WithPadding(base32.NoPadding)

// MakeID joins a sequence number, see [Sequence], and random bits.
func MakeID(sequence, random uint64) ID {
	var id ID
	binary.BigEndian.PutUint64(id[:8], sequence)
	binary.BigEndian.PutUint64(id[8:], random)
	return id
}

// Sequence is the first half of an id whose time is t: the smallest one of
// that millisecond. Times before 1970 or after the year 10889 are clamped.
func Sequence(t time.Time) uint64 {
	ms := min(max(t.UnixMilli(), 0), 1<<48-1)
	return uint64(ms) << 16
}

// FirstID is the smallest id of time t; ids made before t are all below it.
func FirstID(t time.Time) ID { return MakeID(Sequence(t), 0) }

// Sequence is the first half of the id.
func (id ID) Sequence() uint64 { return binary.BigEndian.Uint64(id[:8]) }

// UnixMilli is the time of acceptance in milliseconds.
func (id ID) UnixMilli() int64 { return int64(id.Sequence() >> 16) }

// Time is the time of acceptance.
func (id ID) Time() time.Time { return time.UnixMilli(id.UnixMilli()).UTC() }

// IsZero reports whether the id is no id.
func (id ID) IsZero() bool { return id == ID{} }

// String is the public form.
func (id ID) String() string {
	var text [len(idPrefix) + idChars]byte
	return string(id.Append(text[:0]))
}

// Append appends the public form to dst.
func (id ID) Append(dst []byte) []byte {
	// By hand: every answer and every attempt has one, and the encoder of
	// encoding/base32 allocates.
	hi, lo := binary.BigEndian.Uint64(id[:8]), binary.BigEndian.Uint64(id[8:])
	var text [idChars]byte
	text[idChars-1] = alphabet[lo&7<<2] // the last three bits
	hi, lo = hi>>3, lo>>3|hi<<61
	for i := idChars - 2; i >= 0; i-- {
		text[i] = alphabet[lo&31]
		hi, lo = hi>>5, lo>>5|hi<<59
	}
	dst = append(dst, idPrefix...)
	return append(dst, text[:]...)
}

// ParseID reads the public form. The error is [ErrInvalidID].
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != len(idPrefix)+crockford.EncodedLen(len(id)) || s[:len(idPrefix)] != idPrefix {
		return ID{}, ErrInvalidID
	}
	if n, err := crockford.Decode(id[:], []byte(s[len(idPrefix):])); err != nil || n != len(id) {
		return ID{}, ErrInvalidID
	}
	// 26 characters hold 130 bits: a text whose last two bits are not zero is
	// a second spelling of the same id, and not one that we ever gave out.
	if id.String() != s {
		return ID{}, ErrInvalidID
	}
	return id, nil
}
