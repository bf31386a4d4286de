package state

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/delivery"
)

// mostExamined bounds the rows that one page reads: a filter that matches
// little returns a short page and where to go on, and never holds a reader for
// as long as an account is large.
const mostExamined = 2000

// List reads a page of an account's deliveries, newest first, beginning after
// the id after (zero: at the newest). Its cost is what it returns, and the
// rows a filter made it pass, at most mostExamined.
func (s *State) List(a account.ID, f *delivery.Filter, after delivery.ID, limit int) (delivery.Page, error) {
	l := lister{filter: f, limit: limit}
	l.bounds(after)
	// The young before the snapshot: what leaves them in between is in both,
	// and never in neither.
	if f.Wants(delivery.Queued) {
		l.addYoung(s, a)
	}
	snap := s.db.NewSnapshot()
	defer snap.Close()
	err := l.addStored(snap, a)
	if err == nil {
		err = l.run()
	}
	if err := errors.Join(err, l.close()); err != nil {
		return delivery.Page{}, fmt.Errorf("state: list: %w", err)
	}
	return l.page, nil
}

// lister merges sorted sources, the largest id first.
type lister struct {
	filter  *delivery.Filter
	limit   int
	lower   delivery.ID // inclusive
	upper   delivery.ID // exclusive
	sources []*source
	page    delivery.Page
}

// A source is deliveries of one status in descending order of their ids: a
// range of Pebble's, or young ones.
type source struct {
	status delivery.Status
	id     delivery.ID // of the delivery that comes next

	it    *pebble.Iterator // nil for young ones
	young []delivery.Delivery
}

var lastID = delivery.MakeID(1<<64-1, 1<<64-1)

func (l *lister) bounds(after delivery.ID) {
	l.upper = lastID
	if !after.IsZero() {
		l.upper = after
	}
	if !l.filter.Until.IsZero() {
		if u := delivery.FirstID(l.filter.Until); compareIDs(u, l.upper) < 0 {
			l.upper = u
		}
	}
	if !l.filter.Since.IsZero() {
		l.lower = delivery.FirstID(l.filter.Since)
	}
}

// addYoung copies what a page can need of the account's young, newest first:
// one more than it examines, so that a page that examined all it may knows that
// there are more.
func (l *lister) addYoung(s *State, a account.ID) {
	var records []youngRecord
	s.young.mu.RLock()
	if list := s.young.lists[a]; list != nil {
		for y := list.last; y != nil && len(records) <= mostExamined && compareIDs(y.ID, l.lower) >= 0; y = y.prev {
			if compareIDs(y.ID, l.upper) < 0 {
				records = append(records, youngRecord{y.ID, y.Accept.Record})
			}
		}
	}
	s.young.mu.RUnlock()
	src := &source{status: delivery.Queued}
	for _, r := range records {
		w := delivery.Row{UpdatedAt: r.id.UnixMilli(), Record: r.record}
		d, err := delivery.View(delivery.Queued, &w)
		if err != nil {
			panic(fmt.Sprintf("state: young %s was accepted and cannot be decoded: %v", r.id, err))
		}
		src.young = append(src.young, d)
	}
	if len(src.young) > 0 {
		src.id = src.young[0].ID
		l.sources = append(l.sources, src)
	}
}

type youngRecord struct {
	id     delivery.ID
	record []byte
}

func (l *lister) addStored(snap *pebble.Snapshot, a account.ID) error {
	for _, st := range delivery.Statuses {
		if !l.filter.Wants(st) {
			continue
		}
		if err := l.addRange(snap, place{account: a, status: st}); err != nil {
			return err
		}
		if !st.Final() {
			continue
		}
		days, err := lateDays(snap, a, st)
		if err != nil {
			return err
		}
		for _, day := range days {
			if err := l.addRange(snap, place{account: a, status: st, late: true, day: day}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *lister) addRange(snap *pebble.Snapshot, p place) error {
	prefix := p.appendRowPrefix(nil)
	it, err := snap.NewIter(&pebble.IterOptions{
		LowerBound: append(bytes.Clone(prefix), l.lower[:]...),
		UpperBound: append(bytes.Clone(prefix), l.upper[:]...),
	})
	if err != nil {
		return err
	}
	src := &source{status: p.status, it: it}
	if !src.take(it.Last()) {
		return errors.Join(it.Error(), it.Close())
	}
	l.sources = append(l.sources, src)
	return nil
}

// take notes the id that the iterator stands on.
func (s *source) take(ok bool) bool {
	if ok {
		key := s.it.Key()
		copy(s.id[:], key[len(key)-len(s.id):])
	}
	return ok
}

// next moves to the delivery after this one; false when there is none.
func (s *source) next() bool {
	if s.it != nil {
		return s.take(s.it.Prev())
	}
	s.young = s.young[1:]
	if len(s.young) == 0 {
		return false
	}
	s.id = s.young[0].ID
	return true
}

func (s *source) view() (delivery.Delivery, error) {
	if s.it == nil {
		return s.young[0], nil
	}
	v, err := s.it.ValueAndErr()
	if err != nil {
		return delivery.Delivery{}, err
	}
	w, err := delivery.DecodeRow(bytes.Clone(v))
	if err != nil {
		return delivery.Delivery{}, fmt.Errorf("row of %s: %w", s.id, err)
	}
	return delivery.View(s.status, &w)
}

// run fills the page. To know whether it is the last it looks for one
// delivery more than it returns.
func (l *lister) run() error {
	var last delivery.ID
	for examined := 0; len(l.sources) > 0; examined++ {
		if examined == mostExamined {
			l.page.Next = last
			return nil
		}
		i := l.largest()
		src := l.sources[i]
		last = src.id
		d, err := src.view()
		if err != nil {
			return err
		}
		if l.filter.Match(&d) {
			if len(l.page.Deliveries) == l.limit {
				l.page.Next = l.page.Deliveries[l.limit-1].ID
				return nil
			}
			l.page.Deliveries = append(l.page.Deliveries, d)
		}
		if err := l.skip(last); err != nil {
			return err
		}
	}
	return nil
}

// largest is the source whose next delivery is the newest. Of a delivery that
// is young in memory and stored in the snapshot, the stored one counts.
func (l *lister) largest() int {
	best := 0
	for i, src := range l.sources[1:] {
		if c := compareIDs(src.id, l.sources[best].id); c > 0 || c == 0 && src.it != nil {
			best = i + 1
		}
	}
	return best
}

// skip moves every source that stands on id.
func (l *lister) skip(id delivery.ID) error {
	for i := 0; i < len(l.sources); {
		src := l.sources[i]
		if src.id != id || src.next() {
			i++
			continue
		}
		l.sources = append(l.sources[:i], l.sources[i+1:]...)
		if src.it != nil {
			if err := errors.Join(src.it.Error(), src.it.Close()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *lister) close() (err error) {
	for _, src := range l.sources {
		if src.it != nil {
			err = errors.Join(err, src.it.Close())
		}
	}
	return err
}

func compareIDs(a, b delivery.ID) int { return bytes.Compare(a[:], b[:]) }
