package transport

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tcpOf is the TCP connection that c is, or is spoken on.
func tcpOf(c net.Conn) *net.TCPConn {
	if tc, ok := c.(*tls.Conn); ok {
		c = tc.NetConn()
	}
	return c.(*net.TCPConn)
}

// deafen makes c's socket drop all that the network brings it, as if it were
// still on its way. What is written to c arrives.
func deafen(t *testing.T, c net.Conn) {
	t.Helper()
	raw, err := tcpOf(c).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	program := unix.SockFprog{Len: 1, Filter: &unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	var refused error
	err = raw.Control(func(fd uintptr) {
		refused = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)
	})
	if err != nil || refused != nil {
		t.Fatal(err, refused)
	}
}

// suspected takes the idle connection to req's target out of the pool. However
// late an answer to the next request on it comes, it will be doubted.
func suspected(t *testing.T, tr *Transport, req *Request) *conn {
	t.Helper()
	c := tr.pool.get(destination{host: req.Host, port: req.Port, tls: req.Scheme == "https"})
	if c == nil || c.roundTrip <= 0 || c.socket.roundTrip() <= 0 {
		t.Fatalf("no connection, or of an unknown round trip: %+v", c)
	}
	c.roundTrip = time.Hour
	return c
}

// What is read before any of the request has arrived is an answer to somebody
// else, however long that took: over http and over TLS, and also where head and
// body are written apart.
func TestUnaskedAnswersAreTold(t *testing.T) {
	ca := newAuthority(t)
	for _, scheme := range []string{"http", "https"} {
		for _, body := range []string{"{}", strings.Repeat("x", 3*joinedBytes)} {
			idle := make(chan net.Conn, 1)
			serve := func(c net.Conn) {
				readRequest(bufio.NewReader(c))
				io.WriteString(c, reply(200, ""))
				idle <- c
				discard(c)
			}
			if scheme == "https" {
				serve = secureWith(ca, serve)
			}
			tr := open(t, trust(ca))
			req := to(receiver(t, serve), "POST", "/", body)
			req.Scheme = scheme
			if res := do(tr, req); res.Outcome != Delivered {
				t.Fatal(res.Error())
			}
			c := suspected(t, tr, req)

			// The other side speaks when we have looked and found nothing.
			peer := <-idle
			deafen(t, peer)
			io.WriteString(peer, reply(200, "to nobody"))
			res := &Result{Started: time.Now()}
			x := exchanges.Get().(*exchange)
			keep, f := x.run(tr, c, req, res, res.Started.Add(5*time.Second))
			if keep || f != faultUnasked {
				t.Errorf("%s, %d bytes: status %d, keep %v, %v: credited with an answer to nobody", scheme, len(body), res.Status, keep, f)
			}
			x.release()
			tr.pool.drop(c)
		}
	}
}

// An answer is believed, however soon it comes, also when it does not wait for
// the end of the request.
func TestFastAnswersAreBelieved(t *testing.T) {
	ca := newAuthority(t)
	over := make(chan struct{})
	defer close(over)
	for _, scheme := range []string{"http", "https"} {
		serve := func(c net.Conn) {
			tcpOf(c).SetReadBuffer(4 << 10) // most of a large request stays where it is
			br := bufio.NewReader(c)
			for {
				r, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				if r.URL.Path == "/early" {
					io.WriteString(c, reply(413, ""))
					<-over
					return
				}
				io.Copy(io.Discard, r.Body)
				io.WriteString(c, reply(200, ""))
			}
		}
		if scheme == "https" {
			serve = secureWith(ca, serve)
		}
		tr := open(t, trust(ca))
		req := to(receiver(t, serve), "POST", "/", "{}")
		req.Scheme = scheme
		for range 200 {
			if res := do(tr, req); res.Outcome != Delivered {
				t.Fatal(scheme, res.Error())
			}
			tr.pool.put(suspected(t, tr, req), time.Now())
		}
		req.URI, req.Body = "/early", make([]byte, 300<<10)
		if res := do(tr, req); res.Status != 413 || !res.Timing.Reused {
			t.Errorf("%s, answered early: %v %s", scheme, res.Outcome, res.Error())
		}
	}
}

// The kernel is not asked about what took longer than a round trip, nor where it
// has said that it cannot tell.
func TestSlowAnswersAreNotDoubted(t *testing.T) {
	for _, elapsed := range []time.Duration{50 * time.Millisecond, time.Second} {
		if c := (&conn{roundTrip: 50 * time.Millisecond}); c.unasked(elapsed, 1) { // without a socket to ask
			t.Errorf("unasked after %v on a path of 50 ms", elapsed)
		}
	}
	if (&conn{}).unasked(0, 1) {
		t.Error("unasked on a path of unknown length")
	}
}
