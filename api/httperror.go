package api

import (
	"errors"
	"net"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/engine"
)

// limitBody runs between a request's head and its body. fasthttp allocates the
// declared length of a body at once, so a large one is let in only when an
// account that may send has proved itself and there is room for it in bodies:
// without that, strangers could hold Connections * RequestBytes of memory by
// sending heads, and one account Connections * BatchBytes.
//
// A refusal is a limit that the body exceeds; serveError then answers with what
// the connection has kept. A chunked body does not say how large it will be: it
// takes as much room as its route allows, or is held to smallBodyBytes.
func (s *Server) limitBody(h *fasthttp.RequestHeader) fasthttp.RequestConfig {
	c := connOf(h)
	if c != nil {
		c.body.tooLarge, c.body.timeout = nil, 0
	}
	n := h.ContentLength()
	if n != chunked && n <= smallBodyBytes {
		return fasthttp.RequestConfig{}
	}
	limit, p := s.largeBody(h, n, c)
	if c == nil {
		return fasthttp.RequestConfig{MaxRequestBodySize: limit}
	}
	c.body.tooLarge = p
	if c.body.taken.Load() > 0 {
		c.body.timeout = s.bodyTimeout(int(c.body.taken.Load()))
	}
	return fasthttp.RequestConfig{MaxRequestBodySize: limit, ReadTimeout: c.body.timeout}
}

// chunked is fasthttp's length of a body that does not declare one; -2 is no body.
const chunked = -1

// largeBody says how large the body of a request may be, and what the answer is
// to one that is larger. c may be nil: then there is nobody to take room for.
func (s *Server) largeBody(h *fasthttp.RequestHeader, n int, c *conn) (limit int, beyond *problem) {
	small := min(smallBodyBytes, s.o.RequestBytes)
	most, ok := s.largeBodies(h)
	if !ok {
		return small, tooLarge(small)
	}
	owner, p := s.sender(h)
	switch {
	case p != nil:
		return small, p
	case n > most || c == nil:
		return most, tooLarge(most)
	case c.spare:
		return small, errConnections
	case n == chunked:
		n = most
	}
	if !c.take(owner, int64(n)) {
		return small, s.bodiesFull()
	}
	return most, tooLarge(most)
}

// largeBodies says how large a body may be on the routes that take large ones.
// The path is taken from the target as the router does.
func (s *Server) largeBodies(h *fasthttp.RequestHeader) (most int, ok bool) {
	u := fasthttp.AcquireURI()
	defer fasthttp.ReleaseURI(u)
	if u.Parse(h.Host(), h.RequestURI()) != nil {
		return 0, false // answered as malformed
	}
	switch string(u.PathOriginal()) {
	case "/v1/send":
		return s.o.RequestBytes, true
	case "/v1/send/batch":
		return s.o.BatchBytes, true
	}
	return 0, false
}

// sender is the account of a request with a valid API key that may send. It runs
// outside of dispatch and so has to catch a panic itself.
func (s *Server) sender(h *fasthttp.RequestHeader) (id engine.AccountID, p *problem) {
	defer func() {
		if v := recover(); v != nil {
			s.log.Error("authentication failed", "panic", v, "stack", string(debug.Stack()))
			p = errUnauthorized
		}
	}()
	id, err := s.authenticate(bearer(h))
	if s.o.Cluster != nil && s.o.Cluster.Reign() == 0 {
		if err != nil {
			return strangers, nil
		}
		return id, nil // the node that leads says whether it may send
	}
	if err != nil {
		return 0, errUnauthorized
	}
	if owner, err := s.engine.Account(s.ctx, id); err == nil && owner.Suspended {
		return 0, s.problemOf(engine.ErrSuspended)
	}
	return id, nil
}

// bodyTimeout is how long a large body may take, so that one who sends a byte
// now and then does not keep its room as long as ReadTimeout allows.
func (s *Server) bodyTimeout(n int) time.Duration {
	return min(s.o.ReadTimeout, bodyGrace+time.Duration(n)*time.Second/time.Duration(s.o.BodyBytesPerSecond))
}

// bodyGrace is what a large body may take beside the time of its bytes.
const bodyGrace = 5 * time.Second

// serveError answers a request that could not be read. fasthttp then closes
// the connection; until it has, the rest of the request is read away, or the
// reset it would cause could overtake the answer.
func (s *Server) serveError(ctx *fasthttp.RequestCtx, err error) {
	setRequestID(ctx)
	c, _ := ctx.Conn().(*conn)
	p := s.readProblem(ctx, c, err)
	ctx.Request.ReleaseBody(keptBytes) // fasthttp would keep it with the context
	if c != nil {
		c.giveBody()
		if p.status != fasthttp.StatusRequestTimeout {
			c.linger.Store(true)
		}
	}
	writeProblem(ctx, p)
	s.metrics.observe(nil, p.status, 0)
}

// readProblem is the answer to a request that could not be read. c may be nil.
func (s *Server) readProblem(ctx *fasthttp.RequestCtx, c *conn, err error) *problem {
	var small *fasthttp.ErrSmallBuffer
	var netErr net.Error
	switch {
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		if c != nil && c.body.tooLarge != nil {
			return c.body.tooLarge
		}
		return tooLarge(min(smallBodyBytes, s.o.RequestBytes))
	case errors.As(err, &small):
		return &problem{
			status:  fasthttp.StatusRequestHeaderFieldsTooLarge,
			message: "request head is too large",
			detail:  "the request line and headers together may have " + strconv.Itoa(s.o.ReadBufferBytes) + " bytes",
		}
	case errors.As(err, &netErr) && netErr.Timeout():
		if c != nil && c.spare {
			return errConnections
		}
		within := s.o.ReadTimeout
		if c != nil && c.body.timeout > 0 {
			within = c.body.timeout
		}
		return &problem{
			status:  fasthttp.StatusRequestTimeout,
			message: "request took too long to arrive",
			detail:  "it must be complete within " + within.String(),
		}
	}
	// The error's own text would repeat the caller's bytes.
	return errMalformedHTTP
}

// tooLarge is the answer to a body above limit.
func tooLarge(limit int) *problem {
	return &problem{
		status:  fasthttp.StatusRequestEntityTooLarge,
		message: "request body is too large",
		detail:  "it may have " + strconv.Itoa(limit) + " bytes",
	}
}
