package main

import (
	"errors"
	"net/http"
	"time"

	"github.com/harepost/harepost/client/webhook"
)

// A verdict is what is known about one signature.
type verdict struct {
	present bool
	judged  bool
	err     error
}

// String is the verdict in words.
func (v verdict) String() string {
	switch {
	case !v.present:
		return "absent"
	case !v.judged:
		return "not checked"
	case v.err != nil:
		return "wrong: " + reason(v.err)
	}
	return "valid"
}

// reason is the error without the name of the header, which stands beside it.
func reason(err error) string {
	if inner := errors.Unwrap(err); inner != nil {
		err = inner
	}
	return err.Error()
}

// signatures are the verdicts on the two signatures that a signed delivery
// carries.
type signatures struct {
	Harepost verdict // X-Harepost-Signature
	Standard verdict // webhook-signature
}

// bothValid tells whether both were there and right.
func (s signatures) bothValid() bool {
	return s.Harepost.String() == "valid" && s.Standard.String() == "valid"
}

func (s signatures) text(p painter) string {
	if !s.Harepost.present && !s.Standard.present {
		return p.dim("none")
	}
	paint := func(v verdict) string {
		switch {
		case !v.judged:
			return p.dim(v.String())
		case v.err != nil || !v.present:
			return p.red(v.String())
		}
		return p.green(v.String())
	}
	return "X-Harepost-Signature " + paint(s.Harepost) + ", webhook-signature " + paint(s.Standard)
}

// verifySignatures judges both signatures of a request. Without secrets it
// only tells which are there.
func verifySignatures(h http.Header, body []byte, secrets []string, tolerance time.Duration, now time.Time) signatures {
	s := signatures{
		Harepost: verdict{present: h.Get("X-Harepost-Signature") != ""},
		Standard: verdict{present: h.Get("webhook-signature") != ""},
	}
	if len(secrets) == 0 {
		return s
	}
	s.Harepost.judged, s.Standard.judged = true, true
	s.Harepost.err = webhook.VerifyHarepost(h, body, secrets, tolerance, now)
	s.Standard.err = webhook.VerifyStandard(h, body, secrets, tolerance, now)
	return s
}
