// Package lane has the nouns of lanes: what a lane is called, and the limits
// that were set for it. What a lane does is package scheduler's.
package lane

import (
	"encoding/binary"
	"math"
	"net"
	"strconv"
	"strings"

	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/wire"
)

// Kind says what a lane gathers.
type Kind uint8

// The kinds. Their numbers are part of the encodings.
const (
	Host Kind = 1 // what goes to one scheme, host and port
	Flow Kind = 2 // what was sent with one flow key
)

// String is the public word.
func (k Kind) String() string {
	if k == Flow {
		return "flow"
	}
	return "host"
}

func (k Kind) valid() bool { return k == Host || k == Flow }

// A Name is what a lane is called. The zero Name is unknown.
type Name struct {
	Kind Kind
	Text string // "https://host:port", or the flow key
}

// FlowPrefix marks the name of a flow where that of a host could stand.
const FlowPrefix = "flow:"

// String tells flows and hosts apart: a flow's key has FlowPrefix before it.
func (n Name) String() string {
	if n.Kind == Flow {
		return FlowPrefix + n.Text
	}
	return n.Text
}

// HostName is the name of the lane to a target.
func HostName(t *delivery.Target) Name {
	var b strings.Builder
	b.Grow(len(t.Scheme) + len("://") + len(t.Host) + len("[]:65535"))
	b.WriteString(t.Scheme)
	b.WriteString("://")
	b.WriteString(net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port))))
	return Name{Host, b.String()}
}

// Host is the host in the name of a lane to one; of a flow, nothing.
func (n Name) Host() string {
	_, authority, _ := strings.Cut(n.Text, "://")
	if n.Kind != Host {
		return ""
	}
	host, _, err := net.SplitHostPort(authority)
	if err != nil {
		return ""
	}
	return host
}

// NameOf is the name of the lane that a delivery is in. It refers to nothing of
// the record.
func NameOf(r *delivery.Record) Name {
	if r.FlowKey != "" {
		return Name{Flow, strings.Clone(r.FlowKey)}
	}
	return HostName(&r.Target)
}

// Append appends the bytes of n: kind, byte; text, string.
func (n Name) Append(dst []byte) []byte {
	return wire.AppendString(append(dst, byte(n.Kind)), n.Text)
}

// ReadName takes a name off r. Its text aliases r's input.
func ReadName(r *wire.Reader) Name {
	n := Name{Kind(r.Byte()), r.String()}
	if !n.Kind.valid() {
		r.Fail()
	}
	return n
}

// Bounds of what may be set.
const (
	LeastRate       = 0.001
	MostRate        = 100_000
	MostParallelism = 10_000
)

// A Setting is what somebody set for one lane.
type Setting struct {
	Account     account.ID
	Destination uint64 // the lane within the account
	Name        Name
	Rate        float64 // attempts started per second; 0: not set
	Parallelism int     // attempts at once; 0: not set
	Paused      bool    // no attempt is started

	// Set by an operator, which no send changes any more.
	PinnedRate, PinnedParallelism bool
}

// IsNothing reports whether nothing is set, so that there is nothing to keep.
func (s *Setting) IsNothing() bool {
	return s.Rate == 0 && s.Parallelism == 0 && !s.Paused && !s.PinnedRate && !s.PinnedParallelism
}

const settingVersion = 1

// The flags of a setting.
const (
	flagPaused = 1 << iota
	flagPinnedRate
	flagPinnedParallelism
	flagEnd
)

// Append appends the bytes of s: version, byte; account and destination, 8 bytes
// each; the name; flags, byte; rate, 8 bytes of its IEEE 754 form; parallelism.
func (s *Setting) Append(dst []byte) []byte {
	flags := byte(0)
	if s.Paused {
		flags |= flagPaused
	}
	if s.PinnedRate {
		flags |= flagPinnedRate
	}
	if s.PinnedParallelism {
		flags |= flagPinnedParallelism
	}
	dst = append(dst, settingVersion)
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.Account))
	dst = binary.BigEndian.AppendUint64(dst, s.Destination)
	dst = s.Name.Append(dst)
	dst = append(dst, flags)
	dst = binary.BigEndian.AppendUint64(dst, math.Float64bits(s.Rate))
	return binary.AppendUvarint(dst, uint64(s.Parallelism))
}

// Read takes a setting off r. Its name aliases r's input.
func (s *Setting) Read(r *wire.Reader) {
	if r.Byte() != settingVersion {
		r.Fail()
	}
	*s = Setting{Account: account.ID(r.Uint64()), Destination: r.Uint64(), Name: ReadName(r)}
	flags := r.Byte()
	if flags >= flagEnd {
		r.Fail()
	}
	s.Paused = flags&flagPaused != 0
	s.PinnedRate = flags&flagPinnedRate != 0
	s.PinnedParallelism = flags&flagPinnedParallelism != 0
	s.Rate = math.Float64frombits(r.Uint64())
	if !(s.Rate == 0 || s.Rate >= LeastRate && s.Rate <= MostRate) { // not a number neither
		r.Fail()
	}
	s.Parallelism = r.Int(MostParallelism)
}
