package main

import (
	"bufio"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// An inbox is an https target with a name of its own, which keeps what it is
// sent.
type inbox struct {
	url string // https://name:port
	got chan letter
}

// A letter is one request that an inbox got.
type letter struct {
	at     time.Time
	method string
	uri    string
	host   string
	header http.Header
	body   []byte
}

// inboxLetters is how many letters an inbox holds for a test that does not
// read them; what comes on top waits at the door.
const inboxLetters = 4096

// inbox starts an inbox on 127.0.0.1 under the name host. answer is called with
// each request, counted from 1, after it was kept.
func (w *world) inbox(t testing.TB, host string, answer func(n int, rw http.ResponseWriter, r *http.Request)) *inbox {
	t.Helper()
	in := &inbox{got: make(chan letter, inboxLetters)}
	var mu sync.Mutex
	count := 0
	srv := &http.Server{
		ErrorLog: log.New(io.Discard, "", 0), // broken handshakes are what some tests want
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return // the sender died
			}
			mu.Lock()
			count++
			n := count
			mu.Unlock()
			select {
			case in.got <- letter{time.Now(), r.Method, r.RequestURI, r.Host, r.Header, body}:
				answer(n, rw, r)
			case <-r.Context().Done():
			}
		}),
	}
	ln := listenLoopback(t, "127.0.0.1:0")
	in.url = w.name(host, ln.Addr())
	serving := tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{w.ca.valid(host)}})
	var done sync.WaitGroup
	done.Go(func() { srv.Serve(serving) })
	t.Cleanup(func() { srv.Close(); done.Wait() })
	return in
}

// name makes host lead to addr, and returns the URL of a target there.
func (w *world) name(host string, addr net.Addr) string {
	tcp := addr.(*net.TCPAddr)
	w.names.address(host, tcp.IP.String())
	return "https://" + host + ":" + strconv.Itoa(tcp.Port)
}

func listenLoopback(t testing.TB, address string) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// answers answers with the statuses in order, and then with the last one.
func answers(statuses ...int) func(int, http.ResponseWriter, *http.Request) {
	return func(n int, rw http.ResponseWriter, _ *http.Request) {
		rw.WriteHeader(statuses[min(n, len(statuses))-1])
	}
}

// next is the next letter, waited for.
func (in *inbox) next(t testing.TB) letter {
	t.Helper()
	select {
	case l := <-in.got:
		return l
	case <-time.After(processPatience):
		t.Fatalf("nothing more comes to %s", in.url)
		return letter{}
	}
}

// empty checks that nothing has come that the test has not read.
func (in *inbox) empty(t testing.TB) {
	t.Helper()
	select {
	case l := <-in.got:
		t.Errorf("%s got %s %s, which nobody expected", in.url, l.method, l.uri)
	default:
	}
}

// target starts an https target that speaks with its own voice: serve has the
// connection after the handshake, and after one request was read from it. The
// connection is closed when serve returns.
func (w *world) target(t testing.TB, host string, serve func(*tls.Conn)) (url string) {
	t.Helper()
	return w.targetWith(t, host, w.ca.valid(host), serve)
}

// targetWith is target with a certificate that need not fit.
func (w *world) targetWith(t testing.TB, host string, cert tls.Certificate, serve func(*tls.Conn)) (url string) {
	t.Helper()
	config := &tls.Config{Certificates: []tls.Certificate{cert}}
	ln := serveConns(t, "127.0.0.1:0", func(c net.Conn) {
		secure := tls.Server(c, config)
		if secure.Handshake() != nil {
			return
		}
		req, err := http.ReadRequest(bufio.NewReader(secure))
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, req.Body); err == nil {
			serve(secure)
		}
	})
	return w.name(host, ln)
}

// serveConns accepts connections until the test ends, and then closes those
// that are left and waits for serve to notice.
func serveConns(t testing.TB, address string, serve func(net.Conn)) net.Addr {
	t.Helper()
	ln := listenLoopback(t, address)
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			all.Go(func() {
				serve(c)
				c.Close()
				mu.Lock()
				delete(open, c)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return ln.Addr()
}

// say writes text and closes.
func say(text string) func(*tls.Conn) {
	return func(c *tls.Conn) { io.WriteString(c, text) }
}

// sayAndStay writes text and then waits until the other side is gone.
func sayAndStay(text string) func(*tls.Conn) {
	return func(c *tls.Conn) {
		io.WriteString(c, text)
		io.Copy(io.Discard, c)
	}
}

// sayAndReset writes text and then resets the connection.
func sayAndReset(text string) func(*tls.Conn) {
	return func(c *tls.Conn) {
		io.WriteString(c, text)
		tcp := c.NetConn().(*net.TCPConn)
		tcp.SetLinger(0)
		tcp.Close()
	}
}

// sayForever writes head, and then text again and again until the other side
// is gone.
func sayForever(head, text string) func(*tls.Conn) {
	return func(c *tls.Conn) {
		io.WriteString(c, head)
		for {
			if _, err := io.WriteString(c, text); err != nil {
				return
			}
		}
	}
}

// closedPort is the address of a port that nobody listens on and nobody else
// can get while the test runs: it is bound.
func closedPort(t testing.TB) net.Addr {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	bound := name.(*syscall.SockaddrInet4)
	return &net.TCPAddr{IP: bound.Addr[:], Port: bound.Port}
}
