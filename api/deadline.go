package api

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A deadline is when the reads, or the writes, of a connection are to fail.
//
// fasthttp sets three for every request, nearly all of which are replaced long
// before they pass, and each costs a change of the runtime's timers. So here
// setting one is a store, and the connections' timekeeper looks every now and
// then at which have passed; those it tells the socket. One is at most a
// tick of the timekeeper late, and one that is nearer than two is told at once.
//
//	connection: until = t; told? ── yes ──▶ under mu: take back what was told
//	timekeeper: until passed? ── under mu: told = true; until as before? tell
//
// Whichever of the two comes second sees what the first has stored.
type deadline struct {
	until atomic.Int64 // nanoseconds since epoch; 0: none
	told  atomic.Bool  // the socket has a deadline of its own
	mu    sync.Mutex   // held while the socket is told something
}

// The tick, which is how often the timekeeper looks, is within these bounds.
const (
	mostDeadlineTick  = 250 * time.Millisecond
	leastDeadlineTick = 5 * time.Millisecond
)

// epoch is what deadlines count from, by the monotonic clock.
var epoch = time.Now()

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// A side is net.Conn.SetReadDeadline or net.Conn.SetWriteDeadline.
type side func(net.Conn, time.Time) error

// set makes t the deadline; the zero time is none. Only the goroutine that
// serves the connection calls it. now is the timekeeper's latest look.
func (d *deadline) set(nc net.Conn, tell side, t time.Time, now, tick int64) error {
	until := int64(0)
	if !t.IsZero() {
		until = max(int64(t.Sub(epoch)), 1)
	}
	d.until.Store(until)
	near := until != 0 && until-now < 2*tick
	if !near && !d.told.Load() {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.told.Store(near)
	if !near {
		t = time.Time{}
	}
	return tell(nc, t)
}

// expire tells the socket when the deadline has passed.
func (d *deadline) expire(nc net.Conn, tell side, now int64) {
	if until := d.until.Load(); until == 0 || until > now || d.told.Load() {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	until := d.until.Load()
	if until == 0 || until > now || d.told.Load() {
		return
	}
	d.told.Store(true)
	if d.until.Load() != until { // put off meanwhile, by one who may not have seen told
		d.told.Store(false)
		return
	}
	tell(nc, longAgo) // an error says that it is closed
}

// leave ends what d does; the socket's own deadline is the caller's from now on.
func (d *deadline) leave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.until.Store(0)
	d.told.Store(false)
}

// keepTime expires the deadlines of all connections until over is closed.
func (cs *connections) keepTime() {
	ticker := time.NewTicker(cs.tick)
	defer ticker.Stop()
	var open []*conn
	for {
		select {
		case <-ticker.C:
		case <-cs.over:
			return
		}
		now := int64(time.Since(epoch))
		cs.looked.Store(now)
		open = cs.appendOpen(open[:0])
		for _, c := range open {
			c.reading.expire(c.Conn, net.Conn.SetReadDeadline, now)
			c.writing.expire(c.Conn, net.Conn.SetWriteDeadline, now)
		}
		clear(open)
	}
}
