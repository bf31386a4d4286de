package engine

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/harepost/harepost/engine/account"
)

// acceptedBy reports whether a receiver with this secret accepts the request,
// by Harepost's scheme and by that of Standard Webhooks.
func acceptedBy(secret string, h http.Header, body string) (ours, standard bool) {
	mac := func(key []byte, signed string) []byte {
		m := hmac.New(sha256.New, key)
		m.Write([]byte(signed))
		return m.Sum(nil)
	}
	stamp := ""
	for part := range strings.SplitSeq(h.Get("X-Harepost-Signature"), ",") {
		name, value, _ := strings.Cut(part, "=")
		if name == "t" {
			stamp = value
		}
		ours = ours || name == "v1" && value == hex.EncodeToString(mac([]byte(secret), stamp+"."+body))
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		return ours, false
	}
	signed := h.Get("Webhook-Id") + "." + h.Get("Webhook-Timestamp") + "." + body
	want := "v1," + base64.StdEncoding.EncodeToString(mac(key, signed))
	return ours, slices.Contains(strings.Fields(h.Get("Webhook-Signature")), want)
}

// During a rotation every live secret signs, so that a receiver with either
// accepts; after the overlap only the new one does.
func TestRotationOverlaps(t *testing.T) {
	const overlap = time.Hour
	headers := make(chan http.Header, 1)
	target := receiver(t, func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		headers <- r.Header
	})
	var clock wallClock
	o := testOptions(t, vfs.NewMem())
	o.Now = clock.now
	e := openEngine(t, o)
	ctx := context.Background()
	a := newAccount(t, e)
	old, err := e.SigningSecret(ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	accepted := func(when, secret string, want bool) {
		t.Helper()
		s := sendTo(target, "payload")
		s.Sign = true
		if _, err := e.Send(ctx, a, s); err != nil {
			t.Fatal(err)
		}
		ours, standard := acceptedBy(secret, <-headers, "payload")
		if ours != want || standard != want {
			t.Errorf("%s: accepted %t by our scheme and %t by Standard Webhooks, want %t", when, ours, standard, want)
		}
	}
	accepted("before, the old one", old, true)
	r, err := e.RotateSigningSecret(ctx, a, overlap)
	if err != nil {
		t.Fatal(err)
	}
	if shown, err := e.SigningSecret(ctx, a); err != nil || shown != r.SigningSecret || shown == old {
		t.Errorf("the secret shown is not the new one: %v", err)
	}
	if in := r.PreviousExpireAt.Sub(clock.now()); in > overlap || in < overlap-time.Minute {
		t.Errorf("the previous secret is said to expire in %s", in)
	}
	accepted("during the overlap, the old one", old, true)
	accepted("during the overlap, the new one", r.SigningSecret, true)
	clock.set(overlap)
	accepted("after the overlap, the old one", old, false)
	accepted("after the overlap, the new one", r.SigningSecret, true)

	leaked := r.SigningSecret
	if r, err = e.RotateSigningSecret(ctx, a, 0); err != nil {
		t.Fatal(err)
	}
	accepted("a leaked one", leaked, false)
	accepted("the one after it", r.SigningSecret, true)
	if owner, err := e.Account(ctx, a); err != nil || len(owner.Secrets) != 1 {
		t.Errorf("%d secrets are kept, %v", len(owner.Secrets), err)
	}
}

// At most four secrets are live, and a rotation without overlap is always
// possible: it ends all of them.
func TestRotationIsBounded(t *testing.T) {
	e := openEngine(t, testOptions(t, vfs.NewMem()))
	ctx := context.Background()
	a := newAccount(t, e)
	for n := 1; n < account.MostSecrets; n++ {
		if _, err := e.RotateSigningSecret(ctx, a, time.Hour); err != nil {
			t.Fatalf("rotation %d: %v", n, err)
		}
	}
	if _, err := e.RotateSigningSecret(ctx, a, time.Hour); !errors.Is(err, ErrTooMany) {
		t.Errorf("a fifth live secret: %v", err)
	}
	if _, err := e.RotateSigningSecret(ctx, a, 0); err != nil {
		t.Errorf("without overlap: %v", err)
	}
	if owner, _ := e.Account(ctx, a); len(owner.Secrets) != 1 {
		t.Errorf("a rotation without overlap leaves %d secrets", len(owner.Secrets))
	}
	if _, err := e.RotateSigningSecret(ctx, a+1, 0); !errors.Is(err, ErrNotFound) {
		t.Errorf("of no account: %v", err)
	}
}

// A rotation that was acknowledged is there after a crash, with its overlap.
func TestRotationSurvivesACrash(t *testing.T) {
	fs := vfs.NewCrashableMem()
	o := testOptions(t, fs)
	o.Failed = nil // the old timeline may end as it likes
	e, err := Open("data", o)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	a := newAccount(t, e)
	if _, err := e.RotateSigningSecret(ctx, a, time.Hour); err != nil {
		t.Fatal(err)
	}
	want, _ := e.Account(ctx, a)
	o.FS = fs.CrashClone(vfs.CrashCloneCfg{})
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = openEngine(t, o)
	got, err := e.Account(ctx, a)
	if err != nil || len(want.Secrets) != 2 || !slices.Equal(got.Secrets, want.Secrets) {
		t.Errorf("after the crash there are %d secrets, before there were %d: %v", len(got.Secrets), len(want.Secrets), err)
	}
}
