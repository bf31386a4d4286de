package state

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/wire"
)

// An Order is the deliveries of an account that have one ordering key.
type Order struct {
	Account account.ID
	Hash    delivery.OrderHash
}

func orderOf(a account.ID, rec *delivery.Record) Order {
	return Order{a, delivery.HashOrder(rec.OrderingKey)}
}

// An orderHead is the row of an order: the one of its deliveries that is in the
// queue of its lane or has an attempt under way, or the dead one that holds the
// others. An order without such a one has no row, and nobody waits in it.
type orderHead struct {
	number uint64
	low    uint64 // no one that waits has a lower number
	id     delivery.ID
	due    int64 // the attempt with which its budget begins, Unix milliseconds

	held   bool            // it ended dead, and holds the others
	status delivery.Status // only if held
	ended  int64           // only if held, Unix milliseconds
}

// place is where the row of a dead one that holds the others is.
func (h *orderHead) place(a account.ID) place { return placeOf(a, h.status, h.id, h.ended) }

func (h *orderHead) append(dst []byte) []byte {
	dst = wire.AppendBool(dst, h.held)
	dst = binary.AppendUvarint(dst, h.number)
	dst = binary.AppendUvarint(dst, h.low)
	dst = append(dst, h.id[:]...)
	dst = binary.AppendVarint(dst, h.due)
	if h.held {
		dst = append(dst, byte(h.status))
		dst = binary.AppendVarint(dst, h.ended)
	}
	return dst
}

func decodeOrderHead(b []byte) (h orderHead, err error) {
	r := wire.NewReader(b)
	h.held = r.Bool()
	h.number, h.low = r.Uvarint(), r.Uvarint()
	copy(h.id[:], r.Fixed(len(h.id)))
	h.due = r.Varint()
	if h.held {
		h.status, h.ended = delivery.Status(r.Byte()), r.Varint()
		if !h.status.Dead() {
			r.Fail()
		}
	}
	if len(r.Rest()) > 0 {
		r.Fail()
	}
	return h, r.Err()
}

// A turn is a delivery that is to have its turn in its order, with what is needed
// to put it into the queue of its lane.
type turn struct {
	number      uint64
	id          delivery.ID
	destination uint64
	due         int64 // not before, Unix milliseconds
	attempt     uint32
}

func (t *turn) append(dst []byte) []byte {
	dst = append(dst, t.id[:]...)
	dst = binary.BigEndian.AppendUint64(dst, t.destination)
	dst = binary.AppendVarint(dst, t.due)
	return binary.AppendUvarint(dst, uint64(t.attempt))
}

func decodeTurn(number uint64, b []byte) (turn, error) {
	r := wire.NewReader(b)
	t := turn{number: number}
	copy(t.id[:], r.Fixed(len(t.id)))
	t.destination = r.Uint64()
	t.due = r.Varint()
	t.attempt = uint32(r.Int(1 << 20))
	if len(r.Rest()) > 0 {
		r.Fail()
	}
	return t, r.Err()
}

// An order is what the batch being built has made of an Order, which Pebble does
// not show before the commit.
type order struct {
	Order
	taken   bool // there is a head
	head    orderHead
	joined  []turn          // wait since this batch, by number
	removed map[uint64]bool // do not wait any more
}

// orderAt is an order as of this point of the batch.
func (s *State) orderAt(k Order) (*order, error) {
	if o := s.orders[k]; o != nil {
		return o, nil
	}
	o := &order{Order: k}
	var err error
	if o.head, o.taken, err = readOrderHead(s.db, k); err != nil {
		return nil, err
	}
	if s.orders == nil {
		s.orders = make(map[Order]*order)
	}
	s.orders[k] = o
	return o, nil
}

func readOrderHead(r pebble.Reader, k Order) (h orderHead, ok bool, err error) {
	v, err := getFrom(r, appendOrder(nil, spaceOrder, k))
	if errors.Is(err, pebble.ErrNotFound) {
		return h, false, nil
	}
	if err == nil {
		h, err = decodeOrderHead(v)
	}
	if err != nil {
		return h, false, fmt.Errorf("ordering key %x of %s: %w", k.Hash, k.Account, err)
	}
	return h, true, nil
}

// join gives a delivery its turn at once if its order has no head, or if it is
// the head, dead until now. Else it waits.
func (s *State) join(b *applying, k Order, t turn) error {
	o, err := s.orderAt(k)
	if err != nil {
		return err
	}
	if !o.taken {
		return s.lead(b, o, t, t.due, t.number+1)
	}
	if o.head.held && o.head.number == t.number {
		if err := s.unhold(b, o); err != nil {
			return err
		}
		return s.lead(b, o, t, t.due, o.head.low)
	}
	if err := b.Set(appendTurn(nil, k, t.number), t.append(nil), nil); err != nil {
		return err
	}
	i, _ := slices.BinarySearchFunc(o.joined, t.number, compareTurn)
	o.joined = slices.Insert(o.joined, i, t)
	delete(o.removed, t.number)
	if t.number > o.head.low {
		return nil
	}
	o.head.low = t.number // it was replayed
	return s.putHead(b, o)
}

func compareTurn(t turn, number uint64) int { return cmp.Compare(t.number, number) }

// lead makes a delivery the head of its order and puts it into the queue of its
// lane.
func (s *State) lead(b *applying, o *order, t turn, due int64, low uint64) error {
	o.taken = true
	o.head = orderHead{number: t.number, low: low, id: t.id, due: due}
	if err := s.putHead(b, o); err != nil {
		return err
	}
	next := Requeued{Lane{o.Account, t.destination}, Position{Due: due, ID: t.id, Attempt: t.attempt}}
	b.turns = append(b.turns, next)
	if err := b.Set(appendQueue(nil, next.Lane, next.Position), nil, nil); err != nil {
		return err
	}
	return s.queuedTurn(next.Lane, t.id)
}

func (s *State) putHead(b *applying, o *order) error {
	return b.Set(appendOrder(nil, spaceOrder, o.Order), o.head.append(nil), nil)
}

// leave takes a pending delivery that ends out of its order, and gives the next
// its turn if it was the head.
func (s *State) leave(b *applying, k Order, number uint64, at int64) error {
	o, err := s.orderAt(k)
	if err != nil {
		return err
	}
	if !o.taken || o.head.number != number {
		return s.removeTurn(b, o, number)
	}
	return s.advance(b, o, at)
}

// advance gives the next of an order its turn, whose head is over.
func (s *State) advance(b *applying, o *order, at int64) error {
	next, ok, err := s.nextTurn(o)
	if err != nil {
		return err
	}
	if !ok {
		o.taken = false
		return b.Delete(appendOrder(nil, spaceOrder, o.Order), nil)
	}
	if err := s.removeTurn(b, o, next.number); err != nil {
		return err
	}
	return s.lead(b, o, next, max(next.due, at), next.number+1)
}

func (s *State) removeTurn(b *applying, o *order, number uint64) error {
	if i, ok := slices.BinarySearchFunc(o.joined, number, compareTurn); ok {
		o.joined = slices.Delete(o.joined, i, i+1)
	}
	if o.removed == nil {
		o.removed = make(map[uint64]bool)
	}
	o.removed[number] = true
	return b.SingleDelete(appendTurn(nil, o.Order, number), nil)
}

// nextTurn is the first that waits, as of this point of the batch.
func (s *State) nextTurn(o *order) (t turn, ok bool, err error) {
	if len(o.joined) > 0 {
		t, ok = o.joined[0], true
	}
	// From low on: what had its turn lies before it, and would all be stepped over
	// until it is compacted.
	it, err := s.db.NewIter(&pebble.IterOptions{
		LowerBound: appendTurn(nil, o.Order, o.head.low),
		UpperBound: successor(appendOrder(nil, spaceTurn, o.Order)),
	})
	if err != nil {
		return t, false, err
	}
	for valid := it.First(); valid; valid = it.Next() {
		number := binary.BigEndian.Uint64(it.Key()[orderKeyBytes:])
		if ok && t.number <= number {
			break
		}
		if o.removed[number] {
			continue
		}
		var v []byte
		if v, err = it.ValueAndErr(); err == nil {
			t, err = decodeTurn(number, v)
		}
		ok = err == nil
		break
	}
	return t, ok, errors.Join(err, it.Error(), it.Close())
}

// endOrdered follows the end of an order's head: it holds the others if it is
// dead and they are not to go on, else the next has its turn.
func (s *State) endOrdered(b *applying, k Order, w *delivery.Row, rec *delivery.Record, status delivery.Status) error {
	if !s.dir.Has(k.Account) {
		return nil // the account is being swept, and its orders with it
	}
	o, err := s.orderAt(k)
	if err != nil {
		return err
	}
	if !status.Dead() || rec.SkipFailed {
		return s.advance(b, o, w.UpdatedAt)
	}
	o.head.held, o.head.status, o.head.ended = true, status, w.UpdatedAt
	if err := s.putHead(b, o); err != nil {
		return err
	}
	return b.Set(appendOrder(nil, spaceHeld, k), nil, nil)
}

func (s *State) unhold(b *applying, o *order) error {
	return b.Delete(appendOrder(nil, spaceHeld, o.Order), nil)
}

// release lets an order go on if it is held by the dead one with a number.
func (s *State) release(b *applying, k Order, number uint64, at int64) error {
	o, err := s.orderAt(k)
	if err != nil || !o.taken || !o.head.held || o.head.number != number {
		return err
	}
	if err := s.unhold(b, o); err != nil {
		return err
	}
	return s.advance(b, o, at)
}

// applyReleaseOrder lets an order go on whose dead one is gone. It has a batch of
// its own, so that Pebble shows whether that is so.
func (s *State) applyReleaseOrder(b *applying, c *command.ReleaseOrder) error {
	if !s.dir.Has(c.Account) {
		return nil // deleted meanwhile: what waits may be swept already
	}
	k := Order{c.Account, c.Hash}
	o, err := s.orderAt(k)
	if err != nil || !o.taken || !o.head.held {
		return err
	}
	p := o.head.place(k.Account)
	if _, err := findAt(s.db, p); !errors.Is(err, pebble.ErrNotFound) {
		return err
	}
	return s.release(b, k, c.Number, c.At)
}

// queuedAt is under which moment the next attempt of a pending delivery is in the
// queue of its lane; false if it waits for its turn. next is what its row says.
func (s *State) queuedAt(k Order, w *delivery.Row, next int64) (due int64, ok bool, err error) {
	o, err := s.orderAt(k)
	if err != nil || !o.taken || o.head.number != w.OrderNumber {
		return 0, false, err
	}
	return o.head.queuedAt(w, next), true, nil
}

// queuedAt: the attempt with which a budget begins may have waited for its turn,
// which the delivery's row does not know.
func (h *orderHead) queuedAt(w *delivery.Row, next int64) int64 {
	if w.Count == w.Base {
		return h.due
	}
	return next
}

// WaitsForOrder reports whether a pending delivery that Find found waits for
// another with the same ordering key.
func (s *State) WaitsForOrder(a account.ID, f *Stored, orderingKey string) (bool, error) {
	if f.Status.Final() || f.Row.OrderNumber == 0 {
		return false, nil
	}
	h, ok, err := readOrderHead(s.db, Order{a, delivery.HashOrder(orderingKey)})
	if err != nil {
		return false, fmt.Errorf("state: %w", err)
	}
	return ok && h.number != f.Row.OrderNumber, nil
}

// Abandoned looks at up to limit orders that are held by a dead letter, after the
// order after (zero: from the first), and returns what lets those go on whose
// dead letter is gone, but for the moment. next is where to go on, zero at the end.
func (s *State) Abandoned(after Order, limit int) (gone []command.ReleaseOrder, next Order, err error) {
	lower := []byte{spaceHeld}
	if after != (Order{}) {
		lower = append(appendOrder(nil, spaceHeld, after), 0)
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: []byte{spaceHeld + 1}})
	if err != nil {
		return nil, next, fmt.Errorf("state: held ordering keys: %w", err)
	}
	n := 0
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		var k Order
		if k, err = parseOrder(it.Key()); err != nil {
			break
		}
		var c command.ReleaseOrder
		var lost bool
		if c, lost, err = s.abandoned(k); lost {
			gone = append(gone, c)
		}
		if n++; n == limit {
			next = k
			break
		}
	}
	if err := errors.Join(err, it.Error(), it.Close()); err != nil {
		return nil, next, fmt.Errorf("state: held ordering keys: %w", err)
	}
	return gone, next, nil
}

func (s *State) abandoned(k Order) (c command.ReleaseOrder, lost bool, err error) {
	if !s.dir.Has(k.Account) {
		return c, false, nil // to be swept
	}
	h, ok, err := readOrderHead(s.db, k)
	if err != nil || !ok || !h.held {
		return c, false, err // it has changed since the iterator was made
	}
	_, err = findAt(s.db, h.place(k.Account))
	if !errors.Is(err, pebble.ErrNotFound) {
		return c, false, err
	}
	return command.ReleaseOrder{Account: k.Account, Number: h.number, Hash: k.Hash}, true, nil
}
