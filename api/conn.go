package api

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/harepost/harepost/internal/tcp"
)

const (
	// spareConns is how many connections above the limit are read all the same,
	// for the one request that is answered there: a liveness probe that finds no
	// place would have a server ended that is only busy. When they are all taken
	// the oldest has to go that is not being answered, so that a probe finds one
	// whatever else comes in; while those leave there may be twice as many, and
	// the next are closed without a word.
	spareConns = 64
	// spareTimeout is how long one of them may take to say what it wants.
	spareTimeout = 2 * time.Second
	// leastLingerBytes and lingerBodies bound what is read away of a refused
	// request: its sender must get round to the answer, also one whose body is
	// larger than any that is taken.
	leastLingerBytes = 256 << 10
	lingerBodies     = 2 // times the largest body that is taken
	// lingerTimeouts bounds how long: the deadline is put off while bytes come.
	lingerTimeouts = 20 // times Options.LingerTimeout
)

// connections bounds and knows the open connections of a server. fasthttp has
// a bound too, but answers in plain text and without Retry-After, and it
// leaves connections running when its shutdown runs out of time.
type connections struct {
	most    int
	linger  time.Duration
	away    int64 // bytes, see lingerBodies
	refused *metrics.Counter
	bodies  bodies

	tick   time.Duration  // of the timekeeper, see deadline
	looked atomic.Int64   // its latest look, nanoseconds since epoch
	start  sync.Once      // of the timekeeper
	over   chan struct{}  // closed by closeAll: ends the timekeeper
	end    sync.Once      // closes it
	timing sync.WaitGroup // the timekeeper

	mu        sync.Mutex
	open      map[*conn]struct{}
	spares    []*conn // of open: those above the limit, the oldest first
	listeners []net.Listener
	stopping  chan struct{} // closed by stop, under mu
	log       *slog.Logger
}

func (cs *connections) init(o *Options) {
	cs.most, cs.linger, cs.log = o.Connections, o.LingerTimeout, o.Logger
	cs.away = max(leastLingerBytes, lingerBodies*int64(max(o.RequestBytes, o.BatchBytes)))
	cs.bodies.init(o)
	cs.open = map[*conn]struct{}{}
	cs.stopping = make(chan struct{})
	cs.over = make(chan struct{})
	cs.tick = min(max(min(o.ReadTimeout, o.WriteTimeout, o.IdleTimeout)/16, leastDeadlineTick), mostDeadlineTick)
}

// listen wraps ln so that what it accepts is counted. After stop it closes ln.
func (cs *connections) listen(ln net.Listener) net.Listener {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.stopped() {
		ln.Close()
	} else {
		cs.start.Do(func() {
			cs.looked.Store(int64(time.Since(epoch)))
			cs.timing.Go(cs.keepTime)
		})
	}
	cs.listeners = append(cs.listeners, ln)
	return &listener{Listener: ln, conns: cs}
}

func (cs *connections) stopped() bool {
	select {
	case <-cs.stopping:
		return true
	default:
		return false
	}
}

// admit registers a new connection, or refuses it and returns nil.
func (cs *connections) admit(nc net.Conn) *conn {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.stopped() {
		nc.Close()
		return nil
	}
	if t, ok := nc.(*net.TCPConn); ok {
		if cheaper, err := tcp.New(t); err == nil { // else it is closed, which the first read will say
			nc = cheaper
		}
	}
	c := &conn{Conn: nc, conns: cs}
	if len(cs.open)-len(cs.spares) >= cs.most {
		if len(cs.spares) >= 2*spareConns {
			cs.refused.Inc()
			nc.Close()
			return nil
		}
		cs.spareLocked(c)
	}
	cs.open[c] = struct{}{}
	return c
}

// spareLocked lets c be one of the spare connections.
func (cs *connections) spareLocked(c *conn) {
	c.spare, c.spareUntil = true, time.Now().Add(spareTimeout)
	staying := 0
	for _, other := range cs.spares {
		if !other.evicted.Load() {
			staying++
		}
	}
	for _, other := range cs.spares {
		if staying >= spareConns && !other.evicted.Load() && !other.probe.Load() {
			other.evict()
			break
		}
	}
	cs.spares = append(cs.spares, c)
}

func (cs *connections) remove(c *conn) {
	cs.mu.Lock()
	delete(cs.open, c)
	if i := slices.Index(cs.spares, c); i >= 0 {
		cs.spares = slices.Delete(cs.spares, i, i+1)
	}
	cs.mu.Unlock()
	if c.spare && !c.probe.Load() {
		cs.refused.Inc()
	}
}

func (cs *connections) count() int {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return len(cs.open)
}

// stop closes the listeners; what was accepted and not admitted is closed too.
func (cs *connections) stop() {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.stopped() {
		return
	}
	close(cs.stopping)
	for _, ln := range cs.listeners {
		ln.Close()
	}
}

// appendOpen appends the open connections to list.
func (cs *connections) appendOpen(list []*conn) []*conn {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for c := range cs.open {
		list = append(list, c)
	}
	return list
}

// closeAll closes the connections that are left, and ends the timekeeper.
func (cs *connections) closeAll() {
	defer cs.timing.Wait()
	defer cs.end.Do(func() { close(cs.over) })
	for _, c := range cs.appendOpen(nil) {
		c.linger.Store(false)
		if c.Close() != nil {
			c.Conn.Close() // it is closing, and reads away
		}
	}
}

type listener struct {
	net.Listener
	conns *connections
}

// Accept waits for a connection that is admitted. fasthttp ends its Serve at
// the first error that is not a timeout, so that one moment without a free file
// descriptor would end the service: what passes by itself is waited out here.
func (l *listener) Accept() (net.Conn, error) {
	wait := time.Duration(0)
	for {
		nc, err := l.Listener.Accept()
		switch {
		case err == nil:
			wait = 0
			if c := l.conns.admit(nc); c != nil {
				return c, nil
			}
		case !passes(err):
			return nil, err
		default:
			wait = min(max(2*wait, 5*time.Millisecond), time.Second)
			l.conns.log.Warn("cannot accept a connection", "error", err, "retry_in", wait)
			if !l.conns.pause(wait) {
				return nil, net.ErrClosed
			}
		}
	}
}

// passes reports whether an error of accept is about this moment, or about one
// connection, and not about the listener.
func passes(err error) bool {
	for _, errno := range []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EINTR, syscall.EPERM,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// pause waits, and reports false when the server stops first.
func (cs *connections) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-cs.stopping:
		return false
	}
}

// A conn is an admitted connection.
type conn struct {
	net.Conn
	conns  *connections
	linger atomic.Bool // there is unread request: read it away before closing
	closed atomic.Bool
	body   body

	reading, writing deadline

	// Of a connection above the limit:
	spare      bool
	spareUntil time.Time
	probe      atomic.Bool // it asks for what is answered there
	evicted    atomic.Bool // another one needs its place
}

// SetReadDeadline sets the deadline, and an earlier one for a spare connection.
func (c *conn) SetReadDeadline(t time.Time) error {
	if !c.spare {
		return c.reading.set(c.Conn, net.Conn.SetReadDeadline, t, c.conns.looked.Load(), int64(c.conns.tick))
	}
	if t.IsZero() || t.After(c.spareUntil) {
		t = c.spareUntil
	}
	err := c.Conn.SetReadDeadline(t)
	if c.evicted.Load() {
		err = c.Conn.SetReadDeadline(longAgo)
	}
	return err
}

// SetWriteDeadline sets the deadline.
func (c *conn) SetWriteDeadline(t time.Time) error {
	return c.writing.set(c.Conn, net.Conn.SetWriteDeadline, t, c.conns.looked.Load(), int64(c.conns.tick))
}

// SetDeadline sets both.
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// admits says whether a request for r is answered on this connection; c may be
// nil. Above the limit only probes are.
func (c *conn) admits(r *route) error {
	switch {
	case c == nil || !c.spare:
		return nil
	case r != nil && r.probe:
		c.probe.Store(true)
		return nil
	}
	c.linger.Store(true)
	return errConnections
}

// evict ends the connection's wait for whatever its client has to say.
func (c *conn) evict() {
	c.evicted.Store(true) // first: who sets a deadline now looks at it afterwards
	c.Conn.SetReadDeadline(longAgo)
}

// Close closes the connection. Closing a socket with unread data sends a reset,
// which may destroy an answer that the client has not read yet; with linger
// set, the answer's end is sent first and the data read away, within bounds.
func (c *conn) Close() error {
	if c.closed.Swap(true) {
		return net.ErrClosed
	}
	c.giveBody()
	if c.linger.Load() {
		c.readAway()
	}
	c.conns.remove(c)
	return c.Conn.Close()
}

// readAway ends our side and reads the other until it ends too, or a bound is
// met. Errors do not matter: the connection is about to be closed.
func (c *conn) readAway() {
	c.reading.leave()
	w, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok || w.CloseWrite() != nil {
		return
	}
	io.CopyN(io.Discard, &leftover{c: c, began: time.Now()}, c.conns.away)
}

// A leftover reads what is left of a refused request, as long as it comes. When
// the server stops it is not waited for.
type leftover struct {
	c     *conn
	began time.Time
}

func (l *leftover) Read(p []byte) (int, error) {
	linger, most := l.c.conns.linger, lingerTimeouts*l.c.conns.linger
	if l.c.conns.stopped() {
		most = linger
	}
	until := time.Now().Add(linger)
	if end := l.began.Add(most); until.After(end) {
		until = end
	}
	// On the inner connection: the answer is out, and of a spare one's time it is
	// eviction that is left.
	if err := l.c.Conn.SetReadDeadline(until); err != nil || l.c.evicted.Load() {
		return 0, net.ErrClosed
	}
	return l.c.Conn.Read(p)
}
