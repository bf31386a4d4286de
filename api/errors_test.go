package api

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/engine"
)

// Each error of the engine has its answer.
func TestProblems(t *testing.T) {
	s, err := New(nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	f := func(err error, status int, retryAfter time.Duration, words ...string) {
		t.Helper()
		p := s.problemOf(fmt.Errorf("while testing: %w", err))
		if p.status != status || p.retryAfter != retryAfter {
			t.Errorf("%v: %d, retry after %s", err, p.status, p.retryAfter)
		}
		for _, w := range words {
			if !strings.Contains(p.Error(), w) {
				t.Errorf("%v: %q, want %q in it", err, p.Error(), w)
			}
		}
	}
	f(engine.ErrNotFound, 404, 0, "not found")
	f(engine.ErrUnauthorized, 401, 0)
	f(engine.ErrOverloaded, 503, time.Second, "nothing was accepted")
	f(engine.ErrUnknown, 503, time.Second, "same idempotency key")
	f(fmt.Errorf("%w: %w", engine.ErrUnknown, engine.ErrClosed), 503, time.Second, "may or may not")
	f(engine.ErrClosed, 503, time.Second, "shutting down")
	f(fmt.Errorf("%w: at most 7", engine.ErrTooMany), 400, 0, "at most 7")
	f(engine.ErrPending, 409, 0, "still pending")
	f(fmt.Errorf("%w: an attempt is under way", engine.ErrPending), 409, 0, "under way")
	f(engine.ErrFinished, 409, 0, "finished")
	f(engine.ErrPayloadGone, 409, 0, "no longer kept", "send it again")
	f(engine.ErrStorageFull, 507, 10*time.Second, "storage limit", "nothing was accepted")
	f(engine.ErrBackupRunning, 409, 0, "already running")
	f(engine.ErrSuspended, 403, 0, "suspended")
	f(&engine.RateLimitedError{RetryAfter: 1500 * time.Millisecond}, 429, 1500*time.Millisecond)
	f(&engine.RateLimitedError{RetryAfter: time.Microsecond}, 429, time.Second)
	f(&engine.DomainNotVerifiedError{Host: "a.example"}, 403, 0, "Verify a.example")
	f(&engine.AddressBlockedError{Host: "a.example"}, 400, 0, "a.example")
	f(&engine.DomainPendingError{Detail: "no record"}, 409, 0, "no record")
	p := s.problemOf(fmt.Errorf("disk: /secret/path"))
	if p.status != 500 || strings.Contains(p.Error(), "secret") || p.cause == nil {
		t.Errorf("an unknown error: %+v", p)
	}
}

// Retry-After is in whole seconds and never too early.
func TestRetryAfter(t *testing.T) {
	f := func(d time.Duration, want string) {
		t.Helper()
		var ctx fasthttp.RequestCtx
		writeProblem(&ctx, &problem{status: 503, message: "x", retryAfter: d})
		if got := string(ctx.Response.Header.Peek("Retry-After")); got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
	f(0, "")
	f(time.Nanosecond, "1")
	f(time.Second, "1")
	f(time.Second+1, "2")
	f(1500*time.Millisecond, "2")
	f(time.Minute, "60")
}
