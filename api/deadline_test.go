package api

import (
	"net"
	"sync"
	"testing"
	"time"
)

// A toldConn remembers the read deadline that it was told.
type toldConn struct {
	net.Conn
	mu       sync.Mutex
	deadline time.Time
}

func (c *toldConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	return nil
}

func (c *toldConn) last() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.deadline
}

// A deadline that is put off is not told, one that passes is, and one that is
// put off after it was told is taken back.
func TestDeadline(t *testing.T) {
	const tick = int64(time.Second)
	var d deadline
	c := &toldConn{}
	now := int64(time.Since(epoch))
	in := func(after time.Duration) time.Time { return epoch.Add(time.Duration(now) + after) }
	set := func(at time.Time) { d.set(c, net.Conn.SetReadDeadline, at, now, tick) }
	expect := func(when string, want time.Time) {
		t.Helper()
		if got := c.last(); !got.Equal(want) {
			t.Errorf("%s: the socket's deadline is %v, not %v", when, got, want)
		}
	}
	set(in(time.Minute))
	d.expire(c, net.Conn.SetReadDeadline, now+tick)
	expect("long before", time.Time{})
	now += int64(2 * time.Minute)
	d.expire(c, net.Conn.SetReadDeadline, now)
	expect("after it has passed", longAgo)
	set(in(time.Minute))
	expect("put off", time.Time{})
	set(in(time.Second))
	expect("nearer than the next look", in(time.Second))
	set(time.Time{})
	expect("none", time.Time{})
	d.expire(c, net.Conn.SetReadDeadline, now+int64(time.Hour))
	expect("none, much later", time.Time{})
}

// However a deadline that is put off meets the look that finds it passed, the
// socket is left without one.
func TestDeadlineIsPutOffWhileItPasses(t *testing.T) {
	const far = int64(1) << 60
	var d deadline
	c := &toldConn{}
	for i := range 2000 {
		d.set(c, net.Conn.SetReadDeadline, epoch.Add(time.Hour), 0, 1) // passes at the next look
		var both sync.WaitGroup
		both.Go(func() { d.expire(c, net.Conn.SetReadDeadline, int64(2*time.Hour)) })
		both.Go(func() { d.set(c, net.Conn.SetReadDeadline, epoch.Add(time.Duration(far)), 0, 1) })
		both.Wait()
		if got := c.last(); !got.IsZero() || d.told.Load() {
			t.Fatalf("round %d: the socket's deadline is %v (told: %t) though it was put off", i, got, d.told.Load())
		}
	}
}
