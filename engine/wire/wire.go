// Package wire is the byte encoding that the engine's records and commands
// are made of: unsigned and zigzag varints, fixed 64-bit big-endian numbers,
// single bytes, and byte strings with a uvarint length before them.
//
// Appending is plain append-style functions. Reading is a [Reader] that keeps
// the first error and from then on returns zero values, so that a decoder
// reads all its fields and looks at the error once, at the end. A Reader never
// panics, never allocates and never hands out more bytes than it was given:
// what it returns aliases its input.
package wire

import (
	"encoding/binary"
	"errors"
	"unsafe"
)

// ErrMalformed says that the bytes end too early or hold a number out of range.
var ErrMalformed = errors.New("wire: malformed bytes")

// AppendBytes appends b with its length.
func AppendBytes(dst, b []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

// AppendString appends s with its length.
func AppendString(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

// AppendBool appends 1 for true and 0 for false.
func AppendBool(dst []byte, v bool) []byte {
	if v {
		return append(dst, 1)
	}
	return append(dst, 0)
}

// A Reader takes fields off the front of a byte slice. Its zero value reads
// nothing; make one with [NewReader].
type Reader struct {
	b   []byte
	err error
}

// NewReader returns a reader of b. What the reader returns aliases b.
func NewReader(b []byte) Reader { return Reader{b: b} }

// Err is the first error, nil if every field was there.
func (r *Reader) Err() error { return r.err }

// Rest is what has not been read.
func (r *Reader) Rest() []byte { return r.b }

// Fail makes the reader fail, for a decoder that finds a value out of range.
func (r *Reader) Fail() {
	if r.err == nil {
		r.err, r.b = ErrMalformed, nil
	}
}

// Uvarint reads an unsigned varint.
func (r *Reader) Uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.Fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

// Int reads an unsigned varint that must not be above most.
func (r *Reader) Int(most int) int {
	v := r.Uvarint()
	if v > uint64(most) {
		r.Fail()
		return 0
	}
	return int(v)
}

// Varint reads a zigzag varint.
func (r *Reader) Varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.Fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

// Uint64 reads eight bytes, big-endian.
func (r *Reader) Uint64() uint64 {
	b := r.Fixed(8)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

// Uint32 reads four bytes, big-endian.
func (r *Reader) Uint32() uint32 {
	b := r.Fixed(4)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// Byte reads one byte.
func (r *Reader) Byte() byte {
	b := r.Fixed(1)
	if b == nil {
		return 0
	}
	return b[0]
}

// Bool reads one byte that must be 0 or 1.
func (r *Reader) Bool() bool {
	v := r.Byte()
	if v > 1 {
		r.Fail()
	}
	return v == 1
}

// Fixed reads n bytes; nil when they are not there.
func (r *Reader) Fixed(n int) []byte {
	if len(r.b) < n {
		r.Fail()
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

// Bytes reads a byte string; nil for an empty one.
func (r *Reader) Bytes() []byte {
	n := r.Uvarint()
	if n > uint64(len(r.b)) {
		r.Fail()
		return nil
	}
	if n == 0 {
		return nil
	}
	return r.Fixed(int(n))
}

// String reads a byte string as a string. It aliases the input, which must
// therefore never change: the engine's records and commands are immutable
// once encoded.
func (r *Reader) String() string {
	b := r.Bytes()
	if len(b) == 0 {
		return ""
	}
	return unsafe.String(&b[0], len(b))
}
