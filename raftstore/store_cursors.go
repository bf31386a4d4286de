package raftstore

import (
	"errors"
	"sync"

	"github.com/harepost/harepost/wal"
)

// cursorsKept is how many places in the log are kept open between reads: two followers that catch up, and
// room for the scan of a start or a straggler.
const cursorsKept = 4

// cursors are open places in the log, for readers that ask for one old entry after the other. A reader gets
// the place where the one before it stopped; more readers at a time than places are kept get one each that
// is closed afterwards.
type cursors struct {
	log *wal.Log

	mu     sync.Mutex
	idle   []place // the one used last is the last
	closed bool
}

// A place is a cursor that has read the entry before next.
type place struct {
	cursor *wal.Cursor
	next   wal.Index
}

func (c *cursors) read(index uint64) (wal.Entry, error) {
	i := wal.Index(index)
	p, ok := c.take(i)
	if !ok {
		return wal.Entry{}, wal.ErrClosed
	}
	e, err := p.cursor.Read(i)
	if err == nil {
		p.next = i + 1
	}
	return e, errors.Join(err, c.put(p))
}

// take chooses a place: the one that stands before the entry, or just behind it, since raft asks again for the
// last entry that it sent; then the one that has been idle longest.
func (c *cursors) take(i wal.Index) (place, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return place{}, false
	}
	at := -1
	for n, p := range c.idle {
		if p.next == i || p.next == i+1 {
			at = n
		}
	}
	if at < 0 && len(c.idle) == cursorsKept {
		at = 0
	}
	if at < 0 {
		return place{cursor: c.log.Cursor()}, true
	}
	p := c.idle[at]
	c.idle = append(c.idle[:at], c.idle[at+1:]...)
	return p, true
}

func (c *cursors) put(p place) error {
	c.mu.Lock()
	if c.closed || len(c.idle) == cursorsKept {
		c.mu.Unlock()
		return p.cursor.Close()
	}
	c.idle = append(c.idle, p)
	c.mu.Unlock()
	return nil
}

// rest closes the places that nobody reads at: after a deletion, which may have left them in files that are
// gone and still take up room.
func (c *cursors) rest() {
	c.mu.Lock()
	idle := c.idle
	c.idle = nil
	c.mu.Unlock()
	for _, p := range idle {
		_ = p.cursor.Close() // of a file that was only read
	}
}

// close closes all places, those in use when they are given back.
func (c *cursors) close() error {
	c.mu.Lock()
	idle := c.idle
	c.idle, c.closed = nil, true
	c.mu.Unlock()
	var err error
	for _, p := range idle {
		err = errors.Join(err, p.cursor.Close())
	}
	return err
}
