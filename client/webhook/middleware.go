package webhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// Middleware lets requests through to next that are signed as they have to be.
// It reads the body, up to Options.MaxBodyBytes, and next reads it again. A
// request without a right signature is answered 401, one with too large a body
// 413, one whose body does not come in time or breaks off 408, after which
// Harepost tries again; next never sees them. FromContext tells next which
// delivery it has.
//
// A replayed request, with its signature as it was, gets through while it is
// within the tolerance: see the package's comment.
func (v *Verifier) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := v.read(w, r)
		if err != nil {
			v.refuse(w, r, err)
			return
		}
		d, err := v.Verify(r.Header, body)
		if err != nil {
			v.refuse(w, r, err)
			return
		}
		r = r.WithContext(context.WithValue(r.Context(), deliveryKey{}, d))
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		r.TransferEncoding = nil
		next.ServeHTTP(w, r)
	})
}

// read reads the whole body, once.
func (v *Verifier) read(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength > v.options.MaxBodyBytes {
		return nil, ErrBodyTooLarge
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, v.options.MaxBodyBytes))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, ErrBodyTooLarge
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBodyUnread, err)
	}
	return body, nil
}

// refuse answers with no more than the status says: what exactly is wrong with
// a signature helps who forges one.
func (v *Verifier) refuse(w http.ResponseWriter, r *http.Request, reason error) {
	if v.options.Refused != nil {
		v.options.Refused(r, reason)
	}
	status := http.StatusUnauthorized
	switch {
	case errors.Is(reason, ErrBodyTooLarge):
		status = http.StatusRequestEntityTooLarge
	case errors.Is(reason, ErrBodyUnread):
		status = http.StatusRequestTimeout
	}
	http.Error(w, http.StatusText(status), status)
}

type deliveryKey struct{}

// FromContext returns the delivery of a request that came through Middleware;
// false if it did not.
func FromContext(ctx context.Context) (Delivery, bool) {
	d, ok := ctx.Value(deliveryKey{}).(Delivery)
	return d, ok
}
