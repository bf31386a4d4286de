package transport

import (
	"io"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// recvNow reads into p without waiting; with peek the bytes stay in the
// socket. It returns errWouldBlock when there is nothing and io.EOF when the
// peer has closed. The raw system call keeps it off the scheduler: it cannot
// block, and it is made before every reuse of a connection.
func recvNow(fd uintptr, p []byte, peek bool) (int, error) {
	flags := uintptr(unix.MSG_DONTWAIT)
	if peek {
		flags |= unix.MSG_PEEK
	}
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, fd,
			uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), flags, 0, 0)
		switch {
		case errno == unix.EINTR:
			continue
		case errno == unix.EAGAIN:
			return 0, errWouldBlock
		case errno != 0:
			return 0, os.NewSyscallError("recvfrom", errno)
		case n == 0:
			return 0, io.EOF
		}
		return int(n), nil
	}
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
