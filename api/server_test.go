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
)

// A path or method that is not there is said so in JSON, and a 405 says what
// there is.
func TestRoutes(t *testing.T) {
	s := startServer(t, Options{}, nil)
	key := s.account()
	notFound := func(path string) {
		t.Helper()
		for _, method := range []string{"GET", "POST", "DELETE", "OPTIONS"} {
			s.do(method, path, key, "").refused(404, "not found")
		}
	}
	notFound("/")
	notFound("/v1")
	notFound("/v1/")
	notFound("/v2/send")
	notFound("/v1/send/")
	notFound("/v1//send")
	notFound("/V1/send")
	notFound("/v1/%73end")
	notFound("/v1/x/../send")
	notFound("/v1/./send")
	notFound("/v1/deliveries/a/b")
	notFound("/v1/domains/")
	notFound("/healthz/x")

	if got := s.raw("GET /v1/domains/%zz HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + key + "\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 404 ") {
		t.Errorf("a path that cannot be decoded: %s", got)
	}

	allow := func(path string, methods ...string) {
		t.Helper()
		want := strings.Join(methods, ", ")
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "QUERY"} {
			if strings.Contains(want, method) {
				continue
			}
			a := s.do(method, path, key, "")
			a.refused(405, want)
			if got := a.header.Get("Allow"); got != want {
				t.Errorf("%s %s: Allow %q, want %q", method, path, got, want)
			}
		}
		a := s.do("OPTIONS", path, "", "")
		a.want(204)
		if got := a.header.Get("Allow"); got != want {
			t.Errorf("OPTIONS %s: Allow %q, want %q", path, got, want)
		}
	}
	allow("/v1/send", "POST", "OPTIONS")
	allow("/v1/accounts", "POST", "OPTIONS")
	allow("/v1/deliveries", "GET", "HEAD", "OPTIONS")
	allow("/v1/deliveries/hr_x", "GET", "HEAD", "OPTIONS")
	allow("/v1/domains", "GET", "HEAD", "POST", "OPTIONS")
	allow("/v1/domains/verify", "POST", "OPTIONS")
	allow("/v1/domains/example.com", "GET", "HEAD", "DELETE", "OPTIONS")
	allow("/v1/keys", "GET", "HEAD", "POST", "OPTIONS")
	allow("/v1/keys/key_x", "DELETE", "OPTIONS")
	allow("/v1/signing-secret", "GET", "HEAD", "OPTIONS")
	allow("/healthz", "GET", "HEAD", "OPTIONS")
	allow("/readyz", "GET", "HEAD", "OPTIONS")
	allow("/metrics", "GET", "HEAD", "OPTIONS")

	head := s.do("HEAD", "/v1/domains", key, "")
	get := s.do("GET", "/v1/domains", key, "")
	if head.status != 200 || head.body != "" || head.header.Get("Content-Length") != get.header.Get("Content-Length") {
		t.Errorf("HEAD: %d %q %v", head.status, head.body, head.header)
	}
}

// Without a key that is exactly right there is no way in.
func TestAuthorization(t *testing.T) {
	s := startServer(t, Options{}, nil)
	key := s.account()
	s.do("GET", "/v1/domains", key, "").want(200)
	s.do("GET", "/v1/domains", "", "", "Authorization: bearer "+key).want(200)
	for _, header := range []string{
		"Authorization: ", "Authorization: " + key, "Authorization: Basic " + key, "Authorization: Bearer", "Authorization: Bearer ",
		"Authorization: Bearer" + key, "Authorization: Bearer x" + key, "Authorization: Bearer " + key + "x",
		"Authorization: Bearer " + key[:len(key)-1], "Authorization: Bearer " + strings.ToUpper(key),
		"Authorization: Bearer " + key + " " + key, "Authorization: Bearer " + adminToken, "X-Api-Key: " + key,
	} {
		for _, route := range []string{
			"POST /v1/send", "GET /v1/deliveries", "GET /v1/deliveries/hr_x", "GET /v1/domains", "POST /v1/domains", "POST /v1/domains/verify",
			"GET /v1/domains/x", "DELETE /v1/domains/x", "GET /v1/keys", "POST /v1/keys", "DELETE /v1/keys/x", "GET /v1/signing-secret",
		} {
			method, path, _ := strings.Cut(route, " ")
			a := s.do(method, path, "", "{", header)
			a.refused(401)
			if got := a.header.Get("Www-Authenticate"); !strings.HasPrefix(got, "Bearer") {
				t.Errorf("%s: WWW-Authenticate %q", route, got)
			}
		}
	}
	s.do("POST", "/v1/accounts", "", `{"name":"x"}`).refused(401, "admin token")
	s.do("POST", "/v1/accounts", adminToken+"x", `{"name":"x"}`).refused(401, "admin token")
	s.do("POST", "/v1/accounts", adminToken[:5], `{"name":"x"}`).refused(401, "admin token")
	s.do("POST", "/v1/accounts", key, `{"name":"x"}`).refused(401, "admin token")
	if logged := s.log.String(); strings.Contains(logged, key) || strings.Contains(logged, adminToken) {
		t.Errorf("a key is in the log: %s", logged)
	}
}

func TestSignup(t *testing.T) {
	open := startServer(t, Options{OpenSignup: true}, nil)
	open.do("POST", "/v1/accounts", "", `{"name":"anyone"}`).want(201)

	open.do("POST", "/v1/accounts", "", `{"name":"my own page"}`, "Origin: http://localhost:3000").want(201)
	open.do("POST", "/v1/accounts", "", `{"name":"my own page"}`, "Origin: http://[::1]:3000").want(201)
	for _, origin := range []string{"http://evil.example", "http://evil.example:8080", "null", "http://localhost.evil.example", "http://10.0.0.1", "http://[::1"} {
		open.do("POST", "/v1/accounts", "", `{"name":"a page"}`, "Origin: "+origin).refused(403, "web page")
	}

	closed := startServer(t, Options{}, nil)
	closed.o.AdminToken = "" // as after New without one
	closed.do("POST", "/v1/accounts", "", `{"name":"x"}`).refused(403, "closed")
	closed.do("POST", "/v1/accounts", adminToken, `{"name":"x"}`).refused(403, "closed")
}

func TestRequestID(t *testing.T) {
	s := startServer(t, Options{}, nil)
	echoed := func(id string) {
		t.Helper()
		if got := s.do("GET", "/healthz", "", "", "X-Request-Id: "+id).header.Get("X-Request-Id"); got != id {
			t.Errorf("X-Request-Id %q came back as %q", id, got)
		}
	}
	replaced := func(id string) {
		t.Helper()
		got := s.do("GET", "/healthz", "", "", "X-Request-Id: "+id).header.Get("X-Request-Id")
		if len(got) != 16 || got == id {
			t.Errorf("X-Request-Id %q came back as %q", id, got)
		}
	}
	echoed("a")
	echoed("01J-x_y.z:/+=")
	echoed(strings.Repeat("x", 128))
	replaced("")
	replaced("a b")
	replaced(`{"x":1}`)
	replaced("é")
	replaced(strings.Repeat("x", 129))
}

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
		return statusOf(t, bufio.NewReader(c))
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
	resp, body = statusOf(t, bufio.NewReader(c))
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
	if resp, body := statusOf(t, r); resp.StatusCode != 413 {
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
		if resp, _ := statusOf(t, bufio.NewReader(c)); resp.StatusCode != 200 {
			t.Fatalf("status %d", resp.StatusCode)
		}
	}
	c := s.dial()
	defer c.Close()
	fmt.Fprintf(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
	resp, body := statusOf(t, bufio.NewReader(c))
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
		resp, _ := statusOf(t, r)
		if resp.StatusCode != 100 {
			t.Fatalf("%d bytes: %d, want 100", length, resp.StatusCode)
		}
		go io.WriteString(c, strings.Repeat(" ", length)) // fails when refused early
		if resp, body := statusOf(t, r); resp.StatusCode != want {
			t.Errorf("%d bytes: %d %s, want %d", length, resp.StatusCode, body, want)
		}
	}
	f(10, 400)
	f(50_000, 400)
	f(50_001, 413)
}

// Whatever bytes arrive, nothing answers 5xx, and a request that could be read
// in two ways is refused and its connection closed: what follows it is not
// taken for a request.
func TestMalformedHTTP(t *testing.T) {
	s := startServer(t, Options{}, nil)
	const next = "GET /healthz HTTP/1.1\r\nHost: smuggled\r\n\r\n"
	refused := func(what, request string) {
		t.Helper()
		got := s.raw(request + next)
		if !strings.HasPrefix(got, "HTTP/1.1 400 ") && !strings.HasPrefix(got, "HTTP/1.1 501 ") && got != "" {
			t.Errorf("%s: %q", what, got)
		}
		if n := strings.Count(got, "HTTP/1.1 "); n > 1 {
			t.Errorf("%s: %d answers: %q", what, n, got)
		}
		if got != "" && (!strings.Contains(got, "Connection: close\r\n") || !strings.Contains(got, `{"error":"malformed HTTP request"}`)) {
			t.Errorf("%s: %q", what, got)
		}
	}
	post := func(rest string) string { return "POST /healthz HTTP/1.1\r\nHost: x\r\n" + rest }

	refused("no HTTP at all", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
	refused("HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	refused("no version", "GET /healthz\r\nHost: x\r\n\r\n")
	refused("odd version", "GET /healthz HTTP/1.9x\r\nHost: x\r\n\r\n")
	refused("space in the method", "GE T /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
	refused("control in the method", "GE\x01T /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
	refused("space in the target", "GET /heal thz HTTP/1.1\r\nHost: x\r\n\r\n")
	refused("no host", "GET /healthz HTTP/1.1\r\n\r\n")
	refused("two hosts", "GET /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n")
	refused("header without colon", post("X-A\r\n\r\n"))
	refused("space before the colon", post("Content-Length : 5\r\n\r\nabcde"))
	refused("space in a name", post("X A: b\r\n\r\n"))
	refused("empty name", post(": b\r\n\r\n"))
	refused("folded header", post("X-A: b\r\n c\r\n\r\n"))
	refused("folded length", post("Content-Length:\r\n 5\r\n\r\nabcde"))
	refused("NUL in a value", post("X-A: b\x00c\r\n\r\n"))
	refused("bare CR in a value", post("X-A: b\rX-B: c\r\n\r\n"))
	refused("two different lengths", post("Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef"))
	refused("list of lengths", post("Content-Length: 5, 6\r\n\r\nabcdef"))
	refused("negative length", post("Content-Length: -5\r\n\r\n"))
	refused("signed length", post("Content-Length: +5\r\n\r\nabcde"))
	refused("hexadecimal length", post("Content-Length: 0x5\r\n\r\nabcde"))
	refused("length with a letter", post("Content-Length: 5x\r\n\r\nabcde"))
	refused("empty length", post("Content-Length: \r\n\r\n"))
	refused("length beyond an int", post("Content-Length: 99999999999999999999\r\n\r\n"))
	refused("length and chunked", post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"))
	refused("chunked and length", post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n"))
	refused("two encodings", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"))
	refused("encoding chunked twice", post("Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"))
	refused("encoding identity", post("Transfer-Encoding: identity\r\nContent-Length: 4\r\n\r\n0\r\n\r\n"))
	refused("unknown encoding", post("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"))
	refused("encoding with a tab", post("Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"))
	refused("chunked under HTTP/1.0", "POST /healthz HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
	refused("chunk size with a sign", post("Transfer-Encoding: chunked\r\n\r\n+5\r\nabcde\r\n0\r\n\r\n"))
	refused("chunk size with 0x", post("Transfer-Encoding: chunked\r\n\r\n0x5\r\nabcde\r\n0\r\n\r\n"))
	refused("chunk size too long", post("Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n"))
	refused("no chunk size", post("Transfer-Encoding: chunked\r\n\r\n\r\nabcde\r\n0\r\n\r\n"))
	refused("chunk longer than it says", post("Transfer-Encoding: chunked\r\n\r\n3\r\nabcde\r\n0\r\n\r\n"))
	refused("chunk that ends in LF", post("Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\n0\r\n\r\n"))
}

// A request within the rules is answered once, with the bytes after it taken
// for the next request and its body for nothing else.
func TestFraming(t *testing.T) {
	s := startServer(t, Options{}, nil)
	const next = "GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	f := func(what, request string, status int) {
		t.Helper()
		c := s.dial()
		defer c.Close()
		if _, err := io.WriteString(c, request+next); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(c)
		first, _ := statusOf(t, r)
		second, body := statusOf(t, r)
		if first.StatusCode != status || second.StatusCode != 200 || !strings.Contains(body, "ready") {
			t.Errorf("%s: %d, then %d %s", what, first.StatusCode, second.StatusCode, body)
		}
		if rest, err := r.ReadByte(); err != io.EOF {
			t.Errorf("%s: more after the second answer: %q, %v", what, rest, err)
		}
	}
	const inner = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
	withLength := fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(inner), inner)
	f("body of a POST", "POST /healthz HTTP/1.1\r\nHost: x\r\n"+withLength, 405)
	f("body of a GET", "GET /healthz HTTP/1.1\r\nHost: x\r\n"+withLength, 200)
	f("body of a DELETE", "DELETE /healthz HTTP/1.1\r\nHost: x\r\n"+withLength, 405)
	f("body of an unknown method", "FETCH /healthz HTTP/1.1\r\nHost: x\r\n"+withLength, 405)
	f("chunked body", "POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"+
		fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(inner), inner), 405)
	f("chunk extension", "POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"+
		fmt.Sprintf("%x;a=b\r\n%s\r\n0\r\n\r\n", len(inner), inner), 405)
	f("no body", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 200)
	f("absolute target", "GET http://x/healthz HTTP/1.1\r\nHost: x\r\n\r\n", 200)
	f("encoded body", "POST /v1/send HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\n"+withLength, 415)
}

// A panic costs its own request and no other.
func TestPanic(t *testing.T) {
	s := startServer(t, Options{Metrics: func(io.Writer) { panic("the secret of the page") }}, nil)
	a := s.do("GET", "/metrics", "", "", "X-Request-Id: find-me")
	a.refused(500, "internal error")
	if strings.Contains(a.body, "secret") {
		t.Errorf("the panic is in the answer: %s", a.body)
	}
	s.do("GET", "/healthz", "", "").want(200)
	for _, want := range []string{"find-me", "the secret of the page", "server_test.go", `"level":"ERROR"`} {
		if !strings.Contains(s.log.String(), want) {
			t.Errorf("%q is not in the log: %s", want, s.log.String())
		}
	}
}

// /metrics has the API's own numbers and what the owner adds.
func TestMetricsPage(t *testing.T) {
	s := startServer(t, Options{Metrics: func(w io.Writer) { io.WriteString(w, "engine_says 1\n") }}, nil)
	key := s.account()
	s.do("POST", "/v1/send", key, "{").refused(400)
	s.do("POST", "/v1/send", key, "{").refused(400)
	s.do("POST", "/v1/send", "", "{}").refused(401)
	s.do("GET", "/nowhere", "", "").refused(404)
	s.raw("nonsense\r\n\r\n")
	a := s.do("GET", "/metrics", "", "")
	if !strings.HasPrefix(a.header.Get("Content-Type"), "text/plain") {
		t.Errorf("Content-Type %q", a.header.Get("Content-Type"))
	}
	for _, line := range []string{
		`harepost_api_requests_total{route="/v1/send",code="400"} 2`,
		`harepost_api_requests_total{route="/v1/send",code="401"} 1`,
		`harepost_api_requests_total{route="/v1/accounts",code="201"} 1`,
		`harepost_api_requests_total{route="other",code="404"} 1`,
		`harepost_api_requests_total{route="other",code="400"} 1`,
		`harepost_api_request_duration_seconds_bucket{route="/v1/send",le="+Inf"} 3`,
		`harepost_api_request_duration_seconds_count{route="/v1/send"} 3`,
		`harepost_api_connections_refused_total 0`,
		`engine_says 1`,
	} {
		if !strings.Contains(a.body, line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
	// The page has as many series after a thousand new paths as before.
	for i := range 50 {
		s.do("GET", fmt.Sprintf("/nowhere/%d", i), "", "").refused(404)
	}
	if before, after := strings.Count(a.body, "\n"), strings.Count(s.do("GET", "/metrics", "", "").body, "\n"); after != before {
		t.Errorf("%d lines before, %d after", before, after)
	}
}

// Readiness follows the engine and the server; liveness does not.
func TestHealth(t *testing.T) {
	s := startServer(t, Options{}, nil)
	s.do("GET", "/healthz", "", "").want(200)
	s.do("GET", "/readyz", "", "").want(200)
	s.Drain()
	a := s.do("GET", "/readyz", "", "")
	a.refused(503, "shutting down")
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	s.do("GET", "/healthz", "", "").want(200)
	s.draining.Store(false)
	if err := s.engine.Close(); err != nil {
		t.Fatal(err)
	}
	s.do("GET", "/readyz", "", "").refused(503, "closed")
	s.do("GET", "/healthz", "", "").want(200)
}

// A request that is under way when the server shuts down is answered; later
// ones do not get in.
func TestShutdownAnswersWhatIsUnderWay(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	s := startServer(t, Options{Metrics: func(io.Writer) { close(entered); <-leave }}, nil)
	c := s.dial()
	defer c.Close()
	fmt.Fprintf(c, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
	<-entered
	down := make(chan error, 1)
	go func() { down <- s.Shutdown(context.Background()) }()
	eventually(t, "the listener is closed", func() bool {
		c, err := net.Dial("tcp", s.addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	select {
	case err := <-down:
		t.Fatalf("shut down with a request under way: %v", err)
	default:
	}
	close(leave)
	resp, _ := statusOf(t, bufio.NewReader(c))
	if resp.StatusCode != 200 || !resp.Close {
		t.Errorf("status %d, close %v", resp.StatusCode, resp.Close)
	}
	if err := <-down; err != nil {
		t.Errorf("shut down: %v", err)
	}
	if err := s.Shutdown(context.Background()); err != nil {
		t.Errorf("shut down again: %v", err)
	}
}

// A shutdown that runs out of time closes what is left.
func TestShutdownRunsOutOfTime(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	s := startServer(t, Options{Metrics: func(io.Writer) { close(entered); <-leave }}, nil)
	defer close(leave)
	c := s.dial()
	defer c.Close()
	fmt.Fprintf(c, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
	<-entered
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Shutdown(ctx); err == nil {
		t.Error("no error")
	}
	if got := readAll(c, 5*time.Second); got != "" {
		t.Errorf("answered %q", got)
	}
	if s.ctx.Err() == nil {
		t.Error("calls into the engine were not canceled")
	}
}

func TestOptions(t *testing.T) {
	f := func(o Options, word string) {
		t.Helper()
		if _, err := New(nil, o); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%+v: %v, want %s in it", o, err, word)
		}
	}
	f(Options{Connections: -1}, "Connections")
	f(Options{ReadTimeout: -1}, "ReadTimeout")
	f(Options{MetadataBytes: 2 << 20}, "MetadataBytes")
	f(Options{ReadBufferBytes: 100}, "ReadBufferBytes")
	f(Options{AdminToken: " x"}, "AdminToken")
}
