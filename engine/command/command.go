// Package command has the commands that go through the engine's log, and
// their bytes. A command carries every choice that was made for it (ids,
// times, jitter), so that applying it needs no clock and no randomness: the
// same log gives the same state on every node and at every replay.
//
// # Bytes
//
//	version   byte, 1
//	kind      byte, see [Kind]
//	payload   see the command
//
// Numbers and strings are as in package wire. A decoder accepts exactly what
// its encoder writes; a version or kind that it does not know is an error, and
// the node refuses to go on: skipping a command would lose what it says.
package command

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/wire"
)

// Kind says what a command does.
type Kind uint8

// The kinds. Their numbers are part of the log's format.
const (
	KindAccept        Kind = 1 // a send became a delivery
	KindAttempt       Kind = 2 // an attempt of a delivery ended
	KindCreateAccount Kind = 3
	KindCreateKey     Kind = 4
	KindRevokeKey     Kind = 5
	KindPutDomain     Kind = 6 // added, or verified
	KindDeleteDomain  Kind = 7
	KindRetain        Kind = 8 // drop what is older

	KindControl Kind = 9  // replay, cancel or purge deliveries
	KindPutJob  Kind = 10 // made, counted or cancelled

	KindPutAccount    Kind = 14 // an account's own settings and secrets changed
	KindTouchKeys     Kind = 15 // when keys were last used
	KindDeleteAccount Kind = 16
	KindSweepAccount  Kind = 17 // drop a part of what a deleted account has left

	KindTrim       Kind = 18 // drop what finished, for its size
	KindDropBodies Kind = 19 // drop the bodies of what was delivered

	KindPutDataKey Kind = 20

	KindReleaseOrder Kind = 24 // let an ordering key go on whose dead letter is gone
	KindPutLane      Kind = 21 // limits of a lane, or its pause
)

const version = 1

// known are the kinds that this program applies.
var known = [256]bool{
	KindAccept:        true,
	KindAttempt:       true,
	KindCreateAccount: true,
	KindCreateKey:     true,
	KindRevokeKey:     true,
	KindPutDomain:     true,
	KindDeleteDomain:  true,
	KindRetain:        true,
	KindControl:       true,
	KindPutJob:        true,

	KindPutAccount:    true,
	KindTouchKeys:     true,
	KindDeleteAccount: true,
	KindSweepAccount:  true,

	KindTrim:       true,
	KindDropBodies: true,

	KindPutDataKey: true,

	KindReleaseOrder: true,
	KindPutLane:      true,
}

// ErrUnknown says that a command is of a version or kind that this program
// does not know.
var ErrUnknown = errors.New("unknown command")

// Parse takes the head off a command and returns its kind and a reader of
// its payload.
func Parse(b []byte) (Kind, wire.Reader, error) {
	if len(b) < 2 {
		return 0, wire.Reader{}, wire.ErrMalformed
	}
	k := Kind(b[1])
	if b[0] != version || !known[k] {
		return 0, wire.Reader{}, fmt.Errorf("%w: version %d, kind %d", ErrUnknown, b[0], b[1])
	}
	return k, wire.NewReader(b[2:]), nil
}

func head(dst []byte, k Kind) []byte { return append(dst, version, byte(k)) }

// finish makes sure that nothing is left over.
func finish(r *wire.Reader) error {
	if len(r.Rest()) > 0 {
		r.Fail()
	}
	return r.Err()
}

// An Accept makes a delivery of a send. Payload:
//
//	flags        byte: 1 stored at once, 2 idempotent, 4 ordered, 8 body apart
//	idempotency  16 bytes, if idempotent: hash of key, target, method and body
//	order        16 bytes, if ordered: hash of the ordering key
//	destination  8 bytes: the lane within the account
//	record       string, see package delivery
//	body         the rest
//
// Stored at once says that the delivery goes straight to the disk queue,
// because its first attempt is too far off to be worth memory, or because it has
// an ordering key: whether another of its key is before it is then to be read.
//
// Body apart says that the body is kept beside the delivery's row, however short it
// is, so that a DropBodies finds it: which bodies go, and with that which deliveries
// can be replayed, is the same wherever the log is applied.
type Accept struct {
	Stored      bool
	Idempotent  bool
	Hash        [16]byte
	Ordered     bool // only if Stored
	OrderHash   delivery.OrderHash
	Apart       bool
	Destination uint64
	Record      []byte
	Body        []byte
}

const (
	acceptStored = 1 << iota
	acceptIdempotent
	acceptOrdered
	acceptApart
)

// AppendAccept appends the command for record and body.
func AppendAccept(dst []byte, a *Accept) []byte {
	dst = head(dst, KindAccept)
	flags := byte(0)
	if a.Stored {
		flags |= acceptStored
	}
	if a.Idempotent {
		flags |= acceptIdempotent
	}
	if a.Ordered {
		flags |= acceptOrdered
	}
	if a.Apart {
		flags |= acceptApart
	}
	dst = append(dst, flags)
	if a.Idempotent {
		dst = append(dst, a.Hash[:]...)
	}
	if a.Ordered {
		dst = append(dst, a.OrderHash[:]...)
	}
	dst = binary.BigEndian.AppendUint64(dst, a.Destination)
	dst = wire.AppendBytes(dst, a.Record)
	return append(dst, a.Body...)
}

// ReadAccept decodes the payload. Record and Body alias it.
func ReadAccept(r *wire.Reader) (Accept, error) {
	var a Accept
	flags := r.Byte()
	if flags > acceptStored|acceptIdempotent|acceptOrdered|acceptApart || flags&acceptOrdered != 0 && flags&acceptStored == 0 {
		r.Fail()
	}
	a.Stored = flags&acceptStored != 0
	a.Idempotent = flags&acceptIdempotent != 0
	if a.Idempotent {
		copy(a.Hash[:], r.Fixed(len(a.Hash)))
	}
	if a.Ordered = flags&acceptOrdered != 0; a.Ordered {
		copy(a.OrderHash[:], r.Fixed(len(a.OrderHash)))
	}
	a.Apart = flags&acceptApart != 0
	a.Destination = r.Uint64()
	a.Record = r.Bytes()
	a.Body = r.Rest()
	return a, r.Err()
}

// An Attempt records that an attempt of a delivery ended. Payload:
//
//	account      8 bytes
//	id           16 bytes
//	number       of the attempt, so that a second report of it is known as such
//	status       byte: of the delivery from now on
//	updated      zigzag milliseconds
//	next         zigzag milliseconds: when the next attempt is due, if retrying
//	record       the rest, see delivery.AppendAttempt
type Attempt struct {
	Account   account.ID
	ID        delivery.ID
	Number    int
	Status    delivery.Status
	UpdatedAt int64 // Unix milliseconds
	NextDue   int64 // Unix milliseconds, only if Status is Retrying
	Record    []byte
}

// AppendAttempt appends the command for an attempt.
func AppendAttempt(dst []byte, a *Attempt, record *delivery.Attempt) []byte {
	dst = head(dst, KindAttempt)
	dst = binary.BigEndian.AppendUint64(dst, uint64(a.Account))
	dst = append(dst, a.ID[:]...)
	dst = binary.AppendUvarint(dst, uint64(a.Number))
	dst = append(dst, byte(a.Status))
	dst = binary.AppendVarint(dst, a.UpdatedAt)
	dst = binary.AppendVarint(dst, a.NextDue)
	return delivery.AppendAttempt(dst, record)
}

// ReadAttempt decodes the payload. Record aliases it.
func ReadAttempt(r *wire.Reader) (Attempt, error) {
	var a Attempt
	a.Account = account.ID(r.Uint64())
	copy(a.ID[:], r.Fixed(len(a.ID)))
	a.Number = r.Int(1 << 20)
	a.Status = delivery.Status(r.Byte())
	if !a.Status.Valid() || a.Status == delivery.Queued {
		r.Fail()
	}
	a.UpdatedAt = r.Varint()
	a.NextDue = r.Varint()
	a.Record = r.Rest()
	check := wire.NewReader(a.Record)
	delivery.ReadAttempt(&check)
	if finish(&check) != nil {
		r.Fail()
	}
	return a, r.Err()
}

// AppendCreateAccount appends the command that makes an account together
// with its first key.
func AppendCreateAccount(dst []byte, a *account.Account, k *account.Key) []byte {
	return k.Append(a.Append(head(dst, KindCreateAccount)))
}

// ReadCreateAccount decodes the payload. Strings alias it.
func ReadCreateAccount(r *wire.Reader) (a account.Account, k account.Key, err error) {
	a.Read(r)
	k.Read(r)
	return a, k, finish(r)
}

// AppendCreateKey appends the command that makes a key.
func AppendCreateKey(dst []byte, k *account.Key) []byte {
	return k.Append(head(dst, KindCreateKey))
}

// ReadCreateKey decodes the payload. Strings alias it.
func ReadCreateKey(r *wire.Reader) (k account.Key, err error) {
	k.Read(r)
	return k, finish(r)
}

// AppendRevokeKey appends the command that ends a key.
func AppendRevokeKey(dst []byte, a account.ID, k account.KeyID) []byte {
	dst = binary.BigEndian.AppendUint64(head(dst, KindRevokeKey), uint64(a))
	return binary.BigEndian.AppendUint64(dst, uint64(k))
}

// ReadRevokeKey decodes the payload.
func ReadRevokeKey(r *wire.Reader) (a account.ID, k account.KeyID, err error) {
	a, k = account.ID(r.Uint64()), account.KeyID(r.Uint64())
	return a, k, finish(r)
}

// AppendPutDomain appends the command that adds a domain or replaces it, as
// when it becomes verified.
func AppendPutDomain(dst []byte, d *account.Domain) []byte {
	return d.Append(head(dst, KindPutDomain))
}

// ReadPutDomain decodes the payload. Strings alias it.
func ReadPutDomain(r *wire.Reader) (d account.Domain, err error) {
	d.Read(r)
	return d, finish(r)
}

// AppendDeleteDomain appends the command that removes a domain.
func AppendDeleteDomain(dst []byte, a account.ID, name string) []byte {
	dst = binary.BigEndian.AppendUint64(head(dst, KindDeleteDomain), uint64(a))
	return wire.AppendString(dst, name)
}

// ReadDeleteDomain decodes the payload. The name aliases it.
func ReadDeleteDomain(r *wire.Reader) (a account.ID, name string, err error) {
	a, name = account.ID(r.Uint64()), r.String()
	return a, name, finish(r)
}

// AppendPutDataKey appends the command that gives an account its data key,
// wrapped, or replaces it.
func AppendPutDataKey(dst []byte, a account.ID, wrapped []byte) []byte {
	dst = binary.BigEndian.AppendUint64(head(dst, KindPutDataKey), uint64(a))
	return wire.AppendBytes(dst, wrapped)
}

// ReadPutDataKey decodes the payload. The key aliases it.
func ReadPutDataKey(r *wire.Reader) (a account.ID, wrapped []byte, err error) {
	a, wrapped = account.ID(r.Uint64()), r.Bytes()
	return a, wrapped, finish(r)
}

// A Retain drops what the accounts from First to Last, both included, have
// that is older than its bounds, all in Unix milliseconds. A pass over many
// accounts is several commands, so that none of them holds up the log for
// long. Payload: First and Last, 8 bytes each, then the bounds as zigzag
// varints.
type Retain struct {
	First, Last account.ID
	Finished    int64 // delivered and cancelled deliveries
	Dead        int64 // dead letters
	Idempotency int64 // idempotency keys, of all accounts; 0: none
}

// AppendRetain appends the command.
func AppendRetain(dst []byte, c *Retain) []byte {
	dst = binary.BigEndian.AppendUint64(head(dst, KindRetain), uint64(c.First))
	dst = binary.BigEndian.AppendUint64(dst, uint64(c.Last))
	dst = binary.AppendVarint(dst, c.Finished)
	dst = binary.AppendVarint(dst, c.Dead)
	return binary.AppendVarint(dst, c.Idempotency)
}

// ReadRetain decodes the payload.
func ReadRetain(r *wire.Reader) (c Retain, err error) {
	c.First, c.Last = account.ID(r.Uint64()), account.ID(r.Uint64())
	c.Finished, c.Dead, c.Idempotency = r.Varint(), r.Varint(), r.Varint()
	return c, finish(r)
}

// A DropBodies drops the bodies that are kept beside their rows of the deliveries
// of the accounts from First to Last, both included, that were delivered or
// cancelled before a moment. The rows stay. Payload: as of a Trim.
type DropBodies struct {
	First, Last account.ID
	Before      int64 // Unix milliseconds
}

// AppendDropBodies appends the command.
func AppendDropBodies(dst []byte, c *DropBodies) []byte {
	return appendSpan(head(dst, KindDropBodies), c.First, c.Last, c.Before)
}

// ReadDropBodies decodes the payload.
func ReadDropBodies(r *wire.Reader) (c DropBodies, err error) {
	c.First, c.Last, c.Before = readSpan(r)
	return c, finish(r)
}

func appendSpan(dst []byte, first, last account.ID, moment int64) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(first))
	dst = binary.BigEndian.AppendUint64(dst, uint64(last))
	return binary.AppendVarint(dst, moment)
}

func readSpan(r *wire.Reader) (first, last account.ID, moment int64) {
	return account.ID(r.Uint64()), account.ID(r.Uint64()), r.Varint()
}

// A Trim drops the finished deliveries, whatever their status, of the accounts
// from First to Last, both included, that were accepted before a moment. Payload:
// First and Last, 8 bytes each, then the moment as a zigzag varint.
type Trim struct {
	First, Last account.ID
	Accepted    int64 // Unix milliseconds
}

// AppendTrim appends the command.
func AppendTrim(dst []byte, c *Trim) []byte {
	return appendSpan(head(dst, KindTrim), c.First, c.Last, c.Accepted)
}

// ReadTrim decodes the payload.
func ReadTrim(r *wire.Reader) (c Trim, err error) {
	c.First, c.Last, c.Accepted = readSpan(r)
	return c, finish(r)
}
