package delivery

import (
	"encoding/binary"
	"slices"

	"github.com/harepost/harepost/engine/wire"
)

const (
	rowVersion = 1

	mostAttempts = 1 << 16
)

// The flags of a row.
const (
	rowBody     = 1 << iota // the body is inside
	rowReplayed             // Base and ReplayDue follow UpdatedAt, as varints
	rowOrdered              // then OrderNumber, as a varint
)

// A Row is a delivery as the state keeps it under its key, which has account
// and status: the record, the attempts so far and, where it is short, the
// body. Its parts are encoded bytes, so that moving a delivery from one status
// to the next copies and does not decode.
type Row struct {
	UpdatedAt int64  // Unix milliseconds
	Record    []byte // see AppendRecord
	Count     int    // attempts
	Attempts  []byte // Count attempts one after another, see AppendAttempt
	HasBody   bool   // the body is inside the row
	Body      []byte

	// Replayed says that the budget of attempts began anew after attempt Base,
	// and that the one after it is due at ReplayDue. A delivery that was replayed
	// does not expire any more.
	Replayed  bool
	Base      int
	ReplayDue int64 // Unix milliseconds

	// OrderNumber is the place of a delivery with an ordering key among the others
	// of its key: they go out in the order of their numbers. 0: it has no key.
	OrderNumber uint64
}

// AppendRow appends the bytes of w.
func AppendRow(dst []byte, w *Row) []byte {
	flags := byte(0)
	if w.HasBody {
		flags = rowBody
	}
	if w.Replayed {
		flags |= rowReplayed
	}
	if w.OrderNumber != 0 {
		flags |= rowOrdered
	}
	dst = slices.Grow(dst, len(w.Record)+len(w.Attempts)+len(w.Body)+32)
	dst = append(dst, rowVersion, flags)
	dst = binary.AppendVarint(dst, w.UpdatedAt)
	if w.Replayed {
		dst = binary.AppendUvarint(dst, uint64(w.Base))
		dst = binary.AppendVarint(dst, w.ReplayDue)
	}
	if w.OrderNumber != 0 {
		dst = binary.AppendUvarint(dst, w.OrderNumber)
	}
	dst = wire.AppendBytes(dst, w.Record)
	dst = binary.AppendUvarint(dst, uint64(w.Count))
	dst = wire.AppendBytes(dst, w.Attempts)
	if w.HasBody {
		dst = append(dst, w.Body...)
	}
	return dst
}

// DecodeRow reads the bytes of a row. The parts alias b.
func DecodeRow(b []byte) (Row, error) {
	r := wire.NewReader(b)
	if r.Byte() != rowVersion {
		r.Fail()
	}
	flags := r.Byte()
	if flags > rowBody|rowReplayed|rowOrdered {
		r.Fail()
	}
	w := Row{UpdatedAt: r.Varint(), HasBody: flags&rowBody != 0, Replayed: flags&rowReplayed != 0}
	if w.Replayed {
		w.Base, w.ReplayDue = r.Int(mostAttempts), r.Varint()
	}
	if flags&rowOrdered != 0 {
		if w.OrderNumber = r.Uvarint(); w.OrderNumber == 0 {
			r.Fail()
		}
	}
	w.Record = r.Bytes()
	w.Count = r.Int(mostAttempts)
	w.Attempts = r.Bytes()
	if w.HasBody {
		w.Body = r.Rest()
	} else if len(r.Rest()) > 0 {
		r.Fail()
	}
	return w, r.Err()
}

// DecodeRecord reads the row's record into rec.
func (w *Row) DecodeRecord(rec *Record) error {
	r := wire.NewReader(w.Record)
	ReadRecord(&r, rec)
	if len(r.Rest()) > 0 {
		r.Fail()
	}
	return r.Err()
}

// DecodeAttempts reads the row's attempts, in order.
func (w *Row) DecodeAttempts() ([]Attempt, error) {
	r := wire.NewReader(w.Attempts)
	attempts := make([]Attempt, 0, min(w.Count, 32))
	for range w.Count {
		a := ReadAttempt(&r)
		if r.Err() != nil {
			return nil, r.Err()
		}
		attempts = append(attempts, a)
	}
	if len(r.Rest()) > 0 {
		return nil, wire.ErrMalformed
	}
	return attempts, nil
}
