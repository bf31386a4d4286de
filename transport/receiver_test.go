package transport

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// open returns a Transport that may reach this machine; it is closed, and
// must have closed everything, at the end of the test.
func open(t testing.TB, change ...func(*Options)) *Transport {
	t.Helper()
	o := Options{EgressAllow: loopback}
	for _, f := range change {
		f(&o)
	}
	tr, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		tr.Close()
		tr.Close() // twice is allowed
		if s := tr.Stats(); s.OpenConns != 0 || s.IdleConns != 0 || s.Hosts != 0 {
			t.Errorf("connections outlived Close: %+v", s)
		}
	})
	return tr
}

// receiver serves every connection with serve, which may leave it as it
// likes. All of it is gone when the test ends.
func receiver(t testing.TB, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return receiverOn(t, ln, serve)
}

func receiverOn(t testing.TB, ln net.Listener, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		conns = map[net.Conn]bool{}
		over  bool
	)
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			if over {
				c.Close()
			}
			mu.Unlock()
			wg.Go(func() {
				serve(c)
				c.Close()
				mu.Lock()
				delete(conns, c)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		over = true
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// to is an attempt to the receiver at addr.
func to(addr netip.AddrPort, method, uri, body string) *Request {
	return &Request{
		Scheme: "http", Host: addr.Addr().String(), Port: addr.Port(), URI: uri,
		Method: method, Body: []byte(body), Timeout: 5 * time.Second,
		DeliveryID: "hr_test", Attempt: 1,
	}
}

func do(tr *Transport, req *Request) *Result {
	res := &Result{Body: []byte("left over from an earlier attempt"), Status: 999, HasRetryAfter: true}
	tr.Do(req, res)
	return res
}

// readRequest reads one request as a server would.
func readRequest(br *bufio.Reader) (*http.Request, string, error) {
	r, err := http.ReadRequest(br)
	if err != nil {
		return nil, "", err
	}
	body, err := io.ReadAll(r.Body)
	return r, string(body), err
}

// answering serves requests one after the other, each with answer's bytes.
func answering(answer func(r *http.Request, body string) string) func(net.Conn) {
	return func(c net.Conn) {
		br := bufio.NewReader(c)
		for {
			r, body, err := readRequest(br)
			if err != nil {
				return
			}
			if _, err := io.WriteString(c, answer(r, body)); err != nil {
				return
			}
		}
	}
}

// reply is a plain response.
func reply(status int, body string, headers ...string) string {
	var b strings.Builder
	b.WriteString("HTTP/1.1 " + strconv.Itoa(status) + " Whatever\r\n")
	for _, h := range headers {
		b.WriteString(h + "\r\n")
	}
	b.WriteString("Content-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body)
	return b.String()
}

// discard reads until the other side is gone.
func discard(c net.Conn) { io.Copy(io.Discard, c) }

func always(answer string) func(*http.Request, string) string {
	return func(*http.Request, string) string { return answer }
}

// tolerance is how far past its deadline an attempt may end on a busy machine.
const tolerance = 250 * time.Millisecond

// shared is a value that a test changes while a receiver reads it.
type shared[T any] struct{ p atomic.Pointer[T] }

func (s *shared[T]) set(v T) { s.p.Store(&v) }
func (s *shared[T]) get() T  { return *s.p.Load() }

// quiet drops the log of a test that breaks invariants on purpose.
func quiet(o *Options) { o.Logger = slog.New(slog.DiscardHandler) }
