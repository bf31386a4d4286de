package webhook_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"pgregory.net/rapid"

	"github.com/harepost/harepost/client/webhook"
)

var (
	secret    = "whsec_" + base64.StdEncoding.EncodeToString([]byte("0123456789abcdef0123456789abcdef"))
	rotated   = "whsec_" + base64.StdEncoding.EncodeToString([]byte("fedcba9876543210fedcba9876543210"))
	body      = []byte(`{"order": 123}`)
	signedAt  = time.Unix(1_781_100_130, 0)
	timestamp = fmt.Sprint(signedAt.Unix())
)

// harepostMAC is the formula of the contract, written out.
func harepostMAC(secret, t string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(t + "." + string(body)))
	return hex.EncodeToString(mac.Sum(nil))
}

// standardSignature asks the reference library.
func standardSignature(t testing.TB, secret, id string, at time.Time, body []byte) string {
	t.Helper()
	wh, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	s, err := wh.Sign(id, at, body)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// signed are the headers of a delivery that Harepost signs with the secrets.
func signed(t testing.TB, secrets ...string) http.Header {
	t.Helper()
	harepost, standard := "t="+timestamp, ""
	for _, s := range secrets {
		harepost += ",v1=" + harepostMAC(s, timestamp, body)
		standard += " " + standardSignature(t, s, "hr_1", signedAt, body)
	}
	h := http.Header{}
	h.Set("X-Harepost-Signature", harepost)
	h.Set("webhook-id", "hr_1")
	h.Set("webhook-timestamp", timestamp)
	h.Set("webhook-signature", strings.TrimSpace(standard))
	return h
}

func TestTheExampleOfTheContractVerifies(t *testing.T) {
	// printf '1781100130.{"order": 123}' | openssl dgst -sha256 -hmac whsec_test
	const mac = "fb91f264bed9b43c46054d4948114cab59ae1f219ac968a22824f59ef6c1c95f"
	h := http.Header{"X-Harepost-Signature": {"t=1781100130,v1=" + mac}}
	if err := webhook.VerifyHarepost(h, body, []string{"whsec_test"}, 0, signedAt); err != nil {
		t.Error(err)
	}
}

func TestBothSignaturesVerify(t *testing.T) {
	check := func(signers []string, secrets ...string) {
		t.Helper()
		h := signed(t, signers...)
		for name, verify := range verifiers {
			if err := verify(h, body, secrets, 0, signedAt); err != nil {
				t.Errorf("%s: signed with %v, known %v: %v", name, signers, secrets, err)
			}
		}
	}
	check([]string{secret}, secret)
	check([]string{rotated, secret}, secret) // during rotation, the receiver knows the old one
	check([]string{rotated, secret}, rotated)
	check([]string{secret}, rotated, secret) // or both, and the sender only one
}

type verifier func(h http.Header, body []byte, secrets []string, tolerance time.Duration, now time.Time) error

var verifiers = map[string]verifier{
	"Verify":         webhook.Verify,
	"VerifyHarepost": webhook.VerifyHarepost,
	"VerifyStandard": webhook.VerifyStandard,
}

func TestWhatIsNotFromHarepostIsRefused(t *testing.T) {
	check := func(why string, want error, change func(h http.Header, b *[]byte, secrets *[]string)) {
		t.Helper()
		for name, verify := range verifiers {
			h, b, secrets := signed(t, secret), body, []string{secret}
			change(h, &b, &secrets)
			if err := verify(h, b, secrets, 0, signedAt); !errors.Is(err, want) {
				t.Errorf("%s: %s: %v, want %v", name, why, err, want)
			}
		}
	}
	setAll := func(h http.Header, harepost, standard string) {
		h.Set("X-Harepost-Signature", harepost)
		h.Set("webhook-signature", standard)
	}
	mac := harepostMAC(secret, timestamp, body)
	check("other body", webhook.ErrWrongSignature, func(_ http.Header, b *[]byte, _ *[]string) { *b = []byte(`{"order": 124}`) })
	check("no body", webhook.ErrWrongSignature, func(_ http.Header, b *[]byte, _ *[]string) { *b = nil })
	check("other secret", webhook.ErrWrongSignature, func(_ http.Header, _ *[]byte, s *[]string) { *s = []string{rotated} })
	check("no secret", webhook.ErrBadSecret, func(_ http.Header, _ *[]byte, s *[]string) { *s = nil })
	check("empty secret", webhook.ErrBadSecret, func(_ http.Header, _ *[]byte, s *[]string) { *s = []string{secret, ""} })
	check("no headers", webhook.ErrNoSignature, func(h http.Header, _ *[]byte, _ *[]string) { clear(h) })
	check("empty headers", webhook.ErrNoSignature, func(h http.Header, _ *[]byte, _ *[]string) { setAll(h, "", "") })
	check("other time", webhook.ErrWrongSignature, func(h http.Header, _ *[]byte, _ *[]string) {
		h.Set("X-Harepost-Signature", "t=1781100131,v1="+mac)
		h.Set("webhook-timestamp", "1781100131")
	})
	check("no signature entry", webhook.ErrWrongSignature, func(h http.Header, _ *[]byte, _ *[]string) {
		setAll(h, "t="+timestamp, "v2,abc")
	})
	check("shortened", webhook.ErrWrongSignature, func(h http.Header, _ *[]byte, _ *[]string) {
		setAll(h, "t="+timestamp+",v1="+mac[:32], h.Get("webhook-signature")[:23])
	})
	check("empty entry", webhook.ErrWrongSignature, func(h http.Header, _ *[]byte, _ *[]string) {
		setAll(h, "t="+timestamp+",v1=", "v1,")
	})
	check("not encoded", webhook.ErrWrongSignature, func(h http.Header, _ *[]byte, _ *[]string) {
		setAll(h, "t="+timestamp+",v1=zz", "v1,!")
	})
	check("two headers", webhook.ErrMalformedSignature, func(h http.Header, _ *[]byte, _ *[]string) {
		h.Add("X-Harepost-Signature", h.Get("X-Harepost-Signature"))
		h.Add("webhook-signature", h.Get("webhook-signature"))
	})
	check("a thousand entries", webhook.ErrMalformedSignature, func(h http.Header, _ *[]byte, _ *[]string) {
		setAll(h, h.Get("X-Harepost-Signature")+strings.Repeat(",v1="+mac, 999), strings.Repeat(h.Get("webhook-signature")+" ", 1000))
	})
	for _, bad := range []string{"", "x", "-1", "1781100130.0", "+1781100130", "0x6a", "99999999999999999999", " 1781100130"} {
		check("time "+bad, webhook.ErrMalformedSignature, func(h http.Header, _ *[]byte, _ *[]string) {
			h.Set("X-Harepost-Signature", "t="+bad+",v1="+mac)
			h.Set("webhook-timestamp", bad)
		})
	}
}

func TestMalformedHarepostSignatures(t *testing.T) {
	mac := harepostMAC(secret, timestamp, body)
	check := func(value string, want error) {
		t.Helper()
		h := http.Header{"X-Harepost-Signature": {value}}
		if err := webhook.VerifyHarepost(h, body, []string{secret}, 0, signedAt); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", value, err, want)
		}
	}
	check("t="+timestamp+",v1="+mac, nil)
	check("v1="+mac+",t="+timestamp, nil)               // in any order
	check("t="+timestamp+",v2=x,v1="+mac+",k=v=w", nil) // what is to come is passed over
	check("v1="+mac, webhook.ErrMalformedSignature)
	check("t="+timestamp+",t="+timestamp+",v1="+mac, webhook.ErrMalformedSignature)
	check("t=1,t="+timestamp+",v1="+mac, webhook.ErrMalformedSignature)
	check("t="+timestamp+","+mac, webhook.ErrMalformedSignature)
	check("nonsense", webhook.ErrMalformedSignature)
}

func TestASignatureIsGoodForFiveMinutes(t *testing.T) {
	check := func(age, tolerance time.Duration, want error) {
		t.Helper()
		for name, verify := range verifiers {
			if err := verify(signed(t, secret), body, []string{secret}, tolerance, signedAt.Add(age)); !errors.Is(err, want) {
				t.Errorf("%s: %s old, tolerance %s: %v, want %v", name, age, tolerance, err, want)
			}
		}
	}
	check(5*time.Minute, 0, nil)
	check(-5*time.Minute, 0, nil)
	check(5*time.Minute+1, 0, webhook.ErrSignatureTooOld)
	check(-5*time.Minute-1, 0, webhook.ErrSignatureTooNew)
	check(2*time.Second, time.Second, webhook.ErrSignatureTooOld)
	check(time.Hour, 2*time.Hour, nil)
	check(1000*time.Hour, -1, nil)
}

func TestAnOldForgeryIsCalledForged(t *testing.T) {
	for name, verify := range verifiers {
		if err := verify(signed(t, rotated), body, []string{secret}, 0, signedAt.Add(time.Hour)); !errors.Is(err, webhook.ErrWrongSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVerifyTakesEitherSignatureAndNoWrongOne(t *testing.T) {
	check := func(want error, change func(http.Header)) {
		t.Helper()
		h := signed(t, secret)
		change(h)
		if err := webhook.Verify(h, body, []string{secret}, 0, signedAt); !errors.Is(err, want) {
			t.Errorf("%v: %v, want %v", h, err, want)
		}
	}
	check(nil, func(h http.Header) { h.Del("X-Harepost-Signature") })
	check(nil, func(h http.Header) { h.Del("webhook-signature") })
	check(webhook.ErrWrongSignature, func(h http.Header) { h.Set("X-Harepost-Signature", "t="+timestamp+",v1=00") })
	check(webhook.ErrWrongSignature, func(h http.Header) { h.Set("webhook-id", "hr_2") })
	check(webhook.ErrMalformedSignature, func(h http.Header) { h.Del("webhook-id") })
	check(webhook.ErrMalformedSignature, func(h http.Header) { h.Del("webhook-timestamp") })
}

func TestASecretThatIsNotBase64CannotBeAStandardOne(t *testing.T) {
	h := signed(t, secret)
	for _, bad := range []string{"whsec_", "whsec_!", "plain text"} {
		if err := webhook.VerifyStandard(h, body, []string{bad}, 0, signedAt); !errors.Is(err, webhook.ErrBadSecret) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestErrorsDoNotTellTheSecret(t *testing.T) {
	const bad = "whsec_sesame!"
	for name, verify := range verifiers {
		err := verify(signed(t, secret), body, []string{bad}, 0, signedAt)
		if err == nil || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTheReferenceLibraryAgrees: what one of the two accepts, the other does,
// on headers that are near right.
func TestTheReferenceLibraryAgrees(t *testing.T) {
	reference, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	good := standardSignature(t, secret, "hr_1", now, body)
	accepted := 0
	rapid.Check(t, func(rt *rapid.T) {
		pick := func(name string, choices ...string) string { return rapid.SampledFrom(choices).Draw(rt, name) }
		h := http.Header{}
		h.Set("webhook-id", pick("id", "hr_1", "hr_1", "hr_1", "hr_2"))
		h.Set("webhook-timestamp", pick("time", fmt.Sprint(now.Unix()), fmt.Sprint(now.Unix()), "1", "abc"))
		entries := rapid.SliceOfN(rapid.SampledFrom([]string{good, good, "v1,AAAA", "v2," + good, "v1a,x", good[:20], "x"}), 1, 4).Draw(rt, "entries")
		h.Set("webhook-signature", strings.Join(entries, " "))
		want := reference.Verify(body, h)
		got := webhook.VerifyStandard(h, body, []string{secret}, 0, now)
		if (got == nil) != (want == nil) {
			rt.Fatalf("%v: we say %v, the reference says %v", h, got, want)
		}
		if got == nil {
			accepted++
		}
	})
	if accepted == 0 {
		t.Error("nothing was accepted: nothing was compared")
	}
}

// TestWhatOneKeyMeansInTwoSchemes pins that Harepost's key is the whole text
// of the secret, and the standard's the bytes its base64 stands for.
func TestWhatOneKeyMeansInTwoSchemes(t *testing.T) {
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		t.Fatal(err)
	}
	h := signed(t, secret)
	h.Set("X-Harepost-Signature", "t="+timestamp+",v1="+harepostMAC(string(raw), timestamp, body))
	if err := webhook.VerifyHarepost(h, body, []string{secret}, 0, signedAt); !errors.Is(err, webhook.ErrWrongSignature) {
		t.Errorf("keyed with the decoded bytes: %v", err)
	}
	reference, err := standardwebhooks.NewWebhookRaw(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := reference.VerifyIgnoringTimestamp(body, h); err != nil {
		t.Errorf("the standard's key is not the decoded bytes: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	f.Add("t="+timestamp+",v1=00", "hr_1", timestamp, "v1,AA==", secret)
	f.Add("", "", "", "", "")
	f.Add("t=,v1=,=,", ".", "1", " v1, ", "whsec_")
	f.Fuzz(func(t *testing.T, harepost, id, at, standard, key string) {
		h := http.Header{}
		h.Set("X-Harepost-Signature", harepost)
		h.Set("webhook-id", id)
		h.Set("webhook-timestamp", at)
		h.Set("webhook-signature", standard)
		for name, verify := range verifiers {
			// Nobody signs for a secret that he does not know.
			if err := verify(h, body, []string{rotated}, -1, signedAt); err == nil {
				t.Errorf("%s: %v forged", name, h)
			}
			verify(h, body, []string{key}, 0, signedAt)
		}
	})
}

// base64 passes over the end of a line, which a secret out of a file may have,
// and the other scheme's key is the whole text: such a secret could never match.
func TestASecretWithWhiteSpaceIsRefused(t *testing.T) {
	h := signed(t, secret)
	for _, bad := range []string{secret + "\n", secret + "\r\n", " " + secret, "whsec_ " + secret[6:], secret[:20] + "\n" + secret[20:], secret + "\u00a0"} {
		if _, err := webhook.New(webhook.Options{Secrets: []string{bad}}); !errors.Is(err, webhook.ErrBadSecret) || !strings.Contains(err.Error(), "white space") {
			t.Errorf("New takes %q: %v", bad, err)
		}
		v, err := webhook.New(webhook.Options{Secrets: []string{secret}})
		if err != nil {
			t.Fatal(err)
		}
		if err := v.SetSecrets(secret, bad); !errors.Is(err, webhook.ErrBadSecret) {
			t.Errorf("SetSecrets takes %q: %v", bad, err)
		}
		for name, verify := range verifiers {
			if err := verify(h, body, []string{bad}, 0, signedAt); !errors.Is(err, webhook.ErrBadSecret) || !strings.Contains(err.Error(), "white space") {
				t.Errorf("%s takes %q: %v", name, bad, err)
			}
		}
	}
}
