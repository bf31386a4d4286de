package state

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/delivery"
)

// A modelOrder is what the state must know of an ordering key.
type modelOrder struct {
	head    *modelDelivery // nil: nobody is before whoever comes next
	waiting []*modelDelivery
}

func (o *modelOrder) held() bool { return o.head != nil && o.head.status.Dead() }

func (h *history) orderOf(m *modelDelivery) *modelOrder {
	k := orderOf(account.ID(m.rec.Account), &m.rec)
	if h.orders[k] == nil {
		h.orders[k] = new(modelOrder)
	}
	return h.orders[k]
}

// join has a delivery that was accepted or replayed wait for its turn, or gives it.
func (h *history) join(m *modelDelivery) {
	if m.rec.OrderingKey == "" {
		return
	}
	o := h.orderOf(m)
	if o.head == nil || o.head == m {
		o.head, m.turn = m, m.due
		return
	}
	m.waits = true
	o.waiting = append(o.waiting, m)
	slices.SortFunc(o.waiting, func(a, b *modelDelivery) int { return int(a.number) - int(b.number) })
}

// left follows the end, or the purge, of a delivery.
func (h *history) left(m *modelDelivery, at int64) {
	if m.rec.OrderingKey == "" {
		return
	}
	o := h.orderOf(m)
	if o.head != m {
		m.waits = false
		o.waiting = slices.DeleteFunc(o.waiting, func(w *modelDelivery) bool { return w == m })
		return
	}
	if o.head = nil; len(o.waiting) == 0 {
		return
	}
	o.head, o.waiting = o.waiting[0], o.waiting[1:]
	o.head.waits, o.head.turn = false, max(o.head.due, at)
}

// whoseTurn is m, or the delivery that m waits for; nil if that one is dead.
func (h *history) whoseTurn(m *modelDelivery) *modelDelivery {
	if !m.waits {
		return m
	}
	if o := h.orderOf(m); !o.held() && slices.Contains(h.live, o.head) {
		return o.head
	}
	return nil
}

// releaseStep adds a command that lets a held order go on. The model's dead letters
// are all still there, so there it does nothing.
func (h *history) releaseStep() {
	var held []*modelDelivery
	for _, o := range h.orders {
		if o.held() {
			held = append(held, o.head)
		}
	}
	if len(held) == 0 {
		return
	}
	slices.SortFunc(held, func(a, b *modelDelivery) int { return int(a.number) - int(b.number) })
	m := held[h.rng.IntN(len(held))]
	k := orderOf(account.ID(m.rec.Account), &m.rec)
	h.add(command.AppendReleaseOrder(nil, &command.ReleaseOrder{Account: k.Account, Number: m.number, Hash: k.Hash, At: h.now}))
}

func dumpHead(k Order, number uint64, id delivery.ID, due int64, held bool) string {
	if held {
		due = 0
	}
	return fmt.Sprintf("order %+v head %d %s due %d held %t", k, number, id, due, held)
}

func dumpTurn(k Order, t turn) string { return fmt.Sprintf("order %+v turn %+v", k, t) }

func (h *history) dumpOrders() (lines []string) {
	for k, o := range h.orders {
		if o.head == nil || slices.Contains(h.deleted, k.Account) || slices.Contains(h.gone, k.Account) {
			continue
		}
		lines = append(lines, dumpHead(k, o.head.number, o.head.rec.ID, o.head.turn, o.held()))
		for _, m := range o.waiting {
			lines = append(lines, dumpTurn(k, turn{m.number, m.rec.ID, m.rec.Destination(), m.due, uint32(len(m.attempts)) + 1}))
		}
	}
	return lines
}

// dumpOrders is the same of a state, and finds fault with what the dump does not
// show.
func dumpOrders(t testing.TB, s *State) (lines []string) {
	t.Helper()
	held := 0
	space := func(space byte, fn func(k Order, rest, value []byte) error) {
		err := s.scan([]byte{space}, []byte{space + 1}, func(key, value []byte) error {
			k, err := parseOrder(key[:orderKeyBytes])
			if err != nil || s.dir.IsDeleted(k.Account) {
				return err
			}
			return fn(k, key[orderKeyBytes:], value)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	space(spaceOrder, func(k Order, _, value []byte) error {
		head, err := decodeOrderHead(value)
		lines = append(lines, dumpHead(k, head.number, head.id, head.due, head.held))
		if head.held {
			held++
		}
		return err
	})
	space(spaceTurn, func(k Order, rest, value []byte) error {
		w, err := decodeTurn(binary.BigEndian.Uint64(rest), value)
		lines = append(lines, dumpTurn(k, w))
		return err
	})
	space(spaceHeld, func(Order, []byte, []byte) error { held--; return nil })
	if held != 0 {
		t.Fatalf("the index of held orders is %d short", held)
	}
	return lines
}
