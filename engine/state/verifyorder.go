package state

import (
	"encoding/binary"
	"errors"

	"github.com/cockroachdb/pebble/v2"
	"github.com/harepost/harepost/engine/delivery"
)

// verifyOrdered checks that a delivery with an ordering key, whose next attempt
// is due at next by its row, has the place in its order that its status says.
func (s *State) verifyOrdered(r *Report, f *Stored, rec *delivery.Record, next int64) error {
	k := orderOf(f.place.account, rec)
	h, taken, err := readOrderHead(s.db, k)
	if err != nil {
		r.find("%v", err)
		return nil
	}
	isHead := taken && h.number == f.Row.OrderNumber
	switch {
	case f.Status.Dead() && !rec.SkipFailed && !(isHead && h.held && h.place(k.Account) == f.place):
		r.find("%s is dead and does not hold its ordering key", rec.ID)
		return nil
	case f.Status.Final():
		return nil
	case !taken || isHead && h.held:
		r.find("pending delivery %s has no place in the order of its key", rec.ID)
		return nil
	}
	lane := Lane{k.Account, rec.Destination()}
	attempt := uint32(f.Row.Count) + 1
	if isHead {
		key := appendQueue(nil, lane, Position{h.queuedAt(&f.Row, next), rec.ID, attempt})
		if ok, err := s.has(key); err != nil || ok {
			return err
		}
		r.find("attempt %d of %s is not queued, though it is its turn", attempt, rec.ID)
		return nil
	}
	want := turn{f.Row.OrderNumber, rec.ID, lane.Destination, next, attempt}
	v, err := getFrom(s.db, appendTurn(nil, k, f.Row.OrderNumber))
	if errors.Is(err, pebble.ErrNotFound) || f.Row.OrderNumber < h.low {
		r.find("pending delivery %s does not wait for its turn", rec.ID)
		return nil
	}
	if err != nil {
		return err
	}
	if t, err := decodeTurn(want.number, v); err != nil || t != want {
		r.find("%s waits for its turn as %+v, not as %+v: %v", rec.ID, t, want, err)
	}
	return nil
}

func (s *State) has(key []byte) (bool, error) {
	_, closer, err := s.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, closer.Close()
}

// verifyOrders counts what the orders say, and checks that whatever waits has
// something to wait for. That each row has its place verifyOrdered has seen; with
// this, no place is without its row.
func (s *State) verifyOrders(r *Report) error {
	err := errors.Join(
		s.scan([]byte{spaceOrder}, []byte{spaceOrder + 1}, func(key, value []byte) error {
			return s.verifyHead(r, key, value)
		}),
		s.scan([]byte{spaceTurn}, []byte{spaceTurn + 1}, func(key, _ []byte) error {
			return s.verifyTurn(r, key)
		}),
	)
	held := int64(0)
	err = errors.Join(err, s.scan([]byte{spaceHeld}, []byte{spaceHeld + 1}, func(key, _ []byte) error {
		if s.owned(r, key) {
			held++
		}
		return nil
	}))
	if held != r.Held {
		r.find("%d ordering keys are listed as held, %d are", held, r.Held)
	}
	return err
}

func (s *State) verifyHead(r *Report, key, value []byte) error {
	if !s.owned(r, key) {
		return nil
	}
	k, err := parseOrder(key)
	if err != nil {
		r.find("%v", err)
		return nil
	}
	h, err := decodeOrderHead(value)
	switch {
	case err != nil:
		r.find("ordering key %x: %v", key, err)
	case h.number > s.ordered:
		r.find("ordering key %x: number %d of %d", key, h.number, s.ordered)
	case h.held:
		r.Held++
		ok, err := s.has(appendOrder(nil, spaceHeld, k))
		if err == nil && !ok {
			r.find("ordering key %x is held and not listed as such", key)
		}
		return err
	default:
		return s.verifyPending(r, key, k, h.id, h.number)
	}
	return nil
}

func (s *State) verifyTurn(r *Report, key []byte) error {
	if !s.owned(r, key) {
		return nil
	}
	r.Waiting++
	if len(key) != orderKeyBytes+8 {
		r.find("key %x: malformed", key)
		return nil
	}
	k, err := parseOrder(key[:orderKeyBytes])
	if err != nil {
		return err
	}
	number := binary.BigEndian.Uint64(key[orderKeyBytes:])
	v, err := getFrom(s.db, key)
	if err != nil {
		return err
	}
	t, err := decodeTurn(number, v)
	if err != nil {
		r.find("turn %x: %v", key, err)
		return nil
	}
	_, taken, err := readOrderHead(s.db, k)
	if err == nil && !taken {
		r.find("turn %x: nothing is before it", key)
	}
	if err != nil {
		r.find("turn %x: %v", key, err)
		return nil
	}
	return s.verifyPending(r, key, k, t.id, number)
}

// verifyPending checks that a place in an order is that of a pending delivery.
func (s *State) verifyPending(r *Report, key []byte, k Order, id delivery.ID, number uint64) error {
	for _, st := range [...]delivery.Status{delivery.Queued, delivery.Retrying} {
		f, err := findAt(s.db, place{account: k.Account, status: st, id: id})
		if err == nil && f.Row.OrderNumber == number {
			return nil
		}
		if err != nil && !errors.Is(err, pebble.ErrNotFound) {
			return err
		}
	}
	r.find("%x is the place of %s, which is not pending", key, id)
	return nil
}
