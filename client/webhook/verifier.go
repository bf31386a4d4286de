package webhook

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Options are what a Verifier works with.
type Options struct {
	// Secrets are the account's signing secrets that count: one, or two
	// while one is being rotated. At least one, at most eight. There may be
	// no white space in them: trim what comes from a file.
	Secrets []string

	// Tolerance is how far the time of a signature may be from the clock,
	// either way. Default DefaultTolerance, 5 minutes. It cannot be switched
	// off here: see Verify for that.
	Tolerance time.Duration

	// MaxBodyBytes is the largest body that Middleware takes. Default 1 MiB,
	// which no delivery of a server with default limits exceeds.
	MaxBodyBytes int64

	// Refused is told of each request that Middleware turns away, and why,
	// for a log or a counter. It is called by the request's goroutine.
	// Default nil: nobody is.
	Refused func(r *http.Request, reason error)

	// Now is the clock. Default time.Now.
	Now func() time.Time
}

// maxSecrets bounds the work that one request can cause.
const maxSecrets = 8

// defaultBodyBytes is the server's limit for a request to send, of which the
// body is a part.
const defaultBodyBytes = 1 << 20

// A Verifier checks requests against an account's signing secrets. It is safe
// for concurrent use.
type Verifier struct {
	options Options
	secrets atomic.Pointer[[]string]
}

// New returns a Verifier. A secret that could never match is an error here, and
// not when the first delivery comes.
func New(o Options) (*Verifier, error) {
	switch {
	case o.Tolerance < 0:
		return nil, fmt.Errorf("webhook: Tolerance %s is negative", o.Tolerance)
	case o.MaxBodyBytes < 0:
		return nil, fmt.Errorf("webhook: MaxBodyBytes %d is negative", o.MaxBodyBytes)
	}
	if o.MaxBodyBytes == 0 {
		o.MaxBodyBytes = defaultBodyBytes
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	v := &Verifier{options: o}
	if err := v.SetSecrets(o.Secrets...); err != nil {
		return nil, err
	}
	return v, nil
}

// SetSecrets replaces the secrets, for rotation without a restart. It takes all
// of them or, with an error, none.
func (v *Verifier) SetSecrets(secrets ...string) error {
	if len(secrets) == 0 || len(secrets) > maxSecrets {
		return fmt.Errorf("webhook: %w: there are %d, not 1 to %d", ErrBadSecret, len(secrets), maxSecrets)
	}
	for i, secret := range secrets {
		if err := checkSpace(secret); err != nil {
			return fmt.Errorf("webhook: secret %d: %w", i+1, err)
		}
		encoded, ok := strings.CutPrefix(secret, "whsec_")
		key, err := base64.StdEncoding.DecodeString(encoded)
		if !ok || err != nil || len(key) == 0 {
			return fmt.Errorf("webhook: secret %d: %w: it is not whsec_ and base64", i+1, ErrBadSecret)
		}
	}
	kept := slices.Clone(secrets)
	v.secrets.Store(&kept)
	return nil
}

// A Delivery is what a verified request says about itself.
type Delivery struct {
	// ID is the delivery's queue id, the same for all attempts. See Signed.
	ID string

	// Signed tells that the id was part of what was signed. It is, unless
	// the request has the signature X-Harepost-Signature only: then whoever
	// played it again could have changed the id.
	Signed bool

	// SignedAt is when this attempt was signed, in whole seconds.
	SignedAt time.Time

	// Attempt counts from 1; 0: not said. It is not signed.
	Attempt int

	// IdempotencyKey is the sender's, if it gave one. It is not signed.
	IdempotencyKey string
}

// Verify checks a request by its headers and the exact bytes of its body, for
// those who do not use Middleware.
func (v *Verifier) Verify(h http.Header, body []byte) (Delivery, error) {
	if err := Verify(h, body, *v.secrets.Load(), v.options.Tolerance, v.options.Now()); err != nil {
		return Delivery{}, err
	}
	return deliveryOf(h), nil
}

// deliveryOf reads the headers of a request that is verified: what has a
// signature is well formed.
func deliveryOf(h http.Header) Delivery {
	d := Delivery{ID: h.Get(headerDelivery), IdempotencyKey: h.Get(headerIdempotencyKey)}
	timestamp := ""
	if h.Get(headerStandardSignature) != "" {
		d.ID, d.Signed = h.Get(headerStandardID), true
		timestamp = h.Get(headerStandardTimestamp)
	} else if parsed, err := parseHarepost(h.Get(headerHarepost)); err == nil {
		timestamp = parsed.timestamp
	}
	if seconds, err := parseTime(timestamp); err == nil {
		d.SignedAt = seconds
	}
	if n, err := strconv.ParseUint(h.Get(headerAttempt), 10, 31); err == nil {
		d.Attempt = int(n)
	}
	return d
}
