package raftstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// StreamOptions say how nodes reach each other.
type StreamOptions struct {
	// Bind is where to listen, as host:port. Port 0 is any that is free.
	Bind string
	// Advertise is the host:port by which the other nodes find this one; the
	// host may be a name. Empty: where Bind listens, unless that is every address
	// of the machine.
	Advertise string
	// TLS is this node's certificate. Nil: nothing is encrypted and nobody is
	// known, and everything but loopback is refused.
	TLS *ClusterTLS
	// NodeID is this node's id, which its certificate must be for.
	NodeID string
	// NodeOf tells which node raft expects at an address: what another one answers
	// there would be taken for its word. Where it does not know, id being empty, or
	// where it is nil, any node of the CA will do, as for internal HTTP, by which
	// nodes find out who is where. It is called when connecting, from any goroutine.
	NodeOf func(address string) (id string, ok bool)
	// HandshakeTimeout bounds the time from accept to the byte that says what
	// the connection is for. Default 5 s.
	HandshakeTimeout time.Duration
	// Handshakes bounds the connections accepted that have not said so. One more
	// cuts off the one that has been at it longest. Default 64.
	Handshakes int
	// IdleTimeout is for how long a connection of raft's that was accepted may say
	// nothing; then a read of it fails. raft's own goroutine reads a snapshot off one,
	// and gives no vote meanwhile: were its sender frozen, that would be for good.
	// Those that nobody uses are closed by it too, and raft dials anew. Default 15 s.
	IdleTimeout time.Duration
	// Conns bounds the accepted connections beyond their handshakes. One more
	// is closed. Default 1024.
	Conns int
	// Logger gets what the other side of a refused connection should hear of.
	// Default: slog.Default().
	Logger *slog.Logger
}

func (o *StreamOptions) setDefaults() {
	if o.NodeOf == nil {
		o.NodeOf = func(string) (string, bool) { return "", false }
	}
	if o.HandshakeTimeout == 0 {
		o.HandshakeTimeout = 5 * time.Second
	}
	if o.IdleTimeout == 0 {
		o.IdleTimeout = 15 * time.Second
	}
	if o.Handshakes == 0 {
		o.Handshakes = 64
	}
	if o.Conns == 0 {
		o.Conns = 1024
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
}

// What the first byte of a connection says, and the one that answers it.
//
//	dialer                             acceptor
//	  ├── TLS 1.3, both certificates ────►│
//	  ├── 'R' or 'H' ────────────────────►│
//	  │◄──────────────────────────── '+' ─┤
//	  │        raft's frames, or HTTP     │
//
// In TLS 1.3 a client believes the handshake done before the server has looked
// at its certificate. Without the answer, a dialer that is refused would find
// out by its first request, and could not tell that it was never heard. It
// costs a round trip per connection, and connections are kept.
const (
	kindRaft = 'R'
	kindHTTP = 'H'
	accepted = '+'
	wantsTLS = 'T' // in place of accepted, where there is no TLS and has to be

	tlsHandshakeRecord = 0x16 // what TLS begins with
)

// queuedConns is how many connections of either kind may wait for whoever
// accepts them. One more is closed.
const queuedConns = 128

// withoutTLS says what to do about a refused address.
const withoutTLS = "without certificates nodes are reached on loopback only, since whoever reaches this port can read and replace everything: " +
	"give --cluster-cert, --cluster-key and --cluster-ca (harepost cluster certs makes them)"

// A StreamLayer is the one port by which nodes reach each other. It is the
// raft.StreamLayer of a raft.NetworkTransport, and carries internal HTTP beside
// it.
//
//	layer, err := Listen(StreamOptions{...})
//	transport := raft.NewNetworkTransportWithConfig(... Stream: layer ...)
//	server := ServeInternal(layer.HTTPListener(), handler, InternalServerOptions{})
//	client := NewInternalClient(layer, InternalClientOptions{})
//
// Only a node with a certificate of the cluster's CA gets beyond the handshake,
// see ClusterTLS. Handshakes are made beside each other and end by a deadline,
// so that those who are slow, silent or speak something else hold up nobody.
//
// It owns a goroutine that accepts, and one for each handshake. Close ends them,
// closes every connection accepted or dialed, and waits. Closing a
// raft.NetworkTransport closes its stream layer: the internal server should be
// closed before.
type StreamLayer struct {
	o         StreamOptions
	listener  *net.TCPListener
	advertise streamAddr
	log       *rareLog

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	raft chan net.Conn // written by handshakes, read by Accept
	http *httpListener

	mu       sync.Mutex
	closed   bool
	pending  []*handshake           // in the order of accepting
	conns    map[*peerConn]struct{} // accepted and dialed
	accepted int                    // of them
}

var _ raft.StreamLayer = (*StreamLayer)(nil)

// A handshake is a connection that has not said what it is for.
type handshake struct {
	conn net.Conn
	from netip.Addr
}

// Listen binds o.Bind. Connections are accepted from then on, and wait for
// whoever calls Accept and HTTPListener.
func Listen(o StreamOptions) (*StreamLayer, error) {
	o.setDefaults()
	if err := ValidNodeID(o.NodeID); err != nil {
		return nil, err
	}
	if o.TLS != nil && o.TLS.NodeID() != o.NodeID {
		return nil, fmt.Errorf("raftstore: the certificate %s is for node %q, and this is node %q", o.TLS.files.Cert, o.TLS.NodeID(), o.NodeID)
	}
	if err := checkReach(o); err != nil {
		return nil, err
	}
	ln, err := listenTCP(o.Bind)
	if err != nil {
		return nil, fmt.Errorf("raftstore: --cluster-addr: %w", err)
	}
	advertise, err := advertised(o.Advertise, ln.Addr().(*net.TCPAddr))
	if err != nil {
		ln.Close()
		return nil, err
	}
	l := &StreamLayer{
		o:         o,
		listener:  ln,
		advertise: advertise,
		log:       newRareLog(o.Logger),
		raft:      make(chan net.Conn, queuedConns),
		conns:     make(map[*peerConn]struct{}),
	}
	l.http = &httpListener{layer: l, queue: make(chan net.Conn, queuedConns), done: make(chan struct{})}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	if o.TLS == nil {
		o.Logger.Warn("nodes reach each other without TLS, on loopback only", "address", ln.Addr().String())
	}
	l.wg.Go(l.acceptLoop)
	return l, nil
}

// checkReach refuses addresses that are not loopback where there is no TLS.
func checkReach(o StreamOptions) error {
	for _, address := range []string{o.Bind, o.Advertise} {
		if address == "" && o.Bind != "" {
			continue
		}
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return fmt.Errorf("raftstore: cluster address %q: %w", address, err)
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return fmt.Errorf("raftstore: cluster address %q: the port is not a number from 0 to 65535", address)
		}
		if o.TLS == nil && !loopback(host) {
			return fmt.Errorf("raftstore: cluster address %s is not on loopback: %s", address, withoutTLS)
		}
	}
	return nil
}

// loopback tells whether host can only be this machine. Of the names there are,
// localhost alone is believed.
func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host == "localhost"
	}
	return ip.Unmap().IsLoopback()
}

// listenTCP binds an address of one family to that family: to the net package,
// 0.0.0.0 is every IPv6 address too.
func listenTCP(address string) (*net.TCPListener, error) {
	network := "tcp"
	host, _, _ := net.SplitHostPort(address)
	if ip, err := netip.ParseAddr(host); err == nil && ip.Is4() {
		network = "tcp4"
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	return ln.(*net.TCPListener), nil
}

// streamAddr is an address as other nodes are told it: its host may be a name.
type streamAddr string

// Network is part of net.Addr.
func (streamAddr) Network() string { return "tcp" }

// String is part of net.Addr.
func (a streamAddr) String() string { return string(a) }

func advertised(address string, bound *net.TCPAddr) (streamAddr, error) {
	if address == "" {
		if bound.IP.IsUnspecified() {
			return "", fmt.Errorf("raftstore: %s is every address of this machine: give --cluster-advertise, the one by which the other nodes reach it", bound)
		}
		return streamAddr(bound.String()), nil
	}
	host, port, _ := net.SplitHostPort(address) // checkReach has looked at it
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		return "", fmt.Errorf("raftstore: cluster address %s cannot be advertised: nobody can connect to it", address)
	}
	if port == "0" {
		port = strconv.Itoa(bound.Port)
	}
	return streamAddr(net.JoinHostPort(host, port)), nil
}

// Addr returns the advertised address.
func (l *StreamLayer) Addr() net.Addr { return l.advertise }

// BoundAddr returns where the layer listens.
func (l *StreamLayer) BoundAddr() net.Addr { return l.listener.Addr() }

// NodeID returns this node's id.
func (l *StreamLayer) NodeID() string { return l.o.NodeID }

// Accept returns the next connection that raft is spoken on. PeerID tells whose
// it is. It returns net.ErrClosed after Close.
func (l *StreamLayer) Accept() (net.Conn, error) {
	select {
	case c := <-l.raft:
		return c, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

// HTTPListener returns where connections for internal HTTP come in. It is always
// the same one. Closing it refuses further ones and leaves raft's alone.
func (l *StreamLayer) HTTPListener() net.Listener { return l.http }

// Close stops listening, closes all connections and waits for the layer's
// goroutines. It may be called again.
func (l *StreamLayer) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		l.wg.Wait()
		return nil
	}
	l.closed = true
	l.cancel()
	err := l.listener.Close()
	for _, h := range l.pending {
		h.conn.Close()
	}
	for c := range l.conns {
		l.wg.Go(func() { c.Close() }) // beside each other: each may wait for a moment
	}
	l.mu.Unlock()
	l.wg.Wait()
	return err
}

// acceptLoop begins handshakes until Close. What keeps it from accepting, such as
// too many open files, is tried again after a moment.
func (l *StreamLayer) acceptLoop() {
	const pause = 50 * time.Millisecond
	for {
		c, err := l.listener.AcceptTCP()
		switch {
		case err == nil:
			l.begin(c)
		case errors.Is(err, net.ErrClosed):
			return
		default:
			l.log.warn("accept", "connections of other nodes cannot be accepted", "error", err)
			select {
			case <-time.After(pause):
			case <-l.ctx.Done():
				return
			}
		}
	}
}

// begin starts c's handshake, if there is room for the connection.
func (l *StreamLayer) begin(c *net.TCPConn) {
	from := remoteIP(c)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		c.Close()
		return
	}
	if l.accepted >= l.o.Conns {
		c.Close()
		l.log.warn("conns", "a connection of another node was closed, there are too many", "from", from, "bound", l.o.Conns)
		return
	}
	if len(l.pending) >= l.o.Handshakes {
		i := l.slowest()
		l.log.warn("handshakes", "a handshake was cut off, too many are under way", "from", l.pending[i].from, "bound", l.o.Handshakes)
		l.pending[i].conn.Close()
		l.pending = slices.Delete(l.pending, i, i+1)
	}
	h := &handshake{conn: c, from: from}
	l.pending = append(l.pending, h)
	l.wg.Go(func() { l.run(c, h) })
}

// slowest is the handshake to cut off: the oldest of the address that has the
// most. A peer of the cluster takes milliseconds, so it is not met; and who
// floods the port from one address cuts off its own. The lock is held.
func (l *StreamLayer) slowest() int {
	count := make(map[netip.Addr]int, len(l.pending))
	most := 0
	for _, h := range l.pending {
		count[h.from]++
		most = max(most, count[h.from])
	}
	return slices.IndexFunc(l.pending, func(h *handshake) bool { return count[h.from] == most })
}

// run makes a handshake and hands the connection on.
func (l *StreamLayer) run(c *net.TCPConn, h *handshake) {
	p, kind, err := l.shake(c)
	l.mu.Lock()
	cut := true
	if i := slices.Index(l.pending, h); i >= 0 {
		l.pending = slices.Delete(l.pending, i, i+1)
		cut = false
	}
	l.mu.Unlock()
	if err != nil {
		c.Close()
		if !cut && l.ctx.Err() == nil {
			l.refused(h.from, err)
		}
		return
	}
	if !l.register(p, true) {
		p.Close()
		return
	}
	queue := l.raft
	if kind == kindHTTP {
		queue = l.http.queue
	} else {
		p.idle = l.o.IdleTimeout
	}
	select {
	case queue <- p:
		if kind == kindHTTP {
			l.http.pushed()
		}
	default:
		p.Close()
	}
}

// shake makes the accepting side of a handshake, by its deadline.
func (l *StreamLayer) shake(c *net.TCPConn) (*peerConn, byte, error) {
	if err := c.SetDeadline(time.Now().Add(l.o.HandshakeTimeout)); err != nil {
		return nil, 0, err
	}
	p, err := newPeerConn(l, c)
	if err != nil {
		return nil, 0, err
	}
	if l.o.TLS != nil {
		// crypto/tls would wait for five bytes, and whoever has no certificates
		// sends one and waits.
		if first, err := p.socket.first(); err != nil {
			return nil, 0, err
		} else if first != tlsHandshakeRecord {
			p.Write([]byte{wantsTLS})
			return nil, 0, errPeerHasNone
		}
		if err := p.secureAccepted(l.o.TLS.server()); err != nil {
			return nil, 0, err
		}
	}
	var kind [1]byte
	if _, err := p.Read(kind[:]); err != nil {
		return nil, 0, err
	}
	queue := l.raft
	switch kind[0] {
	case kindRaft:
	case kindHTTP:
		queue = l.http.queue
		if l.http.isClosed() {
			return nil, 0, errNotServing
		}
	case tlsHandshakeRecord:
		if l.o.TLS == nil {
			return nil, 0, errPeerHasTLS
		}
		fallthrough
	default:
		return nil, 0, fmt.Errorf("%w: its first byte is %#x", errNotANode, kind[0])
	}
	if len(queue) == cap(queue) { // before the dialer is told that it is in
		return nil, 0, errQueueFull
	}
	if _, err := p.Write([]byte{accepted}); err != nil {
		return nil, 0, err
	}
	return p, kind[0], c.SetDeadline(time.Time{})
}

// register makes Close close p. It reports false when that has happened, or
// when p is one too many.
func (l *StreamLayer) register(p *peerConn, accepted bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || accepted && l.accepted >= l.o.Conns {
		return false
	}
	p.accepted = accepted
	l.conns[p] = struct{}{}
	if accepted {
		l.accepted++
	}
	return true
}

// forget is called once by a connection that was closed, registered or not.
func (l *StreamLayer) forget(p *peerConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.conns[p]; !ok {
		return
	}
	delete(l.conns, p)
	if p.accepted {
		l.accepted--
	}
}

func remoteIP(c net.Conn) netip.Addr {
	a, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return a.AddrPort().Addr().Unmap()
}

// httpListener hands out the connections for internal HTTP.
type httpListener struct {
	layer *StreamLayer
	queue chan net.Conn // written by handshakes, read by Accept
	once  sync.Once
	done  chan struct{}
}

// Accept waits for a connection. It returns net.ErrClosed after Close, of the
// listener or of the layer.
func (h *httpListener) Accept() (net.Conn, error) {
	select {
	case <-h.done:
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-h.queue:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	case <-h.layer.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close refuses further connections and closes those that wait.
func (h *httpListener) Close() error {
	h.once.Do(func() { close(h.done) })
	h.drain()
	return nil
}

// Addr returns the layer's address.
func (h *httpListener) Addr() net.Addr { return h.layer.Addr() }

func (h *httpListener) isClosed() bool {
	select {
	case <-h.done:
		return true
	default:
		return false
	}
}

// pushed closes what was put into the queue after Close had emptied it.
func (h *httpListener) pushed() {
	if h.isClosed() {
		h.drain()
	}
}

func (h *httpListener) drain() {
	for {
		select {
		case c := <-h.queue:
			c.Close()
		default:
			return
		}
	}
}
