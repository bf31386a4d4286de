package api

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// smuggling are the classics by which one reader of a connection is made to
// see other requests than the next.
var smuggling = []string{
	"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: x\r\n\r\n",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nX",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nX: y\r\n Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nX: y\n\tContent-Length: 5\r\n\r\n0\r\n\r\n",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\nabcde",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 05\r\n\r\nabcdeGET / HTTP/1.1\r\nHost: x\r\n\r\n",
	"POST /healthz HTTP/1.1\r\nHost: x\r\ncontent-length: 5 \r\n\r\nabcdeGET / HTTP/1.1\r\nHost: x\r\n\r\n",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n5;x=\"\r\n\"\r\nabcde\r\n0\r\n\r\n",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nabcde\r\n0\r\n\r\n",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\nabcde\n0\n\n",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 9\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;a\rb\r\nabcde\r\n0\r\n\r\n",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;a\nb\r\nabcde\r\n0\r\n\r\n",
	"POST /healthz HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\naGET / HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET http://x/healthz HTTP/1.1\r\nHost: y\r\n\r\nGET /readyz HTTP/1.1\r\nHost: x\r\n\r\n",
	"\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET /healthz HTTP/1.1\nHost: x\n\nGET /readyz HTTP/1.1\nHost: x\n\n",
	"GET /healthz\r\n\r\nGET /readyz HTTP/1.1\r\nHost: x\r\n\r\n",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nabcdeGET / HTTP/1.1\r\nHost: x\r\n\r\n",
	"HEAD /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabcdeGET / HTTP/1.1\r\nHost: x\r\n\r\n",
	"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
	"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}

// moreSmuggling is too long or too slow to begin fuzzing with.
var moreSmuggling = []string{
	"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nabcde",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nX: y\r\ncontent-length: 6\r\n\r\nabcde",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;" + strings.Repeat("x", 20_000) + "\r\nabcde\r\n0\r\n\r\n",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHost: y\r\nAuthorization: Bearer x\r\n\r\n",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X-A\r\n\r\n0\r\n" + strings.Repeat("X-A: b\r\n", 5000) + "\r\n",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n X-A: b\r\n\r\n",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n00000000000000000000\r\n\r\n",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\nabc",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1_0\r\nabcdefghijklmnop\r\n0\r\n\r\n",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde0\r\n\r\n",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:chunked\r\n\r\n0\r\n\r\n",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \tchunked\r\n\r\n0\r\n\r\n",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\x00\r\n\r\n0\r\n\r\n",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
	"POST /healthz HTTP/1.1\r\nHost: x\r\n\x0bContent-Length: 5\r\n\r\nabcde",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nX: y\rContent-Length: 5\r\n\r\nabcde",
	"POST /healthz HTTP/1.1\r\nHost: x\nContent-Length: 5\r\n\r\nabcde",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\nabcde",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length\x00: 5\r\n\r\nabcde",
	"POST /healthz HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nabcde",
	"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
	"GET /healthz HTTP/1.0\r\n\r\n",
	"GET http://y/healthz HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET //x/healthz HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET /healthz#a HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET /healthz\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET  /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET\t/healthz\tHTTP/1.1\r\nHost: x\r\n\r\n",
	"GET /healthz HTTP/1.1 \r\nHost: x\r\n\r\n",
	"GET /healthz HTTP/2.0\r\nHost: x\r\n\r\n",
	"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close, keep-alive\r\n\r\n",
	"GET /healthz HTTP/1.1\r\nHost: x y\r\n\r\n",
	"POST /healthz HTTP/1.1\r\nHost: x\r\nExpect: 200-ok\r\nContent-Length: 5\r\n\r\nabcde",
}

// On a connection of the real listener, whatever came first: no answer is a
// 5xx, all can be read, and either the connection is closed or the request
// behind is answered as itself.
func TestSmugglingCorpus(t *testing.T) {
	s := startServer(t, Options{ReadTimeout: 200 * time.Millisecond, LingerTimeout: 50 * time.Millisecond}, nil)
	const next = "GET /readyz HTTP/1.1\r\nHost: x\r\nX-Request-Id: the-next-request\r\nConnection: close\r\n\r\n"
	for _, request := range slices.Concat(smuggling, moreSmuggling) {
		t.Run(fmt.Sprintf("%.60q", request), func(t *testing.T) {
			t.Parallel()
			c := s.dial()
			defer c.Close()
			go io.WriteString(c, request+next) // fails when refused early
			c.SetReadDeadline(time.Now().Add(20 * time.Second))
			all, err := io.ReadAll(c)
			if err != nil && !errors.Is(err, syscall.ECONNRESET) {
				t.Fatalf("the connection stays open after %q: %v", all, err)
			}
			method, target := requestLine(request)
			r := bufio.NewReader(bytes.NewReader(all))
			for i := 0; ; i++ {
				if _, err := r.Peek(1); err == io.EOF {
					return
				}
				resp, err := http.ReadResponse(r, &http.Request{Method: method})
				if err != nil {
					t.Fatalf("answer %d of %q: %v", i, all, err)
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode >= 500 {
					t.Fatalf("answer %d of %q: %s, %v", i, all, resp.Status, err)
				}
				if i == 0 && resp.StatusCode != 100 {
					documented(t, method, target, resp, body)
				}
				if resp.Header.Get(headerRequestID) == "the-next-request" {
					documented(t, "GET", "/readyz", resp, body)
					rest, _ := io.ReadAll(r)
					if resp.StatusCode != 200 || !bytes.Contains(body, []byte("ready")) || len(rest) > 0 {
						t.Fatalf("the next request was answered %d %s, and then %q", resp.StatusCode, body, rest)
					}
					return
				}
				if resp.StatusCode != 100 {
					method = "GET"
				}
			}
		})
	}
}

// seenRequest is what a reader takes for one request.
type seenRequest struct{ method, uri, body string }

// FuzzSmuggling sends bytes to the server and to net/http's parser. Whatever
// they are, the server does not answer 5xx, its answers can be read, and as
// far as both readers see requests they see the same ones: bodies begin and
// end at the same place.
func FuzzSmuggling(f *testing.F) {
	for _, seed := range smuggling {
		f.Add([]byte(seed))
	}
	// An answer to HEAD has no body, also when the request is refused.
	f.Add([]byte("HEAD /healthz HTTP/1.1\r\nHost: x\r\nConte`t-Len th:a5\r\n\r\n"))
	s := startServer(f, Options{OpenSignup: true}, nil).Server
	f.Fuzz(func(t *testing.T, stream []byte) {
		ours, methods, answers := serveStream(s, stream)
		checkAnswers(t, answers, methods)
		theirs := readStream(stream)
		for i := range min(len(ours), len(theirs)) {
			if ours[i] != theirs[i] {
				t.Fatalf("request %d of %q:\nwe see %q\nnet/http sees %q", i, stream, ours[i], theirs[i])
			}
		}
	})
}

// serveStream serves one connection that has sent stream and ended. It returns
// the requests that were not refused as malformed, and the methods of all that
// were answered with their method known.
func serveStream(s *Server, stream []byte) (seen []seenRequest, methods []string, answers []byte) {
	var server fasthttp.Server
	server.Handler = func(ctx *fasthttp.RequestCtx) {
		r := seenRequest{string(ctx.Method()), string(ctx.Request.Header.RequestURI()), string(ctx.Request.Body())}
		methods = append(methods, r.method)
		s.serve(ctx)
		if !bytes.Contains(ctx.Response.Body(), []byte(errMalformedHTTP.message)) {
			seen = append(seen, r)
		}
	}
	// The same limits as the real one.
	server.ErrorHandler, server.HeaderReceived = s.serveError, s.http.HeaderReceived
	server.ReadBufferSize, server.MaxRequestBodySize = s.http.ReadBufferSize, s.http.MaxRequestBodySize
	server.NoDefaultServerHeader, server.NoDefaultContentType = true, true
	server.SecureErrorLogMessage, server.DisablePreParseMultipartForm = true, true
	server.Logger = s.http.Logger
	c := &memoryConn{in: bytes.NewReader(stream)}
	server.ServeConn(c) // its error is about the client's bytes
	return seen, methods, c.out.Bytes()
}

// checkAnswers reads everything the server wrote.
func checkAnswers(t *testing.T, answers []byte, methods []string) {
	r := bufio.NewReader(bytes.NewReader(answers))
	for i := 0; ; i++ {
		if _, err := r.Peek(1); err == io.EOF {
			return
		}
		request := &http.Request{Method: "GET"}
		if i < len(methods) {
			request.Method = methods[i]
		}
		resp, err := http.ReadResponse(r, request)
		if err != nil {
			t.Fatalf("answer %d of %q: %v", i, answers, err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatalf("answer %d of %q: %v", i, answers, err)
		}
		resp.Body.Close()
		if resp.StatusCode == 100 {
			i--
			continue
		}
		if resp.StatusCode >= 500 {
			t.Fatalf("answer %d of %q: %s", i, answers, resp.Status)
		}
	}
}

// readStream is what net/http takes the stream for.
func readStream(stream []byte) (seen []seenRequest) {
	r := bufio.NewReader(bytes.NewReader(stream))
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return seen
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return seen
		}
		seen = append(seen, seenRequest{req.Method, req.RequestURI, string(body)})
		if req.Close {
			return seen
		}
	}
}

// A memoryConn has received all of in, and its other side has closed.
type memoryConn struct {
	in  *bytes.Reader
	out bytes.Buffer
}

func (c *memoryConn) Read(p []byte) (int, error)       { return c.in.Read(p) }
func (c *memoryConn) Write(p []byte) (int, error)      { return c.out.Write(p) }
func (c *memoryConn) Close() error                     { return nil }
func (c *memoryConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *memoryConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *memoryConn) SetDeadline(time.Time) error      { return nil }
func (c *memoryConn) SetReadDeadline(time.Time) error  { return nil }
func (c *memoryConn) SetWriteDeadline(time.Time) error { return nil }
