package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"
)

const (
	maxDials    = 4           // addresses tried for one attempt
	minDialTime = time.Second // for each, when more than one is left
	// sessionEntries is how many TLS sessions are kept for resumption, one
	// per server name.
	sessionEntries = 8192
)

// dialer makes connections: resolve, check every address, connect to one that
// was checked, shake hands. It never sees a redirect and never resolves twice.
type dialer struct {
	guard    *guard
	resolver *resolver
	tls      *tls.Config // cloned for each server name
	net      net.Dialer
	log      *slog.Logger
}

func newDialer(o Options, g *guard, r *resolver) *dialer {
	d := &dialer{
		guard:    g,
		resolver: r,
		log:      o.Logger,
		tls: &tls.Config{
			RootCAs:            o.RootCAs,
			MinVersion:         tls.VersionTLS12,
			NextProtos:         []string{"http/1.1"},
			ClientSessionCache: tls.NewLRUClientSessionCache(sessionEntries),
		},
	}
	// Connections live a few idle seconds at most: no keep-alive probes.
	d.net = net.Dialer{KeepAlive: -1, ControlContext: d.control}
	return d
}

// control is the guard's last word: it sees the address that the kernel is
// about to be given. addrs has checked it already, so a refusal here means
// that the code between has a hole.
func (d *dialer) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil || !d.guard.allowed(ap.Addr(), ap.Port()) {
		d.log.Error("transport: an unchecked address reached the dialer", "address", address)
		return faultBlocked
	}
	return nil
}

// addrs returns the addresses of host, every one of them checked. One that is
// forbidden makes the whole name forbidden: a name that points at both sides
// of the fence is an attempt to climb it. The slice must not be written to.
func (d *dialer) addrs(ctx context.Context, host string, port uint16) ([]netip.Addr, error) {
	return d.addrsBy(host, port, func() ([]netip.Addr, error) { return d.resolver.addresses(ctx, host) })
}

// errNotKnown is checkKnown's answer where only a lookup could tell.
var errNotKnown = errors.New("not looked up yet")

// checkKnown says whether all of host's addresses are allowed, without a lookup.
func (d *dialer) checkKnown(host string, port uint16) error {
	if a, ok := ParseLiteral(host); ok {
		if !d.guard.allowed(a, port) {
			return faultBlocked
		}
		return nil
	}
	_, err := d.addrsBy(host, port, func() ([]netip.Addr, error) { return d.resolver.known(host) })
	return err
}

func (d *dialer) addrsBy(host string, port uint16, resolve func() ([]netip.Addr, error)) ([]netip.Addr, error) {
	if a, ok := ParseLiteral(host); ok {
		if !d.guard.allowed(a, port) {
			return nil, faultBlocked
		}
		return []netip.Addr{a.Unmap()}, nil
	}
	if host == "localhost" {
		if local := d.guard.localAddrs(port); len(local) > 0 {
			return local, nil
		}
		return nil, faultBlocked
	}
	if !publicName(host) {
		return nil, faultBlocked
	}
	addrs, err := resolve()
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		if !d.guard.allowed(a, port) {
			return nil, faultBlocked
		}
	}
	return addrs, nil
}

// dial makes a connection to dest before deadline. The phases go into timing
// and the address into remote, also when a later phase fails.
func (d *dialer) dial(dest destination, deadline time.Time, timing *Timing, remote *netip.Addr) (*conn, *fault) {
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	// The connection and its TLS session outlive the request, whose payload may
	// stand in the same memory as the name.
	dest.host = strings.Clone(dest.host)

	began := time.Now()
	addrs, err := d.addrs(ctx, dest.host, dest.port)
	resolved := time.Now()
	timing.DNS = resolved.Sub(began)
	if err != nil {
		return nil, lookupFault(err)
	}

	tcp, addr, err := d.connect(ctx, addrs, dest.port, deadline)
	*remote = addr
	connected := time.Now()
	timing.Connect = connected.Sub(resolved)
	if err != nil {
		return nil, connectFault(err)
	}
	s, err := newSocket(tcp, dest.tls)
	if err != nil {
		tcp.Close()
		return nil, faultNoResources
	}
	c := &conn{Conn: s, socket: s, dest: dest, remote: addr, made: connected}
	if dest.tls {
		err = d.handshake(c, deadline)
		timing.TLS = time.Since(connected)
		if err != nil {
			s.Close()
			return nil, handshakeFault(err)
		}
	}
	c.roundTrip = s.roundTrip()
	return c, nil
}

// connect tries the addresses in turn, each with its share of the time left,
// so that one that swallows packets does not cost the attempt.
func (d *dialer) connect(ctx context.Context, addrs []netip.Addr, port uint16, deadline time.Time) (tcp *net.TCPConn, addr netip.Addr, err error) {
	order := candidates(addrs, rand.IntN)
	for i := range order {
		addr = order[i]
		share := max(time.Until(deadline)/time.Duration(len(order)-i), minDialTime)
		tcp, err = d.connectOne(ctx, netip.AddrPortFrom(addr, port), share)
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	return tcp, addr, err
}

// candidates returns which of the addresses, IPv4 before IPv6, to try and in
// what order: IPv4 first, because a broken IPv6 is the commoner trouble; equal
// ones by turns; and always one of each family that there is.
func candidates(addrs []netip.Addr, random func(n int) int) []netip.Addr {
	fours := 0
	for fours < len(addrs) && addrs[fours].Is4() {
		fours++
	}
	four, six := addrs[:fours], addrs[fours:]
	n := min(len(four), maxDials-min(len(six), 1))
	order := make([]netip.Addr, 0, maxDials)
	order = appendTurned(order, four, n, random)
	return appendTurned(order, six, min(len(six), maxDials-n), random)
}

// appendTurned appends n of addrs to order, beginning anywhere.
func appendTurned(order, addrs []netip.Addr, n int, random func(n int) int) []netip.Addr {
	if n == 0 {
		return order
	}
	first := random(len(addrs))
	for i := range n {
		order = append(order, addrs[(first+i)%len(addrs)])
	}
	return order
}

func (d *dialer) connectOne(ctx context.Context, to netip.AddrPort, share time.Duration) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, share)
	defer cancel()
	// Not DialTCP: it binds the socket to no address first, and then the kernel
	// looks for a port that is free for every destination, among some 28,000.
	// Unbound, a port needs to be free for this destination only.
	c, err := d.net.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// handshake puts TLS on c. The server is asked for, and must prove to be, the
// name of the target, whatever address it was found at.
func (d *dialer) handshake(c *conn, deadline time.Time) error {
	config := d.tls.Clone()
	config.ServerName = c.dest.host
	if a, ok := ParseLiteral(c.dest.host); ok {
		config.ServerName = a.Unmap().String() // verified, but not sent as SNI
	}
	if err := c.socket.SetDeadline(deadline); err != nil {
		return err
	}
	c.tls = tls.Client(c.socket, config)
	c.Conn = c.tls
	return c.tls.Handshake()
}

// lookupFault says what a failure of addrs means for the attempt.
func lookupFault(err error) *fault {
	var f *fault
	var lookup *LookupError
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &lookup) && lookup.NotFound:
		return faultNotFound
	case errors.As(err, &lookup):
		return faultLookup
	}
	return faultTimeoutDNS
}

// connectFault says what a failed TCP connect means.
func connectFault(err error) *fault {
	var f *fault
	switch {
	case errors.As(err, &f):
		return f
	case timedOut(err):
		return faultTimeoutConnect
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		return faultRefused
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.EADDRNOTAVAIL),
		errors.Is(err, syscall.ENOBUFS), errors.Is(err, syscall.ENOMEM):
		return faultNoResources
	}
	return faultUnreachable
}

// handshakeFault says what a failed TLS handshake means.
func handshakeFault(err error) *fault {
	var (
		alert     tls.AlertError
		remote    *net.OpError
		record    tls.RecordHeaderError
		name      x509.HostnameError
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
	)
	switch {
	case timedOut(err):
		return faultTimeoutTLS
	case errors.As(err, &record):
		return faultTLSNot
	case errors.As(err, &name):
		return faultTLSName
	case errors.As(err, &authority):
		return faultTLSAuthority
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return faultTLSExpired
	case errors.As(err, &invalid), errors.As(err, &verify):
		return faultTLSCertificate
	case errors.As(err, &alert), errors.As(err, &remote) && remote.Op == "remote error":
		return faultTLSAlert
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), reset(err):
		return faultTLSClosed
	}
	return faultTLS
}

// timedOut recognises every form of "the deadline passed": the poller's, the
// context's, and fasthttp's own, which is not a net.Error.
func timedOut(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

func reset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed)
}
