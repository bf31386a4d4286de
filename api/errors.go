package api

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/engine"
)

// A problem is an answer that is not success: a status code and the JSON
// object {"error", "detail"}.
type problem struct {
	status     int
	message    string         // "error"
	detail     string         // "detail", left out when empty
	retryAfter time.Duration  // header Retry-After in whole seconds, rounded up; zero: none
	domain     *engine.Domain // a pending domain, whose fields go beside the error
	cause      error          // what is logged for a 500
}

func (p *problem) Error() string {
	if p.detail == "" {
		return p.message
	}
	return p.message + ": " + p.detail
}

// retrySeconds is retryAfter in whole seconds, rounded up.
func (p *problem) retrySeconds() int64 {
	return int64((p.retryAfter + time.Second - 1) / time.Second)
}

func (p *problem) Unwrap() error { return p.cause }

// invalid is the answer to a field that cannot be taken. found and allowed
// complete "it is ..." and "it must be ...".
func invalid(field, found, allowed string) *problem {
	return &problem{
		status:  fasthttp.StatusBadRequest,
		message: "invalid " + field,
		detail:  fmt.Sprintf("%s is %s; it must be %s", field, found, allowed),
	}
}

// refused is the answer to a value that breaks a rule which reads best as a
// sentence.
func refused(field, reason string) *problem {
	return &problem{
		status:  fasthttp.StatusBadRequest,
		message: "invalid " + field + ": " + reason,
	}
}

var (
	errUnauthorized = &problem{
		status:  fasthttp.StatusUnauthorized,
		message: "API key is missing or invalid",
		detail:  "send it as \"Authorization: Bearer hp_live_...\"",
	}
	errAdminToken = &problem{
		status:  fasthttp.StatusUnauthorized,
		message: "admin token is missing or invalid",
		detail:  "send it as \"Authorization: Bearer <admin token>\"",
	}
	errSignupClosed = &problem{
		status:  fasthttp.StatusForbidden,
		message: "sign-up is closed",
		detail:  "this server was started with neither an admin token nor open sign-up",
	}
	errAdminClosed = &problem{
		status:  fasthttp.StatusForbidden,
		message: "admin routes are closed",
		detail:  "this server was started without an admin token",
	}
	errSignupOrigin = &problem{
		status:  fasthttp.StatusForbidden,
		message: "sign-up from a web page is refused",
		detail:  "the request has the header Origin of another site",
	}
	// errConnections is the answer on a connection above the limit.
	errConnections = &problem{
		status:     fasthttp.StatusServiceUnavailable,
		message:    "overloaded",
		detail:     "the server has too many open connections",
		retryAfter: time.Second,
	}
	errMalformedHTTP = &problem{status: fasthttp.StatusBadRequest, message: "malformed HTTP request"}

	errNotFound = &problem{status: fasthttp.StatusNotFound, message: "not found"}
)

// storageRetryAfter is for a server whose data is at its limit: room comes in the
// steps of its retention, or as pending deliveries end.
const storageRetryAfter = 10 * time.Second

// problemOf turns what the engine says into an answer. Anything that is not
// known here is a 500 whose cause is logged and not shown.
func (s *Server) problemOf(err error) *problem {
	var p *problem
	var unverified *engine.DomainNotVerifiedError
	var blocked *engine.AddressBlockedError
	var limited *engine.RateLimitedError
	var pending *engine.DomainPendingError
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &unverified):
		return &problem{
			status:  fasthttp.StatusForbidden,
			message: "destination domain is not verified",
			detail: "Verify " + unverified.Host + " before sending to it: add the domain with POST /v1/domains, " +
				"publish the TXT record it answers with, then POST /v1/domains/verify",
		}
	case errors.As(err, &blocked):
		return &problem{
			status:  fasthttp.StatusBadRequest,
			message: "target resolves to an address that is not allowed",
			detail:  blocked.Host + " must have public addresses only",
		}
	case errors.As(err, &limited):
		return &problem{
			status:     fasthttp.StatusTooManyRequests,
			message:    "rate limit exceeded",
			detail:     "the account's sends of a minute are used up for now",
			retryAfter: max(limited.RetryAfter, time.Second),
		}
	case errors.As(err, &pending):
		return &problem{
			status:  fasthttp.StatusConflict,
			message: "domain is not verified yet",
			detail:  pending.Detail,
			domain:  &pending.Domain,
		}
	case errors.Is(err, engine.ErrUnauthorized):
		return errUnauthorized
	case errors.Is(err, engine.ErrNotFound):
		return errNotFound
	case errors.Is(err, engine.ErrPending):
		return &problem{
			status:  fasthttp.StatusConflict,
			message: err.Error(), // says so when only an attempt is under way
			detail:  "only a finished delivery can be replayed",
		}
	case errors.Is(err, engine.ErrFinished):
		return &problem{status: fasthttp.StatusConflict, message: "already finished", detail: "there is nothing left to cancel"}
	case errors.Is(err, engine.ErrBackupRunning):
		return &problem{
			status:  fasthttp.StatusConflict,
			message: "a backup is already running",
			detail:  "one at a time: try again when it has ended",
		}
	case errors.Is(err, engine.ErrPayloadGone):
		return &problem{
			status:  fasthttp.StatusConflict,
			message: "payload is no longer kept",
			detail:  "the delivery cannot be replayed; send it again",
		}
	case errors.Is(err, engine.ErrSuspended):
		return &problem{
			status:  fasthttp.StatusForbidden,
			message: "account is suspended",
			detail:  "whoever runs this server can lift that",
		}
	case errors.Is(err, engine.ErrTooMany):
		return &problem{
			status:  fasthttp.StatusBadRequest,
			message: err.Error(), // says of what, and how many there may be
			detail:  "remove one first, or wait until one has ended",
		}
	case errors.Is(err, engine.ErrOverloaded):
		return &problem{
			status:     fasthttp.StatusServiceUnavailable,
			message:    "overloaded",
			detail:     "nothing was accepted; the same request may be taken later",
			retryAfter: s.o.OverloadedRetryAfter,
		}
	case errors.Is(err, engine.ErrTooLarge):
		return &problem{
			status:  fasthttp.StatusRequestEntityTooLarge,
			message: "send too large",
			detail:  "this server's disk or data limit is too small for a send of this size; nothing was accepted",
		}
	case errors.Is(err, engine.ErrStorageFull):
		return &problem{
			status:     fasthttp.StatusInsufficientStorage,
			message:    "storage limit reached",
			detail:     "nothing was accepted; deliveries go on, and sends are taken again when there is room",
			retryAfter: storageRetryAfter,
		}
	case errors.Is(err, engine.ErrUnknown):
		return &problem{
			status:  fasthttp.StatusServiceUnavailable,
			message: "outcome unknown",
			detail: "the request may or may not have taken effect; " +
				"repeat a send with the same idempotency key, which is answered as a duplicate if it did",
			retryAfter: s.o.OverloadedRetryAfter,
		}
	case errors.Is(err, engine.ErrNotLeader):
		return errNotLeading
	case errors.Is(err, ErrNoNode):
		return &problem{status: fasthttp.StatusNotFound, message: "not found", detail: err.Error()}
	case errors.Is(err, ErrRefused):
		return &problem{status: fasthttp.StatusConflict, message: err.Error()} // says why
	case errors.Is(err, engine.ErrClosed), errors.Is(err, context.Canceled):
		return &problem{
			status:     fasthttp.StatusServiceUnavailable,
			message:    "shutting down",
			detail:     "send again, to another server or to this one when it is back",
			retryAfter: s.o.OverloadedRetryAfter,
		}
	}
	return &problem{status: fasthttp.StatusInternalServerError, message: "internal error", cause: err}
}

// bodiesFull is the answer to a large body for which there is no room now.
func (s *Server) bodiesFull() *problem {
	return &problem{
		status:  fasthttp.StatusServiceUnavailable,
		message: "overloaded",
		detail: "too many large requests are under way, of this account or of all, and this one was not read; " +
			"it may be taken later",
		retryAfter: s.o.OverloadedRetryAfter,
	}
}

// writeProblem is the one place that writes an answer which is not success.
func writeProblem(ctx *fasthttp.RequestCtx, p *problem) {
	b := make([]byte, 0, 128+len(p.message)+len(p.detail))
	b = append(b, '{')
	if p.domain != nil {
		b = appendDomainFields(b, p.domain)
		b = append(b, ',')
	}
	b = append(b, `"error":`...)
	b = appendString(b, p.message)
	if p.detail != "" {
		b = append(b, `,"detail":`...)
		b = appendString(b, p.detail)
	}
	b = append(b, '}', '\n')
	if p.retryAfter > 0 {
		ctx.Response.Header.Set(fasthttp.HeaderRetryAfter, strconv.FormatInt(p.retrySeconds(), 10))
	}
	if p.status == fasthttp.StatusUnauthorized {
		ctx.Response.Header.Set(fasthttp.HeaderWWWAuthenticate, `Bearer realm="harepost"`)
	}
	writeJSON(ctx, p.status, b)
}
