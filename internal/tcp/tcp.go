// Package tcp reads and writes TCP connections at a lower price.
//
// A Read of a net.TCPConn is the system call read, which goes through the
// kernel's file layer, and which the Go runtime prepares to see block: it gives
// up its processor for the time and takes it back, and its monitor, which looks
// after processors that do not come back, is kept awake. A socket of Go's never
// blocks. So a [Conn] makes the calls recv and send instead, and says nothing to
// the runtime about them; where one would have to wait, it waits by the
// runtime's poller as usual. It is a net.Conn in everything else: deadlines,
// Close, errors that tell a timeout, an end and a reset.
//
// It owns no goroutine. As with most users of a connection, one goroutine may
// read and one may write at a time.
package tcp

import (
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mostBytes is what one call may copy. More takes the kernel long enough for the
// runtime to want to know of it.
const mostBytes = 64 << 10

// A Conn is a TCP connection. Make one with [New].
type Conn struct {
	*net.TCPConn
	raw              syscall.RawConn
	reading, sending transfer
}

// transfer holds the arguments and results of a call, in fields so that making
// it allocates nothing.
type transfer struct {
	call  func(fd uintptr) (done bool) // for RawConn: false waits until it can go on
	p     []byte
	n     int
	errno syscall.Errno
}

// New returns c read and written by recv and send. c must not be used beside it.
func New(c *net.TCPConn) (*Conn, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &Conn{TCPConn: c, raw: raw}
	s.reading.call = s.reading.receive
	s.sending.call = s.sending.send
	return s, nil
}

// Read is as net.Conn says.
func (c *Conn) Read(p []byte) (int, error) {
	if ordinary || len(p) == 0 || len(p) > mostBytes {
		return c.TCPConn.Read(p)
	}
	t := &c.reading
	t.p, t.n, t.errno = p, 0, 0
	err := c.raw.Read(t.call)
	t.p = nil
	switch {
	case err != nil:
		return 0, err
	case t.errno != 0:
		return 0, c.failed("read", "recvfrom", t.errno)
	case t.n == 0:
		return 0, io.EOF
	}
	return t.n, nil
}

// Write is as net.Conn says.
func (c *Conn) Write(p []byte) (int, error) {
	if ordinary || len(p) == 0 || len(p) > mostBytes {
		return c.TCPConn.Write(p)
	}
	t := &c.sending
	t.p, t.n, t.errno = p, 0, 0
	err := c.raw.Write(t.call)
	t.p = nil
	if err == nil && t.errno != 0 {
		err = c.failed("write", "sendto", t.errno)
	}
	return t.n, err
}

// Control calls f with the connection's descriptor, see syscall.RawConn.
func (c *Conn) Control(f func(fd uintptr)) error { return c.raw.Control(f) }

func (c *Conn) failed(op, call string, errno syscall.Errno) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError(call, errno)}
}

func (t *transfer) receive(fd uintptr) bool {
	t.n, t.errno = receive(fd, t.p, 0)
	return t.errno != unix.EAGAIN
}

func (t *transfer) send(fd uintptr) bool {
	for t.n < len(t.p) {
		n, errno := call(unix.SYS_SENDTO, fd, t.p[t.n:], unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if errno != 0 {
			t.errno = errno
			return errno != unix.EAGAIN
		}
		t.n += n
		t.errno = 0
	}
	return true
}

// receive reads what is there into p, which must not be empty, without waiting:
// EAGAIN if there is nothing, 0 bytes at the end of the stream. flags may have
// MSG_PEEK.
func receive(fd uintptr, p []byte, flags int) (int, syscall.Errno) {
	return call(unix.SYS_RECVFROM, fd, p, flags|unix.MSG_DONTWAIT)
}

// call makes a system call that cannot block.
func call(number, fd uintptr, p []byte, flags int) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(number, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), uintptr(flags), 0, 0)
		if errno == unix.EINTR {
			continue
		}
		runtime.KeepAlive(p)
		if errno != 0 {
			return 0, errno
		}
		return int(n), 0
	}
}
