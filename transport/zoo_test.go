package transport

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// animal is a receiver that misbehaves in one way, after it has read the
// request unless rude is set.
type animal struct {
	name  string
	rude  bool // does not read the request
	serve func(c net.Conn)
	body  int // bytes of request body; 0: a few

	outcome Outcome
	status  int    // 0: none
	want    *fault // nil: the status decides
	slow    bool   // may use the whole timeout; else it must end well before
	plain   bool   // over http only
	detail  bool   // want's detail must match too, not only its code
}

func send(text string) func(net.Conn) {
	return func(c net.Conn) { io.WriteString(c, text) }
}

// stay writes text and keeps the connection open.
func stay(text string) func(net.Conn) {
	return func(c net.Conn) { io.WriteString(c, text); discard(c) }
}

// endlessly repeats text until the other side is gone.
func endlessly(head, text string) func(net.Conn) {
	return func(c net.Conn) {
		io.WriteString(c, head)
		block := []byte(strings.Repeat(text, 1+4096/len(text)))
		for {
			if _, err := c.Write(block); err != nil {
				return
			}
		}
	}
}

// drip writes text a byte at a time, and starts over.
func drip(head, text string) func(net.Conn) {
	return func(c net.Conn) {
		io.WriteString(c, head)
		ticker := time.NewTicker(2 * time.Millisecond)
		defer ticker.Stop()
		for i := 0; ; i++ {
			<-ticker.C
			if _, err := io.WriteString(c, text[i%len(text):i%len(text)+1]); err != nil {
				return
			}
		}
	}
}

// slam resets the connection after text.
func slam(text string) func(net.Conn) {
	return func(c net.Conn) {
		io.WriteString(c, text)
		if tc, ok := c.(*tls.Conn); ok {
			c = tc.NetConn()
		}
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
}

// bomb is 16 MiB of zeros, gzipped.
var bomb = sync.OnceValue(func() string {
	var b bytes.Buffer
	w, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	w.Write(make([]byte, 16<<20))
	w.Close()
	return b.String()
})

const ok200, fail503 = "HTTP/1.1 200 OK\r\n", "HTTP/1.1 503 No\r\n"

var zoo = []animal{
	// Connections that end.
	{name: "closes at once", rude: true, serve: send(""), want: faultReset},
	{name: "closes after the request", serve: send(""), want: faultReset, detail: true},
	{name: "resets after the request", serve: slam(""), want: faultReset, detail: true},
	{name: "closes inside the status line", serve: send("HTTP/1.1 2"), want: faultResetInHead, detail: true},
	{name: "closes inside the head", serve: send(ok200 + "Content-Le"), want: faultResetInHead, detail: true},
	{name: "resets inside the head", serve: slam(ok200 + "Content-Le"), want: faultReset},
	{name: "closes inside the body of a 200", serve: send(ok200 + "Content-Length: 100\r\n\r\nabc"), outcome: Delivered, status: 200},
	{name: "closes inside the body of a 503", serve: send(fail503 + "Content-Length: 100\r\n\r\nabc"), status: 503},
	{name: "closes during a large request", rude: true, body: 4 << 20, serve: send(""), want: faultResetInRequest},

	// Targets that take their time.
	{name: "says nothing", serve: discard, want: faultTimeoutRead, slow: true, detail: true},
	{name: "reads nothing", rude: true, serve: func(c net.Conn) { waitClosed(c) }, body: 16 << 20, want: faultTimeoutWrite, slow: true, detail: true},
	{name: "stops inside the head", serve: stay(ok200 + "Content-Le"), want: faultTimeoutRead, slow: true, detail: true},
	{name: "stops after the first byte", serve: stay("H"), want: faultTimeoutRead, slow: true, detail: true},
	{name: "drips a head", serve: drip(ok200, "X: y\r\n"), want: faultTimeoutRead, slow: true, detail: true},
	{name: "stalls in the body of a 200", serve: stay(ok200 + "Content-Length: 100\r\n\r\nabc"), outcome: Delivered, status: 200},
	{name: "stalls in the body of a 503", serve: stay(fail503 + "Content-Length: 100\r\n\r\nabc"), status: 503},
	{name: "stalls before a chunk", serve: stay(ok200 + "Transfer-Encoding: chunked\r\n\r\n"), outcome: Delivered, status: 200},
	{name: "drips a body", serve: drip(ok200+"Content-Length: 100000\r\n\r\n", "x"), outcome: Delivered, status: 200},

	// Endless things.
	{name: "interim responses for ever", serve: endlessly("", "HTTP/1.1 100 Continue\r\n\r\n"), want: faultHead},
	{name: "early hints for ever", serve: endlessly("", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"), want: faultHead},
	{name: "headers for ever", serve: endlessly(ok200, "X-More: and more\r\n"), want: faultHeadTooLarge, detail: true},
	{name: "one header for ever", serve: endlessly(ok200+"X: ", "y"), want: faultHeadTooLarge, detail: true},
	{name: "a status line for ever", serve: endlessly("HTTP/1.1 200 ", "y"), want: faultHeadTooLarge, detail: true},
	{name: "a body for ever", serve: endlessly(ok200+"\r\n", "body "), outcome: Delivered, status: 200},
	{name: "a failure's body for ever", serve: endlessly(fail503+"\r\n", "body "), status: 503},
	{name: "a body of a tebibyte", serve: endlessly(ok200+"Content-Length: 1099511627776\r\n\r\n", "body "), outcome: Delivered, status: 200},
	{name: "chunks for ever", serve: endlessly(ok200+"Transfer-Encoding: chunked\r\n\r\n", "4\r\nbody\r\n"), outcome: Delivered, status: 200},
	{name: "a chunk extension for ever", serve: endlessly(ok200+"Transfer-Encoding: chunked\r\n\r\n4;", "y"), outcome: Delivered, status: 200},
	{name: "trailers for ever", serve: endlessly(ok200+"Transfer-Encoding: chunked\r\n\r\n0\r\n", "X: y\r\n"), outcome: Delivered, status: 200},

	// Things that are not HTTP/1.1.
	{name: "SSH", rude: true, serve: stay("SSH-2.0-OpenSSH_9.9\r\n"), want: faultGarbage, detail: true},
	{name: "HTTP/2 settings", serve: stay("\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64"), want: faultGarbage, detail: true},
	{name: "HTTP/0.9", serve: stay("<html>hello</html>"), want: faultGarbage, detail: true},
	{name: "HTTP/2.0 in the status line", serve: stay("HTTP/2.0 200 OK\r\n\r\n"), want: faultGarbage, detail: true},
	{name: "bare LF", serve: stay("HTTP/1.1 200 OK\nContent-Length: 0\n\n"), want: faultGarbage, detail: true},
	{name: "an empty line first", serve: stay("\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), want: faultGarbage},
	{name: "status abc", serve: stay("HTTP/1.1 abc OK\r\n\r\n"), want: faultHead},
	{name: "status 20", serve: stay("HTTP/1.1 20 OK\r\n\r\n"), want: faultHead},
	{name: "status 2000", serve: stay("HTTP/1.1 2000 OK\r\n\r\n"), want: faultHead},
	{name: "status 099", serve: stay("HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n"), want: faultStatus, status: 99},
	{name: "status 700", serve: stay("HTTP/1.1 700 High\r\nContent-Length: 0\r\n\r\n"), want: faultStatus, status: 700},
	{name: "no status", serve: stay("HTTP/1.1\r\n\r\n"), want: faultHead},
	{name: "switches protocols", serve: stay("HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"), want: faultInterim, status: 101, detail: true},
	{name: "two lengths", serve: stay(ok200 + "Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc"), want: faultHead},
	{name: "negative length", serve: stay(ok200 + "Content-Length: -2\r\n\r\n"), want: faultHead},
	{name: "length beyond numbers", serve: stay(ok200 + "Content-Length: 99999999999999999999999\r\n\r\n"), want: faultHead},
	{name: "unknown transfer encoding", serve: stay(ok200 + "Transfer-Encoding: gzip, chunked\r\n\r\n"), want: faultHead},
	{name: "header without a name", serve: stay(ok200 + ": x\r\n\r\n"), want: faultHead},
	{name: "bad chunk size, 200", serve: stay(ok200 + "Transfer-Encoding: chunked\r\n\r\nzz\r\n"), outcome: Delivered, status: 200},
	{name: "bad chunk size, 503", serve: stay(fail503 + "Transfer-Encoding: chunked\r\n\r\nzz\r\n"), status: 503},
	{name: "chunk size beyond numbers", serve: stay(ok200 + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n"), outcome: Delivered, status: 200},
	{name: "chunk longer than it says", serve: stay(fail503 + "Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n"), status: 503},

	// Odd, but a response.
	{name: "interim, then final", serve: stay("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nX: y\r\n\r\n" + reply(201, "ok")), outcome: Delivered, status: 201},
	{name: "HTTP/1.0 without length", serve: send("HTTP/1.0 200 OK\r\n\r\nhello"), outcome: Delivered, status: 200},
	{name: "15 KiB of headers", serve: stay(ok200 + strings.Repeat("X-Some: "+strings.Repeat("y", 100)+"\r\n", 140) + "Content-Length: 0\r\n\r\n"), outcome: Delivered, status: 200},
	{name: "answers before it has read", rude: true, body: 4 << 20, serve: send(reply(413, "too large", "Connection: close")), outcome: Rejected, status: 413, plain: true},
	{name: "claims success before it has read", rude: true, body: 16 << 20, serve: slamAfterRead(reply(200, "thanks")), want: faultResetInRequest, plain: true},
	{name: "gzip bomb", serve: func(c net.Conn) { io.WriteString(c, reply(500, bomb(), "Content-Encoding: gzip")) }, status: 500},
}

// slamAfterRead answers, reads a little and resets.
func slamAfterRead(text string) func(net.Conn) {
	return func(c net.Conn) {
		io.WriteString(c, text)
		io.CopyN(io.Discard, c, 1<<16)
	}
}

// waitClosed returns when the other side is gone, without reading what it
// sends: it watches for the end by sending nothing and peeking.
func waitClosed(c net.Conn) {
	one := make([]byte, 1)
	c.Read(one) // the receiver's own cleanup ends this when the body never ends
	if tc, ok := c.(*tls.Conn); ok {
		c = tc.NetConn()
	}
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return
	}
	raw.Read(func(fd uintptr) bool { return socketHungUp(fd) })
}

// Whatever a receiver does, the attempt ends in the right class, within its
// time, and leaves nothing behind.
func TestReceiverZoo(t *testing.T) {
	ca := newAuthority(t)
	config := &tls.Config{Certificates: []tls.Certificate{ca.issue(nil, "127.0.0.1")}}
	before := openFiles(t)
	bomb() // made before the clock runs
	var served atomic.Int64
	t.Run("all", func(t *testing.T) {
		for _, secure := range []bool{false, true} {
			tr := open(t, trust(ca), func(o *Options) { o.BodyDuration = 100 * time.Millisecond })
			for _, a := range zoo {
				if secure && a.plain {
					continue
				}
				name := "http/" + a.name
				if secure {
					name = "https/" + a.name
				}
				t.Run(name, func(t *testing.T) { a.visit(t, tr, ca, config, secure, &served) })
			}
		}
	})
	if after := openFiles(t); after > before {
		t.Errorf("open files went from %d to %d", before, after)
	}
	if served.Load() < int64(len(zoo)) {
		t.Errorf("only %d visits were served", served.Load())
	}
}

func (a *animal) visit(t *testing.T, tr *Transport, ca *authority, config *tls.Config, secure bool, served *atomic.Int64) {
	serve := func(c net.Conn) {
		served.Add(1)
		if !a.rude {
			if _, _, err := readRequest(bufio.NewReader(c)); err != nil {
				t.Errorf("the request did not arrive: %v", err)
			}
		}
		a.serve(c)
	}
	handler := serve
	if secure {
		handler = ca.secure(config, func(c *tls.Conn) { serve(c) })
	}
	req := to(receiver(t, handler), "POST", "/hooks", `{"a":1}`)
	if a.body > 0 {
		req.Body = make([]byte, a.body)
	}
	if secure {
		overTLS(req)
	}
	req.Timeout = 4 * time.Second
	limit := 2 * time.Second // what does not wait for the deadline must be far from it
	if a.slow {
		req.Timeout = 250 * time.Millisecond
		limit = req.Timeout + tolerance
	}
	began := time.Now()
	res := do(tr, req)
	took := time.Since(began)
	a.judge(t, res)
	if took > limit {
		t.Errorf("took %v, allowed %v", took, limit)
	}
	if a.slow && took < req.Timeout {
		t.Errorf("gave up after %v of %v", took, req.Timeout)
	}
	if got := tr.Stats().OpenConns; got > tr.Stats().IdleConns {
		t.Errorf("%d connections open, %d idle, and nobody inside Do", got, tr.Stats().IdleConns)
	}
}

func (a *animal) judge(t *testing.T, res *Result) {
	t.Helper()
	if res.Outcome != a.outcome || res.Status != a.status {
		t.Errorf("got %v, status %d (%s); want %v, status %d", res.Outcome, res.Status, res.Error(), a.outcome, a.status)
	}
	code, detail := Code(""), ""
	switch {
	case a.want != nil:
		code, detail = a.want.code, a.want.detail
	case a.outcome != Delivered:
		code = CodeHTTPStatus
	}
	if res.Code != code || a.detail && res.Detail != detail {
		t.Errorf("got %q; want code %q, text %q", res.Error(), code, detail)
	}
	if len(res.Body) > maxKeptBytes || res.Outcome == Delivered && res.Body != nil {
		t.Errorf("kept %d bytes of body", len(res.Body))
	}
	if res.Status != 0 && res.Latency <= 0 || res.Started.IsZero() || !res.RemoteIP.IsLoopback() {
		t.Errorf("incomplete result: %+v", res)
	}
}

func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc to count open files in")
	}
	return len(entries)
}
