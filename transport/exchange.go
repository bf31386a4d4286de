package transport

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

const (
	maxHeadBytes  = 16 << 10 // of a response head, each interim one too
	firstRead     = 4 << 10  // what an attempt holds while it waits for an answer
	joinedBytes   = 8 << 10  // head and body up to this are one write
	keptBuffer    = 16 << 10 // a larger buffer is not pooled
	maxBodyBytes  = 64 << 10 // read of a response body
	maxKeptBytes  = 4 << 10  // kept of it
	framingBytes  = 64 << 10 // of chunk framing and trailers, beside the body
	headLeft      = 2 << 20  // read of interim and final heads, beyond the first bytes
	salvageWindow = 100 * time.Millisecond
)

// exchange is the working memory of one request and response. While it waits
// for the target it holds only buf; the larger reader is taken when the first
// byte is there, so that ten thousand slow targets cost 4 KiB each.
type exchange struct {
	buf  []byte // the request head, then the response's first bytes, then its body
	vec  [2][]byte
	bufs net.Buffers
	src  source
	br   *bufio.Reader // nil until the response begins
	resp fasthttp.Response
}

var exchanges = sync.Pool{New: func() any {
	return &exchange{buf: make([]byte, 0, firstRead)}
}}

var readers = sync.Pool{New: func() any {
	return bufio.NewReaderSize(nil, maxHeadBytes)
}}

// release forgets everything and returns x to its pool.
func (x *exchange) release() {
	x.resp.Reset()
	if x.br != nil {
		x.br.Reset(nil)
		readers.Put(x.br)
		x.br = nil
	}
	x.src = source{}
	if cap(x.buf) > keptBuffer {
		x.buf = make([]byte, 0, firstRead)
	}
	exchanges.Put(x)
}

// source reads from the connection, the bytes of the first read before all
// others, and remembers the connection's error, which parsers wrap or drop.
type source struct {
	conn  net.Conn
	first []byte
	left  int // bytes that may still be read
	err   error
}

var errTooMuch = errors.New("transport: response is too long")

func (s *source) Read(p []byte) (int, error) {
	if len(s.first) > 0 {
		n := copy(p, s.first)
		s.first = s.first[n:]
		return n, nil
	}
	if s.left <= 0 {
		return 0, errTooMuch
	}
	n, err := s.conn.Read(p[:min(len(p), s.left)])
	s.left -= n
	if err != nil {
		s.err = err
	}
	return n, err
}

// run sends req on c and reads the answer into res. keep says whether c may
// carry another request.
func (x *exchange) run(t *Transport, c *conn, req *Request, res *Result, deadline time.Time) (keep bool, f *fault) {
	if err := c.endBy(deadline, deadline.Sub(res.Started)); err != nil {
		return false, faultReset
	}
	signed := res.Started
	if !c.reused { // a dial may have taken its time
		signed = time.Now()
	}
	x.buf = appendHead(x.buf[:0], req, c.dest, t.options.UserAgent, t.signers, signed)
	asked, before := time.Now(), c.socket.sent
	joined, err := x.write(c, bodyOf(req))
	if err != nil {
		return false, x.salvage(c, req, res, err, deadline, t.options.BodyDuration)
	}
	written := asked // one write of a few KiB: the socket's buffer took it
	if !joined {
		written = time.Now()
	}
	if f := x.readFirst(c); f != nil {
		return false, f
	}
	first := time.Now()
	res.Timing.FirstByte = first.Sub(written)
	if c.reused && c.unasked(first.Sub(asked), c.socket.sent-before) {
		return false, faultUnasked
	}
	if f := x.readHead(req); f != nil {
		return false, f
	}
	now := first
	if x.src.left < headLeft { // the head came in more than one piece
		now = time.Now()
	}
	res.Latency = now.Sub(res.Started)
	if f := classify(&x.resp, res, now); f != nil {
		return false, f
	}
	whole := x.readBody(c, res, now, deadline, t.options.BodyDuration)
	c.reused = true
	return whole && !x.resp.ConnectionClose() && x.drained(), nil
}

// write sends the head in x.buf and the body: as one piece when they are
// small, which joined reports, else side by side. The body is only read.
func (x *exchange) write(c *conn, body []byte) (joined bool, err error) {
	if len(x.buf)+len(body) <= joinedBytes {
		x.buf = append(x.buf, body...)
		_, err := c.Write(x.buf)
		return true, err
	}
	if c.tls != nil {
		if _, err := c.tls.Write(x.buf); err != nil {
			return false, err
		}
		_, err := c.tls.Write(body)
		return false, err
	}
	x.vec = [2][]byte{x.buf, body}
	x.bufs = x.vec[:]
	err = c.socket.writeBoth(&x.bufs)
	x.vec, x.bufs = [2][]byte{}, nil
	return false, err
}

// readFirst waits for the response and takes its first bytes.
func (x *exchange) readFirst(c *conn) *fault {
	n, err := c.Read(x.buf[:min(cap(x.buf), firstRead)])
	if n == 0 {
		return readFault(err, faultReset)
	}
	x.src = source{conn: c.Conn, first: x.buf[:n], left: headLeft}
	if err != nil {
		x.src.err = err
	}
	return nil
}

// readHead parses the response head, past interim ones.
func (x *exchange) readHead(req *Request) *fault {
	x.br = readers.Get().(*bufio.Reader)
	x.br.Reset(&x.src)
	if !x.plausible() {
		return faultGarbage
	}
	x.resp.Reset()
	x.resp.StreamBody = true // the body is read by readBody, within its bounds
	x.resp.SkipBody = req.Method == "HEAD"
	err := x.resp.ReadLimitBody(x.br, 0)
	if err == nil {
		return nil
	}
	// From here on the status in resp means nothing: it reads 200 after most
	// errors.
	var small *fasthttp.ErrSmallBuffer
	switch {
	case errors.As(err, &small):
		return faultHeadTooLarge
	case x.src.err != nil:
		return readFault(x.src.err, faultResetInHead)
	case timedOut(err):
		return faultTimeoutRead
	}
	return faultHead
}

// plausible looks at the bytes that came first: they must begin like HTTP/1,
// and a line must end in CR LF. Both are found at once what the parser would
// wait out the deadline for.
func (x *exchange) plausible() bool {
	if _, err := x.br.Peek(1); err != nil {
		return true // readHead will say what is wrong
	}
	head, _ := x.br.Peek(x.br.Buffered())
	const begin = "HTTP/1."
	n := min(len(head), len(begin))
	if string(head[:n]) != begin[:n] {
		return false
	}
	lf := bytes.IndexByte(head, '\n')
	return lf < 0 || lf > 0 && head[lf-1] == '\r'
}

// salvage asks, after the request could not be written to its end, whether
// the target has said why: one that answers 413 and closes is a rejection,
// not a lost connection. A success does not count, since the request did not
// arrive whole.
func (x *exchange) salvage(c *conn, req *Request, res *Result, writeErr error, deadline time.Time, bodyTime time.Duration) *fault {
	if timedOut(writeErr) {
		return faultTimeoutWrite
	}
	now := time.Now()
	if window := now.Add(salvageWindow); window.Before(deadline) {
		c.readBy(window)
	}
	if x.readFirst(c) != nil || x.readHead(req) != nil {
		return faultResetInRequest
	}
	now = time.Now()
	res.Latency = now.Sub(res.Started)
	if f := classify(&x.resp, res, now); f != nil {
		return f
	}
	if res.Outcome == Delivered {
		*res = Result{Started: res.Started, Timing: res.Timing, RemoteIP: res.RemoteIP}
		return faultResetInRequest
	}
	x.readBody(c, res, now, deadline, bodyTime)
	return nil
}

// readBody reads the response body: to its end if that comes within
// maxBodyBytes, the deadline and bodyTime, so that the connection can be used
// again. Of an attempt that did not deliver it keeps the beginning. Whatever
// happens here, the status has decided. It reports whether the body was read
// to its end.
func (x *exchange) readBody(c *conn, res *Result, now, deadline time.Time, bodyTime time.Duration) (whole bool) {
	stream := x.resp.BodyStream()
	if stream == nil {
		return true
	}
	defer x.resp.CloseBodyStream()
	announced := x.resp.Header.ContentLength() // negative: not known
	want := 0
	if res.Outcome != Delivered {
		want = maxKeptBytes
	}
	most := maxBodyBytes
	if announced > most {
		most = want // the connection is lost anyway; read only what is kept
	}
	if announced < 0 || x.br.Buffered() < min(announced, most) {
		if limit := now.Add(bodyTime); limit.Before(deadline) {
			c.readBy(limit)
		}
	}
	x.src.left = maxBodyBytes + framingBytes
	whole, total := x.drain(stream, res, want, most)
	if want > 0 {
		res.BodyTruncated = !whole || total > len(res.Body)
	}
	return whole
}

// drain reads at most most bytes of stream and keeps the first want of them.
func (x *exchange) drain(stream io.Reader, res *Result, want, most int) (whole bool, total int) {
	// br holds all that was in buf, so buf is free.
	buf := x.buf[:cap(x.buf)]
	for {
		n, err := stream.Read(buf[:min(len(buf), most-total+1)])
		total += n
		if room := want - len(res.Body); n > 0 && room > 0 {
			res.Body = append(res.Body, buf[:min(n, room)]...)
		}
		if err != nil {
			return err == io.EOF, total
		}
		if total > most {
			return false, total
		}
	}
}

// drained reports whether the connection ends exactly where the response
// does. More bytes would be the beginning of an answer to nobody.
func (x *exchange) drained() bool {
	return x.br.Buffered() == 0 && len(x.src.first) == 0 && x.src.err == nil
}

// readFault says what an error means that ended the wait for a response.
// closed is for a connection that was closed.
func readFault(err error, closed *fault) *fault {
	var alert tls.AlertError
	var op *net.OpError
	switch {
	case timedOut(err):
		return faultTimeoutRead
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), reset(err):
		return closed
	case errors.As(err, &alert), errors.As(err, &op) && op.Op == "remote error":
		return faultTLSAlert
	case errors.As(err, &op) && op.Op == "local error":
		return faultTLS
	}
	return closed
}
