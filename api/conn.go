package api

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

const (
	// refusals bounds the goroutines that tell connections above the limit
	// why they are refused. Beyond it they are closed without a word.
	refusals = 64
	// leastLingerBytes and lingerRequests bound what is read away of a refused
	// request: one that is refused for its size is larger than any that is not,
	// and its sender must get round to the answer.
	leastLingerBytes = 256 << 10
	lingerRequests   = 4 // times Options.RequestBytes
)

// refusal is the answer to a connection above the limit.
var refusal = func() string {
	body := `{"error":"overloaded","detail":"the server has too many open connections"}` + "\n"
	return "HTTP/1.1 503 Service Unavailable\r\n" +
		"Content-Type: application/json\r\n" +
		"Content-Length: " + strconv.Itoa(len(body)) + "\r\n" +
		"Retry-After: 1\r\n" +
		"X-Request-Id: refused\r\n" +
		"Connection: close\r\n\r\n" + body
}()

// connections bounds and knows the open connections of a server. fasthttp has
// a bound too, but answers in plain text and without Retry-After, and it
// leaves connections running when its shutdown runs out of time.
type connections struct {
	most    int
	linger  time.Duration
	away    int64 // bytes, see lingerRequests
	refused *metrics.Counter
	bodies  bodies

	mu        sync.Mutex
	open      map[*conn]struct{}
	listeners []net.Listener
	stopping  chan struct{}  // closed by stop, under mu
	refusing  sync.WaitGroup // goroutines of refuseLocked
	slots     chan struct{}  // of refuseLocked
	log       *slog.Logger
}

func (cs *connections) init(o *Options) {
	cs.most, cs.linger, cs.log = o.Connections, o.LingerTimeout, o.Logger
	cs.away = max(leastLingerBytes, lingerRequests*int64(o.RequestBytes))
	cs.bodies.init(o)
	cs.open = map[*conn]struct{}{}
	cs.slots = make(chan struct{}, refusals)
	cs.stopping = make(chan struct{})
}

// listen wraps ln so that what it accepts is counted. After stop it closes ln.
func (cs *connections) listen(ln net.Listener) net.Listener {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.stopped() {
		ln.Close()
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
	if len(cs.open) >= cs.most {
		cs.refused.Inc()
		cs.refuseLocked(nc)
		return nil
	}
	c := &conn{Conn: nc, conns: cs}
	cs.open[c] = struct{}{}
	return c
}

func (cs *connections) refuseLocked(nc net.Conn) {
	select {
	case cs.slots <- struct{}{}:
	default:
		nc.Close()
		return
	}
	cs.refusing.Go(func() {
		defer func() { <-cs.slots }()
		nc.SetDeadline(time.Now().Add(cs.linger))
		io.WriteString(nc, refusal)
		cs.readAway(nc)
		nc.Close()
	})
}

func (cs *connections) remove(c *conn) {
	cs.mu.Lock()
	delete(cs.open, c)
	cs.mu.Unlock()
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

// closeAll closes the connections that are left and waits for refuse.
func (cs *connections) closeAll() {
	cs.mu.Lock()
	left := make([]*conn, 0, len(cs.open))
	for c := range cs.open {
		left = append(left, c)
	}
	cs.mu.Unlock()
	for _, c := range left {
		c.linger.Store(false)
		c.Close()
	}
	cs.refusing.Wait()
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
		c.conns.readAway(c.Conn)
	}
	c.conns.remove(c)
	return c.Conn.Close()
}

// readAway ends our side and reads the other until it ends too, or a bound is
// met. Errors do not matter: the connection is about to be closed.
func (cs *connections) readAway(nc net.Conn) {
	w, ok := nc.(interface{ CloseWrite() error })
	if !ok || w.CloseWrite() != nil {
		return
	}
	if nc.SetReadDeadline(time.Now().Add(cs.linger)) != nil {
		return
	}
	io.CopyN(io.Discard, nc, cs.away)
}
