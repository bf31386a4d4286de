package transport

import (
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/harepost/harepost/internal/tcp"
)

// recvNow reads into p without waiting; with peek the bytes stay in the
// socket. It returns errWouldBlock when there is nothing and io.EOF when the
// peer has closed.
func recvNow(fd uintptr, p []byte, peek bool) (int, error) {
	flags := 0
	if peek {
		flags = unix.MSG_PEEK
	}
	n, errno := tcp.Receive(fd, p, flags)
	switch {
	case errno == unix.EAGAIN:
		return 0, errWouldBlock
	case errno != 0:
		return 0, os.NewSyscallError("recvfrom", errno)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// minRoundTrip returns the shortest round trip the kernel has seen on the
// connection, which covers the handshake and every byte acknowledged since;
// 0 when it cannot tell.
func minRoundTrip(fd uintptr) time.Duration {
	info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil || info.Min_rtt == ^uint32(0) {
		return 0
	}
	return time.Duration(info.Min_rtt) * time.Microsecond
}

// unacknowledged returns how many bytes written to the socket are not
// acknowledged, sent or not; 0 when the kernel cannot tell.
func unacknowledged(fd uintptr) int {
	bytes, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
	if err != nil {
		return 0
	}
	return bytes
}
