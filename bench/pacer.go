package bench

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// backlogRequests bounds the requests that are due and that no connection has
	// taken yet. When it is full the pacer waits, and its moments do not: what is
	// sent late is late by its own account.
	backlogRequests = 1 << 16
	// longestNap bounds how late the pacer notices that the load was ended.
	longestNap = 50 * time.Millisecond
	// busyNap is the least nap where sends are close to each other. Without it
	// the pacer would cost a system call and a wake-up for each.
	busyNap = 100 * time.Microsecond
)

// pace puts the moment of each request of the open loop into due when it has
// come, and closes due at the end of the schedule or when the load is aborted.
//
// It sleeps in the kernel, on a thread of its own: timers of the Go runtime come
// up to a millisecond late where the process is idle otherwise, which is more
// than what is measured.
func (l *load) pace(s *schedule, began moment) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// Without this the kernel may add 50 µs to every sleep. If it is refused, so
	// be it: the lag is measured.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	defer close(l.due)
	gap := time.Duration(0)
	last := began
	for {
		at, ok := s.next()
		if !ok {
			return
		}
		due := began + moment(at)
		gap, last = due.sub(last), due
		if !l.sleepUntil(due, gap) {
			return
		}
		select {
		case l.due <- due:
		case <-l.abort:
			return
		}
	}
}

// sleepUntil reports false if the load was aborted meanwhile.
func (l *load) sleepUntil(due moment, gap time.Duration) bool {
	for {
		left := due.sub(now())
		if left <= 0 {
			return true
		}
		if l.aborted() {
			return false
		}
		if gap < 2*busyNap {
			left = max(left, busyNap)
		}
		ts := unix.NsecToTimespec(int64(min(left, longestNap)))
		// An interrupted sleep is a short one.
		_ = unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &ts, nil)
	}
}
