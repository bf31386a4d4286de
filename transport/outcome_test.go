package transport

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// The status decides what an attempt means, as the public contract has it.
func TestStatusDecidesTheOutcome(t *testing.T) {
	tr := open(t)
	addr := receiver(t, answering(func(r *http.Request, _ string) string {
		status := 0
		fmt.Sscanf(r.URL.Path, "/%d", &status)
		if status == 204 || status == 304 {
			return fmt.Sprintf("HTTP/1.1 %d X\r\n\r\n", status)
		}
		return reply(status, "because")
	}))
	check := func(want Outcome, statuses ...int) {
		t.Helper()
		for _, status := range statuses {
			res := do(tr, to(addr, "POST", fmt.Sprintf("/%d", status), "{}"))
			if res.Outcome != want || res.Status != status {
				t.Errorf("%d: got %v, status %d (%s)", status, res.Outcome, res.Status, res.Error())
			}
			if want == Delivered {
				if res.Code != "" || res.Error() != "" || res.Body != nil {
					t.Errorf("%d: a delivery with an error: %+v", status, res)
				}
				continue
			}
			text := fmt.Sprintf("http_status: %d", status)
			if res.Code != CodeHTTPStatus || !strings.HasPrefix(res.Error(), text) || strings.Contains(res.Error(), "Whatever") {
				t.Errorf("%d: error %q", status, res.Error())
			}
			if status != 304 && (string(res.Body) != "because" || res.BodyTruncated) {
				t.Errorf("%d: body %q, truncated %v", status, res.Body, res.BodyTruncated)
			}
		}
	}
	check(Delivered, 200, 201, 202, 203, 204, 206, 226, 299)
	check(Failed, 300, 301, 302, 303, 304, 307, 308, 399)
	check(Failed, 408, 429)
	check(Rejected, 400, 401, 402, 403, 404, 405, 406, 407, 409, 410, 411, 412, 413, 414, 415, 418, 421, 422, 423, 425, 428, 431, 451, 499)
	check(Failed, 500, 501, 502, 503, 504, 507, 511, 520, 599)

	if s := tr.Stats(); s.Dials != 1 || s.Reuses < 50 {
		t.Errorf("in-order answers cost connections: %+v", s)
	}
	if res := do(tr, to(addr, "POST", "/503", "{}")); res.Error() != "http_status: 503 Service Unavailable" {
		t.Errorf("error text %q", res.Error())
	}
}

// A port that nobody listens on, and a host that is not there.
func TestNobodyThere(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().(*net.TCPAddr).AddrPort()
	ln.Close()
	res := do(open(t), to(addr, "POST", "/", "{}"))
	if res.Outcome != Failed || res.Code != CodeConnectionRefused || res.Detail != faultRefused.detail {
		t.Errorf("got %v %q", res.Outcome, res.Error())
	}
}

// A redirect is a failure of the target, never a way to somewhere else.
func TestRedirectsAreNotFollowed(t *testing.T) {
	trapped := make(chan struct{}, 100)
	trap := receiver(t, func(net.Conn) { trapped <- struct{}{} })
	for _, location := range []string{
		"http://" + trap.String() + "/", "//" + trap.String(), "http://169.254.169.254/latest/meta-data/", "/other",
	} {
		var asked atomic.Int64
		addr := receiver(t, answering(func(*http.Request, string) string {
			asked.Add(1)
			return reply(307, "", "Location: "+location)
		}))
		res := do(open(t), to(addr, "POST", "/", "{}"))
		if res.Outcome != Failed || res.Status != 307 || asked.Load() != 1 {
			t.Errorf("%s: %v, %s, asked %d times", location, res.Outcome, res.Error(), asked.Load())
		}
	}
	if len(trapped) != 0 {
		t.Error("the redirect was followed")
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 6, 10, 14, 0, 0, 0, time.UTC)
	const none = -1
	check := func(value string, want time.Duration) {
		t.Helper()
		got, ok := retryAfter(value, now)
		if want == none && (ok || got != 0) || want != none && (!ok || got != want) {
			t.Errorf("Retry-After %q: got %v, %v; want %v", value, got, ok, want)
		}
	}
	check("0", 0)
	check("7", 7*time.Second)
	check(" 7 ", 7*time.Second)
	check("43200", 12*time.Hour)
	check("43201", 12*time.Hour)
	check("99999999999999999999999999", 12*time.Hour)
	check("Wed, 10 Jun 2026 14:01:30 GMT", 90*time.Second)
	check("Wednesday, 10-Jun-26 14:01:30 GMT", 90*time.Second)
	check("Wed Jun 10 14:01:30 2026", 90*time.Second)
	check("Fri, 12 Jun 2026 14:00:00 GMT", 12*time.Hour)
	check("Wed, 10 Jun 2026 14:00:00 GMT", 0)
	for _, bad := range []string{"", " ", "-1", "+5", "1.5", "soon", "1e3", "0x10", "Wed, 10 Jun 2026 13:59:59 GMT", "Wed, 10 Jun 2026", "10:00"} {
		check(bad, none)
	}
}

// Retry-After counts on every status that is retried, and on no other.
func TestRetryAfterIsReadOnRetriedStatuses(t *testing.T) {
	tr := open(t)
	var status shared[int]
	addr := receiver(t, answering(func(*http.Request, string) string { return reply(status.get(), "", "retry-after: 30") }))
	for _, tc := range []struct {
		status int
		want   bool
	}{{503, true}, {429, true}, {408, true}, {500, true}, {302, true}, {200, false}, {404, false}, {410, false}} {
		status.set(tc.status)
		res := do(tr, to(addr, "POST", "/", "{}"))
		if res.HasRetryAfter != tc.want || tc.want && res.RetryAfter != 30*time.Second {
			t.Errorf("%d: %v %v", tc.status, res.HasRetryAfter, res.RetryAfter)
		}
	}
}

// Of a failure the beginning of the body is kept, as it came.
func TestFailureBodies(t *testing.T) {
	tr := open(t)
	var answer shared[string]
	addr := receiver(t, answering(func(*http.Request, string) string { return answer.get() }))
	check := func(name, response, want string, truncated bool) {
		t.Helper()
		answer.set(response)
		res := do(tr, to(addr, "POST", "/", "{}"))
		if string(res.Body) != want || res.BodyTruncated != truncated {
			t.Errorf("%s: kept %d bytes, want %d; truncated %v", name, len(res.Body), len(want), res.BodyTruncated)
		}
	}
	x := strings.Repeat("x", 100<<10)
	check("none", reply(500, ""), "", false)
	check("small", reply(500, "oh"), "oh", false)
	check("chunked", "HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\noh\r\n1;e=f\r\n!\r\n0\r\nT: r\r\n\r\n", "oh!", false)
	check("exactly 4 KiB", reply(500, x[:4096]), x[:4096], false)
	check("a byte more", reply(500, x[:4097]), x[:4096], true)
	check("exactly 64 KiB", reply(500, x[:64<<10]), x[:4096], true)
	dials := tr.Stats().Dials
	check("after 64 KiB", reply(500, "oh"), "oh", false)
	if got := tr.Stats().Dials; got != dials || dials != 1 {
		t.Errorf("bodies that were read whole cost %d connections", got)
	}
	check("more than 64 KiB", reply(500, x), x[:4096], true)
	check("after more", reply(500, "oh"), "oh", false)
	if got := tr.Stats().Dials; got != dials+1 {
		t.Errorf("a body that was not read whole left its connection in use: %d dials", got)
	}
	check("encoded", reply(500, "\x1f\x8b not really", "Content-Encoding: gzip"), "\x1f\x8b not really", false)
	check("binary", reply(500, "\x00\xff\xfe"), "\x00\xff\xfe", false)
}

// res.Body is the caller's: the next attempt does not write into it.
func TestResultsDoNotShareMemory(t *testing.T) {
	tr := open(t)
	var answer shared[string]
	answer.set(reply(500, "first"))
	addr := receiver(t, answering(func(*http.Request, string) string { return answer.get() }))
	first := do(tr, to(addr, "POST", "/", "{}"))
	answer.set(reply(500, "SECOND"))
	do(tr, to(addr, "POST", "/", "{}"))
	if string(first.Body) != "first" {
		t.Errorf("an earlier result now reads %q", first.Body)
	}
}

// The timeout begins with the attempt: what the lookup used is gone.
func TestTheDeadlineIsOne(t *testing.T) {
	dns := serveDNS(t)
	dns.set("slow.example.com", "127.0.0.1")
	release := make(chan struct{})
	tr := open(t, dns.use)
	t.Cleanup(func() { close(release) })
	addr := receiver(t, discard)
	dns.handle(blocking(release))
	req := to(addr, "POST", "/", "{}")
	req.Host, req.Timeout = "slow.example.com", 200*time.Millisecond
	began := time.Now()
	res := do(tr, req)
	if took := time.Since(began); res.Code != CodeTimeout || res.Detail != faultTimeoutDNS.detail || took > req.Timeout+tolerance {
		t.Errorf("after %v: %s", took, res.Error())
	}
}

// What cannot be put on the wire is refused for good, like a forbidden target.
func TestUnsendableRequests(t *testing.T) {
	tr := open(t)
	addr := receiver(t, func(net.Conn) { t.Error("a request was sent") })
	for _, change := range []func(*Request){
		func(r *Request) { r.Scheme = "ftp" },
		func(r *Request) { r.Scheme = "" },
		func(r *Request) { r.Host = "" },
		func(r *Request) { r.Host = "127.0.0.1 x" },
		func(r *Request) { r.Port = 0 },
		func(r *Request) { r.Method = "" },
		func(r *Request) { r.Method = "GET / HTTP/1.1\r\nX:" },
		func(r *Request) { r.Method = "CONNECT" },
		func(r *Request) { r.URI = "/a b" },
		func(r *Request) { r.URI = "/a\r\nX: y" },
		func(r *Request) { r.URI = "/a\x00" },
	} {
		req := to(addr, "POST", "/", "{}")
		change(req)
		if res := do(tr, req); res.Outcome != Rejected || res.Code != CodeAddressBlocked {
			t.Errorf("%+v: %v %s", req, res.Outcome, res.Error())
		}
	}
}

// After Close nothing starts; before it, an attempt under way is let finish.
func TestClose(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	addr := receiver(t, func(c net.Conn) {
		readRequest(bufio.NewReader(c))
		close(asked)
		<-answer
		send(reply(200, ""))(c)
	})
	tr := open(t)
	done := make(chan *Result)
	go func() { done <- do(tr, to(addr, "POST", "/", "{}")) }()
	<-asked
	tr.Close()
	close(answer)
	if res := <-done; res.Outcome != Delivered {
		t.Errorf("the attempt under way: %s", res.Error())
	}
	if res := do(tr, to(addr, "POST", "/", "{}")); res.Outcome != Failed || res.Detail != faultClosed.detail {
		t.Errorf("an attempt after Close: %v %s", res.Outcome, res.Error())
	}
	if _, err := tr.LookupTXT(context.Background(), "example.com"); err == nil {
		t.Error("a lookup after Close succeeded")
	}
}

func TestOptionsAreValidated(t *testing.T) {
	for name, o := range map[string]Options{
		"resolver":   {Resolver: "10.0.0.1"},
		"prefix":     {EgressAllow: []netip.Prefix{{}}},
		"forbidden":  {Forbidden: []netip.AddrPort{{}}},
		"user agent": {UserAgent: "Hare\r\npost"},
		"count":      {Hosts: -1},
		"duration":   {ConnDuration: -time.Second},
	} {
		if tr, err := New(o); err == nil {
			tr.Close()
			t.Errorf("%s: accepted", name)
		}
	}
}

// Bytes around a body count too: chunk framing and trailers end an attempt
// long before its time is up.
func TestFramingIsBounded(t *testing.T) {
	tr := open(t, func(o *Options) { o.BodyDuration = time.Minute })
	chunked := ok200 + "Transfer-Encoding: chunked\r\n\r\n"
	for name, serve := range map[string]func(net.Conn){
		"chunk extension": endlessly(chunked+"4;", "y"),
		"tiny chunks":     endlessly(chunked, "1;extension=value\r\nx\r\n"),
		"trailers":        endlessly(chunked+"0\r\n", "X: y\r\n"),
	} {
		addr := receiver(t, func(c net.Conn) {
			readRequest(bufio.NewReader(c))
			serve(c)
		})
		req := to(addr, "POST", "/", "{}")
		req.Timeout = 30 * time.Second
		began := time.Now()
		res := do(tr, req)
		if took := time.Since(began); res.Outcome != Delivered || took > 5*time.Second {
			t.Errorf("%s: %s after %v", name, res.Error(), took)
		}
	}
	if s := tr.Stats(); s.IdleConns != 0 {
		t.Errorf("%d of these connections were kept", s.IdleConns)
	}
}
