package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// nodeVerifier is the receiver that the signature guide shows, as its users
// copied it: the header split at commas and equals signs, the whole secret as
// the key, the raw body. It prints true or false.
const nodeVerifier = `
const { createHmac, timingSafeEqual } = require('node:crypto');

function verify(rawBody, header, secret) {
  const parts = Object.fromEntries(header.split(',').map((p) => p.split('=')));
  const expected = createHmac('sha256', secret)
    .update(parts.t + '.')
    .update(rawBody)
    .digest('hex');
  const a = Buffer.from(parts.v1), b = Buffer.from(expected);
  return a.length === b.length && timingSafeEqual(a, b);
}

const input = JSON.parse(require('node:fs').readFileSync(0, 'utf8'));
console.log(JSON.stringify(input.map(({ body, header, secret }) =>
  verify(Buffer.from(body, 'base64'), header, secret))));
`

// A signedLetter is what the verifier reads.
type signedLetter struct {
	Body   []byte `json:"body"`
	Header string `json:"header"`
	Secret string `json:"secret"`
}

// verifyWithNode runs the verifier over all letters.
func verifyWithNode(t *testing.T, letters []signedLetter) []bool {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not installed; the verifier that users run is Node.js")
	}
	script := filepath.Join(t.TempDir(), "verify.js")
	if err := os.WriteFile(script, []byte(nodeVerifier), 0o600); err != nil {
		t.Fatal(err)
	}
	input, err := json.Marshal(letters)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), node, script)
	cmd.Stdin = bytes.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		t.Fatalf("node: %v\n%s", err, stderr.String())
	}
	var verdicts []bool
	if err := json.Unmarshal(output, &verdicts); err != nil || len(verdicts) != len(letters) {
		t.Fatalf("node answered %d letters with %s: %v", len(letters), output, err)
	}
	return verdicts
}

// Signed deliveries of every kind of body, checked by verifiers that are not
// ours.
func TestSignaturesVerifyElsewhere(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	stranger := w.tenant(t, "stranger")
	in := w.inbox(t, "your-app.com", answers(200))
	var letters []letter
	for _, fields := range []string{
		`"body":{"event" : "order.paid", "n":1.0}`,
		`"body":"plain, with \u00e4, \u0000 and\r\n lines."`,
		`"body":""`,
		`"method":"GET","body":"ignored"`,
		`"method":"DELETE"`,
	} {
		acme.queue(t, in.url, `"sign":true,`+fields)
		letters = append(letters, in.next(t))
	}
	large := bytes.Repeat([]byte("0123456789"), 90_000)
	acme.queue(t, in.url, `"sign":true,"body":"`+string(large)+`"`)
	letters = append(letters, in.next(t))

	t.Run("form", func(t *testing.T) {
		form := regexp.MustCompile(`^t=[1-9][0-9]*,v1=[0-9a-f]{64}$`)
		for _, l := range letters {
			wantForm(t, "X-Harepost-Signature", form, l.header.Get("X-Harepost-Signature"))
		}
	})
	t.Run("standard webhooks", func(t *testing.T) {
		ours, err := standardwebhooks.NewWebhook(acme.secret)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := standardwebhooks.NewWebhook(stranger.secret)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range letters {
			if err := ours.Verify(l.body, l.header); err != nil {
				t.Errorf("%s of %d bytes: %v", l.method, len(l.body), err)
			}
			if err := theirs.Verify(l.body, l.header); err == nil {
				t.Error("another account's secret verifies it")
			}
			if err := ours.Verify(append(bytes.Clone(l.body), ' '), l.header); err == nil {
				t.Error("another body verifies")
			}
			if l.header.Get("Webhook-Id") != l.header.Get("X-Harepost-Delivery") {
				t.Errorf("webhook-id %q of delivery %q", l.header.Get("Webhook-Id"), l.header.Get("X-Harepost-Delivery"))
			}
		}
	})
	t.Run("node", func(t *testing.T) {
		var given []signedLetter
		for _, l := range letters {
			header := l.header.Get("X-Harepost-Signature")
			given = append(given,
				signedLetter{l.body, header, acme.secret},
				signedLetter{append(bytes.Clone(l.body), ' '), header, acme.secret},
				signedLetter{l.body, header, stranger.secret})
		}
		for i, verdict := range verifyWithNode(t, given) {
			if want := i%3 == 0; verdict != want {
				t.Errorf("letter %d, variant %d: verified is %v", i/3, i%3, verdict)
			}
		}
	})
}

// A signature is made for its attempt: a retry after a second has a time of its
// own, so that receivers may refuse old ones.
func TestRetriesAreSignedAnew(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	in := w.inbox(t, "your-app.com", answers(500, 200))
	acme.queue(t, in.url, `"sign":true,"body":"again","delivery":{"base_delay_ms":1000,"jitter":"none"}`)
	first, second := in.next(t), in.next(t)
	verifier, err := standardwebhooks.NewWebhook(acme.secret)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []letter{first, second} {
		if err := verifier.Verify(l.body, l.header); err != nil {
			t.Error(err)
		}
		at, err := strconv.ParseInt(l.header.Get("Webhook-Timestamp"), 10, 64)
		if age := l.at.Sub(time.Unix(at, 0)); err != nil || age < 0 || age > 10*time.Second {
			t.Errorf("signed %s before it came (%v)", age, err)
		}
	}
	if first.header.Get("X-Harepost-Signature") == second.header.Get("X-Harepost-Signature") {
		t.Error("the retry carries the first attempt's signature")
	}
	if first.header.Get("Webhook-Id") != second.header.Get("Webhook-Id") {
		t.Error("the retry has another id, a receiver cannot tell that it is one")
	}
}
