package command

import (
	"encoding/binary"

	"github.com/harepost/harepost/engine/wire"
)

// batchMark is the first byte of a batch, which no command begins with.
const batchMark = 0xB1

// A Batch is several commands that a replicated log orders as one entry, and
// what they were proposed with. Bytes:
//
//	mark       byte, 0xB1
//	version    byte, 1
//	term       uvarint
//	proposer   8 bytes
//	number     uvarint
//	commands   strings, to the end
//
// A batch is void unless the log's entry has the batch's term: what one leader
// decided by what it knew never takes effect in the reign of another, or in a
// later one of its own, between which others may have decided.
type Batch struct {
	Term     uint64 // of the reign in which it was proposed
	Proposer uint64 // one life of one node, by chance
	Number   uint64 // counts the proposer's batches
}

// MostBatchHead is the most bytes that a batch takes beside its commands and
// their lengths.
const MostBatchHead = 2 + 8 + 2*binary.MaxVarintLen64

// AppendBatchHead begins a batch.
func AppendBatchHead(dst []byte, b Batch) []byte {
	dst = append(dst, batchMark, version)
	dst = binary.AppendUvarint(dst, b.Term)
	dst = binary.BigEndian.AppendUint64(dst, b.Proposer)
	return binary.AppendUvarint(dst, b.Number)
}

// AppendToBatch adds a command to a batch that has been begun.
func AppendToBatch(dst, cmd []byte) []byte {
	return wire.AppendBytes(dst, cmd)
}

// Each calls fn with each command of a log entry of a term: with those of a
// batch unless it is void, or with the entry itself, which then is a command. What
// fn gets is a part of entry.
func Each(entry []byte, term uint64, fn func(cmd []byte) error) error {
	if len(entry) == 0 || entry[0] != batchMark {
		return fn(entry)
	}
	b, commands, err := ParseBatch(entry)
	if err != nil || b.Term != term {
		return err
	}
	for r := wire.NewReader(commands); len(r.Rest()) > 0; {
		cmd := r.Bytes()
		if r.Err() != nil {
			return r.Err()
		}
		if err := fn(cmd); err != nil {
			return err
		}
	}
	return nil
}

// ParseBatch takes the head off a batch. It is wire.ErrMalformed for what is none.
func ParseBatch(entry []byte) (b Batch, commands []byte, err error) {
	if len(entry) < 2 || entry[0] != batchMark || entry[1] != version {
		return Batch{}, nil, wire.ErrMalformed
	}
	r := wire.NewReader(entry[2:])
	b = Batch{Term: r.Uvarint(), Proposer: r.Uint64(), Number: r.Uvarint()}
	return b, r.Rest(), r.Err()
}

// Alone reports whether a command needs an entry of the log to itself: applying
// it reads what the commands before it wrote, so that it has a batch of the
// state's own, and an index is applied as a whole or not at all.
func Alone(cmd []byte) bool { return len(cmd) >= 2 && OwnBatch(Kind(cmd[1])) }

// OwnBatch reports whether commands of a kind look at ranges of keys, or make
// and end accounts: whether there is one to accept a send for is decided before
// the rest of the send's batch.
func OwnBatch(k Kind) bool {
	switch k {
	case KindCreateAccount, KindRetain, KindTrim, KindDropBodies, KindControl,
		KindDeleteAccount, KindSweepAccount, KindReleaseOrder:
		return true
	}
	return false
}

// IsAccept reports whether a command makes a delivery of a send.
func IsAccept(cmd []byte) bool { return len(cmd) >= 2 && Kind(cmd[1]) == KindAccept }
