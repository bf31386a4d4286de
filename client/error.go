package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// What errors.Is finds in an *Error, by its status.
var (
	ErrInvalid      = errors.New("invalid request")      // 400
	ErrUnauthorized = errors.New("unauthorized")         // 401: key or token missing or wrong
	ErrForbidden    = errors.New("forbidden")            // 403: domain not verified, or account suspended
	ErrNotFound     = errors.New("not found")            // 404: or another account's
	ErrConflict     = errors.New("conflict")             // 409: not in its present state
	ErrTooLarge     = errors.New("request is too large") // 413
	ErrRateLimited  = errors.New("rate limited")         // 429
	ErrUnavailable  = errors.New("unavailable")          // 503: overloaded, or shutting down
	ErrStorageFull  = errors.New("storage is full")      // 507
)

var sentinels = map[int]error{
	http.StatusBadRequest:            ErrInvalid,
	http.StatusUnauthorized:          ErrUnauthorized,
	http.StatusForbidden:             ErrForbidden,
	http.StatusNotFound:              ErrNotFound,
	http.StatusConflict:              ErrConflict,
	http.StatusRequestEntityTooLarge: ErrTooLarge,
	http.StatusTooManyRequests:       ErrRateLimited,
	http.StatusServiceUnavailable:    ErrUnavailable,
	http.StatusInsufficientStorage:   ErrStorageFull,
}

// An Error is an answer other than 2xx. errors.Is tells the common ones apart:
// ErrNotFound, ErrRateLimited and so on.
type Error struct {
	Status     int           // HTTP status
	Message    string        // what is wrong, in prose
	Detail     string        // more about it, may be empty
	RetryAfter time.Duration // how long to wait before another try; 0: the server did not say
	RequestID  string        // for the server's operator
	Body       []byte        // the whole answer
}

// Error is the status, the message and the detail in one line.
func (e *Error) Error() string {
	s := fmt.Sprintf("%d %s", e.Status, e.Message)
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}

// Is tells whether target is what the status means.
func (e *Error) Is(target error) bool { return sentinels[e.Status] == target && target != nil }

// A KeyError is New's answer to an API key or an admin token that no header can
// carry, mostly because its file has the line breaks of another system. Every
// call would fail as if the server were away.
type KeyError struct {
	What string // "API key" or "admin token"
}

// Error does not repeat the key: it would be a secret in a log.
func (e *KeyError) Error() string {
	return "client: the " + e.What + " has a line break or another control character in it"
}

// sendable tells whether a header can carry what is shown as a bearer.
func sendable(bearer string) bool {
	return !strings.ContainsFunc(bearer, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// PendingDomain returns the domain that VerifyDomain could not verify yet, with
// the record to publish; false if the error is another.
func (e *Error) PendingDomain() (Domain, bool) {
	var d Domain
	if e.Status != http.StatusConflict || json.Unmarshal(e.Body, &d) != nil {
		return Domain{}, false
	}
	return d, d.Status == "pending"
}

func newError(resp *http.Response, answer []byte) *Error {
	e := &Error{
		Status:     resp.StatusCode,
		RetryAfter: retryAfter(resp.Header.Get("Retry-After"), time.Now()),
		RequestID:  resp.Header.Get("X-Request-Id"),
		Body:       answer,
	}
	var text struct{ Error, Detail string }
	if json.Unmarshal(answer, &text) == nil {
		e.Message, e.Detail = text.Error, text.Detail
	}
	if e.Message == "" { // not ours: a proxy's page, or nothing
		e.Message = http.StatusText(resp.StatusCode)
	}
	return e
}

// retryAfter reads both forms of the header: whole seconds, which Harepost uses,
// and a date, which a proxy may. What is left to the date counts as whole seconds.
func retryAfter(value string, now time.Time) time.Duration {
	seconds, err := strconv.ParseUint(value, 10, 63)
	if err == nil || errors.Is(err, strconv.ErrRange) { // then it is the largest
		return retrySeconds(int64(seconds))
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return retrySeconds(at.Unix() - now.Unix())
}

// retrySeconds bounds what a server may ask for by 68 years: a duration has an
// end, and a tenth is added to it.
func retrySeconds(n int64) time.Duration {
	return time.Duration(min(max(n, 0), math.MaxInt32)) * time.Second
}
