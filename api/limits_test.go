package api

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/engine"
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

// The sender of a whole refused batch gets round to the answer.
func TestRefusedBatchLingers(t *testing.T) {
	s := startServer(t, Options{LingerTimeout: 10 * time.Second}, nil)
	const length = 16 << 20
	c := s.head("/v1/send/batch", "hp_live_wrong", fmt.Sprintf("Content-Length: %d", length))
	part := strings.Repeat(" ", 1<<20)
	for i := range length / len(part) {
		if _, err := io.WriteString(c, part); err != nil {
			t.Fatalf("MiB %d: %v", i, err)
		}
	}
	if resp, body := statusOf(t, "POST /v1/send/batch", bufio.NewReader(c)); resp.StatusCode != 401 {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

// What is read away is waited for as long as it comes, and not for ever.
func TestLingerIsPutOff(t *testing.T) {
	inner := &steady{}
	cs := &connections{}
	o := Options{LingerTimeout: time.Second}.withDefaults()
	cs.init(&o)
	c := &conn{Conn: inner, conns: cs}
	began := time.Now()
	l := &leftover{c: c, began: began.Add(-5 * time.Second)}
	l.Read(make([]byte, 10))
	if wait := inner.deadline.Sub(began); wait < time.Second {
		t.Errorf("after five seconds of bytes it waits %s for more", wait)
	}
	l.began = began.Add(-lingerTimeouts * time.Second)
	l.Read(make([]byte, 10))
	if inner.deadline.After(time.Now()) {
		t.Error("it goes on for ever")
	}
	cs.stop()
	l.began = began.Add(-5 * time.Second)
	l.Read(make([]byte, 10))
	if inner.deadline.After(time.Now()) {
		t.Error("it holds up the end of the server")
	}
}

// A steady connection always has bytes.
type steady struct {
	net.Conn
	deadline time.Time
}

func (c *steady) SetReadDeadline(t time.Time) error { c.deadline = t; return nil }
func (c *steady) Read(p []byte) (int, error)        { return len(p), nil }

// Connections above the bound are told so, and probes are answered.
func TestConnectionLimit(t *testing.T) {
	s := startServer(t, Options{Connections: 2}, nil)
	key := s.account()
	s.client.CloseIdleConnections()
	eventually(t, "nobody is connected", func() bool { return s.conns.count() == 0 })
	ask := func(c net.Conn, path string) (*http.Response, string) {
		t.Helper()
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
		return statusOf(t, "GET "+path, bufio.NewReader(c))
	}
	var held []net.Conn
	for range 2 {
		c := s.dial()
		defer c.Close()
		held = append(held, c)
		if resp, _ := ask(c, "/healthz"); resp.StatusCode != 200 || resp.Close {
			t.Fatalf("status %d, close %t", resp.StatusCode, resp.Close)
		}
	}
	for _, path := range []string{"/v1/openapi.json", "/v1/send", "/nowhere"} {
		c := s.dial()
		defer c.Close()
		resp, body := ask(c, path)
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "1" || !resp.Close || !strings.Contains(body, `"error":"overloaded"`) {
			t.Errorf("one too many, %s: %d %v %s", path, resp.StatusCode, resp.Header, body)
		}
		c.Close()
	}
	large := s.head("/v1/send", key, "Content-Length: 1000000")
	if resp, body := statusOf(t, "POST /v1/send", bufio.NewReader(large)); resp.StatusCode != 503 || !strings.Contains(body, "connections") {
		t.Errorf("a large body: %d %s", resp.StatusCode, body)
	}
	large.Close()
	eventually(t, "four were refused", func() bool { return s.conns.refused.Get() == 4 })
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		c := s.dial()
		defer c.Close()
		if resp, body := ask(c, path); resp.StatusCode != 200 || !resp.Close {
			t.Errorf("%s above the limit: %d %v %s", path, resp.StatusCode, resp.Header, body)
		}
	}
	eventually(t, "the two are left", func() bool { return s.conns.count() == 2 })
	if n := s.conns.refused.Get(); n != 4 {
		t.Errorf("%d refused", n)
	}
	held[0].Close()
	eventually(t, "a place is free", func() bool { return s.conns.count() == 1 })
	s.do("GET", "/v1/openapi.json", "", "").want(200)
}

// Connections above the bound that say nothing take no probe's place.
func TestProbesFindAPlace(t *testing.T) {
	s := startServer(t, Options{Connections: 1}, nil)
	for range 1 + 5*spareConns {
		c := s.dial()
		defer c.Close()
	}
	// One that comes while the others still leave may find all places taken.
	eventually(t, "a probe is answered", func() bool {
		c := s.dial()
		defer c.Close()
		io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == 200
	})
	s.conns.mu.Lock()
	defer s.conns.mu.Unlock()
	if n := len(s.conns.spares); n > 2*spareConns {
		t.Errorf("%d spare connections", n)
	}
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

// The limits that a server has when nobody says otherwise: a send at each bound
// is taken, and one above it is not.
func TestDefaultLimits(t *testing.T) {
	s := startServer(t, Options{Dev: true}, func(o *engine.Options) { o.LogSegmentBytes = 64 << 20 })
	key := s.account()
	const later = `{"target":"http://127.0.0.1:9999/","delay_ms":3600000`
	send := func(members string) string { return later + members + "}" }
	members := func(format string, n int) string { // n of them, with commas between
		var b strings.Builder
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	text := func(n int) string { return strings.Repeat("x", n) }
	filled := func(n int) string { // a send of n bytes
		return send(`,"body":"` + text(n-len(send(`,"body":""`))) + `"`)
	}
	for _, c := range []struct {
		what   string
		most   int
		body   func(n int) string
		status int // above
	}{
		{"headers", 64, func(n int) string { return send(`,"headers":{` + members(`"X-%d":"v"`, n) + `}`) }, 400},
		{"bytes of headers", 16 << 10, func(n int) string { return send(`,"headers":{"X-A":"` + text(n-len("X-A")) + `"}`) }, 400},
		{"bytes of metadata", 16 << 10, func(n int) string { return send(`,"metadata":{"k":"` + text(n-len(`{"k":""}`)) + `"}`) }, 400},
		{"labels", 8, func(n int) string { return send(`,"labels":[` + members(`"l%d"`, n) + `]`) }, 400},
		{"characters of a label", 64, func(n int) string { return send(`,"labels":["` + strings.Repeat("é", n) + `"]`) }, 400},
		{"characters of an idempotency key", 255, func(n int) string { return send(`,"idempotency_key":"` + strings.Repeat("é", n) + `"`) }, 400},
		{"bytes of a URL", 2048, func(n int) string {
			return `{"delay_ms":3600000,"target":"http://127.0.0.1:9999/` + text(n-len("http://127.0.0.1:9999/")) + `"}`
		}, 400},
		{"bytes of a request", 1 << 20, filled, 413},
	} {
		if a := s.do("POST", "/v1/send", key, c.body(c.most)); a.status != 202 {
			t.Errorf("%d %s: %d %.300s, want 202", c.most, c.what, a.status, a.body)
		}
		if a := s.do("POST", "/v1/send", key, c.body(c.most+1)); a.status != c.status {
			t.Errorf("%d %s, one too many: %d %.300s, want %d", c.most+1, c.what, a.status, a.body, c.status)
		}
	}
	list := func() int { return len(s.do("GET", "/v1/deliveries?limit=100", key, "").want(200)["data"].([]any)) }
	if n := list(); n != 8 {
		t.Errorf("%d deliveries, want one for each bound", n)
	}

	other := s.account() // for the batches
	batch := func(status int, body string, headers ...string) *answer {
		t.Helper()
		a := s.do("POST", "/v1/send/batch", other, body, headers...)
		if a.status != status {
			t.Errorf("a batch of %d bytes: %d %.300s, want %d", len(body), a.status, a.body, status)
		}
		return a
	}
	const lines = "Content-Type: application/x-ndjson"
	for _, ndjson := range []bool{true, false} {
		body, headers := batchOf(ndjson, strings.Split(strings.Repeat(send("")+"\n", 10_001), "\n")[:10_001]...)
		batch(413, body, headers...)
	}
	padded := func(n int) string { return "[" + send("") + strings.Repeat(" ", n-len(send(""))-2) + "]" }
	batch(413, padded(16<<20+1))
	batch(413, send("")+strings.Repeat("\n", 16<<20+1-len(send(""))), lines)
	if list := s.do("GET", "/v1/deliveries", other, "").want(200)["data"].([]any); len(list) != 0 {
		t.Errorf("%d deliveries of batches that were refused", len(list))
	}
	batch(202, padded(16<<20))
	batch(202, send("")+strings.Repeat("\n", 16<<20-len(send(""))), lines)
	body, headers := batchOf(true, strings.Split(strings.Repeat(send("")+"\n", 10_000), "\n")[:10_000]...)
	if n := strings.Count(batch(202, body, headers...).body, `"status":"queued"`); n != 10_000 {
		t.Errorf("%d of the 10,000 sends of a batch were taken", n)
	}
	// An item has the bound of a single send.
	items := results(t, batch(202, filled(1<<20)+"\n"+filled(1<<20+1)+"\n", lines).want(202))
	if items[0]["status"] != "queued" || items[1]["status"] != 413.0 {
		t.Errorf("items of 1 MiB and one byte more: %v and %v", items[0]["status"], items[1]["status"])
	}
}

// A send that the engine has no room for is answered 503 with the time to come
// back, and nothing of it was accepted.
func TestOverloadedSendsAreNotAccepted(t *testing.T) {
	var full atomic.Bool
	inject := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if full.Load() && op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, ".spare") {
			return syscall.ENOSPC
		}
		return nil
	})
	s := startServer(t, Options{Dev: true}, func(o *engine.Options) {
		o.FS = errorfs.Wrap(vfs.NewMem(), inject)
		o.LogSegmentBytes = 512 << 10
	})
	key := s.account()
	noise := make([]byte, 12<<10) // which the log cannot make shorter
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	body := `{"target":"http://127.0.0.1:9999/","delay_ms":3600000,"body":"` + base64.StdEncoding.EncodeToString(noise) + `"}`
	full.Store(true)
	taken := 0
	var a *answer
	for a = s.do("POST", "/v1/send", key, body); a.status == 202 && taken < 1000; a = s.do("POST", "/v1/send", key, body) {
		taken++
	}
	a.refused(503, "overloaded", "nothing was accepted")
	if after := a.header.Get("Retry-After"); after != "1" {
		t.Errorf("Retry-After %q, want 1", after)
	}
	for i, r := range results(t, s.do("POST", "/v1/send/batch", key, "["+body+","+body+"]").want(202)) {
		if r["status"] != 503.0 || r["retry_after"] != 1.0 || r["queue_id"] != nil {
			t.Errorf("send %d of a batch: %v", i, r)
		}
	}
	listed, path := 0, "/v1/deliveries?limit=100"
	for next := any(""); next != nil; {
		page := s.do("GET", path+"&cursor="+next.(string), key, "").want(200)
		listed += len(page["data"].([]any))
		next = page["next_cursor"]
	}
	if listed != taken {
		t.Errorf("%d deliveries are listed, and %d sends were answered 202", listed, taken)
	}
}
