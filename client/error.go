package client

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// An Error is an answer other than 2xx.
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
		RetryAfter: retryAfter(resp.Header.Get("Retry-After")),
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

// retryAfter reads whole seconds, the form that Harepost uses.
func retryAfter(value string) time.Duration {
	seconds, err := strconv.ParseUint(value, 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(seconds) * time.Second
}
