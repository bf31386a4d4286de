package api

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/harepost/harepost/engine"
)

// FuzzSend: no body of a request panics the decoder, and what it accepts keeps
// to the bounds that the engine relies on.
func FuzzSend(f *testing.F) {
	for _, seed := range []string{
		with(""), with(`"body":{"a":[1,2,{"b":null}]},"headers":{"X-A":"b"},"delivery":{"max_attempts":3,"backoff":"fixed"}`),
		with(`"body":"\u00e9","idempotency_key":"k","metadata":{"a":1},"labels":["a"],"sign":true,"delay_ms":1e3`),
		with(`"method":"GET","not_before":"2026-06-10T14:22:20Z","expires_at":"2026-07-10T14:22:20Z","unknown":[]`),
		`{"target":`, `{}`, `null`, `[]`, "\xff",
	} {
		f.Add([]byte(seed), "")
	}
	f.Add([]byte(with(`"idempotency_key":"k"`)), "k")
	s, err := New(nil, Options{Dev: true})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte, key string) {
		before := string(body)
		r := s.acquireSendRequest(body)
		defer r.release()
		err := r.decode([]byte(key), testNow)
		if string(body) != before {
			t.Fatal("the decoder wrote into the request")
		}
		if err != nil {
			var p *problem
			if !errors.As(err, &p) || p.status != 400 || p.message == "" || len(p.Error()) > 1000 {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		checkSend(t, &r.send)
	})
}

func checkSend(t *testing.T, send *engine.Send) {
	p := send.Policy
	switch {
	case p.MaxAttempts < 1 || p.MaxAttempts > 25,
		p.BaseDelay < 100*time.Millisecond || p.BaseDelay > time.Minute,
		p.MaxDelay < time.Second || p.MaxDelay > 12*time.Hour,
		p.Timeout < time.Second || p.Timeout > 30*time.Second:
		t.Fatalf("policy out of range: %+v", p)
	}
	if len(send.Headers) > 65 || len(send.Labels) > 8 || len(send.Metadata) > 16<<10 || len(send.IdempotencyKey) > 4*255 {
		t.Fatalf("a bound is passed: %+v", send)
	}
	for _, h := range send.Headers {
		if !httpguts.ValidHeaderFieldName(h.Name) || !httpguts.ValidHeaderFieldValue(h.Value) || isStripped(h.Name) {
			t.Fatalf("header %+v", h)
		}
	}
	if !httpguts.ValidHeaderFieldValue(send.IdempotencyKey) {
		t.Fatalf("idempotency key %q", send.IdempotencyKey)
	}
	if !strings.HasPrefix(send.Target.URI, "/") || send.Target.Host == "" || send.Target.Port == 0 {
		t.Fatalf("target %+v", send.Target)
	}
	if !send.ExpiresAt.IsZero() && !send.ExpiresAt.After(send.NotBefore) {
		t.Fatalf("never to be tried: %+v", send)
	}
}

// A pooled request keeps nothing of the one before.
func TestSendRequestReuse(t *testing.T) {
	s, err := New(nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	r := s.acquireSendRequest([]byte(with(`"method":"PUT","headers":{"X-Secret":"1","Host":"x"},"body":{"secret":1},"labels":["l"],
		"delivery":{"max_attempts":9},"idempotency_key":"k","sign":true,"metadata":{},"delay_ms":5,"expires_at":"2030-01-01T00:00:00Z","x":"\u0041"`)))
	if err := r.decode(nil, testNow); err != nil {
		t.Fatal(err)
	}
	headers := r.send.Headers
	r.release()
	if h := headers[:1][0]; h != (engine.Header{}) {
		t.Errorf("the pool keeps a header: %+v", h)
	}
	// Whatever the pool gives, it is as if new; r itself is looked at as well.
	for _, r := range []*sendRequest{r, s.acquireSendRequest(nil)} {
		r.o, r.rules, r.most = &s.o, &s.targets, s.o.Warnings
		r.decoder.reset([]byte(with("")))
		if err := r.decode(nil, testNow); err != nil {
			t.Fatal(err)
		}
		send := r.send
		send.Target, send.Headers, send.Labels = engine.Target{}, nil, nil
		fresh := engine.Send{Method: "POST", Policy: defaultPolicy}
		if fmt.Sprint(send) != fmt.Sprint(fresh) || len(r.send.Headers)+len(r.send.Labels)+len(r.warnings.list) != 0 {
			t.Errorf("left over: %+v, warnings %q", r.send, r.warnings.list)
		}
	}
}
