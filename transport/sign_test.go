package transport

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const (
	secretA = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwAAAAAAAAAAA="
	secretB = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDBBBBBBBBBBA="
	notKey  = "whsec_this is not base64"
)

// received makes one attempt and returns the request as it arrived.
func received(t *testing.T, change func(*Request)) (*http.Request, string) {
	t.Helper()
	type arrival struct {
		r    *http.Request
		body string
	}
	seen := make(chan arrival, 1)
	addr := receiver(t, answering(func(r *http.Request, body string) string {
		seen <- arrival{r, body}
		return reply(200, "")
	}))
	req := to(addr, "POST", "/", `{"a":1}`)
	change(req)
	if res := do(open(t), req); res.Outcome != Delivered {
		t.Fatal(res.Error())
	}
	a := <-seen
	return a.r, a.body
}

// harepostVerifies is the published verifier, with the whole text as the key.
func harepostVerifies(header, secret, body string) bool {
	t, match := "", false
	var sums []string
	for _, part := range strings.Split(header, ",") {
		switch kv := strings.Split(part, "="); kv[0] {
		case "t":
			t = kv[1]
		case "v1":
			sums = append(sums, kv[1])
		}
	}
	m := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(m, "%s.%s", t, body)
	want := hex.EncodeToString(m.Sum(nil))
	for _, s := range sums {
		match = match || s == want
	}
	return match
}

func standardVerifies(t *testing.T, r *http.Request, secret, body string) bool {
	t.Helper()
	wh, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	return wh.Verify([]byte(body), r.Header) == nil
}

// Both schemes' verifiers accept what was sent, and nothing else.
func TestSignaturesVerify(t *testing.T) {
	for name, body := range map[string]string{"json": `{"a":1}`, "empty": "", "binary": "\x00\xff", "large": strings.Repeat("x", 100<<10)} {
		r, got := received(t, func(req *Request) { req.Secrets = []string{secretA}; req.Body = []byte(body) })
		header := r.Header.Get("X-Harepost-Signature")
		if !harepostVerifies(header, secretA, got) || !standardVerifies(t, r, secretA, got) {
			t.Errorf("%s: our own verifiers refuse %q %v", name, header, r.Header)
		}
		if harepostVerifies(header, secretB, got) || harepostVerifies(header, secretA, got+"x") ||
			standardVerifies(t, r, secretB, got) || standardVerifies(t, r, secretA, got+"x") {
			t.Errorf("%s: verifies with another secret or body", name)
		}
		if r.Header.Get("Webhook-Id") != "hr_test" {
			t.Errorf("%s: webhook-id %q", name, r.Header.Get("Webhook-Id"))
		}
		if n := len(header); !strings.HasPrefix(header, "t=") || n != len("t=1234567890,v1=")+64 || strings.Contains(header, " ") {
			t.Errorf("%s: header %q", name, header)
		}
	}
}

// During a rotation a receiver with either secret is satisfied.
func TestEveryLiveSecretSigns(t *testing.T) {
	r, body := received(t, func(req *Request) { req.Secrets = []string{secretA, secretB} })
	header := r.Header.Get("X-Harepost-Signature")
	for _, secret := range []string{secretA, secretB} {
		if !harepostVerifies(header, secret, body) || !standardVerifies(t, r, secret, body) {
			t.Errorf("%s does not verify %q %q", secret, header, r.Header.Get("Webhook-Signature"))
		}
	}
	if strings.Count(header, ",v1=") != 2 || len(strings.Fields(r.Header.Get("Webhook-Signature"))) != 2 {
		t.Errorf("%q, %q", header, r.Header.Get("Webhook-Signature"))
	}
}

// The time is that of the attempt, and what was not asked for is not sent.
func TestWhatIsSigned(t *testing.T) {
	before := time.Now().Unix()
	r, _ := received(t, func(req *Request) { req.Secrets = []string{secretA} })
	at, err := strconv.ParseInt(r.Header.Get("Webhook-Timestamp"), 10, 64)
	if err != nil || at < before || at > time.Now().Unix() {
		t.Errorf("timestamp %q", r.Header.Get("Webhook-Timestamp"))
	}
	if !strings.HasPrefix(r.Header.Get("X-Harepost-Signature"), fmt.Sprintf("t=%d,", at)) {
		t.Errorf("%q is not of %d", r.Header.Get("X-Harepost-Signature"), at)
	}

	r, _ = received(t, func(*Request) {})
	for name := range r.Header {
		if strings.HasPrefix(name, "Webhook-") || name == "X-Harepost-Signature" {
			t.Errorf("unsigned request has %s", name)
		}
	}

	// GET is sent without the body it was given, and signed without it.
	r, _ = received(t, func(req *Request) { req.Method = "GET"; req.Secrets = []string{secretA} })
	if !harepostVerifies(r.Header.Get("X-Harepost-Signature"), secretA, "") || !standardVerifies(t, r, secretA, "") {
		t.Error("the signature of a GET is not over an empty body")
	}

	// A secret that is not base64 still signs the scheme that uses its text.
	r, body := received(t, func(req *Request) { req.Secrets = []string{notKey, secretA} })
	if !harepostVerifies(r.Header.Get("X-Harepost-Signature"), notKey, body) || !standardVerifies(t, r, secretA, body) {
		t.Errorf("%v", r.Header)
	}
	r, _ = received(t, func(req *Request) { req.Secrets = []string{notKey} })
	if r.Header.Get("Webhook-Signature") != "" || r.Header.Get("X-Harepost-Signature") == "" {
		t.Errorf("%v", r.Header)
	}

	// An id with a full stop could be read as another id and time.
	r, _ = received(t, func(req *Request) { req.DeliveryID = "a.1"; req.Secrets = []string{secretA} })
	if r.Header.Get("Webhook-Id") != "" || r.Header.Get("X-Harepost-Signature") == "" {
		t.Errorf("%v", r.Header)
	}
}

// States are shared between goroutines and kept for a bounded number of
// secrets; neither shows in a signature.
func TestSignersAreSharedSafely(t *testing.T) {
	s := newSigners()
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 2 * signerEntries / 8 {
				secret := fmt.Sprintf("whsec_%04d%04d", g, i)
				body := []byte(secret)
				b := string(s.appendHeaders(nil, []string{secret}, "id", body, time.Unix(1700000000, 0)))
				header, _, _ := strings.Cut(strings.TrimPrefix(b, "X-Harepost-Signature: "), "\r\n")
				if !harepostVerifies(header, secret, secret) {
					t.Errorf("%s: %q", secret, header)
					return
				}
			}
		})
	}
	wg.Wait()
	for i := range 2 * signerEntries {
		s.of(strconv.Itoa(i))
	}
	if n := s.cache.len(); n != signerEntries {
		t.Errorf("%d states kept, bound %d", n, signerEntries)
	}
}
