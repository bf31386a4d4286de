package transport

import (
	"time"

	"golang.org/x/sys/unix"
)

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
