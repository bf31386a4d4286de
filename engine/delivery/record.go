package delivery

import (
	"encoding/binary"
	"hash/crc32"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/harepost/harepost/engine/seal"
	"github.com/harepost/harepost/engine/wire"
)

// Backoff is how the ceiling of the delay grows from attempt to attempt.
type Backoff uint8

// The two forms of backoff.
const (
	Exponential Backoff = iota
	Fixed
)

// Jitter is how the delay is drawn below its ceiling.
type Jitter uint8

// The two forms of jitter.
const (
	FullJitter Jitter = iota // uniform in [0, ceiling]
	NoJitter                 // exactly the ceiling
)

// A Policy says how often, how fast and how patiently to try.
type Policy struct {
	MaxAttempts       int // the first included
	Backoff           Backoff
	Jitter            Jitter
	BaseDelay         time.Duration // whole milliseconds
	MaxDelay          time.Duration // whole milliseconds; caps both forms of backoff
	Timeout           time.Duration // of one attempt, whole milliseconds
	RespectRetryAfter bool
}

// A Header is one header field, as the caller wrote it.
type Header struct{ Name, Value string }

// A Target is a destination URL in the parts in which it goes out. It is
// parsed once, by the API; no other parser ever sees the URL.
type Target struct {
	URL    string // as the caller gave it, for display
	Scheme string // "https" or "http"
	Host   string // ASCII, lower case, no trailing dot, no port; an IPv6 literal without brackets
	Port   uint16 // explicit, or the scheme's
	URI    string // path and query as they go on the wire; begins with "/"
}

// Destination is a hash of scheme, host and port. Two destinations of one
// account that collide share a lane, which costs them isolation from each
// other and nothing else: every delivery still goes to its own target.
func (t *Target) Destination() uint64 {
	var buf [96]byte // of most hosts; a longer one allocates
	b := append(buf[:0], t.Scheme...)
	b = append(b, '/')
	b = append(b, t.Host...)
	b = binary.BigEndian.AppendUint16(append(b, '/'), t.Port)
	return xxhash.Sum64(b)
}

// FlowDestination is the hash of a flow key. No target's Destination hashes the
// same text: a scheme has no NUL in it.
func FlowDestination(key string) uint64 {
	var d xxhash.Digest
	d.Reset()
	_, _ = d.WriteString("flow\x00")
	_, _ = d.WriteString(key)
	return d.Sum64()
}

// A Record is what a send asked for, as it was accepted. It does not change.
type Record struct {
	ID             ID
	Account        uint64
	NotBefore      int64 // Unix milliseconds; the first attempt is not before it
	ExpiresAt      int64 // Unix milliseconds, 0: never
	Method         string
	Target         Target
	Headers        []Header
	Policy         Policy
	Sign           bool
	IdempotencyKey string
	Metadata       []byte // raw JSON, nil: none
	Labels         []string
	BodyBytes      int
	BodyCRC        uint32 // CRC32C of the body as it is stored
	FlowKey        string // of the lane, if it is not the target's; empty: it is

	// OrderingKey is the key whose deliveries go out one after another, empty: none.
	// SkipFailed says that the others of the key do not wait if this one ends dead.
	OrderingKey string
	SkipFailed  bool

	// Sealed says that headers, body and what is kept of responses are
	// encrypted, see package seal. Headers is empty then until OpenHeaders.
	Sealed        bool
	SealedHeaders []byte
}

// Destination names the lane within the account: that of the flow key, or of the
// target.
func (r *Record) Destination() uint64 {
	if r.FlowKey != "" {
		return FlowDestination(r.FlowKey)
	}
	return r.Target.Destination()
}

// StoredBodyBytes is the length of the body as it is stored.
func (r *Record) StoredBodyBytes() int {
	if r.Sealed && r.BodyBytes > 0 {
		return r.BodyBytes + seal.Overhead
	}
	return r.BodyBytes
}

// SealHeaders replaces the headers by sealed ones.
func (r *Record) SealHeaders(d seal.Delivery) {
	r.Sealed = true
	if len(r.Headers) > 0 {
		r.SealedHeaders = d.Seal(seal.Headers, appendHeaders(nil, r.Headers))
	}
	r.Headers = nil
}

// OpenHeaders puts the headers back that SealHeaders took.
func (r *Record) OpenHeaders(d seal.Delivery) error {
	plain, err := d.Open(seal.Headers, r.SealedHeaders)
	if err != nil || len(plain) == 0 {
		return err
	}
	in := wire.NewReader(plain)
	r.Headers = readHeaders(&in, r.Headers[:0])
	if len(in.Rest()) > 0 {
		in.Fail()
	}
	return in.Err()
}

const (
	recordVersion = 1
	sealedVersion = 2 // the same with SealedHeaders, a string, for the headers

	mostHeaders = 1 << 10
	mostLabels  = 1 << 8
	mostBody    = 1 << 30
	mostMillis  = 1 << 50
)

// The flags of a record.
const (
	flagSign = 1 << iota
	flagRespectRetryAfter
	flagFixed
	flagNoJitter

	flagOrdered    = 1 << 6 // the ordering key is the last part, a string
	flagSkipFailed = 1 << 7
	flagFlow       = 1 << 5 // the flow key follows BodyCRC
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// BodyCRC is the checksum of a body that a record carries.
func BodyCRC(body []byte) uint32 { return crc32.Checksum(body, castagnoli) }

// AppendRecord appends the bytes of r.
func AppendRecord(dst []byte, r *Record) []byte {
	flags := byte(0)
	if r.Sign {
		flags |= flagSign
	}
	if r.Policy.RespectRetryAfter {
		flags |= flagRespectRetryAfter
	}
	if r.Policy.Backoff == Fixed {
		flags |= flagFixed
	}
	if r.Policy.Jitter == NoJitter {
		flags |= flagNoJitter
	}
	if r.OrderingKey != "" {
		flags |= flagOrdered
	}
	if r.SkipFailed {
		flags |= flagSkipFailed
	}
	if r.FlowKey != "" {
		flags |= flagFlow
	}
	version := byte(recordVersion)
	if r.Sealed {
		version = sealedVersion
	}
	dst = append(dst, version, flags)
	dst = append(dst, r.ID[:]...)
	dst = binary.BigEndian.AppendUint64(dst, r.Account)
	created := r.ID.UnixMilli()
	dst = binary.AppendUvarint(dst, uint64(max(r.NotBefore-created, 0)))
	expires := uint64(0)
	if r.ExpiresAt != 0 {
		expires = 1 + uint64(max(r.ExpiresAt-created, 0))
	}
	dst = binary.AppendUvarint(dst, expires)
	dst = wire.AppendString(dst, r.Method)
	dst = wire.AppendString(dst, r.Target.Scheme)
	dst = wire.AppendString(dst, r.Target.Host)
	dst = binary.AppendUvarint(dst, uint64(r.Target.Port))
	dst = wire.AppendString(dst, r.Target.URI)
	dst = wire.AppendString(dst, r.Target.URL)
	if r.Sealed {
		dst = wire.AppendBytes(dst, r.SealedHeaders)
	} else {
		dst = appendHeaders(dst, r.Headers)
	}
	dst = binary.AppendUvarint(dst, uint64(r.Policy.MaxAttempts))
	dst = binary.AppendUvarint(dst, uint64(r.Policy.BaseDelay.Milliseconds()))
	dst = binary.AppendUvarint(dst, uint64(r.Policy.MaxDelay.Milliseconds()))
	dst = binary.AppendUvarint(dst, uint64(r.Policy.Timeout.Milliseconds()))
	dst = wire.AppendString(dst, r.IdempotencyKey)
	dst = wire.AppendBytes(dst, r.Metadata)
	dst = binary.AppendUvarint(dst, uint64(len(r.Labels)))
	for _, l := range r.Labels {
		dst = wire.AppendString(dst, l)
	}
	dst = binary.AppendUvarint(dst, uint64(r.BodyBytes))
	dst = binary.BigEndian.AppendUint32(dst, r.BodyCRC)
	if r.FlowKey != "" {
		dst = wire.AppendString(dst, r.FlowKey)
	}
	if r.OrderingKey != "" {
		dst = wire.AppendString(dst, r.OrderingKey)
	}
	return dst
}

// ReadRecord takes a record off r into rec, whose Headers and Labels are
// reused if they have room. Strings and bytes of the record alias r's input.
func ReadRecord(r *wire.Reader, rec *Record) {
	version := r.Byte()
	if version != recordVersion && version != sealedVersion {
		r.Fail()
		return
	}
	rec.Sealed, rec.SealedHeaders = version == sealedVersion, nil
	flags := r.Byte()
	rec.Sign = flags&flagSign != 0
	rec.Policy.RespectRetryAfter = flags&flagRespectRetryAfter != 0
	rec.Policy.Backoff, rec.Policy.Jitter = Exponential, FullJitter
	if flags&flagFixed != 0 {
		rec.Policy.Backoff = Fixed
	}
	if flags&flagNoJitter != 0 {
		rec.Policy.Jitter = NoJitter
	}
	copy(rec.ID[:], r.Fixed(len(rec.ID)))
	rec.Account = r.Uint64()
	created := rec.ID.UnixMilli()
	rec.NotBefore = created + int64(r.Int(mostMillis))
	rec.ExpiresAt = 0
	if v := r.Int(mostMillis); v != 0 {
		rec.ExpiresAt = created + int64(v) - 1
	}
	rec.Method = r.String()
	rec.Target.Scheme = r.String()
	rec.Target.Host = r.String()
	rec.Target.Port = uint16(r.Int(1<<16 - 1))
	rec.Target.URI = r.String()
	rec.Target.URL = r.String()
	if rec.Headers = rec.Headers[:0]; rec.Sealed {
		rec.SealedHeaders = r.Bytes()
	} else {
		rec.Headers = readHeaders(r, rec.Headers)
	}
	rec.Policy.MaxAttempts = r.Int(1 << 20)
	rec.Policy.BaseDelay = readMillis(r)
	rec.Policy.MaxDelay = readMillis(r)
	rec.Policy.Timeout = readMillis(r)
	rec.IdempotencyKey = r.String()
	rec.Metadata = r.Bytes()
	rec.Labels = rec.Labels[:0]
	for n := r.Int(mostLabels); n > 0 && r.Err() == nil; n-- {
		rec.Labels = append(rec.Labels, r.String())
	}
	rec.BodyBytes = r.Int(mostBody)
	rec.BodyCRC = r.Uint32()
	if rec.FlowKey = ""; flags&flagFlow != 0 {
		rec.FlowKey = r.String()
	}
	rec.OrderingKey, rec.SkipFailed = "", flags&flagSkipFailed != 0
	if flags&flagOrdered != 0 {
		rec.OrderingKey = r.String()
	}
}

func appendHeaders(dst []byte, headers []Header) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(headers)))
	for _, h := range headers {
		dst = wire.AppendString(dst, h.Name)
		dst = wire.AppendString(dst, h.Value)
	}
	return dst
}

// readHeaders appends to headers what it reads.
func readHeaders(r *wire.Reader, headers []Header) []Header {
	for n := r.Int(mostHeaders); n > 0 && r.Err() == nil; n-- {
		headers = append(headers, Header{Name: r.String(), Value: r.String()})
	}
	return headers
}

// readMillis reads a duration of whole milliseconds, at most about 35 years.
func readMillis(r *wire.Reader) time.Duration {
	return time.Duration(r.Int(1<<40)) * time.Millisecond
}
