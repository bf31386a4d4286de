package transport

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/harepost/harepost/internal/tcp"
)

// conn is one connection to a destination. It belongs to one attempt at a
// time, or to the pool.
type conn struct {
	net.Conn // what HTTP is spoken on: socket, or tls
	socket   *socket
	tls      *tls.Conn // nil for http

	dest      destination
	remote    netip.Addr
	made      time.Time
	roundTrip time.Duration // the shortest of the path, as last asked for
	idle      time.Time     // since when, while in the pool
	deadline  time.Time     // that reads and writes end by, zero if theirs differ
	reused    bool
}

// deadlineGrain is the part of its timeout by which an attempt may end late.
const deadlineGrain = 64

// endBy makes reads and writes fail after deadline, and at most a deadlineGrain
// of timeout later. A deadline costs a change of the runtime's timers. Set that
// much later than asked for, it serves the attempts that follow on the same
// connection too: a busy one has a few a second in place of hundreds.
func (c *conn) endBy(deadline time.Time, timeout time.Duration) error {
	latest := deadline.Add(timeout / deadlineGrain)
	if !c.deadline.Before(deadline) && !c.deadline.After(latest) {
		return nil
	}
	c.deadline = latest
	return c.SetDeadline(latest)
}

// readBy makes reads fail after deadline. Writes keep what they have.
func (c *conn) readBy(deadline time.Time) {
	c.deadline = time.Time{}
	c.SetReadDeadline(deadline)
}

// fresh reports whether the connection can carry another request: the peer
// has neither closed it nor said anything that nobody asked for. A client
// that skips this credits the next request with whatever was lying there,
// and every later one with its predecessor's answer.
//
// Over TLS, pending bytes may be innocent (session tickets, a key update), so
// they are read through the TLS layer without waiting: it consumes those, and
// hands out application data if there is any, also such that it had already
// decrypted. A record that has only half arrived could be either; it counts
// as stale.
func (c *conn) fresh() bool {
	if c.tls == nil {
		_, err := c.socket.peek()
		return err == tcp.ErrWouldBlock
	}
	c.socket.noWait = true
	var b [1]byte
	_, err := c.tls.Read(b[:])
	c.socket.noWait = false
	return errors.Is(err, tcp.ErrWouldBlock) && c.socket.records.whole()
}

// unasked reports whether bytes that came elapsed after a request, of sent bytes,
// are not its answer: whoever spoke had not received anything of it. They were
// on their way when it was written, where no look at the socket could find them.
// Every segment says how much has been received, so that the kernel knows before
// it hands out what an answer says.
//
// It is not asked where there was the time for a round trip. Time alone does not
// judge: what the kernel takes for the shortest round trip can be longer than an
// exchange was, since after a retransmission it counts in milliseconds.
func (c *conn) unasked(elapsed time.Duration, sent int) bool {
	if elapsed >= c.roundTrip {
		return false
	}
	c.roundTrip = c.socket.roundTrip()
	return c.socket.unacknowledged() >= sent
}

// abort closes the connection without ceremony. A TLS close alert would wait
// up to 5 s behind a full send buffer.
func (c *conn) abort() { c.socket.Close() }

// retire closes an idle connection; over TLS with the alert, whose buffer is
// empty then.
func (c *conn) retire() { c.Conn.Close() }

// socket is a TCP connection that can also be read without waiting.
type socket struct {
	*tcp.Conn
	records recordCounter // over TLS: where in the record stream we are
	isTLS   bool
	noWait  bool // Read returns tcp.ErrWouldBlock instead of waiting
	sent    int  // bytes written

	// The arguments and results of receive, in fields so that a call
	// allocates nothing.
	receive  func(fd uintptr)
	buf      []byte
	peekOnly bool
	n        int
	err      error
	one      [1]byte
}

func newSocket(c *net.TCPConn, isTLS bool) (*socket, error) {
	read, err := tcp.New(c)
	if err != nil {
		return nil, err
	}
	s := &socket{Conn: read, isTLS: isTLS}
	s.receive = func(fd uintptr) { s.n, s.err = tcp.ReceiveNow(fd, s.buf, s.peekOnly) }
	return s, nil
}

// Read reads as net.Conn says, unless noWait is set.
func (s *socket) Read(p []byte) (int, error) {
	if !s.isTLS {
		return s.Conn.Read(p)
	}
	var n int
	var err error
	if s.noWait && len(p) > 0 {
		n, err = s.now(p, false)
	} else {
		n, err = s.Conn.Read(p)
	}
	s.records.add(p[:n])
	return n, err
}

// Write writes as net.Conn says.
func (s *socket) Write(p []byte) (int, error) {
	n, err := s.Conn.Write(p)
	s.sent += n
	return n, err
}

// writeBoth writes head and body as one.
func (s *socket) writeBoth(bufs *net.Buffers) error {
	n, err := bufs.WriteTo(s.TCPConn)
	s.sent += int(n)
	return err
}

// peek looks for a byte without taking it or waiting for it.
func (s *socket) peek() (int, error) { return s.now(s.one[:], true) }

func (s *socket) now(p []byte, peek bool) (int, error) {
	s.buf, s.peekOnly, s.n, s.err = p, peek, 0, nil
	err := s.Control(s.receive)
	s.buf = nil
	if err != nil {
		return 0, err
	}
	return s.n, s.err
}

// roundTrip returns the kernel's shortest round trip of the connection.
func (s *socket) roundTrip() (d time.Duration) {
	if err := s.Control(func(fd uintptr) { d = minRoundTrip(fd) }); err != nil {
		return 0
	}
	return d
}

// unacknowledged returns how many of the bytes written the other side has not
// received, as far as it has said.
func (s *socket) unacknowledged() (bytes int) {
	if err := s.Control(func(fd uintptr) { bytes = unacknowledged(fd) }); err != nil {
		return 0
	}
	return bytes
}

// recordCounter follows the record framing of a TLS stream (RFC 8446 section
// 5.1: type, version, and a 16-bit length, then that many bytes), to tell
// whether it stands between two records.
type recordCounter struct {
	header [5]byte
	have   int // bytes of header seen
	left   int // bytes of the record's body to come
}

func (r *recordCounter) add(p []byte) {
	for len(p) > 0 {
		if r.left > 0 {
			n := min(r.left, len(p))
			r.left -= n
			p = p[n:]
			continue
		}
		n := copy(r.header[r.have:], p)
		r.have += n
		p = p[n:]
		if r.have == len(r.header) {
			r.left = int(r.header[3])<<8 | int(r.header[4])
			r.have = 0
		}
	}
}

func (r *recordCounter) whole() bool { return r.have == 0 && r.left == 0 }
