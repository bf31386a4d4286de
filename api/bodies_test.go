package api

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// head opens a connection and sends the head of a POST on it.
func (s *testServer) head(path, key, framing string) net.Conn {
	s.t.Helper()
	c := s.dial()
	s.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second)) // what is not answered fails
	fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n%s\r\n\r\n", path, key, framing)
	return c
}

// holds waits until large bodies have just so much room.
func (s *testServer) holds(what string, n int64) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("%s: %d bytes are held", what, n), func() bool { return s.conns.bodies.bytes() == n })
}

const mebi = 1 << 20

// Large bodies have a bound in all and one for each account; beyond it they are
// refused before they are read, and every way out gives the room back.
func TestLargeBodiesAreBounded(t *testing.T) {
	s := startServer(t, Options{BatchBytes: mebi, RequestBytes: mebi, AccountBodyBytes: 2 * mebi, BodyBytes: 3 * mebi}, nil)
	one, two := s.account(), s.account()
	length := fmt.Sprintf("Content-Length: %d", mebi)
	answer := func(what string, c net.Conn, status int) *http.Response {
		t.Helper()
		resp, body := statusOf(t, "POST /v1/send/batch", bufio.NewReader(c)) // documented as those of /v1/send are
		if resp.StatusCode != status {
			t.Errorf("%s: %d %s, want %d", what, resp.StatusCode, body, status)
		}
		return resp
	}
	full := func(what string, c net.Conn) {
		t.Helper()
		if resp := answer(what, c, 503); resp.Header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", what)
		}
	}
	first := s.head("/v1/send/batch", one, length)
	second := s.head("/v1/send", one, length)
	s.holds("two of one account", 2*mebi)
	full("a third of the account", s.head("/v1/send/batch", one, length))
	full("a chunked one", func() net.Conn {
		c := s.head("/v1/send/batch", one, "Transfer-Encoding: chunked")
		go io.WriteString(c, "10000\r\n"+strings.Repeat(" ", 0x10000)) // fails when refused early
		return c
	}())
	c := s.head("/v1/send/batch", one, "Transfer-Encoding: chunked")
	io.WriteString(c, "2\r\n[]\r\n0\r\n\r\n")
	answer("a small chunked one", c, 202)
	s.do("POST", "/v1/send/batch", one, "[]").want(202)

	chunked := s.head("/v1/send", two, "Transfer-Encoding: chunked")
	s.holds("what a chunked one may become", 3*mebi)
	full("one too many in all", s.head("/v1/send/batch", two, length))
	if n := s.conns.bodies.refused.Get(); n != 4 {
		t.Errorf("%d refused, want 4", n) // a chunked one is, even if it turns out to be small
	}

	chunked.Close()
	s.holds("a client went away before its first chunk", 2*mebi)
	io.WriteString(second, "half of it")
	second.Close()
	s.holds("a client went away within its body", mebi)
	io.WriteString(first, "[]"+strings.Repeat(" ", mebi-2))
	answer("a whole batch", first, 202)
	s.holds("it is answered, and its connection open", 0)

	s.routes["/v1/send"].methods["POST"] = func(*call) error { panic("on purpose") }
	c = s.head("/v1/send", one, length)
	io.WriteString(c, strings.Repeat(" ", mebi))
	answer("a panic", c, 500)
	s.holds("a panic", 0)
}

// A large body that does not come gives its room back, too.
func TestStalledBody(t *testing.T) {
	s := startServer(t, Options{ReadTimeout: 100 * time.Millisecond}, nil)
	c := s.head("/v1/send", s.account(), "Content-Length: 100000")
	resp, body := statusOf(t, "POST /v1/send", bufio.NewReader(c))
	if resp.StatusCode != 408 || !strings.Contains(body, "100ms") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	s.holds("it took too long", 0)
}

// A large body has to come at a rate, within the bound of every request.
func TestBodyTimeout(t *testing.T) {
	s := startServer(t, Options{BodyBytesPerSecond: 100_000, ReadTimeout: time.Minute}, nil)
	key := s.account()
	f := func(length int, want time.Duration) {
		t.Helper()
		var ctx fasthttp.RequestCtx
		c := &conn{conns: &s.conns}
		ctx.Init2(c, nil, false)
		h := &ctx.Request.Header
		h.SetMethod("POST")
		h.SetRequestURI("/v1/send/batch")
		h.Set("Authorization", "Bearer "+key)
		h.SetContentLength(length)
		if got := s.limitBody(h).ReadTimeout; got != want {
			t.Errorf("%d bytes may take %s, want %s", length, got, want)
		}
		c.giveBody()
	}
	f(16<<10, 0) // as any request
	f(100_000, 6*time.Second)
	f(1_000_000, 15*time.Second)
	f(10_000_000, time.Minute)
}

// Who may not send is told so before a large body is read.
func TestSuspendedBeforeTheBody(t *testing.T) {
	s := startServer(t, Options{}, nil)
	made := s.do("POST", "/v1/accounts", adminToken, `{"name":"test"}`).want(201)
	s.do("PATCH", "/v1/accounts/"+made["account_id"].(string), adminToken, `{"suspended":true}`).want(200)
	for _, framing := range []string{"Content-Length: 1000000", "Transfer-Encoding: chunked"} {
		c := s.head("/v1/send/batch", made["api_key"].(string), framing)
		if framing != "Content-Length: 1000000" {
			io.WriteString(c, "100000\r\n")
		}
		if resp, body := statusOf(t, "POST /v1/send/batch", bufio.NewReader(c)); resp.StatusCode != 403 || !strings.Contains(body, "suspended") {
			t.Errorf("%s: %d %s", framing, resp.StatusCode, body)
		}
	}
	s.holds("nothing was taken", 0)
	s.do("POST", "/v1/send/batch", made["api_key"].(string), "[]").refused(403, "suspended") // a small one too
}
