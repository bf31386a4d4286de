package api

import (
	"errors"
	"net"
	"runtime/debug"
	"strconv"

	"github.com/valyala/fasthttp"
)

// limitBody runs between a request's head and its body. fasthttp allocates the
// declared length of a body at once, so only a proven account's send may
// declare a large one: without this, strangers could hold
// Connections * RequestBytes of memory by sending heads.
func (s *Server) limitBody(h *fasthttp.RequestHeader) fasthttp.RequestConfig {
	const chunked = -1 // of unknown length; fasthttp's -2 is no body
	if n := h.ContentLength(); n != chunked && n <= smallBodyBytes {
		return fasthttp.RequestConfig{}
	}
	limit := min(smallBodyBytes, s.o.RequestBytes)
	if most, ok := s.largeBodies(h); ok && s.proven(h) {
		limit = most
	}
	return fasthttp.RequestConfig{MaxRequestBodySize: limit}
}

// largeBodies says how large a body may be on the routes that take large ones.
func (s *Server) largeBodies(h *fasthttp.RequestHeader) (most int, ok bool) {
	switch string(pathOf(h.RequestURI())) {
	case "/v1/send":
		return s.o.RequestBytes, true
	case "/v1/send/batch":
		return s.o.BatchBytes, true
	}
	return 0, false
}

// proven reports whether a request has a valid API key. It runs outside of
// dispatch and so has to catch a panic itself.
func (s *Server) proven(h *fasthttp.RequestHeader) (ok bool) {
	defer func() {
		if v := recover(); v != nil {
			s.log.Error("authentication failed", "panic", v, "stack", string(debug.Stack()))
			ok = false
		}
	}()
	_, err := s.engine.Authenticate(bearer(h))
	return err == nil
}

// pathOf cuts the query off; an absolute URI is no path of ours and stays one.
func pathOf(uri []byte) []byte {
	for i, c := range uri {
		if c == '?' {
			return uri[:i]
		}
	}
	return uri
}

// serveError answers a request that could not be read. fasthttp then closes
// the connection; until it has, the rest of the request is read away, or the
// reset it would cause could overtake the answer.
func (s *Server) serveError(ctx *fasthttp.RequestCtx, err error) {
	setRequestID(ctx)
	p := s.readProblem(ctx, err)
	if c, ok := ctx.Conn().(*conn); ok && p.status != fasthttp.StatusRequestTimeout {
		c.linger.Store(true)
	}
	writeProblem(ctx, p)
	s.metrics.observe(nil, p.status, 0)
}

// readProblem is the answer to a request that could not be read.
func (s *Server) readProblem(ctx *fasthttp.RequestCtx, err error) *problem {
	var small *fasthttp.ErrSmallBuffer
	var netErr net.Error
	switch {
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		return s.bodyTooLarge(&ctx.Request.Header)
	case errors.As(err, &small):
		return &problem{
			status:  fasthttp.StatusRequestHeaderFieldsTooLarge,
			message: "request head is too large",
			detail:  "the request line and headers together may have " + strconv.Itoa(s.o.ReadBufferBytes) + " bytes",
		}
	case errors.As(err, &netErr) && netErr.Timeout():
		return &problem{
			status:  fasthttp.StatusRequestTimeout,
			message: "request took too long to arrive",
			detail:  "it must be complete within " + s.o.ReadTimeout.String(),
		}
	}
	// The error's own text would repeat the caller's bytes.
	return errMalformedHTTP
}

// bodyTooLarge says 401 where the body would have been taken from somebody
// with a valid key, see limitBody.
func (s *Server) bodyTooLarge(h *fasthttp.RequestHeader) *problem {
	limit := smallBodyBytes
	if most, ok := s.largeBodies(h); ok {
		limit = most
		if !s.proven(h) {
			return errUnauthorized
		}
	}
	return &problem{
		status:  fasthttp.StatusRequestEntityTooLarge,
		message: "request body is too large",
		detail:  "it may have " + strconv.Itoa(limit) + " bytes",
	}
}
