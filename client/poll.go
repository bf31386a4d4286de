package client

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// The pauses of poll. They grow: most of what is waited for ends in the first
// second, and the rest may take hours.
const (
	pollPauseFirst = 50 * time.Millisecond
	pollPauseLast  = time.Second
	pollPatience   = time.Minute
)

// poll looks until ended says so, and returns the last that it saw. The server may
// be away for as long as pollPatience: what is waited for survives a restart.
func poll[T any](ctx context.Context, seen T, look func(context.Context) (T, error), ended func(T) bool) (T, error) {
	var away time.Time      // since when the server has not answered
	var asked time.Duration // by the server, to be left alone
	for pause := pollPauseFirst; ; pause = min(pause*3/2, pollPauseLast) {
		if ended(seen) {
			return seen, nil
		}
		if !wait(ctx, max(pause, asked)) {
			return seen, ctx.Err()
		}
		latest, err := look(ctx)
		switch {
		case err == nil:
			seen, away = latest, time.Time{}
		case ctx.Err() != nil:
			return seen, ctx.Err()
		case !passing(err):
			return seen, err
		case away.IsZero():
			away = time.Now()
		case time.Since(away) > pollPatience:
			return seen, err
		}
		asked = 0
		if e, ok := errors.AsType[*Error](err); ok && e.Status == http.StatusTooManyRequests {
			asked = min(e.RetryAfter, pollPatience)
		}
	}
}

// passing tells whether an error is one that a restart of the server explains.
func passing(err error) bool {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Temporary()
	}
	_, lost := errors.AsType[unanswered](err)
	return lost
}
