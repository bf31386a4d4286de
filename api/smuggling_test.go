package api

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
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
	s := startServer(f, Options{OpenSignup: true}, nil).Server
	f.Fuzz(func(t *testing.T, stream []byte) {
		ours, answers := serveStream(s, stream)
		checkAnswers(t, answers, ours)
		theirs := readStream(stream)
		for i := range min(len(ours), len(theirs)) {
			if ours[i] != theirs[i] {
				t.Fatalf("request %d of %q:\nwe see %q\nnet/http sees %q", i, stream, ours[i], theirs[i])
			}
		}
	})
}

// serveStream serves one connection that has sent stream and ended.
func serveStream(s *Server, stream []byte) (seen []seenRequest, answers []byte) {
	var server fasthttp.Server
	server.Handler = func(ctx *fasthttp.RequestCtx) {
		r := seenRequest{string(ctx.Method()), string(ctx.Request.Header.RequestURI()), string(ctx.Request.Body())}
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
	return seen, c.out.Bytes()
}

// checkAnswers reads everything the server wrote.
func checkAnswers(t *testing.T, answers []byte, seen []seenRequest) {
	r := bufio.NewReader(bytes.NewReader(answers))
	for i := 0; ; i++ {
		if _, err := r.Peek(1); err == io.EOF {
			return
		}
		request := &http.Request{Method: "GET"}
		if i < len(seen) {
			request.Method = seen[i].method
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
