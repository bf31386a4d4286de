package transport

import "golang.org/x/sys/unix"

// socketHungUp reports whether the other side of a socket has closed it,
// however much of what it sent is still unread.
func socketHungUp(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
}
