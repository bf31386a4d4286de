package bench

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// A parking keeps connections that are never answered, each at the price of a
// file descriptor and a map entry: no goroutine, no buffer. It notices when the
// other side gives up, and closes then. One goroutine owns the epoll set; Close
// ends it.
type parking struct {
	epoll, wake int
	max         int
	ended       chan struct{}

	mu     sync.Mutex
	parked map[int]*door // by file descriptor
	closed bool
}

func newParking(most int) (*parking, error) {
	p := &parking{max: most, parked: make(map[int]*door), ended: make(chan struct{})}
	var err error
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("bench: receiver: make an epoll set: %w", err)
	}
	if p.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, errors.Join(fmt.Errorf("bench: receiver: make an event: %w", err), unix.Close(p.epoll))
	}
	if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, p.wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(p.wake)}); err != nil {
		return nil, errors.Join(fmt.Errorf("bench: receiver: watch an event: %w", err), unix.Close(p.wake), unix.Close(p.epoll))
	}
	go p.watch()
	return p, nil
}

// park takes the connection over and closes it for everybody else. Beyond the
// bound it is closed altogether.
func (p *parking) park(c *doorConn) {
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		return // it is over
	}
	fd := -1
	// A descriptor of our own: closing the connection then closes nothing for
	// the other side.
	err = raw.Control(func(own uintptr) {
		if n, err := unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			fd = n
		}
	})
	if err != nil || fd < 0 {
		return
	}
	if !p.keep(fd, c.door) {
		_ = unix.Close(fd) // nothing was said on it
	}
}

func (p *parking) keep(fd int, d *door) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.parked) >= p.max {
		return false
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP, Fd: int32(fd)}
	if unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &event) != nil {
		return false
	}
	p.parked[fd] = d
	return true
}

// count is the number of connections parked.
func (p *parking) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.parked)
}

// clear closes the connections of a door.
func (p *parking) clear(d *door) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for fd, of := range p.parked {
		if of == d {
			p.dropLocked(fd)
		}
	}
}

func (p *parking) dropLocked(fd int) {
	delete(p.parked, fd)
	_ = unix.Close(fd) // takes it out of the epoll set, too
}

// watch closes what the other side has closed, and reads away what it says.
func (p *parking) watch() {
	defer close(p.ended)
	events := make([]unix.EpollEvent, 256)
	scratch := make([]byte, 64<<10)
	for {
		n, err := unix.EpollWait(p.epoll, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return // closed
		}
		for _, e := range events[:max(n, 0)] {
			if int(e.Fd) == p.wake {
				return
			}
			p.read(int(e.Fd), scratch)
		}
	}
}

// read takes what a connection has, and closes it at its end. It holds the lock,
// so that the descriptor is not another one's meanwhile; it does not block.
func (p *parking) read(fd int, scratch []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.parked[fd]; !ok {
		return // cleared since
	}
	n, err := unix.Read(fd, scratch)
	if n > 0 || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return
	}
	p.dropLocked(fd)
}

// Close closes all connections and waits for the goroutine. It may be called
// twice.
func (p *parking) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	for fd := range p.parked {
		p.dropLocked(fd)
	}
	p.mu.Unlock()
	_, err := unix.Write(p.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	if err != nil {
		return fmt.Errorf("bench: receiver: end the parking: %w", err)
	}
	<-p.ended
	return errors.Join(unix.Close(p.wake), unix.Close(p.epoll))
}
