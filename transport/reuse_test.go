package transport

import (
	"bufio"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/harepost/harepost/internal/tcp"
)

var seedFlag = flag.Uint64("transport.seed", 0, "seed of the randomised tests; 0 takes a new one")

// seeded returns a source whose seed is printed when the test fails.
func seeded(t *testing.T) *rand.Rand {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("repeat with -transport.seed=%d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 0))
}

// scale is a test's size: quick by default, or what the environment says.
func scale(variable string, quick int) int {
	if n, err := strconv.Atoi(os.Getenv(variable)); err == nil && n > 0 {
		return n
	}
	return quick
}

// arrived returns when everything written to c is in the other side's socket,
// or the other side has gone.
func arrived(t *testing.T, c net.Conn) {
	if tc, ok := c.(*tls.Conn); ok {
		c = tc.NetConn()
	}
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Error(err)
		return
	}
	for unacknowledged := 1; unacknowledged > 0; runtime.Gosched() {
		var ioctlErr error
		err := raw.Control(func(fd uintptr) {
			if unacknowledged, ioctlErr = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ); socketHungUp(fd) {
				unacknowledged = 0
			}
		})
		if err != nil || ioctlErr != nil {
			return
		}
	}
}

// An unasked answer, and other things that happen to idle connections. Each
// returns whether it leaves the connection open.
var mischief = []struct {
	name string
	do   func(c net.Conn) bool
}{
	{"nothing", func(net.Conn) bool { return true }},
	{"an unasked 200", func(c net.Conn) bool { io.WriteString(c, reply(200, "unasked")); return true }},
	{"an unasked 408, and closes", func(c net.Conn) bool { io.WriteString(c, reply(408, "idle", "Connection: close")); return false }},
	{"two unasked answers", func(c net.Conn) bool { io.WriteString(c, reply(200, "one")+reply(200, "two")); return true }},
	{"half an answer", func(c net.Conn) bool { io.WriteString(c, "HTTP/1.1 2"); return true }},
	{"one byte", func(c net.Conn) bool { io.WriteString(c, "H"); return true }},
	{"closes", func(net.Conn) bool { return false }},
	{"half a TLS record", func(c net.Conn) bool {
		if tc, ok := c.(*tls.Conn); ok {
			tc.NetConn().Write([]byte("\x17\x03\x03\x00\x20abc"))
			return true
		}
		return false
	}},
}

// turn is one request of a round in which both accounts send one.
type turn struct {
	round *round
	quiet chan struct{} // closed when the mischief after its answer has arrived
}

// round holds the answers back until both its requests are there. Otherwise
// the second could be written to the first one's connection at the moment of
// the mischief, and such a crossing on the wire nobody can tell in time.
type round struct {
	left atomic.Int32
	both chan struct{}
	once sync.Once
}

func newRound() *round {
	r := &round{both: make(chan struct{})}
	r.left.Store(2)
	return r
}

func (r *round) arrive() {
	if r.left.Add(-1) == 0 {
		r.release()
	}
}

func (r *round) release() { r.once.Do(func() { close(r.both) }) }

// gossip answers each request with 500 and the request's own token, and then
// makes mischief: in the same write as the answer, or afterwards.
func gossip(t *testing.T, rnd func(int) int, turns *sync.Map) func(net.Conn) {
	return func(c net.Conn) {
		br := bufio.NewReader(c)
		for {
			r, _, err := readRequest(br)
			if err != nil {
				return
			}
			token := r.URL.Query().Get("token")
			known, ok := turns.Load(token)
			if !ok {
				t.Errorf("request %q came again", token)
				return
			}
			mine := known.(*turn)
			mine.round.arrive()
			<-mine.round.both
			answer := reply(500, token)
			m := mischief[rnd(len(mischief))]
			if rnd(4) == 0 {
				answer += reply(200, "unasked, with the answer")
			}
			io.WriteString(c, answer)
			open := m.do(c)
			arrived(t, c)
			if !open {
				c.Close()
			}
			close(mine.quiet)
			if !open {
				return
			}
		}
	}
}

// Two accounts send to one host whose server talks out of turn. Every answer
// must be the one to its own request: a failure with its own token in it. A
// delivery, or another token, is somebody else's answer.
func TestNoAnswerIsMisattributed(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			source := seeded(t)
			var mu sync.Mutex
			rnd := func(n int) int { mu.Lock(); defer mu.Unlock(); return source.IntN(n) }
			var turns sync.Map // token: *turn
			var resets atomic.Int64
			serve := gossip(t, rnd, &turns)
			if scheme == "https" {
				serve = secureWith(ca, serve)
			}
			addr := receiver(t, serve)
			tr := open(t, trust(ca))
			send := func(account, number int, r *round) {
				token := fmt.Sprintf("%d-%d", account, number)
				mine := &turn{round: r, quiet: make(chan struct{})}
				turns.Store(token, mine)
				req := to(addr, []string{"POST", "PUT", "GET"}[number%3], "/?token="+token, "{}")
				req.Scheme = scheme
				res := do(tr, req)
				turns.Delete(token)
				if res.Code == CodeConnectionReset {
					// The end of a connection, unlike its bytes, cannot be waited
					// for, and may come between the look and the write.
					resets.Add(1)
					r.arrive()
					return
				}
				if res.Outcome != Failed || res.Status != 500 || string(res.Body) != token {
					t.Errorf("request %s was answered %v %q with %q", token, res.Outcome, res.Error(), res.Body)
					return
				}
				<-mine.quiet
			}
			requests := scale("HAREPOST_CROSSTALK_N", 1000)
			for number := range requests / 2 {
				r := newRound()
				var accounts sync.WaitGroup
				for account := range 2 {
					accounts.Go(func() { send(account, number, r) })
				}
				accounts.Wait()
				if t.Failed() {
					r.release() // lets go of a request whose partner never came
					return
				}
			}
			if s := tr.Stats(); s.Stale == 0 || s.Reuses == 0 {
				t.Errorf("the game was not played: %+v", s)
			}
			if n := resets.Load(); n > int64(requests/50) {
				t.Errorf("%d of %d requests met a connection at its end", n, requests)
			}
		})
	}
}

// closeWrite says that nothing more will come. Unlike after Close, the socket
// is still there to ask whether this has arrived.
func closeWrite(c net.Conn) {
	if tc, ok := c.(*tls.Conn); ok {
		tc.CloseWrite()
		c = tc.NetConn()
	}
	c.(*net.TCPConn).CloseWrite()
}

// A server that closes idle connections costs a dial, never an attempt, and
// nothing is sent twice.
func TestStaleConnectionsAreReplaced(t *testing.T) {
	ca := newAuthority(t)
	for _, scheme := range []string{"http", "https"} {
		var requests atomic.Int64
		closed := make(chan struct{}, 100)
		serve := func(c net.Conn) {
			if _, _, err := readRequest(bufio.NewReader(c)); err != nil {
				return
			}
			requests.Add(1)
			io.WriteString(c, reply(200, ""))
			closeWrite(c)
			arrived(t, c)
			closed <- struct{}{}
		}
		if scheme == "https" {
			serve = secureWith(ca, serve)
		}
		addr := receiver(t, serve)
		tr := open(t, trust(ca))
		methods := []string{"POST", "PUT", "GET", "PATCH", "DELETE"}
		for _, method := range methods {
			req := to(addr, method, "/", "{}")
			req.Scheme = scheme
			if res := do(tr, req); res.Outcome != Delivered {
				t.Errorf("%s %s: %s", scheme, method, res.Error())
			}
			<-closed
		}
		if got := requests.Load(); got != int64(len(methods)) {
			t.Errorf("%s: %d requests arrived of %d", scheme, got, len(methods))
		}
	}
}

// When the replacement cannot be made, that is the attempt's result.
func TestRedialFails(t *testing.T) {
	closed := make(chan struct{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := receiverOn(t, ln, func(c net.Conn) {
		readRequest(bufio.NewReader(c))
		io.WriteString(c, reply(200, ""))
		ln.Close()
		closeWrite(c)
		arrived(t, c)
		close(closed)
	})
	tr := open(t)
	do(tr, to(addr, "POST", "/", "{}"))
	<-closed
	res := do(tr, to(addr, "POST", "/", "{}"))
	if res.Outcome != Failed || res.Code != CodeConnectionRefused || res.Timing.Reused {
		t.Errorf("%v %s", res.Outcome, res.Error())
	}
}

// A request that was written is not written again, whatever its method, also
// when it went out on a connection that had served before.
func TestNothingIsResent(t *testing.T) {
	for _, method := range []string{"POST", "PUT", "GET", "PATCH", "DELETE"} {
		var arrivals atomic.Int64
		addr := receiver(t, func(c net.Conn) {
			br := bufio.NewReader(c)
			for {
				r, _, err := readRequest(br)
				if err != nil {
					return
				}
				if r.URL.Path == "/break" {
					arrivals.Add(1)
					return
				}
				io.WriteString(c, reply(200, ""))
			}
		})
		tr := open(t)
		do(tr, to(addr, method, "/", "{}"))
		res := do(tr, to(addr, method, "/break", "{}"))
		if res.Outcome != Failed || res.Code != CodeConnectionReset || !res.Timing.Reused || arrivals.Load() != 1 {
			t.Errorf("%s: %v %s, arrived %d times", method, res.Outcome, res.Error(), arrivals.Load())
		}
	}
}

// Session tickets wait in the socket of an idle TLS 1.3 connection. They are
// no reason to close it, and they are taken for the next session.
func TestTicketsAreNoFalseAlarm(t *testing.T) {
	ca := newAuthority(t)
	ready := make(chan struct{})
	config := &tls.Config{
		Certificates: []tls.Certificate{ca.issue(nil, "127.0.0.1")},
		ClientAuth:   tls.RequestClientCert, // or the tickets come inside the handshake
	}
	addr := receiver(t, ca.secure(config, func(c *tls.Conn) {
		arrived(t, c) // the tickets that follow the handshake
		close(ready)
		answering(always(reply(200, "")))(c)
	}))
	tr := open(t, trust(ca))
	dest := destination{host: "127.0.0.1", port: addr.Port(), tls: true}
	c, f := tr.dialer.dial(dest, time.Now().Add(5*time.Second), &Timing{}, new(netip.Addr))
	if f != nil {
		t.Fatal(f)
	}
	tr.pool.open.Add(1)
	<-ready
	if n, err := c.socket.peek(); n == 0 {
		t.Fatalf("no tickets are waiting (%v): the test tests nothing", err)
	}
	for range 2 {
		if !c.fresh() {
			t.Fatal("tickets were taken for an answer")
		}
	}
	if _, err := c.socket.peek(); err != tcp.ErrWouldBlock {
		t.Fatal("the tickets are still there")
	}
	c.reused = true
	tr.pool.put(c, time.Now())
	if res := do(tr, overTLS(to(addr, "POST", "/", "{}"))); res.Outcome != Delivered || !res.Timing.Reused {
		t.Fatalf("%+v", res)
	}

	// And in the ordinary course of things one connection is enough.
	addr = receiver(t, secureWith(ca, answering(always(reply(200, "")))))
	before := tr.Stats()
	for range 20 {
		if res := do(tr, overTLS(to(addr, "POST", "/", "{}"))); res.Outcome != Delivered {
			t.Fatal(res.Error())
		}
	}
	if s := tr.Stats(); s.Dials != before.Dials+1 || s.Stale != before.Stale {
		t.Errorf("20 requests: %d dials, %d stale", s.Dials-before.Dials, s.Stale-before.Stale)
	}
}

// A connection that has been idle too long is not used, even before the sweep
// has found it: its server is about to close it.
func TestOldIdleConnectionsAreNotUsed(t *testing.T) {
	tr := open(t)
	addr := receiver(t, answering(always(reply(200, ""))))
	dest := destination{host: "127.0.0.1", port: addr.Port()}
	for _, tc := range []struct {
		idle   time.Duration
		reused bool
	}{{0, false}, {time.Second, true}, {4 * time.Second, false}} {
		if c := tr.pool.get(dest); c != nil {
			tr.pool.put(c, time.Now().Add(-tc.idle))
		}
		if res := do(tr, to(addr, "POST", "/", "{}")); res.Outcome != Delivered || res.Timing.Reused != tc.reused {
			t.Errorf("idle for %v: reused %v, %s", tc.idle, res.Timing.Reused, res.Error())
		}
	}
}
