package main

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// receivedBodyBytes bounds what a receiver reads of one request. The server's
// own limit for a payload is lower by default.
const receivedBodyBytes = 16 << 20

// A received request, as a receiver saw and answered it.
type received struct {
	At         time.Time
	Method     string
	URI        string
	Header     http.Header
	Body       []byte
	DeliveryID string // X-Harepost-Delivery, empty when another sender made the request
	Attempt    int    // X-Harepost-Attempt; without one, the number of the request since the start
	Signatures signatures
	Status     int  // what was answered
	Gone       bool // the sender had closed the connection before the answer

	ForwardError error // why it could not be passed on; nil when it was, or was not to be
}

// A receiver is a target for deliveries: it reads a request, verifies its
// signatures, tells got, and answers what answer decides. It may be called by
// many connections at once, and calls got and answer from all of them.
type receiver struct {
	secrets   []string      // live signing secrets; none: signatures are not judged
	tolerance time.Duration // how old a signature may be
	answer    func(*received) answer
	got       func(*received)
	forward   func(context.Context, *received) fullAnswer // where an answer says Forward

	requests atomic.Int64
}

// An answer is what a receiver does to a request.
type answer struct {
	Delay      time.Duration
	Status     int
	RetryAfter time.Duration // whole seconds; 0: no such header
	Forward    bool          // what another program answers, instead of Status
}

// A fullAnswer is an answer in full.
type fullAnswer struct {
	Status int
	Header http.Header
	Body   []byte
}

// plain is the answer where no other program answers.
func (a answer) plain() fullAnswer {
	body := `{"received":true}`
	if a.Status/100 != 2 {
		body = `{"error":"refused on purpose"}`
	}
	r := fullAnswer{Status: a.Status, Header: http.Header{"Content-Type": {"application/json"}}, Body: []byte(body + "\n")}
	if a.RetryAfter > 0 {
		r.Header.Set("Retry-After", strconv.Itoa(int(a.RetryAfter/time.Second)))
	}
	return r
}

func (r fullAnswer) write(w http.ResponseWriter) {
	maps.Copy(w.Header(), r.Header)
	w.WriteHeader(r.Status)
	if r.Status != http.StatusNoContent && r.Status != http.StatusNotModified {
		w.Write(r.Body)
	}
}

// ServeHTTP receives one request.
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	number := r.requests.Add(1)
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, receivedBodyBytes))
	if err != nil {
		status := http.StatusBadRequest
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			status = http.StatusRequestEntityTooLarge
		}
		http.Error(w, err.Error(), status)
		return
	}
	got := &received{
		At: time.Now(), Method: req.Method, URI: req.URL.RequestURI(), Header: req.Header, Body: body,
		DeliveryID: req.Header.Get("X-Harepost-Delivery"), Attempt: int(number),
	}
	if n, err := strconv.Atoi(req.Header.Get("X-Harepost-Attempt")); err == nil {
		got.Attempt = n
	}
	got.Signatures = verifySignatures(req.Header, body, r.secrets, r.tolerance, got.At)

	a := r.answer(got)
	if a.Delay > 0 {
		select {
		case <-time.After(a.Delay):
		case <-req.Context().Done(): // the sender gave up, or we are closing
		}
	}
	reply := a.plain()
	if a.Forward {
		reply = r.forward(req.Context(), got)
	}
	got.Status = reply.Status
	// It is answered even so: it may have closed its own direction only.
	got.Gone = req.Context().Err() != nil
	// got first: whoever sees the answer may count on the request being told.
	r.got(got)
	reply.write(w)
}

// receiverServer bounds a receiver's connections. The write timeout leaves
// room for an answer that is delayed on purpose.
func receiverServer(h http.Handler, delay time.Duration) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute,
		WriteTimeout:      time.Minute + delay,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
	}
}
