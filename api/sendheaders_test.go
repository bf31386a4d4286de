package api

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/harepost/harepost/engine"
)

func TestSendHeaders(t *testing.T) {
	r := mustDecode(t, with(`"headers":{"X-A":"1","x-b":"","X-U":"h\u00e9","User-Agent":"mine","X-Null":null,"Accept":" spaced "}`))
	var got []string
	for _, h := range r.send.Headers {
		got = append(got, h.Name+"="+h.Value)
	}
	if want := "X-A=1|x-b=|X-U=hé|User-Agent=mine|Accept= spaced "; strings.Join(got, "|") != want {
		t.Errorf("headers %q, want %q", strings.Join(got, "|"), want)
	}
	if len(r.warnings.list) != 0 {
		t.Errorf("warnings %q", r.warnings.list)
	}
	for _, name := range []string{
		"Host", "Content-Length", "Connection", "Keep-Alive", "Proxy-Authorization", "Proxy-Connection", "Proxy-", "TE", "Trailer",
		"Transfer-Encoding", "Upgrade", "Expect", "Authorization", "Cookie", "X-Harepost-Signature", "X-Harepost-", "x-HAREPOST-anything-at-all",
		"Webhook-Id", "webhook-signature", "WEBHOOK-TIMESTAMP",
	} {
		for _, spelled := range []string{name, strings.ToLower(name), strings.ToUpper(name)} {
			r := mustDecode(t, with(fmt.Sprintf(`"headers":{%q:"x","X-Kept":"y"}`, spelled)))
			if len(r.send.Headers) != 1 || r.send.Headers[0].Name != "X-Kept" {
				t.Errorf("%s was not stripped: %+v", spelled, r.send.Headers)
			}
			if len(r.warnings.list) != 1 || !strings.Contains(r.warnings.list[0], spelled) {
				t.Errorf("%s: warnings %q", spelled, r.warnings.list)
			}
		}
	}
	for _, name := range []string{"Hosts", "X-Host", "Tea", "Cookies", "Set-Cookie", "Proxy", "X-Harepos", "Webhook", "Authorization-Info", "Transfer-Encoding-X", "Content-Lengthy"} {
		if r := mustDecode(t, with(fmt.Sprintf(`"headers":{%q:"x"}`, name))); len(r.send.Headers) != 1 {
			t.Errorf("%s was stripped", name)
		}
	}
	f := func(members string, words ...string) { t.Helper(); mustRefuse(t, with(members), words...) }
	f(`"headers":{"":"x"}`, "legal header name")
	f(`"headers":{"X A":"x"}`, "X A", "legal header name")
	f(`"headers":{"X:":"x"}`, "legal header name")
	f(`"headers":{"X\r\nEvil":"x"}`, "legal header name")
	f(`"headers":{"X-\u00e9":"x"}`, "legal header name")
	f(`"headers":{"X-A":"a\r\nX-Evil: b"}`, "headers.X-A", "control")
	f(`"headers":{"X-A":"a\nb"}`, "headers.X-A", "control")
	f(`"headers":{"X-A":"\u0000"}`, "headers.X-A", "control")
	f(`"headers":{"X-A":"\u007f"}`, "headers.X-A", "control")
	f(`"headers":{"Host":"a\r\nb"}`, "headers.Host", "control") // also where it would be stripped
}

// The header Idempotency-Key is another way to write the field.
func TestSendIdempotencyKeyHeader(t *testing.T) {
	f := func(members, header, want string) {
		t.Helper()
		r, err := decodeSend(t, Options{}, with(members), header)
		if err != nil || r.send.IdempotencyKey != want {
			t.Errorf("%s and header %q: key %q, %v; want %q", members, header, r.send.IdempotencyKey, err, want)
		}
	}
	f(``, "", "")
	f(``, "k-1", "k-1")
	f(`"idempotency_key":"k-1"`, "", "k-1")
	f(`"idempotency_key":"k-1"`, "k-1", "k-1")
	f(`"idempotency_key":""`, "k-1", "k-1")
	f(`"idempotency_key":"ord_123\u002dpaid"`, "", "ord_123-paid")
	_, err := decodeSend(t, Options{}, with(`"idempotency_key":"k-1"`), "k-2")
	checkRefusal(t, "both", err, []string{"idempotency_key", "differ"})
	_, err = decodeSend(t, Options{}, with(``), strings.Repeat("k", 256))
	checkRefusal(t, "long header", err, []string{"idempotency_key", "255"})
	_, err = decodeSend(t, Options{}, with(``), "k\xff")
	checkRefusal(t, "header that is not UTF-8", err, []string{"idempotency_key"})
}

// What is not known is named, and a request cannot make the answer grow.
func TestSendWarnings(t *testing.T) {
	f := func(members string, want ...string) {
		t.Helper()
		r := mustDecode(t, with(members))
		if got := strings.Join(r.warnings.list, "|"); got != strings.Join(want, "|") {
			t.Errorf("%s: warnings %s", members, got)
		}
	}
	f(``)
	f(`"delivry":{"max_attempts":3}`, `unknown field "delivry" ignored`)
	f(`"delivery":{"timeout":3}`, `unknown field "delivery.timeout" ignored`)
	f(`"Target":"x"`, `unknown field "Target" ignored`)
	f(`"headers":{"Host":"x"},"x":[{}]`, `header "Host" is not forwarded`, `unknown field "x" ignored`)
	f(`"metadata":{"anything":1},"body":{"anything":1}`)

	var many strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&many, `,"f%d":1`, i)
	}
	r := mustDecode(t, with(`"`+strings.Repeat("n", 5000)+`":1`+many.String()))
	if len(r.warnings.list) != 16 || r.warnings.dropped != 985 {
		t.Fatalf("%d warnings, %d more", len(r.warnings.list), r.warnings.dropped)
	}
	answer := appendReceipt(nil, r.send.IdempotencyKey, engine.Receipt{CreatedAt: testNow}, &r.warnings)
	if len(answer) > 2000 || !strings.Contains(string(answer), `"and 985 more"`) {
		t.Errorf("the answer is %d bytes: %s", len(answer), answer)
	}
}

func TestReceipt(t *testing.T) {
	id := engine.DeliveryID{1, 2, 3}
	f := func(members string, duplicate bool, want string) {
		t.Helper()
		r := mustDecode(t, with(members))
		got := string(appendReceipt(nil, r.send.IdempotencyKey, engine.Receipt{ID: id, CreatedAt: testNow.Add(999 * time.Millisecond), Duplicate: duplicate}, &r.warnings))
		if want = `{"queue_id":"` + id.String() + `","status":"queued","created_at":"2026-06-10T14:22:10Z"` + want + "}\n"; got != want {
			t.Errorf("%s:\n got %s\nwant %s", members, got, want)
		}
	}
	f(``, false, ``)
	f(`"idempotency_key":"a\"b"`, false, `,"idempotency_key":"a\"b"`)
	f(`"idempotency_key":"k"`, true, `,"idempotency_key":"k","duplicate":true`)
	f(`"x":1`, false, `,"warnings":["unknown field \"x\" ignored"]`)
}
