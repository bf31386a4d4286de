package state

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/delivery"
)

const (
	spaceAccount     = 'a'
	spaceKey         = 'k'
	spaceDomain      = 'n'
	spaceRow         = 'd'
	spaceLateRow     = 'e'
	spaceBody        = 'b'
	spaceLateBody    = 'c'
	spaceQueue       = 'q'
	spaceIdempotency = 'i'
	spaceMeta        = 'm'
	spaceJob         = 'j'
	spaceDataKey     = 'w'
	spaceTombstone   = 't'
	spaceOrder       = 'o'
	spaceTurn        = 'p'
	spaceHeld        = 'h'
	spaceSetting     = 'l'
	spaceBacklog     = 'u'
)

const (
	// lateAfter is how long after its acceptance a delivery may end and still
	// be kept under its id alone.
	lateAfter = time.Hour

	// idempotencyBucket is the range in which idempotency keys are dropped. A
	// look-up asks two buckets more than the window has.
	idempotencyBucket = 6 * time.Hour

	dayMillis = 24 * 60 * 60 * 1000
)

type class byte

const (
	classPending class = iota
	classDone
	classDead
)

func classOf(s delivery.Status) class {
	switch {
	case !s.Final():
		return classPending
	case s.Dead():
		return classDead
	}
	return classDone
}

func appendAccount(dst []byte, space byte, a account.ID) []byte {
	return binary.BigEndian.AppendUint64(append(dst, space), uint64(a))
}

func appendAPIKey(dst []byte, a account.ID, k account.KeyID) []byte {
	return binary.BigEndian.AppendUint64(appendAccount(dst, spaceKey, a), uint64(k))
}

func appendDomain(dst []byte, a account.ID, name string) []byte {
	return append(appendAccount(dst, spaceDomain, a), name...)
}

// A place says where a delivery's row and body are kept.
type place struct {
	account account.ID
	status  delivery.Status
	late    bool
	day     uint32 // only if late
	id      delivery.ID
}

// placeOf is where a delivery belongs whose status changed at updated.
func placeOf(a account.ID, s delivery.Status, id delivery.ID, updated int64) place {
	p := place{account: a, status: s, id: id}
	if s.Final() && updated-id.UnixMilli() > lateAfter.Milliseconds() {
		p.late, p.day = true, dayOf(updated)
	}
	return p
}

func dayOf(unixMilli int64) uint32 { return uint32(max(unixMilli, 0) / dayMillis) }

func (p *place) appendRowPrefix(dst []byte) []byte {
	if !p.late {
		return append(appendAccount(dst, spaceRow, p.account), byte(p.status))
	}
	dst = append(appendAccount(dst, spaceLateRow, p.account), byte(p.status))
	return binary.BigEndian.AppendUint32(dst, p.day)
}

func (p *place) appendRow(dst []byte) []byte { return append(p.appendRowPrefix(dst), p.id[:]...) }

func (p *place) appendBody(dst []byte) []byte {
	if !p.late {
		dst = append(appendAccount(dst, spaceBody, p.account), byte(classOf(p.status)))
	} else {
		dst = append(appendAccount(dst, spaceLateBody, p.account), byte(classOf(p.status)))
		dst = binary.BigEndian.AppendUint32(dst, p.day)
	}
	return append(dst, p.id[:]...)
}

// A Lane is one account's traffic to one destination.
type Lane struct {
	Account     account.ID
	Destination uint64
}

// A Position is the place of an attempt in the disk queue of its lane.
type Position struct {
	Due     int64 // Unix milliseconds, not negative
	ID      delivery.ID
	Attempt uint32
}

const (
	lanePrefixBytes = 1 + 8 + 8
	queueKeyBytes   = lanePrefixBytes + 8 + 16 + 4
)

func appendLane(dst []byte, l Lane) []byte {
	return binary.BigEndian.AppendUint64(appendAccount(dst, spaceQueue, l.Account), l.Destination)
}

func appendQueue(dst []byte, l Lane, p Position) []byte {
	dst = appendLane(dst, l)
	dst = binary.BigEndian.AppendUint64(dst, uint64(max(p.Due, 0)))
	dst = append(dst, p.ID[:]...)
	return binary.BigEndian.AppendUint32(dst, p.Attempt)
}

func parseQueue(key []byte) (l Lane, p Position, ok bool) {
	if len(key) != queueKeyBytes || key[0] != spaceQueue {
		return l, p, false
	}
	l.Account = account.ID(binary.BigEndian.Uint64(key[1:]))
	l.Destination = binary.BigEndian.Uint64(key[9:])
	p.Due = int64(binary.BigEndian.Uint64(key[17:]))
	copy(p.ID[:], key[25:])
	p.Attempt = binary.BigEndian.Uint32(key[41:])
	return l, p, true
}

const orderKeyBytes = 1 + 8 + 16

func appendOrder(dst []byte, space byte, k Order) []byte {
	return append(appendAccount(dst, space, k.Account), k.Hash[:]...)
}

func parseOrder(key []byte) (k Order, err error) {
	if len(key) != orderKeyBytes {
		return k, fmt.Errorf("key %x: malformed", key)
	}
	k.Account = account.ID(binary.BigEndian.Uint64(key[1:]))
	copy(k.Hash[:], key[9:])
	return k, nil
}

func appendTurn(dst []byte, k Order, number uint64) []byte {
	return binary.BigEndian.AppendUint64(appendOrder(dst, spaceTurn, k), number)
}

func bucketOf(unixMilli int64) uint32 {
	return uint32(max(unixMilli, 0) / idempotencyBucket.Milliseconds())
}

func appendIdempotency(dst []byte, bucket uint32, a account.ID, hash [16]byte) []byte {
	dst = binary.BigEndian.AppendUint32(append(dst, spaceIdempotency), bucket)
	dst = binary.BigEndian.AppendUint64(dst, uint64(a))
	return append(dst, hash[:]...)
}

// successor is the smallest key that is after every key with this prefix.
// Every prefix here begins with a letter, so there is one.
func successor(prefix []byte) []byte {
	s := append([]byte(nil), prefix...)
	for i := len(s) - 1; i >= 0; i-- {
		if s[i]++; s[i] != 0 {
			return s[:i+1]
		}
	}
	panic("state: a prefix of 0xff bytes only has no successor")
}
