package api

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"testing"
)

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
		first, _ := statusOf(t, request, r)
		second, body := statusOf(t, next, r)
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
