package api

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// A request that is too large or too slow is refused with its own status, in
// JSON, and the answer arrives although the request was not read.
func TestRequestLimits(t *testing.T) {
	s := startServer(t, Options{RequestBytes: 100_000, ReadTimeout: 150 * time.Millisecond, ReadBufferBytes: 2048}, nil)
	key := s.account()
	send := func(head, body string) (*http.Response, string) {
		t.Helper()
		c := s.dial()
		defer c.Close()
		go io.WriteString(c, head+"\r\n\r\n"+body) // fails when refused early
		return statusOf(t, head, bufio.NewReader(c))
	}
	check := func(what string, resp *http.Response, body string, status int, words ...string) {
		t.Helper()
		if resp.StatusCode != status || resp.Header.Get("Content-Type") != "application/json" || resp.Header.Get("X-Request-Id") == "" ||
			!strings.HasPrefix(body, `{"error":"`) {
			t.Errorf("%s: %d %v %s, want %d", what, resp.StatusCode, resp.Header, body, status)
		}
		for _, w := range words {
			if !strings.Contains(body, w) {
				t.Errorf("%s: %s, want %q in it", what, body, w)
			}
		}
	}
	post := func(path, key, rest string) string {
		return "POST " + path + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + key + "\r\n" + rest
	}
	large := strings.Repeat(" ", 100_001)

	resp, body := send(post("/v1/send", key, "Content-Length: 100001"), large)
	check("body one byte too long", resp, body, 413, "100000")
	resp, body = send(post("/v1/send", key, "Content-Length: 99999999999"), large)
	check("body far too long", resp, body, 413)
	resp, body = send(post("/v1/send", key, "Transfer-Encoding: chunked"), "186a1\r\n"+large+"\r\n0\r\n\r\n")
	check("chunked body too long", resp, body, 413)
	resp, body = send(post("/v1/send", key, "Content-Length: 100000"), large[:100_000])
	check("body of the full length", resp, body, 400, "malformed JSON")
	resp, body = send(post("/v1/send", key, "Transfer-Encoding: chunked"), "186a0\r\n"+large[:100_000]+"\r\n0\r\n\r\n")
	check("chunked body of the full length", resp, body, 400, "malformed JSON")
	resp, body = send(post("http://x/v1/send?a=b", key, "Content-Length: 100000"), large[:100_000])
	check("large body, absolute target", resp, body, 400, "malformed JSON")
	resp, body = send(post("/v1/send", "hp_live_wrong", "Content-Length: 100000"), large[:100_000])
	check("large body of a stranger", resp, body, 401, "API key")
	resp, body = send(post("/v1/send", "hp_live_wrong", "Content-Length: 90"), large[:90])
	check("small body of a stranger", resp, body, 401, "API key")
	resp, body = send(post("/v1/domains", key, "Content-Length: 16385"), large[:16385])
	check("large body where none is needed", resp, body, 413, "16384")
	resp, body = send("GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: "+strings.Repeat("a", 3000), "")
	check("head too large", resp, body, 431, "2048")
	resp, body = send("GET /healthz?"+strings.Repeat("a", 3000)+" HTTP/1.1\r\nHost: x", "")
	check("request line too large", resp, body, 431)
	resp, body = send(post("/v1/send", key, "Content-Length: 100"), "half of it")
	check("body too slow", resp, body, 408, "150ms")
	if !resp.Close {
		t.Error("the connection of a slow request stays open")
	}

	c := s.dial()
	defer c.Close()
	io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost")
	resp, body = statusOf(t, "GET /healthz", bufio.NewReader(c))
	check("head too slow", resp, body, 408)
}

// A refused request is read away after its answer: its client can finish
// writing, and is not reset before it has read.
func TestRefusalLingers(t *testing.T) {
	s := startServer(t, Options{LingerTimeout: 10 * time.Second}, nil)
	c := s.dial()
	defer c.Close()
	fmt.Fprintf(c, "POST /v1/domains HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
	r := bufio.NewReader(c)
	if resp, body := statusOf(t, "POST /v1/domains", r); resp.StatusCode != 413 {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	if _, err := r.ReadByte(); err != io.EOF {
		t.Fatalf("after the answer: %v", err)
	}
	// To a closed socket the first write would cause a reset, and the next fail.
	for i := range 10 {
		if _, err := io.WriteString(c, strings.Repeat("b", 1000)); err != nil {
			t.Fatalf("write %d after the answer: %v", i, err)
		}
	}
	c.Close()
	eventually(t, "the connection is gone", func() bool { return s.conns.count() == 0 })
}

// Connections above the bound are told so.
func TestConnectionLimit(t *testing.T) {
	s := startServer(t, Options{Connections: 2}, nil)
	var held []net.Conn
	for range 2 {
		c := s.dial()
		defer c.Close()
		held = append(held, c)
		fmt.Fprintf(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		if resp, _ := statusOf(t, "GET /healthz", bufio.NewReader(c)); resp.StatusCode != 200 {
			t.Fatalf("status %d", resp.StatusCode)
		}
	}
	c := s.dial()
	defer c.Close()
	fmt.Fprintf(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
	resp, body := statusOf(t, "GET /healthz", bufio.NewReader(c))
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "1" || !strings.Contains(body, `"error":"overloaded"`) {
		t.Errorf("one too many: %d %v %s", resp.StatusCode, resp.Header, body)
	}
	if n := s.conns.refused.Get(); n != 1 {
		t.Errorf("%d refused", n)
	}
	held[0].Close()
	eventually(t, "a place is free", func() bool { return s.conns.count() == 1 })
	s.do("GET", "/healthz", "", "").want(200)
}

// A listener that runs out of file descriptors for a moment goes on.
func TestAcceptGoesOn(t *testing.T) {
	s := startServer(t, Options{}, nil)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = inner.Addr().String()
	served := make(chan error, 1)
	go func() { served <- s.Serve(&exhausted{Listener: inner, failures: 3}) }()
	s.do("GET", "/healthz", "", "").want(200)
	if !strings.Contains(s.log.String(), "too many open files") {
		t.Errorf("not in the log: %s", s.log.String())
	}
	s.client.CloseIdleConnections()
	if err := s.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	// And one that comes too late is closed.
	late, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(late); err != nil {
		t.Error(err)
	}
	if _, err := late.Accept(); err == nil {
		t.Error("the listener is open")
	}
}

// exhausted fails its first accepts as the system does without descriptors.
type exhausted struct {
	net.Listener
	failures int
}

func (l *exhausted) Accept() (net.Conn, error) {
	if l.failures > 0 {
		l.failures--
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return l.Listener.Accept()
}

// A client that asks before it sends a body is told to go on, or not.
func TestExpectContinue(t *testing.T) {
	s := startServer(t, Options{RequestBytes: 50_000}, nil)
	key := s.account()
	f := func(length int, want int) {
		t.Helper()
		c := s.dial()
		defer c.Close()
		fmt.Fprintf(c, "POST /v1/send HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", key, length)
		r := bufio.NewReader(c)
		resp, _ := statusOf(t, "POST /v1/send", r)
		if resp.StatusCode != 100 {
			t.Fatalf("%d bytes: %d, want 100", length, resp.StatusCode)
		}
		go io.WriteString(c, strings.Repeat(" ", length)) // fails when refused early
		if resp, body := statusOf(t, "POST /v1/send", r); resp.StatusCode != want {
			t.Errorf("%d bytes: %d %s, want %d", length, resp.StatusCode, body, want)
		}
	}
	f(10, 400)
	f(50_000, 400)
	f(50_001, 413)
}

// What one large request needed is not kept for as long as its connection lives.
func TestLargeBuffersAreLetGo(t *testing.T) {
	s := startServer(t, Options{}, nil)
	key := s.account()
	f := func(spaces, kept int) {
		t.Helper()
		var ctx fasthttp.RequestCtx
		ctx.Request.Header.SetMethod("POST")
		ctx.Request.SetRequestURI("/v1/send")
		ctx.Request.Header.Set("Authorization", "Bearer "+key)
		ctx.Request.SetBodyString(strings.Repeat(" ", spaces))
		s.serve(&ctx)
		if ctx.Response.StatusCode() != 400 || !strings.Contains(string(ctx.Response.Body()), "too early") {
			t.Errorf("%d spaces: %d %s", spaces, ctx.Response.StatusCode(), ctx.Response.Body())
		}
		if got := cap(ctx.Request.Body()); got < kept || got > keptBytes {
			t.Errorf("%d spaces: a buffer of %d bytes is kept", spaces, got)
		}
	}
	f(1000, 1000)
	f(keptBytes+1, 0)
	f(1<<20, 0)
}
