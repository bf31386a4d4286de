package delivery

import (
	"encoding/binary"
	"time"

	"github.com/harepost/harepost/engine/wire"
)

// A Timing says where the time of an attempt went. A phase that did not
// happen (a reused connection has no dial) is zero.
type Timing struct {
	DNS, Connect, TLS, FirstByte time.Duration
	Reused                       bool // an idle connection was reused
}

// An Attempt is the record of one attempt.
type Attempt struct {
	Number        int // from 1
	Outcome       Outcome
	HTTPStatus    int // 0: no response
	Latency       time.Duration
	Error         string // "code: text", empty on success
	StartedAt     time.Time
	CreatedAt     time.Time // when it ended
	NextAttemptAt time.Time // zero: no further attempt
	Timing        Timing
	RemoteIP      string
	ResponseBody  []byte // failures only
	BodyTruncated bool   // the response had more than ResponseBody holds
}

// AppendAttempt appends the bytes of a. Times are kept in milliseconds,
// durations in microseconds.
func AppendAttempt(dst []byte, a *Attempt) []byte {
	var buf [256]byte
	b := binary.AppendUvarint(buf[:0], uint64(a.Number))
	b = append(b, byte(a.Outcome))
	b = binary.AppendUvarint(b, uint64(a.HTTPStatus))
	b = binary.AppendVarint(b, a.StartedAt.UnixMilli())
	b = appendMicros(b, a.Latency)
	b = binary.AppendVarint(b, a.CreatedAt.UnixMilli())
	next := uint64(0)
	if !a.NextAttemptAt.IsZero() {
		next = 1 + uint64(max(a.NextAttemptAt.UnixMilli()-a.CreatedAt.UnixMilli(), 0))
	}
	b = binary.AppendUvarint(b, next)
	b = wire.AppendBool(b, a.Timing.Reused)
	b = appendMicros(b, a.Timing.DNS)
	b = appendMicros(b, a.Timing.Connect)
	b = appendMicros(b, a.Timing.TLS)
	b = appendMicros(b, a.Timing.FirstByte)
	b = wire.AppendString(b, a.Error)
	b = wire.AppendString(b, a.RemoteIP)
	b = wire.AppendBool(b, a.BodyTruncated)
	b = wire.AppendBytes(b, a.ResponseBody)
	return wire.AppendBytes(dst, b)
}

func appendMicros(dst []byte, d time.Duration) []byte {
	return binary.AppendUvarint(dst, uint64(max(d.Microseconds(), 0)))
}

// ReadAttempt takes an attempt off r. Strings and bytes alias r's input.
func ReadAttempt(r *wire.Reader) Attempt {
	in := wire.NewReader(r.Bytes())
	var a Attempt
	a.Number = in.Int(1 << 20)
	a.Outcome = Outcome(in.Byte())
	a.HTTPStatus = in.Int(1 << 16)
	a.StartedAt = time.UnixMilli(in.Varint()).UTC()
	a.Latency = readMicros(&in)
	ended := in.Varint()
	a.CreatedAt = time.UnixMilli(ended).UTC()
	if next := in.Int(mostMillis); next != 0 {
		a.NextAttemptAt = time.UnixMilli(ended + int64(next) - 1).UTC()
	}
	a.Timing.Reused = in.Bool()
	a.Timing.DNS = readMicros(&in)
	a.Timing.Connect = readMicros(&in)
	a.Timing.TLS = readMicros(&in)
	a.Timing.FirstByte = readMicros(&in)
	a.Error = in.String()
	a.RemoteIP = in.String()
	a.BodyTruncated = in.Bool()
	a.ResponseBody = in.Bytes()
	if in.Err() != nil || a.Number == 0 || a.Outcome < OutcomeDelivered || a.Outcome > OutcomeRejected {
		r.Fail()
	}
	return a
}

func readMicros(r *wire.Reader) time.Duration {
	return time.Duration(r.Int(1<<50)) * time.Microsecond
}
