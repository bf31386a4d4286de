package transport

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// wire returns the bytes that an attempt puts on the wire.
func wire(t *testing.T, change func(*Request)) string {
	t.Helper()
	seen := make(chan string, 1)
	addr := receiver(t, func(c net.Conn) {
		var b bytes.Buffer
		if _, _, err := readRequest(bufio.NewReader(io.TeeReader(c, &b))); err != nil {
			t.Error(err)
		}
		seen <- b.String()
		send(reply(200, ""))(c)
	})
	req := to(addr, "POST", "/hooks?a=b", `{"a":1}`)
	change(req)
	if res := do(open(t), req); res.Outcome != Delivered {
		t.Fatal(res.Error())
	}
	return strings.ReplaceAll(<-seen, addr.String(), "HOST")
}

func TestRequestBytes(t *testing.T) {
	check := func(name string, change func(*Request), want ...string) {
		t.Helper()
		if got := wire(t, change); got != strings.Join(want, "\r\n") {
			t.Errorf("%s:\n got %q\nwant %q", name, got, strings.Join(want, "\r\n"))
		}
	}
	check("nothing is added that nobody asked for", func(*Request) {},
		"POST /hooks?a=b HTTP/1.1", "Host: HOST", "User-Agent: Harepost",
		"X-Harepost-Delivery: hr_test", "X-Harepost-Attempt: 1", "Content-Length: 7", "", `{"a":1}`)
	check("headers go out as given", func(r *Request) {
		r.Headers = []Header{{"content-TYPE", "text/plain"}, {"X-Two", "1"}, {"X-Two", "2"}, {"X-Empty", ""}}
	},
		"POST /hooks?a=b HTTP/1.1", "Host: HOST", "User-Agent: Harepost",
		"content-TYPE: text/plain", "X-Two: 1", "X-Two: 2", "X-Empty: ",
		"X-Harepost-Delivery: hr_test", "X-Harepost-Attempt: 1", "Content-Length: 7", "", `{"a":1}`)
	check("the caller's agent goes out instead of ours, and once", func(r *Request) {
		r.Headers = []Header{{"X-A", "1"}, {"user-agent", "shop/2.1"}, {"User-Agent", "other"}}
	},
		"POST /hooks?a=b HTTP/1.1", "Host: HOST", "User-Agent: shop/2.1", "X-A: 1",
		"X-Harepost-Delivery: hr_test", "X-Harepost-Attempt: 1", "Content-Length: 7", "", `{"a":1}`)
	check("an agent that would end the line is not taken", func(r *Request) {
		r.Headers = []Header{{"User-Agent", "a\r\nX-B: 1"}}
	},
		"POST /hooks?a=b HTTP/1.1", "Host: HOST", "User-Agent: Harepost",
		"X-Harepost-Delivery: hr_test", "X-Harepost-Attempt: 1", "Content-Length: 7", "", `{"a":1}`)
	check("GET has no body", func(r *Request) { r.Method = "GET"; r.Attempt = 12; r.IdempotencyKey = "key 1" },
		"GET /hooks?a=b HTTP/1.1", "Host: HOST", "User-Agent: Harepost",
		"X-Harepost-Delivery: hr_test", "X-Harepost-Attempt: 12", "X-Harepost-Idempotency-Key: key 1", "", "")
	check("an empty body has a length", func(r *Request) { r.Method = "DELETE"; r.Body = nil },
		"DELETE /hooks?a=b HTTP/1.1", "Host: HOST", "User-Agent: Harepost",
		"X-Harepost-Delivery: hr_test", "X-Harepost-Attempt: 1", "Content-Length: 0", "", "")
	check("the path is not normalised", func(r *Request) { r.URI = "/p/../q//r;x=%2f?"; r.Method = "PUT" },
		"PUT /p/../q//r;x=%2f? HTTP/1.1", "Host: HOST", "User-Agent: Harepost",
		"X-Harepost-Delivery: hr_test", "X-Harepost-Attempt: 1", "Content-Length: 7", "", `{"a":1}`)
	check("a query alone gets a path", func(r *Request) { r.URI = "?x"; r.Method = "PATCH" },
		"PATCH /?x HTTP/1.1", "Host: HOST", "User-Agent: Harepost",
		"X-Harepost-Delivery: hr_test", "X-Harepost-Attempt: 1", "Content-Length: 7", "", `{"a":1}`)
}

// Names that are ours, or the connection's, are not taken from anybody; nor
// is anything that would end the line.
func TestReservedHeadersAreNeverSent(t *testing.T) {
	plain := wire(t, func(*Request) {})
	for _, name := range []string{
		"Host", "host", "Content-Length", "content-length", "Connection", "Keep-Alive", "Proxy-Authorization",
		"proxy-connection", "TE", "te", "Trailer", "Transfer-Encoding", "TRANSFER-encoding", "Upgrade", "Expect",
		"Authorization", "Cookie", "X-Harepost-Signature", "x-harepost-attempt", "X-Harepost-Anything",
		"webhook-id", "Webhook-Signature", "", "a b", "a:b", "a\r\nb", "é", "Content-Length ",
	} {
		if got := wire(t, func(r *Request) { r.Headers = []Header{{name, "chunked"}} }); got != plain {
			t.Errorf("%q was sent:\n%s", name, got)
		}
	}
	for _, value := range []string{"a\r\nb: c", "a\nb", "a\rb", "\x00", "\x7f"} {
		if got := wire(t, func(r *Request) { r.Headers = []Header{{"X-A", value}} }); got != plain {
			t.Errorf("value %q was sent:\n%s", value, got)
		}
		if got := wire(t, func(r *Request) { r.IdempotencyKey = value }); got != plain {
			t.Errorf("idempotency key %q was sent:\n%s", value, got)
		}
	}
}

func TestHostHeader(t *testing.T) {
	for _, tc := range []struct {
		dest destination
		want string
	}{
		{destination{"a.example.com", 443, true}, "a.example.com"},
		{destination{"a.example.com", 80, false}, "a.example.com"},
		{destination{"a.example.com", 80, true}, "a.example.com:80"},
		{destination{"a.example.com", 8443, true}, "a.example.com:8443"},
		{destination{"2606:4700::1", 443, true}, "[2606:4700::1]"},
		{destination{"2606:4700::1", 8080, false}, "[2606:4700::1]:8080"},
	} {
		if got := string(appendHost(nil, tc.dest)); got != tc.want {
			t.Errorf("%+v: %q, want %q", tc.dest, got, tc.want)
		}
	}
}

// A large body goes out beside its head, whole and unchanged, also over TLS's
// record size, and the caller's slice is not written to.
func TestLargeBodies(t *testing.T) {
	ca := newAuthority(t)
	body := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	var want shared[string]
	serve := answering(func(r *http.Request, got string) string {
		if got != want.get() {
			t.Errorf("%d bytes arrived of %d", len(got), len(want.get()))
		}
		return reply(200, "")
	})
	tr := open(t, trust(ca))
	plain := to(receiver(t, serve), "POST", "/", "")
	secure := overTLS(to(receiver(t, secureWith(ca, serve)), "POST", "/", ""))
	for _, size := range []int{joinedBytes - 400, joinedBytes, joinedBytes + 1, len(body)} {
		want.set(string(body[:size]))
		for _, req := range []*Request{plain, secure} {
			req.Body = body[:size]
			if res := do(tr, req); res.Outcome != Delivered {
				t.Fatalf("%s, %d bytes: %s", req.Scheme, size, res.Error())
			}
		}
	}
	if string(body) != strings.Repeat("0123456789abcdef", 1<<16) {
		t.Error("the body was written to")
	}
}

// Whatever a caller passes, what goes out is one request that any parser
// reads the same way: ours to the letter, and nothing after it.
func TestAnyRequestIsOneRequest(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		req := &Request{
			Scheme: "http", Host: "example.com", Port: 80,
			Method:         rapid.SampledFrom([]string{"GET", "POST", "PUT", "PATCH", "DELETE"}).Draw(rt, "method"),
			URI:            rapid.SampledFrom([]string{"", "/", "/a?b", "?", "//x", "/%0d%0a"}).Draw(rt, "uri"),
			DeliveryID:     rapid.String().Draw(rt, "id"),
			IdempotencyKey: rapid.String().Draw(rt, "key"),
			Body:           []byte(rapid.String().Draw(rt, "body")),
			Secrets:        rapid.SliceOfN(rapid.SampledFrom([]string{"whsec_AAAA", "whsec_!", ""}), 0, 3).Draw(rt, "secrets"),
		}
		for range rapid.IntRange(0, 5).Draw(rt, "headers") {
			req.Headers = append(req.Headers, Header{
				rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"X-A", "Host", "content-length", "Transfer-Encoding", "user-agent"})).Draw(rt, "name"),
				rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"a\r\nHost: evil", "chunked", "0"})).Draw(rt, "value"),
			})
		}
		if !sendable(req) {
			rt.Skip("not sendable")
		}
		b := appendHead(nil, req, destination{"example.com", 80, false}, "Harepost", newSigners(), time.Now())
		b = append(b, bodyOf(req)...)
		br := bufio.NewReader(bytes.NewReader(b))
		r, body, err := readRequest(br)
		if err != nil {
			rt.Fatalf("%q does not parse: %v", b, err)
		}
		if body != string(bodyOf(req)) || r.Host != "example.com" || len(r.TransferEncoding) != 0 {
			rt.Fatalf("%q reads as host %q, body %q, %v", b, r.Host, body, r.TransferEncoding)
		}
		if _, err := br.ReadByte(); err != io.EOF {
			rt.Fatalf("%q has something after it", b)
		}
		for _, name := range []string{"Content-Length", "User-Agent", "X-Harepost-Attempt", "X-Harepost-Signature", "Webhook-Signature"} {
			if len(r.Header[name]) > 1 {
				rt.Fatalf("%q has %d %s", b, len(r.Header[name]), name)
			}
		}
	})
}
