package transport

import (
	"fmt"
	"net"
	"testing"
	"time"
)

// idleConn is a connection to a listener that never says anything.
func idleConn(t *testing.T, ln net.Listener, host string) *conn {
	t.Helper()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := newSocket(raw.(*net.TCPConn), false)
	if err != nil {
		t.Fatal(err)
	}
	return &conn{Conn: s, socket: s, dest: destination{host: host, port: 80}}
}

func isClosed(c *conn) bool { return c.socket.SetDeadline(time.Time{}) != nil }

type poolTest struct {
	*testing.T
	p   *pool
	ln  net.Listener
	now time.Time
}

func newPoolTest(t *testing.T, change func(*Options)) *poolTest {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o, err := Options{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	change(&o)
	pt := &poolTest{t, newPool(o), ln, time.Unix(1_700_000_000, 0)}
	t.Cleanup(func() {
		pt.p.close()
		pt.counts(0, 0, 0)
		ln.Close()
	})
	return pt
}

// used is a connection that an attempt has just finished with.
func (pt *poolTest) used(host string) *conn {
	c := idleConn(pt.T, pt.ln, host)
	c.made = pt.now
	pt.p.open.Add(1)
	return c
}

func (pt *poolTest) counts(open, idle, hosts int64) {
	pt.Helper()
	if a, b, c := pt.p.open.Load(), pt.p.idle.Load(), pt.p.hosts.Load(); a != open || b != idle || c != hosts {
		pt.Errorf("%d open, %d idle, %d hosts; want %d, %d, %d", a, b, c, open, idle, hosts)
	}
}

// The newest connection is used first; the oldest grow old and are closed at
// their time, not before.
func TestPoolUsesTheNewestAndClosesTheOldest(t *testing.T) {
	pt := newPoolTest(t, func(o *Options) { o.IdleConnDuration = 4 * time.Second })
	var conns []*conn
	for range 3 {
		conns = append(conns, pt.used("a"))
		pt.p.put(conns[len(conns)-1], pt.now)
		pt.now = pt.now.Add(time.Second)
	}
	pt.counts(3, 3, 1)
	if got := pt.p.get(conns[0].dest); got != conns[2] {
		t.Error("not the newest")
	}
	if got := pt.p.get(destination{host: "a", port: 81}); got != nil {
		t.Error("another port's connection")
	}
	if got := pt.p.get(destination{host: "a", port: 80, tls: true}); got != nil {
		t.Error("another scheme's connection")
	}
	pt.p.put(conns[2], pt.now)
	start := pt.now.Add(-3 * time.Second) // when conns[0] came to rest
	pt.p.sweep(start.Add(4*time.Second - 1))
	pt.counts(3, 3, 1)
	pt.p.sweep(start.Add(4 * time.Second))
	pt.counts(2, 2, 1)
	if !isClosed(conns[0]) || isClosed(conns[1]) || isClosed(conns[2]) {
		t.Error("the wrong one was closed")
	}
	pt.p.sweep(start.Add(time.Hour))
	pt.counts(0, 0, 0)
}

// A connection is not reused beyond its age, so that DNS changes arrive.
func TestPoolRetiresByAge(t *testing.T) {
	pt := newPoolTest(t, func(o *Options) { o.ConnDuration = time.Minute })
	c := pt.used("a")
	pt.p.put(c, pt.now.Add(time.Minute-1))
	pt.counts(1, 1, 1)
	pt.p.put(pt.p.get(c.dest), pt.now.Add(time.Minute))
	pt.counts(0, 0, 1)
	if !isClosed(c) {
		t.Error("kept beyond its age")
	}
}

// Every bound has its answer: close instead of keep, and the destination used
// longest ago goes first.
func TestPoolBounds(t *testing.T) {
	pt := newPoolTest(t, func(o *Options) { o.HostConns = 2; o.IdleConns = 5; o.Hosts = 2 * poolShards })
	for range 4 {
		pt.p.put(pt.used("a"), pt.now)
	}
	pt.counts(2, 2, 1)
	for i := range 4 {
		pt.p.put(pt.used(fmt.Sprint("b", i)), pt.now)
	}
	if idle := pt.p.idle.Load(); idle != 5 || pt.p.open.Load() != 5 {
		t.Errorf("%d idle, %d open", idle, pt.p.open.Load())
	}

	pt = newPoolTest(t, func(o *Options) { o.Hosts = 2 * poolShards })
	shard := pt.p.shard(destination{host: "first"})
	var hosts []string
	for i := 0; len(hosts) < 3; i++ {
		if h := fmt.Sprint("h", i); pt.p.shard(destination{host: h}) == shard {
			hosts = append(hosts, h)
		}
	}
	old, newer := pt.used(hosts[0]), pt.used(hosts[1])
	pt.p.put(old, pt.now)
	pt.p.put(newer, pt.now)
	pt.p.put(pt.p.get(old.dest), pt.now) // old is now the one used last
	pt.p.put(pt.used(hosts[2]), pt.now)
	pt.counts(2, 2, 2)
	if !isClosed(newer) || isClosed(old) {
		t.Error("not the destination used longest ago was given up")
	}
}

// What is given back after close is closed.
func TestPoolClosed(t *testing.T) {
	pt := newPoolTest(t, func(*Options) {})
	idle, busy := pt.used("a"), pt.used("a")
	pt.p.put(idle, pt.now)
	pt.p.close()
	pt.p.put(busy, pt.now)
	if !isClosed(idle) || !isClosed(busy) {
		t.Error("open after close")
	}
	pt.p.sweep(pt.now)
}
