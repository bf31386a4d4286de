package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/lane"
)

// A Report is what Verify found.
type Report struct {
	Deliveries map[delivery.Status]int64 // in Pebble; the young are in the log
	Bodies     int64                     // kept beside their rows
	Queued     int64                     // attempts in the lanes' disk queues
	Lanes      int64
	Waiting    int64   // deliveries that wait for others with their ordering key
	Held       int64   // ordering keys that a dead letter holds
	Deleted    int64   // accounts of which something is left to sweep
	Leaving    int64   // their deliveries; in none of the other counts
	Findings   []error // at most mostFindings

	leavingPending int64
	queuedIn       map[Lane]int64
}

// mostFindings bounds a report on a badly damaged state.
const mostFindings = 100

func (r *Report) find(format string, args ...any) {
	if len(r.Findings) < mostFindings {
		r.Findings = append(r.Findings, fmt.Errorf("state: "+format, args...))
	}
}

// Verify reads everything and checks that it fits together: every row decodes
// and belongs to its key, every body is there and is the one that was
// accepted, and the disk queue has exactly the next attempts of what is
// pending and does not wait for its turn by an ordering key, in lanes that are counted and called right. Of a deleted account it expects no more than that what is left is
// its own. The error is for what could not be read.
func (s *State) Verify() (Report, error) {
	r := Report{Deliveries: make(map[delivery.Status]int64), queuedIn: make(map[Lane]int64)}
	err := errors.Join(
		s.scan([]byte{spaceRow}, []byte{spaceLateRow + 1}, func(key, value []byte) error {
			return s.verifyRow(&r, key, value)
		}),
		s.scan([]byte{spaceBody}, []byte{spaceLateBody + 1}, func(key, _ []byte) error {
			if s.owned(&r, key) {
				r.Bodies++
			}
			return nil
		}),
		s.verifyOwned(&r, spaceKey),
		s.verifyOwned(&r, spaceDomain),
		s.verifyOwned(&r, spaceJob),
		s.verifyOwned(&r, spaceSetting),
		s.scan([]byte{spaceQueue}, []byte{spaceQueue + 1}, func(key, _ []byte) error {
			return s.verifyQueued(&r, key)
		}),
		s.Lanes(func(Lane, Position) { r.Lanes++ }),
		s.verifyOrders(&r),
		s.verifyBacklogs(&r),
	)
	if err != nil {
		return r, err
	}
	r.Deleted = int64(len(s.dir.Deleted()))
	stored := r.Deliveries[delivery.Queued] + r.Deliveries[delivery.Retrying]
	if all := stored + r.leavingPending; all > s.Pending() {
		r.find("%d pending deliveries are stored, the count says %d with the young", all, s.Pending())
	}
	if r.Queued+r.Waiting != stored {
		r.find("%d attempts are queued and %d wait for their turn, for %d stored pending deliveries", r.Queued, r.Waiting, stored)
	}
	return r, nil
}

// verifyOwned looks at the owners of a key space.
func (s *State) verifyOwned(r *Report, space byte) error {
	return s.scan([]byte{space}, []byte{space + 1}, func(key, _ []byte) error {
		s.owned(r, key)
		return nil
	})
}

// owned reports whether a key belongs to an account that is there. That it
// belongs to none is a finding, unless the account is deleted and not swept.
func (s *State) owned(r *Report, key []byte) bool {
	if len(key) < 9 {
		r.find("key %x: malformed", key)
		return false
	}
	a := account.ID(binary.BigEndian.Uint64(key[1:]))
	if s.dir.Has(a) {
		return true
	}
	if !s.dir.IsDeleted(a) {
		r.find("key %x: there is no account %s", key, a)
	}
	return false
}

func (s *State) verifyRow(r *Report, key, value []byte) error {
	if !s.owned(r, key) {
		r.Leaving++
		if key[0] == spaceRow && len(key) > 9 && !delivery.Status(key[9]).Final() {
			r.leavingPending++
		}
		return nil
	}
	var rec delivery.Record
	w, err := delivery.DecodeRow(value)
	if err == nil {
		err = w.DecodeRecord(&rec)
	}
	attempts, err2 := w.DecodeAttempts()
	if err := errors.Join(err, err2); err != nil {
		r.find("row %x: %v", key, err)
		return nil
	}
	p := place{account: account.ID(rec.Account), id: rec.ID}
	if len(key) > 9 {
		p.status = delivery.Status(key[9])
	}
	if !p.status.Valid() {
		r.find("row %x: no such status", key)
		return nil
	}
	p = placeOf(p.account, p.status, p.id, w.UpdatedAt)
	if !bytes.Equal(p.appendRow(nil), key) {
		r.find("row %x: its record belongs under %x", key, p.appendRow(nil))
		return nil
	}
	r.Deliveries[p.status]++
	f := Stored{Status: p.status, Row: w, place: p}
	body, err := s.Body(&f)
	switch {
	case errors.Is(err, ErrNotFound) && p.status.Final():
		// Retention may drop bodies before rows.
	case errors.Is(err, ErrNotFound):
		r.find("pending delivery %s has no body", rec.ID)
	case err != nil:
		return err
	case delivery.BodyCRC(body) != rec.BodyCRC:
		r.find("the body of %s is not the one that was accepted", rec.ID)
	}
	if w.OrderNumber != 0 {
		return s.verifyOrdered(r, &f, &rec, w.NextDue(&rec, attempts))
	}
	if p.status.Final() {
		return nil
	}
	at := Lane{p.account, rec.Destination()}
	next := Position{w.NextDue(&rec, attempts), rec.ID, uint32(len(attempts)) + 1}
	if b, ok := s.Backlog(at); ok && b.Name != lane.NameOf(&rec) {
		r.find("the lane of %s is called %q, not %q", rec.ID, b.Name.Text, lane.NameOf(&rec).Text)
	}
	_, closer, err := s.db.Get(appendQueue(nil, at, next))
	if errors.Is(err, pebble.ErrNotFound) {
		r.find("attempt %d of pending delivery %s is not queued", next.Attempt, rec.ID)
		return nil
	}
	if err != nil {
		return err
	}
	return closer.Close()
}

func (s *State) verifyQueued(r *Report, key []byte) error {
	l, p, ok := parseQueue(key)
	if ok {
		r.queuedIn[l]++
	}
	if !s.owned(r, key) {
		return nil
	}
	r.Queued++
	if !ok {
		r.find("queue key %x: malformed", key)
		return nil
	}
	at := place{account: l.Account, status: delivery.Retrying, id: p.ID}
	if p.Attempt == 1 {
		at.status = delivery.Queued
	}
	_, closer, err := s.db.Get(at.appendRow(nil))
	if p.Attempt == 1 && errors.Is(err, pebble.ErrNotFound) { // cancelled before it, and replayed
		at.status = delivery.Retrying
		_, closer, err = s.db.Get(at.appendRow(nil))
	}
	if errors.Is(err, pebble.ErrNotFound) {
		r.find("attempt %d of %s is queued, and no such delivery is pending", p.Attempt, p.ID)
		return nil
	}
	if err != nil {
		return err
	}
	return closer.Close()
}

// verifyBacklogs compares what the lanes' rows say with what was found in the
// disk queue. A state of an earlier version has no rows yet.
func (s *State) verifyBacklogs(r *Report) error {
	if s.backlogs.unwritten() {
		return nil
	}
	err := s.eachBacklog(func(l Lane, b Backlog) error {
		if n := r.queuedIn[l]; n != b.Pending {
			r.find("lane %x of %s (%s) has %d attempts queued, its row says %d", l.Destination, l.Account, b.Name.Text, n, b.Pending)
		}
		delete(r.queuedIn, l)
		return nil
	})
	for l, n := range r.queuedIn {
		r.find("lane %x of %s has %d attempts queued and no row", l.Destination, l.Account, n)
	}
	return err
}
