package transport

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/http/httpguts"
)

// script is a connection whose other side says what it holds and closes.
type script struct {
	net.Conn // nil: only the methods below may be called
	bytes.Reader
}

func (s *script) Read(p []byte) (int, error)      { return s.Reader.Read(p) }
func (s *script) SetReadDeadline(time.Time) error { return nil }

// parse runs the response side of an exchange on data.
func parse(data []byte) (keep bool, res *Result, f *fault) {
	res = &Result{}
	x := exchanges.Get().(*exchange)
	defer x.release()
	s := &script{Reader: *bytes.NewReader(data)}
	c := &conn{Conn: s}
	if f := x.readFirst(c); f != nil {
		return false, res, f
	}
	if f := x.readHead(&Request{Method: "POST"}); f != nil {
		return false, res, f
	}
	now := time.Now()
	if f := classify(&x.resp, res, now); f != nil {
		return false, res, f
	}
	whole := x.readBody(c, res, now, now.Add(time.Hour), time.Hour)
	return whole && !x.resp.ConnectionClose() && x.drained(), res, nil
}

// FuzzResponse feeds arbitrary bytes as a response. Nothing may panic or
// exceed its bound; and a connection may only be kept when another parser
// agrees about where the response ended.
func FuzzResponse(f *testing.F) {
	for _, seed := range []string{
		reply(200, ""), reply(503, "oh no", "Retry-After: 7"), reply(200, "") + reply(200, "x"),
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nT: r\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\nbody",
		"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "HTTP/1.1 304 Not\r\nContent-Length: 5\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 500 X\r\nConnection: keep-alive, close\r\n\r\n", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", "HTTP/1.1 200\r\n\r\n", "",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		watchdog := time.AfterFunc(5*time.Second, func() { panic(fmt.Sprintf("still parsing %q", data)) })
		keep, res, fault := parse(data)
		watchdog.Stop()
		if len(res.Body) > maxKeptBytes || res.RetryAfter > maxRetryAfter || res.RetryAfter < 0 {
			t.Fatalf("out of bounds: %+v", res)
		}
		if fault != nil || !keep {
			return
		}
		br := bufio.NewReader(bytes.NewReader(data))
		for {
			r, err := http.ReadResponse(br, &http.Request{Method: "POST"})
			if err != nil {
				return // net/http refuses what fasthttp lets pass: nothing to compare
			}
			if r.StatusCode < 200 && r.StatusCode != 101 {
				continue
			}
			body, err := io.ReadAll(r.Body)
			if err != nil || r.StatusCode != res.Status {
				t.Fatalf("kept after status %d; net/http reads %d, %v", res.Status, r.StatusCode, err)
			}
			if res.Outcome != Delivered && !bytes.HasPrefix(body, res.Body) {
				t.Fatalf("body %q; net/http reads %q", res.Body, body)
			}
			if rest, _ := io.ReadAll(br); len(rest) > 0 {
				t.Fatalf("kept with %q unread", rest)
			}
			return
		}
	})
}

// FuzzHost checks that no spelling is both a name and an address, and that
// what is looked up is a plain name.
func FuzzHost(f *testing.F) {
	for _, a := range forbiddenAddrs {
		for _, s := range spellings(a) {
			f.Add(s)
		}
	}
	f.Add("a.example.com")
	f.Fuzz(func(t *testing.T, host string) {
		host = normalHost(host)
		a, isAddr := ParseLiteral(host)
		isName := publicName(host)
		if isAddr && isName {
			t.Fatalf("%q is both a name and %v", host, a)
		}
		if isName && (!httpguts.ValidHostHeader(host) || net.ParseIP(host) != nil) {
			t.Fatalf("%q would be looked up", host)
		}
		if g := newGuard(nil, nil); isAddr && g.allowed(a, 80) && (a.Zone() != "" || !a.Unmap().IsGlobalUnicast() || a.Unmap().IsPrivate()) {
			if !netip.MustParsePrefix("64:ff9b::/96").Contains(a) {
				t.Fatalf("%v is allowed", a)
			}
		}
	})
}
