package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// handshakeTimeout bounds a TLS handshake from its first byte on. The
// connection has its place among --max-connections meanwhile.
const handshakeTimeout = 10 * time.Second

// unixSocketMode lets the owner and the group connect, as a local proxy does.
const unixSocketMode = 0o660

// listeners are where the API is reached: over TCP, over a Unix socket, or both.
type listeners struct {
	tcp  net.Listener // nil: none. With TLS it is wrapped
	unix net.Listener // nil: none. Always plain HTTP: it does not leave the machine
	cert *certificate // nil: TCP is plain HTTP too
}

// openListeners binds what the flags ask for.
func openListeners(cfg config) (ls listeners, err error) {
	defer func() {
		if err != nil {
			ls.close()
		}
	}()
	ls.cert = cfg.certificate
	if cfg.Listen != "" {
		if ls.tcp, err = listen(cfg.Listen); err != nil {
			return ls, fmt.Errorf("--listen: %w", err)
		}
	}
	if ls.cert != nil {
		ls.tcp = &tlsListener{ls.tcp, ls.cert.config()}
	}
	if cfg.UnixSocket != "" {
		if ls.unix, err = listenUnix(cfg.UnixSocket); err != nil {
			return ls, fmt.Errorf("--unix-socket: %w", err)
		}
	}
	return ls, nil
}

// all are the listeners that there are.
func (ls listeners) all() []net.Listener {
	var all []net.Listener
	for _, ln := range []net.Listener{ls.tcp, ls.unix} {
		if ln != nil {
			all = append(all, ln)
		}
	}
	return all
}

// close closes them; the socket's file goes with it. It may be called again.
func (ls listeners) close() {
	for _, ln := range ls.all() {
		ln.Close()
	}
}

// address is where TCP is listened to; the zero value when it is not.
func (ls listeners) address() netip.AddrPort {
	if ls.tcp == nil {
		return netip.AddrPort{}
	}
	return ls.tcp.Addr().(*net.TCPAddr).AddrPort()
}

// url is how a client on this machine reaches the API.
func (ls listeners) url() string {
	a := ls.address()
	switch {
	case !a.IsValid():
		return "unix://" + ls.unix.Addr().String()
	case a.Addr().IsUnspecified():
		a = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), a.Port())
	}
	if ls.cert != nil {
		return "https://" + a.String()
	}
	return "http://" + a.String()
}

// listen binds an address of one family to that family: to the net package,
// 0.0.0.0 is every IPv6 address too.
func listen(address string) (net.Listener, error) {
	network := "tcp"
	host, _, _ := net.SplitHostPort(address)
	if ip, err := netip.ParseAddr(host); err == nil && ip.Is4() {
		network = "tcp4"
	}
	return net.Listen(network, address)
}

// listenUnix binds a socket file. One that a killed server left is removed,
// which is known by nobody answering on it; anything else there is left alone.
func listenUnix(path string) (net.Listener, error) {
	if err := removeStaleSocket(path); err != nil {
		return nil, err
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		if errors.Is(err, syscall.EINVAL) {
			return nil, fmt.Errorf("%w (a socket's path has 107 bytes at most, this one %d)", err, len(path))
		}
		return nil, err
	}
	if err := os.Chmod(path, unixSocketMode); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

func removeStaleSocket(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is there and is not a socket", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
		return fmt.Errorf("a server answers on %s", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%s is there, and whether a server has it cannot be told: %w", path, err)
	}
	return os.Remove(path)
}

// A tlsListener accepts connections whose handshake is made by whoever reads or
// writes first: on the goroutine of the connection, so that a slow client holds
// up nobody, and after the API has counted the connection.
type tlsListener struct {
	net.Listener
	config *tls.Config
}

// Accept waits for a connection.
func (l *tlsListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &tlsConn{Conn: tls.Server(nc, l.config)}, nil
}

// A tlsConn bounds its handshake. Its CloseWrite is that of tls.Conn.
type tlsConn struct {
	*tls.Conn
	once sync.Once
}

func (c *tlsConn) shake() {
	c.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
		defer cancel()
		c.HandshakeContext(ctx) // Read and Write return its error again
	})
}

// Read makes the handshake where it was not yet made.
func (c *tlsConn) Read(p []byte) (int, error) {
	c.shake()
	return c.Conn.Read(p)
}

// Write makes the handshake where it was not yet made.
func (c *tlsConn) Write(p []byte) (int, error) {
	c.shake()
	return c.Conn.Write(p)
}
