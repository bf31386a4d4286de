package raftstore

import (
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"github.com/harepost/harepost/internal/tcp"
)

// A peerConn is a connection to another node after its handshake.
type peerConn struct {
	net.Conn // the socket, or tls
	socket   *socket
	tls      *tls.Conn // nil without TLS
	peer     string    // the node id that its certificate proves; empty without TLS

	layer    *StreamLayer
	idle     time.Duration // a read waits no longer; 0: without end
	accepted bool          // and not dialed; written before others have the connection
	closed   atomic.Bool
}

func newPeerConn(l *StreamLayer, c *net.TCPConn) (*peerConn, error) {
	read, err := tcp.New(c)
	if err != nil {
		return nil, err
	}
	s := &socket{Conn: read}
	s.receive = func(fd uintptr) { s.n, s.errno = tcp.ReceiveNow(fd, s.into, s.peek) }
	return &peerConn{Conn: s, socket: s, layer: l}, nil
}

// secureAccepted makes the handshake of a connection that was accepted.
func (p *peerConn) secureAccepted(config *tls.Config) error {
	return p.secure(tls.Server(p.socket, config))
}

// secureDialed makes the handshake of a connection that was dialed.
func (p *peerConn) secureDialed(config *tls.Config) error {
	return p.secure(tls.Client(p.socket, config))
}

func (p *peerConn) secure(c *tls.Conn) error {
	if err := c.Handshake(); err != nil {
		return err
	}
	id, err := nodeIDOf(c.ConnectionState().PeerCertificates)
	if err != nil {
		return err
	}
	p.Conn, p.tls, p.peer = c, c, id
	return nil
}

// Read reads as net.Conn says, and for no longer than idle.
func (p *peerConn) Read(b []byte) (int, error) {
	if p.idle > 0 {
		if err := p.SetReadDeadline(time.Now().Add(p.idle)); err != nil {
			return 0, err
		}
	}
	return p.Conn.Read(b)
}

// PeerID returns the id of the node at the other end, as its certificate proves
// it. It is empty without TLS, where nobody proves anything.
func (p *peerConn) PeerID() string { return p.peer }

// PeerID returns the id of the node at the other end of a connection of a
// StreamLayer's, as its certificate proves it. It is empty without TLS, and for
// connections that come from elsewhere.
func PeerID(c net.Conn) string {
	if p, ok := c.(interface{ PeerID() string }); ok {
		return p.PeerID()
	}
	return ""
}

// Close closes the connection and takes no longer than farewell: over TLS it
// says so to the other side if the socket takes it, so that a close can be told
// from a connection that broke. It may be called again.
func (p *peerConn) Close() error {
	if !p.closed.CompareAndSwap(false, true) {
		return nil
	}
	p.socket.closing.Store(true)
	err := p.Conn.Close()
	p.layer.forget(p)
	if p.tls != nil {
		// The alert may not have got out, and crypto/tls makes an error of it.
		// The connection is closed, and that is all that was asked for.
		return nil
	}
	return err
}

// fresh reports whether a connection that waits for a request can carry one:
// the other side has neither closed it nor said anything. There is nothing
// innocent that it could have said: servers give no session tickets.
//
// What crypto/tls has taken from the socket before is asked for as well, by a
// read that must not wait.
func (p *peerConn) fresh() bool {
	if !p.socket.quiet() {
		return false
	}
	if p.tls == nil {
		return true
	}
	p.socket.noWait = true
	var b [1]byte
	_, err := p.tls.Read(b[:])
	p.socket.noWait = false
	return errors.Is(err, tcp.ErrWouldBlock)
}

// farewell bounds what closing a connection takes where its buffer is full.
// crypto/tls would wait for 5 s.
const farewell = 100 * time.Millisecond

// socket is a TCP connection that can also be read without waiting, and knows
// how much was sent.
type socket struct {
	*tcp.Conn
	closing atomic.Bool  // write deadlines are at most a farewell away
	sent    atomic.Int64 // bytes handed to the kernel
	noWait  bool         // Read returns tcp.ErrWouldBlock instead of waiting; the reader's
	back    []byte       // what first took, for Read to give again; the reader's

	// The arguments and results of receive. They belong to the reader.
	receive func(fd uintptr)
	into    []byte
	peek    bool
	n       int
	errno   error
}

// first waits for the first byte, which Read will give again.
func (s *socket) first() (byte, error) {
	b := make([]byte, 1)
	if _, err := s.Conn.Read(b); err != nil {
		return 0, err
	}
	s.back = b
	return b[0], nil
}

// Read reads as net.Conn says, unless noWait is set.
func (s *socket) Read(b []byte) (int, error) {
	if len(s.back) > 0 {
		n := copy(b, s.back)
		s.back = s.back[n:]
		return n, nil
	}
	if s.noWait && len(b) > 0 {
		return s.now(b, false)
	}
	return s.Conn.Read(b)
}

// Write writes as net.Conn says.
func (s *socket) Write(b []byte) (int, error) {
	n, err := s.Conn.Write(b)
	s.sent.Add(int64(n))
	return n, err
}

// SetWriteDeadline is as net.Conn says, but soon once the connection is being
// closed: tls.Conn sets one of its own then.
func (s *socket) SetWriteDeadline(t time.Time) error {
	if soon := time.Now().Add(farewell); s.closing.Load() && (t.IsZero() || t.After(soon)) {
		t = soon
	}
	return s.Conn.SetWriteDeadline(t)
}

// quiet reports whether there is nothing to read: no byte, no end, no error.
func (s *socket) quiet() bool {
	var b [1]byte
	_, err := s.now(b[:], true)
	return err == tcp.ErrWouldBlock
}

func (s *socket) now(b []byte, peek bool) (int, error) {
	s.into, s.peek, s.n, s.errno = b, peek, 0, nil
	err := s.Control(s.receive)
	s.into = nil
	if err != nil {
		return 0, err
	}
	return s.n, s.errno
}
