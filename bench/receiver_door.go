package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A door is one port of a receiver, as a net.Listener that can be shut and
// opened again while a server accepts from it.
type door struct {
	index   int
	hosts   int
	addr    netip.AddrPort // where it listens
	reserve int            // a socket that is bound to the port and never listens, see newDoor
	parking *parking
	// manners is how every arrival behaves, whatever its path says; nil: as the
	// path says.
	manners atomic.Pointer[behaviour]

	mu       sync.Mutex
	changed  sync.Cond    // listener or closed has changed
	listener net.Listener // nil while the door is shut
	conns    map[*doorConn]struct{}
	closed   bool
}

// A doorConn is a connection that came in by a door.
type doorConn struct {
	*net.TCPConn
	door   *door
	lane   int // which destination it came for, among all of the receiver
	closed atomic.Bool
}

// maxReceiverHosts bounds the addresses of a receiver.
const maxReceiverHosts = 1 << 20

// hostAddress is the address of the host of that number, where there are
// several: Linux answers for all of 127.0.0.0/8.
func hostAddress(host int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, byte(1 + host>>16), byte(host >> 8), byte(host)})
}

// hostNumber is the inverse of hostAddress; false where it is no host's address.
func hostNumber(a netip.Addr, hosts int) (int, bool) {
	if hosts == 1 {
		return 0, true
	}
	b := a.Unmap().As4()
	host := (int(b[1])-1)<<16 | int(b[2])<<8 | int(b[3])
	return host, b[0] == 127 && host >= 0 && host < hosts
}

// newDoor opens a door on a port, or on a free one if that is 0. The port stays taken while the door is
// shut: a socket that is bound and does not listen refuses connections, and keeps
// the kernel from giving the port to somebody else meanwhile.
func newDoor(index, hosts int, at netip.AddrPort, p *parking) (*door, error) {
	d := &door{index: index, hosts: hosts, parking: p, conns: make(map[*doorConn]struct{})}
	d.changed.L = &d.mu
	family := unix.AF_INET6
	if at.Addr().Is4() {
		family = unix.AF_INET
	}
	var err error
	if d.reserve, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("bench: receiver: reserve a port: %w", err)
	}
	port, err := reservePort(d.reserve, d.hosts, at)
	if err == nil {
		d.addr = netip.AddrPortFrom(at.Addr(), port)
		err = d.open()
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(d.reserve))
	}
	return d, nil
}

func reservePort(socket, hosts int, at netip.AddrPort) (port uint16, err error) {
	if err := unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return 0, fmt.Errorf("bench: receiver: reserve a port: %w", err)
	}
	if err := stayOnLoopback(socket, hosts); err != nil {
		return 0, err
	}
	var want unix.Sockaddr = &unix.SockaddrInet6{Addr: at.Addr().As16(), Port: int(at.Port())}
	if at.Addr().Is4() {
		want = &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}
	}
	if err := unix.Bind(socket, want); err != nil {
		return 0, fmt.Errorf("bench: receiver: reserve a port of %s: %w", at.Addr(), err)
	}
	bound, err := unix.Getsockname(socket)
	if err != nil {
		return 0, fmt.Errorf("bench: receiver: which port is reserved: %w", err)
	}
	switch b := bound.(type) {
	case *unix.SockaddrInet4:
		return uint16(b.Port), nil
	case *unix.SockaddrInet6:
		return uint16(b.Port), nil
	}
	return 0, fmt.Errorf("bench: receiver: which port is reserved: address %T", bound)
}

// stayOnLoopback ties a socket that listens on every address to the loopback
// device: nobody outside the machine is to reach it. Linux lets anybody do that
// since 5.7.
func stayOnLoopback(socket, hosts int) error {
	if hosts == 1 {
		return nil
	}
	if err := unix.BindToDevice(socket, "lo"); err != nil {
		return fmt.Errorf("bench: receiver: tie a socket to the loopback device: %w", err)
	}
	return nil
}

// open lets connections in again. Opening an open door does nothing.
func (d *door) open() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.listener != nil || d.closed {
		return nil
	}
	c := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var tied error
		err := raw.Control(func(fd uintptr) { tied = stayOnLoopback(int(fd), d.hosts) })
		return errors.Join(err, tied)
	}}
	network := "tcp6" // 127.0.0.1 must not be taken from "::", too
	if d.addr.Addr().Is4() {
		network = "tcp4"
	}
	l, err := c.Listen(context.Background(), network, d.addr.String())
	if err != nil {
		return fmt.Errorf("bench: receiver: open %s: %w", d.addr, err)
	}
	d.listener = l
	d.changed.Broadcast()
	return nil
}

// shut refuses connections from now on and ends those there are.
func (d *door) shut() error {
	d.mu.Lock()
	l := d.listener
	d.listener = nil
	conns := make([]*doorConn, 0, len(d.conns))
	for c := range d.conns {
		conns = append(conns, c)
	}
	d.mu.Unlock()
	var err error
	if l != nil {
		err = l.Close()
	}
	for _, c := range conns {
		_ = c.Close() // it may have been closed by its own side meanwhile
	}
	d.parking.clear(d)
	return err
}

// Close ends the door; one that is shut too.
func (d *door) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	l := d.listener
	d.listener = nil
	d.changed.Broadcast()
	d.mu.Unlock()
	err := unix.Close(d.reserve)
	if l != nil {
		err = errors.Join(err, l.Close())
	}
	return err
}

// Addr is where the door listens.
func (d *door) Addr() net.Addr { return net.TCPAddrFromAddrPort(d.addr) }

// host is the host and port at which a client reaches one of the hosts.
func (d *door) host(n int) netip.AddrPort {
	if d.hosts == 1 {
		return d.addr
	}
	return netip.AddrPortFrom(hostAddress(n), d.addr.Port())
}

// acceptPause is waited when no file descriptor is left: connections that end
// free some.
const acceptPause = 10 * time.Millisecond

// Accept returns the next connection; it waits while the door is shut.
func (d *door) Accept() (net.Conn, error) {
	for {
		l := d.await()
		if l == nil {
			return nil, net.ErrClosed
		}
		c, err := l.Accept()
		if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
			<-time.After(acceptPause)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			continue // shut, or closed: await tells
		}
		if err != nil {
			return nil, fmt.Errorf("bench: receiver: accept: %w", err)
		}
		if conn, ok := d.admit(l, c.(*net.TCPConn)); ok {
			return conn, nil
		}
	}
}

// await returns the listener as soon as there is one, nil when the door is closed.
func (d *door) await() net.Listener {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.listener == nil && !d.closed {
		d.changed.Wait()
	}
	return d.listener
}

// admit registers a connection. One that the door was shut on, or that is for no
// host of ours, is closed.
func (d *door) admit(l net.Listener, c *net.TCPConn) (net.Conn, bool) {
	host, ok := hostNumber(c.LocalAddr().(*net.TCPAddr).AddrPort().Addr(), d.hosts)
	conn := &doorConn{TCPConn: c, door: d, lane: d.index*d.hosts + host}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !ok || d.listener != l {
		_ = c.Close() // nothing was said on it
		return nil, false
	}
	d.conns[conn] = struct{}{}
	return conn, true
}

func (d *door) openConns() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.conns)
}

// Close ends the connection. It may be called again, as fasthttp does after a
// handler has.
func (c *doorConn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	c.door.mu.Lock()
	delete(c.door.conns, c)
	c.door.mu.Unlock()
	return c.TCPConn.Close()
}

// reset ends the connection with a RST, and drops what was not sent.
func (c *doorConn) reset() {
	_ = c.SetLinger(0) // fails on a connection that is over, which is as good
	_ = c.Close()
}

// doorConnOf finds the connection below that of a server, through TLS.
func doorConnOf(c net.Conn) *doorConn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	return c.(*doorConn)
}
