package state

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/delivery"
)

// applyAttempt records an attempt. It reports true for one that changes
// nothing.
func (s *State) applyAttempt(b *applying, c *command.Attempt) (ignored bool, err error) {
	s.young.mu.RLock() // cheap here, and the race detector knows who reads what
	y := s.young.byID[c.ID]
	s.young.mu.RUnlock()
	if y != nil && !y.gone {
		if c.Number != 1 || c.Account != y.Account {
			return true, nil
		}
		return false, s.finishYoung(b, y, c)
	}
	return s.recordStored(b, c)
}

// finishYoung records the first attempt of a young delivery: the only write
// that it costs, if the attempt was the last as well.
func (s *State) finishYoung(b *applying, y *Young, c *command.Attempt) error {
	w, body := y.row()
	w.UpdatedAt, w.Count, w.Attempts = c.UpdatedAt, 1, c.Record
	b.leave(y)
	return s.settle(b, c, &w, body, y.Accept.Destination)
}

// recordStored records an attempt of a delivery that is in the disk queue.
func (s *State) recordStored(b *applying, c *command.Attempt) (ignored bool, err error) {
	was := place{account: c.Account, status: delivery.Retrying, id: c.ID}
	if c.Number == 1 {
		was.status = delivery.Queued
	}
	encoded, ok, err := s.pendingRow(&was)
	if err == nil && !ok && c.Number == 1 { // cancelled before it, and replayed
		was.status = delivery.Retrying
		encoded, ok, err = s.pendingRow(&was)
	}
	if err == nil && !ok {
		err = s.recordCanceled(b, c)
	}
	if err != nil || !ok {
		return !ok, err
	}
	w, err := delivery.DecodeRow(encoded)
	if err != nil {
		return false, fmt.Errorf("row of %s: %w", c.ID, err)
	}
	if w.Count != c.Number-1 {
		return true, nil
	}
	var rec delivery.Record
	if err := w.DecodeRecord(&rec); err != nil {
		return false, fmt.Errorf("record of %s: %w", c.ID, err)
	}
	attempts, err := w.DecodeAttempts()
	if err != nil {
		return false, fmt.Errorf("attempts of %s: %w", c.ID, err)
	}
	due := w.NextDue(&rec, attempts)
	if w.OrderNumber != 0 {
		var ok bool
		if due, ok, err = s.queuedAt(orderOf(c.Account, &rec), &w, due); err != nil || !ok {
			return true, err // cancelled, and replayed, during the attempt: its turn is to come
		}
	}
	lane := Lane{c.Account, rec.Destination()}
	s.key = appendQueue(s.key[:0], lane, Position{due, c.ID, uint32(c.Number)})
	if err := b.SingleDelete(s.key, nil); err != nil {
		return false, err
	}
	s.taken(lane)
	var body []byte // if it has to move
	if c.Status.Final() && !w.HasBody {
		if body, err = s.pendingBody(&was); err != nil {
			return false, fmt.Errorf("body of %s: %w", c.ID, err)
		}
	}
	if err := s.removePending(b, &was, c.Status, body != nil); err != nil {
		return false, err
	}
	if c.Status.Final() {
		// Pebble shows the row until the batch is committed; a second report
		// within the batch must not.
		s.touched[c.ID] = pendingRow{status: c.Status}
	}
	w.UpdatedAt, w.Count = c.UpdatedAt, c.Number
	w.Attempts = append(bytes.Clone(w.Attempts), c.Record...)
	if err := s.settle(b, c, &w, body, lane.Destination); err != nil || !c.Status.Final() || w.OrderNumber == 0 {
		return false, err
	}
	return false, s.endOrdered(b, orderOf(c.Account, &rec), &w, &rec, c.Status)
}

// removePending removes a row that will be written elsewhere.
func (s *State) removePending(b *applying, was *place, next delivery.Status, bodyMoves bool) error {
	s.key = was.appendRow(s.key[:0])
	switch {
	case was.status == delivery.Queued: // set once
		if err := b.SingleDelete(s.key, nil); err != nil {
			return err
		}
	case next != was.status: // set at each attempt
		if err := b.Delete(s.key, nil); err != nil {
			return err
		}
	}
	if !bodyMoves {
		return nil
	}
	s.key = was.appendBody(s.key[:0])
	return b.SingleDelete(s.key, nil)
}

// settle writes the row where it belongs now, and the next attempt into the
// disk queue if there is to be one.
func (s *State) settle(b *applying, c *command.Attempt, w *delivery.Row, body []byte, destination uint64) error {
	p := placeOf(c.Account, c.Status, c.ID, c.UpdatedAt)
	if c.Status.Final() {
		b.pending--
		s.buf = delivery.AppendRow(s.buf[:0], w)
		return s.put(b, &p, s.buf, body)
	}
	row := delivery.AppendRow(nil, w)
	if err := s.put(b, &p, row, body); err != nil {
		return err
	}
	if body == nil {
		body = s.touched[c.ID].body // stays
	}
	s.touched[c.ID] = pendingRow{status: c.Status, row: row, body: body}
	lane := Lane{c.Account, destination}
	s.key = appendQueue(s.key[:0], lane, Position{c.NextDue, c.ID, uint32(c.Number) + 1})
	if err := b.Set(s.key, nil, nil); err != nil {
		return err
	}
	return s.queued(lane, w.Record)
}

// pendingRow reads the row of a pending delivery as of this point of the batch.
func (s *State) pendingRow(p *place) (row []byte, ok bool, err error) {
	if t, touched := s.touched[p.id]; touched {
		return t.row, t.status == p.status, nil
	}
	row, err = s.get(p.appendRow(nil))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	return row, err == nil, err
}

// pendingBody reads the body that a pending delivery has beside its row.
func (s *State) pendingBody(p *place) ([]byte, error) {
	if t := s.touched[p.id]; t.body != nil {
		return t.body, nil
	}
	return s.get(p.appendBody(nil))
}
