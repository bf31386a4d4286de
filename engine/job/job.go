// Package job has bulk operations on an account's deliveries, and their bytes.
// Like package delivery it holds values only.
package job

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"log/slog"
	"time"

	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/wire"
)

// ID identifies a job. Its text form is "job_" and 13 characters of lower-case
// base32.
type ID uint64

const idPrefix = "job_"

// String is the public form.
func (id ID) String() string { return account.FormatID(idPrefix, uint64(id)) }

// LogValue is the public form.
func (id ID) LogValue() slog.Value { return slog.StringValue(id.String()) }

// ParseID reads the public form.
func ParseID(s string) (ID, error) {
	v, err := account.ParseIDText(idPrefix, s)
	return ID(v), err
}

// NewID draws an id.
func NewID() (ID, error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return 0, fmt.Errorf("job: draw an id: %w", err)
	}
	return ID(max(binary.BigEndian.Uint64(b[:]), 1)), nil
}

// Kind is what a job does with each delivery. The numbers are part of the
// format.
type Kind uint8

// The kinds.
const (
	Replay Kind = 1 // dead letters are tried again
	Cancel Kind = 2 // pending deliveries end
	Purge  Kind = 3 // dead letters are removed
)

// String is the public word.
func (k Kind) String() string {
	switch k {
	case Replay:
		return "replay"
	case Cancel:
		return "cancel"
	case Purge:
		return "purge"
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Valid reports whether k is a kind.
func (k Kind) Valid() bool { return k >= Replay && k <= Purge }

// Status is how a job stands. The numbers are part of the format.
type Status uint8

// The statuses.
const (
	Running  Status = 1
	Done     Status = 2
	Canceled Status = 3
)

// String is the public word.
func (s Status) String() string {
	switch s {
	case Running:
		return "running"
	case Done:
		return "done"
	case Canceled:
		return "canceled"
	}
	return fmt.Sprintf("Status(%d)", uint8(s))
}

// A Job is one bulk operation. It goes through the deliveries that its filter
// matches and that were accepted before it began, from the newest to the
// oldest, each once.
type Job struct {
	ID            ID
	Account       account.ID
	Kind          Kind
	Filter        delivery.Filter
	RatePerSecond int // deliveries; 0: as fast as bounded steps go
	Status        Status
	Matched       int64       // by the filter when the job began; -1 while they are counted
	Done          int64       // changed by this job
	Skipped       int64       // came to the job when they had changed already
	After         delivery.ID // the last one that was looked at; zero: none
	CreatedAt     time.Time
	UpdatedAt     time.Time
}

// Remaining is how many deliveries the job still has to look at, as far as is
// known; of one that was cancelled, how many it has not looked at.
func (j *Job) Remaining() int64 {
	if j.Status == Done {
		return 0
	}
	return max(j.Matched-j.Done-j.Skipped, 0)
}

const (
	version        = 1
	orderedVersion = 2 // the same, and the last of the filter's strings is an ordering key
)

// Append appends the bytes of j.
func (j *Job) Append(dst []byte) []byte {
	f := &j.Filter
	strings := []string{f.TargetPrefix, f.Host, f.Label, f.IdempotencyKey}
	if f.OrderingKey == "" {
		dst = append(dst, version)
	} else {
		dst = append(dst, orderedVersion)
		strings = append(strings, f.OrderingKey)
	}
	dst = binary.BigEndian.AppendUint64(dst, uint64(j.ID))
	dst = binary.BigEndian.AppendUint64(dst, uint64(j.Account))
	dst = append(dst, byte(j.Kind), byte(j.Status))
	dst = binary.AppendUvarint(dst, uint64(j.RatePerSecond))
	dst = binary.AppendVarint(dst, j.Matched)
	dst = binary.AppendVarint(dst, j.Done)
	dst = binary.AppendVarint(dst, j.Skipped)
	dst = append(dst, j.After[:]...)
	dst = binary.AppendVarint(dst, j.CreatedAt.UnixMilli())
	dst = binary.AppendVarint(dst, j.UpdatedAt.UnixMilli())
	dst = append(dst, byte(f.Status))
	dst = wire.AppendBool(dst, f.Dead)
	dst = wire.AppendBool(dst, f.Pending)
	for _, s := range strings {
		dst = wire.AppendString(dst, s)
	}
	return appendTime(appendTime(dst, f.Since), f.Until)
}

// Read takes a job off r. Strings alias r's input.
func (j *Job) Read(r *wire.Reader) {
	version := r.Byte()
	if version < 1 || version > orderedVersion {
		r.Fail()
	}
	j.ID, j.Account = ID(r.Uint64()), account.ID(r.Uint64())
	j.Kind, j.Status = Kind(r.Byte()), Status(r.Byte())
	if !j.Kind.Valid() || j.Status < Running || j.Status > Canceled {
		r.Fail()
	}
	j.RatePerSecond = r.Int(1 << 40)
	j.Matched, j.Done, j.Skipped = r.Varint(), r.Varint(), r.Varint()
	copy(j.After[:], r.Fixed(len(j.After)))
	j.CreatedAt, j.UpdatedAt = time.UnixMilli(r.Varint()).UTC(), time.UnixMilli(r.Varint()).UTC()
	f := &j.Filter
	f.Status = delivery.Status(r.Byte())
	f.Dead, f.Pending = r.Bool(), r.Bool()
	f.TargetPrefix, f.Host, f.Label, f.IdempotencyKey = r.String(), r.String(), r.String(), r.String()
	if version == orderedVersion {
		f.OrderingKey = r.String()
	}
	f.Since, f.Until = readTime(r), readTime(r)
}

// appendTime appends a time in nanoseconds, which may be zero: a filter is
// kept as exactly as it was given.
func appendTime(dst []byte, t time.Time) []byte {
	dst = wire.AppendBool(dst, !t.IsZero())
	if t.IsZero() {
		return dst
	}
	dst = binary.AppendVarint(dst, t.Unix())
	return binary.AppendUvarint(dst, uint64(t.Nanosecond()))
}

func readTime(r *wire.Reader) time.Time {
	if !r.Bool() {
		return time.Time{}
	}
	return time.Unix(r.Varint(), int64(r.Int(1e9-1))).UTC()
}
