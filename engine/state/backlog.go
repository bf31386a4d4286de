package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/lane"
	"github.com/harepost/harepost/engine/wire"
)

// A Backlog is what a lane has in the disk queue.
type Backlog struct {
	Pending int64 // attempts that are queued
	Name    lane.Name
}

// backlogs are the lanes that have something in the disk queue: in memory, and a
// row each. The applier writes, any goroutine reads.
type backlogs struct {
	mu sync.RWMutex
	m  map[Lane]Backlog

	all bool // the rows are still to be written, all of them, see countBacklogs

	// The applier's own: what the batch that is being built changes. A lane costs
	// a write once a batch, however much of it is queued and taken.
	changes map[Lane]backlogChange
}

type backlogChange struct {
	pending int64
	name    lane.Name
}

func (l *backlogs) init() {
	l.m = make(map[Lane]Backlog)
	l.changes = make(map[Lane]backlogChange)
}

// Backlog is what a lane has in the disk queue; of one that has nothing there,
// false.
func (s *State) Backlog(l Lane) (Backlog, bool) {
	s.backlogs.mu.RLock()
	defer s.backlogs.mu.RUnlock()
	b, ok := s.backlogs.m[l]
	return b, ok
}

// unwritten reports whether the rows are still to be written.
func (l *backlogs) unwritten() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.all
}

// queued counts an attempt that this batch puts into the disk queue. record is
// the delivery's, which names a lane that had nothing there.
func (s *State) queued(l Lane, record []byte) error {
	c := s.backlogs.change(l)
	if c.name == (lane.Name{}) {
		var rec delivery.Record
		w := delivery.Row{Record: record}
		if err := w.DecodeRecord(&rec); err != nil {
			return fmt.Errorf("name a lane: %w", err)
		}
		c.name = lane.NameOf(&rec)
	}
	c.pending++
	s.backlogs.changes[l] = c
	return nil
}

// queuedTurn is queued for a delivery of which only the id is at hand.
func (s *State) queuedTurn(l Lane, id delivery.ID) error {
	if s.backlogs.change(l).name != (lane.Name{}) {
		return s.queued(l, nil)
	}
	row, ok := s.touched[id].row, true
	for _, st := range [...]delivery.Status{delivery.Queued, delivery.Retrying} {
		if row != nil {
			break
		}
		var err error
		p := place{account: l.Account, status: st, id: id}
		if row, ok, err = s.pendingRow(&p); err != nil {
			return err
		}
	}
	w, err := delivery.DecodeRow(row)
	if err != nil || !ok {
		return fmt.Errorf("name a lane: row of %s: there %t: %w", id, ok, err)
	}
	return s.queued(l, w.Record)
}

// taken counts an attempt that this batch takes out of the disk queue.
func (s *State) taken(l Lane) {
	c := s.backlogs.change(l)
	c.pending--
	s.backlogs.changes[l] = c
}

// change is what the batch has changed of a lane so far.
func (l *backlogs) change(k Lane) backlogChange {
	c, ok := l.changes[k]
	if !ok {
		c.name = l.m[k].Name // without the lock: only the applier writes
	}
	return c
}

// writeBacklogs writes the rows of the lanes that the batch has changed.
func (s *State) writeBacklogs(b *applying) error {
	if s.backlogs.all {
		for k, was := range s.backlogs.m {
			if _, ok := s.backlogs.changes[k]; !ok {
				s.backlogs.changes[k] = backlogChange{name: was.Name}
			}
		}
	}
	for k, c := range s.backlogs.changes {
		if c.pending == 0 && !s.backlogs.all {
			continue
		}
		s.key = appendBacklog(s.key[:0], k)
		pending := s.backlogs.m[k].Pending + c.pending
		if pending <= 0 {
			if err := b.Delete(s.key, nil); err != nil {
				return err
			}
			continue
		}
		s.buf = c.name.Append(binary.AppendUvarint(s.buf[:0], uint64(pending)))
		if err := b.Set(s.key, s.buf, nil); err != nil {
			return err
		}
	}
	return nil
}

// showBacklogs shows readers what the batch has changed, once it is committed.
func (l *backlogs) show() {
	if len(l.changes) == 0 && !l.all {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = false
	for k, c := range l.changes {
		now := Backlog{l.m[k].Pending + c.pending, c.name}
		if now.Pending <= 0 {
			delete(l.m, k)
		} else if c.pending != 0 {
			l.m[k] = now
		}
	}
}

// forget drops what an account had, of which nothing is left.
func (l *backlogs) forget(a account.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k := range l.m {
		if k.Account == a {
			delete(l.m, k)
		}
	}
}

func appendBacklog(dst []byte, l Lane) []byte {
	return binary.BigEndian.AppendUint64(appendAccount(dst, spaceBacklog, l.Account), l.Destination)
}

// eachBacklog calls fn with every row.
func (s *State) eachBacklog(fn func(l Lane, b Backlog) error) error {
	return s.scan([]byte{spaceBacklog}, []byte{spaceBacklog + 1}, func(key, value []byte) error {
		r := wire.NewReader(append([]byte(nil), value...))
		b := Backlog{int64(r.Uvarint()), lane.ReadName(&r)}
		if r.Err() != nil || len(r.Rest()) > 0 || len(key) != lanePrefixBytes || b.Pending <= 0 {
			return fmt.Errorf("state: backlog %x: %w", key, wire.ErrMalformed)
		}
		return fn(laneOf(key), b)
	})
}

// laneOf reads the lane in a key of q or p.
func laneOf(key []byte) Lane {
	return Lane{account.ID(binary.BigEndian.Uint64(key[1:])), binary.BigEndian.Uint64(key[9:])}
}

func (s *State) loadBacklogs() error {
	if s.backlogs.all {
		return s.countBacklogs()
	}
	return s.eachBacklog(func(l Lane, b Backlog) error {
		s.backlogs.m[l] = b
		return nil
	})
}

// countBacklogs makes the backlogs of a state that has none, because it is of an
// earlier version: from the queue itself, key by key. The next batch writes them.
func (s *State) countBacklogs() error {
	return s.scan([]byte{spaceQueue}, []byte{spaceQueue + 1}, func(key, _ []byte) error {
		l, p, ok := parseQueue(key)
		if !ok {
			return fmt.Errorf("state: queue key %x: malformed", key)
		}
		b := s.backlogs.m[l]
		if b.Name == (lane.Name{}) {
			var err error
			if b.Name, err = s.nameOf(l, p); err != nil {
				return err
			}
		}
		b.Pending++
		s.backlogs.m[l] = b
		return nil
	})
}

// nameOf is the name of a lane by a position in its disk queue. Of an account that
// is deleted the delivery may be gone before its position is.
func (s *State) nameOf(l Lane, p Position) (lane.Name, error) {
	for _, st := range [...]delivery.Status{delivery.Queued, delivery.Retrying} {
		f, err := findAt(s.db, place{account: l.Account, status: st, id: p.ID})
		if errors.Is(err, pebble.ErrNotFound) {
			continue
		}
		var rec delivery.Record
		if err == nil {
			err = f.Row.DecodeRecord(&rec)
		}
		return lane.NameOf(&rec), err
	}
	return lane.Name{Kind: lane.Host}, nil
}
