package webhook_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/harepost/harepost/client/webhook"
)

// verifierOf is a Verifier whose clock stands at the time of the signatures.
func verifierOf(t testing.TB, change func(*webhook.Options), secrets ...string) *webhook.Verifier {
	t.Helper()
	o := webhook.Options{Secrets: secrets, Now: func() time.Time { return signedAt }}
	if change != nil {
		change(&o)
	}
	v, err := webhook.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// receive passes a request through the middleware, and returns the status and
// what the handler behind it saw.
func receive(t testing.TB, v *webhook.Verifier, h http.Header, content io.Reader) (status int, seen *webhook.Delivery, got []byte) {
	t.Helper()
	r := httptest.NewRequest("POST", "/hook", content)
	r.Header = h
	w := httptest.NewRecorder()
	v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d, ok := webhook.FromContext(r.Context())
		if !ok {
			t.Error("the handler's context has no delivery")
		}
		seen = &d
		var err error
		if got, err = io.ReadAll(r.Body); err != nil || r.ContentLength != int64(len(got)) {
			t.Errorf("body of %d bytes, length %d: %v", len(got), r.ContentLength, err)
		}
		w.WriteHeader(http.StatusNoContent)
	})).ServeHTTP(w, r)
	return w.Code, seen, got
}

func TestAHandlerSeesWhatWasSigned(t *testing.T) {
	h := signed(t, secret)
	h.Set("X-Harepost-Delivery", "hr_forged") // not signed: Webhook-Id counts
	h.Set("X-Harepost-Attempt", "3")
	h.Set("X-Harepost-Idempotency-Key", "ord_123-paid")
	status, d, got := receive(t, verifierOf(t, nil, secret), h, bytes.NewReader(body))
	want := &webhook.Delivery{ID: "hr_1", Signed: true, SignedAt: signedAt, Attempt: 3, IdempotencyKey: "ord_123-paid"}
	if status != 204 || !reflect.DeepEqual(d, want) || !bytes.Equal(got, body) {
		t.Errorf("%d, %+v, %q", status, d, got)
	}
}

func TestAnIdIsCalledSignedOnlyIfItIs(t *testing.T) {
	h := signed(t, secret)
	for _, name := range []string{"webhook-id", "webhook-timestamp", "webhook-signature"} {
		h.Del(name)
	}
	h.Set("X-Harepost-Delivery", "hr_1")
	h.Set("X-Harepost-Attempt", "-1")
	_, d, _ := receive(t, verifierOf(t, nil, secret), h, bytes.NewReader(body))
	if want := (&webhook.Delivery{ID: "hr_1", SignedAt: signedAt}); !reflect.DeepEqual(d, want) {
		t.Errorf("%+v, want %+v", d, want)
	}
}

func TestWhatIsTamperedWithDoesNotGetThrough(t *testing.T) {
	check := func(why string, wantStatus int, want error, o func(*webhook.Options), change func(http.Header), content io.Reader) {
		t.Helper()
		var reason error
		v := verifierOf(t, func(options *webhook.Options) {
			options.Refused = func(_ *http.Request, err error) { reason = err }
			if o != nil {
				o(options)
			}
		}, secret)
		h := signed(t, secret)
		if change != nil {
			change(h)
		}
		if status, d, _ := receive(t, v, h, content); status != wantStatus || d != nil || !errors.Is(reason, want) {
			t.Errorf("%s: %d, %+v, %v", why, status, d, reason)
		}
	}
	set := func(name, value string) func(http.Header) { return func(h http.Header) { h.Set(name, value) } }
	whole := func() io.Reader { return bytes.NewReader(body) }
	check("no signature", 401, webhook.ErrNoSignature, nil, func(h http.Header) { clear(h) }, whole())
	check("another body", 401, webhook.ErrWrongSignature, nil, nil, strings.NewReader(`{"order": 124}`))
	check("a longer body", 401, webhook.ErrWrongSignature, nil, nil, io.MultiReader(whole(), strings.NewReader(" ")))
	check("no body", 401, webhook.ErrWrongSignature, nil, nil, http.NoBody)
	check("another id", 401, webhook.ErrWrongSignature, nil, set("webhook-id", "hr_2"), whole())
	check("another time", 401, webhook.ErrWrongSignature, nil, set("webhook-timestamp", fmt.Sprint(signedAt.Unix()+1)), whole())
	check("another standard signature", 401, webhook.ErrWrongSignature, nil, set("webhook-signature", "v1,AAAA"), whole())
	check("another Harepost signature", 401, webhook.ErrWrongSignature, nil, set("X-Harepost-Signature", "t="+timestamp+",v1=00"), whole())
	check("another secret", 401, webhook.ErrWrongSignature, func(o *webhook.Options) { o.Secrets = []string{rotated} }, nil, whole())
	check("too old", 401, webhook.ErrSignatureTooOld, func(o *webhook.Options) {
		o.Now = func() time.Time { return signedAt.Add(5*time.Minute + time.Second) }
	}, nil, whole())
	check("too old for us", 401, webhook.ErrSignatureTooOld, func(o *webhook.Options) {
		o.Tolerance = time.Second
		o.Now = func() time.Time { return signedAt.Add(2 * time.Second) }
	}, nil, whole())
	check("from the future", 401, webhook.ErrSignatureTooNew, func(o *webhook.Options) {
		o.Now = func() time.Time { return signedAt.Add(-6 * time.Minute) }
	}, nil, whole())
	small := func(o *webhook.Options) { o.MaxBodyBytes = int64(len(body)) - 1 }
	check("too large, as it says", 413, webhook.ErrBodyTooLarge, small, nil, whole())
	check("too large, as it shows", 413, webhook.ErrBodyTooLarge, small, nil, io.MultiReader(whole()))
	check("larger than 1 MiB", 413, webhook.ErrBodyTooLarge, nil, nil, io.MultiReader(bytes.NewReader(make([]byte, 1<<20+1))))
	check("broken off", 408, webhook.ErrBodyUnread, nil, nil, io.MultiReader(whole(), iotest.ErrReader(errors.New("reset"))))
}

func TestABodyOfExactlyTheLimitGetsThrough(t *testing.T) {
	v := verifierOf(t, func(o *webhook.Options) { o.MaxBodyBytes = int64(len(body)) }, secret)
	if status, _, _ := receive(t, v, signed(t, secret), io.MultiReader(bytes.NewReader(body))); status != 204 {
		t.Errorf("%d", status)
	}
}

func TestABodyThatSaysItIsTooLargeIsNotRead(t *testing.T) {
	r := httptest.NewRequest("POST", "/", iotest.ErrReader(errors.New("it was read")))
	r.ContentLength = 1<<20 + 1
	w := httptest.NewRecorder()
	verifierOf(t, nil, secret).Middleware(http.NotFoundHandler()).ServeHTTP(w, r)
	if w.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("%d", w.Code)
	}
}

func TestARefusalSaysNothingButItsStatus(t *testing.T) {
	w := httptest.NewRecorder()
	r := httptest.NewRequest("POST", "/", bytes.NewReader(body))
	r.Header = signed(t, rotated)
	verifierOf(t, nil, secret).Middleware(http.NotFoundHandler()).ServeHTTP(w, r)
	if got := w.Body.String(); got != "Unauthorized\n" {
		t.Errorf("%q", got)
	}
}

// A rotation, step by step: at no step is a delivery turned away that counts.
func TestSecretsRotateWithoutARestart(t *testing.T) {
	v := verifierOf(t, nil, secret)
	check := func(want int, signers ...string) {
		t.Helper()
		if status, _, _ := receive(t, v, signed(t, signers...), bytes.NewReader(body)); status != want {
			t.Errorf("signed with %d secrets: %d, want %d", len(signers), status, want)
		}
	}
	set := func(secrets ...string) {
		t.Helper()
		if err := v.SetSecrets(secrets...); err != nil {
			t.Fatal(err)
		}
	}
	check(204, secret)
	check(204, rotated, secret) // the server has a new one, we do not know it yet
	set(rotated, secret)
	check(204, rotated, secret)
	check(204, rotated) // the overlap is over
	check(204, secret)  // and what was signed before is still under way
	set(rotated)
	check(204, rotated)
	check(401, secret)

	if err := v.SetSecrets(rotated, "whsec_!"); !errors.Is(err, webhook.ErrBadSecret) || strings.Contains(err.Error(), "!") {
		t.Errorf("a bad secret: %v", err)
	}
	check(204, rotated) // those of before count
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	for _, o := range []webhook.Options{
		{}, {Secrets: []string{""}}, {Secrets: []string{"whsec_"}}, {Secrets: []string{secret, "secret"}},
		{Secrets: []string{strings.TrimPrefix(secret, "whsec_")}}, {Secrets: make([]string, 9)},
	} {
		if _, err := webhook.New(o); !errors.Is(err, webhook.ErrBadSecret) {
			t.Errorf("%d secrets: %v", len(o.Secrets), err)
		}
	}
	for _, o := range []webhook.Options{{Tolerance: -1}, {MaxBodyBytes: -1}} {
		o.Secrets = []string{secret}
		if _, err := webhook.New(o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}

func TestAContextOfItsOwnHasNoDelivery(t *testing.T) {
	if d, ok := webhook.FromContext(context.Background()); ok {
		t.Errorf("%+v", d)
	}
}

// FuzzHarepostHeader: a header is right only if the one right MAC for its time
// is in it, whatever else is.
func FuzzHarepostHeader(f *testing.F) {
	right := harepostMAC(secret, timestamp, body)
	for _, seed := range []string{
		"t=" + timestamp + ",v1=" + right, "v1=" + right + ",t=" + timestamp, "t=" + timestamp + ",v1=00,v1=" + right + ",v2=x",
		"t=" + timestamp + ",t=1,v1=" + right, "t=,v1=", ",,,", "=", "t=" + timestamp + " ,v1=" + right, "t=" + timestamp + ",v1=" + strings.ToUpper(right),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		err := webhook.VerifyHarepost(http.Header{"X-Harepost-Signature": {value}}, body, []string{secret}, -1, signedAt)
		times, found := 0, false
		at := ""
		for part := range strings.SplitSeq(value, ",") {
			if v, ok := strings.CutPrefix(part, "t="); ok {
				at, times = v, times+1
			}
		}
		want, _ := hex.DecodeString(harepostMAC(secret, at, body))
		for part := range strings.SplitSeq(value, ",") {
			if v, ok := strings.CutPrefix(part, "v1="); ok {
				mac, err := hex.DecodeString(v)
				found = found || err == nil && bytes.Equal(mac, want)
			}
		}
		if err == nil && (times != 1 || !found) {
			t.Errorf("%q is accepted", value)
		}
	})
}
