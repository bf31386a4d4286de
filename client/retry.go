package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"
)

// unanswered is an error after which nothing is known: the request may have
// arrived, and its answer is lost.
type unanswered struct{ error }

func (u unanswered) Unwrap() error { return u.error }

// retry calls try again while it fails in a way that may pass, if that is safe,
// until as much is spent as the options allow. It returns the last error of try,
// also when the context ends a pause.
func (c *Client) retry(ctx context.Context, safe bool, spent *int, try func() error) error {
	for ; ; *spent++ {
		err := try()
		if err == nil || !safe || *spent >= c.options.Retries {
			return err
		}
		wait, again := c.retryWait(err, *spent)
		if !again || !sleep(ctx, wait) {
			return err
		}
	}
}

// retryWait reports whether what ended so may be repeated, and how long after
// the n-th retry, counted from 0.
func (c *Client) retryWait(err error, n int) (time.Duration, bool) {
	if e, ok := errors.AsType[*Error](err); ok {
		if e.RetryAfter > 0 {
			return e.RetryAfter + draw(e.RetryAfter/10), e.Temporary() && e.RetryAfter <= c.options.MaxRetryAfter
		}
		return c.retryPause(n), e.Temporary()
	}
	_, lost := errors.AsType[unanswered](err)
	return c.retryPause(n), lost
}

// retryPause is RetryDelay doubled n times, less up to a half by chance.
func (c *Client) retryPause(n int) time.Duration {
	pause := c.options.RetryDelay
	for ; n > 0 && pause < c.options.MaxRetryAfter; n-- {
		pause *= 2
	}
	pause = min(pause, c.options.MaxRetryAfter)
	return pause - draw(pause/2)
}

// draw is a random duration from 0 to most.
func draw(most time.Duration) time.Duration { return rand.N(most + 1) }

// Temporary tells whether the same request may succeed later: after 429, 502,
// 503, 504 and 507.
func (e *Error) Temporary() bool {
	switch e.Status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable,
		http.StatusGatewayTimeout, http.StatusInsufficientStorage:
		return true
	}
	return false
}

// sleep is wait, unless the context ends before the wait would: then there is
// no point in beginning it.
func sleep(ctx context.Context, d time.Duration) bool {
	if end, ok := ctx.Deadline(); ok && time.Until(end) < d {
		return false
	}
	return wait(ctx, d)
}

// wait waits for so long, or until the context ends, and reports which.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
