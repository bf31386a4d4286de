package tcp

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// ErrWouldBlock is what a read that must not wait returns when there is nothing. It is
// a temporary net.Error, so that crypto/tls does not remember it.
var ErrWouldBlock error = wouldBlock{}

type wouldBlock struct{}

func (wouldBlock) Error() string   { return "tcp: nothing to read" }
func (wouldBlock) Timeout() bool   { return true }
func (wouldBlock) Temporary() bool { return true }

// ReceiveNow reads into p, which must not be empty, without waiting; with peek the
// bytes stay in the socket. It returns ErrWouldBlock when there is nothing and io.EOF
// when the peer has closed.
func ReceiveNow(fd uintptr, p []byte, peek bool) (int, error) {
	flags := 0
	if peek {
		flags = unix.MSG_PEEK
	}
	n, errno := receive(fd, p, flags)
	switch {
	case errno == unix.EAGAIN:
		return 0, ErrWouldBlock
	case errno != 0:
		return 0, os.NewSyscallError("recvfrom", errno)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}
