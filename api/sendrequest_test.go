package api

import (
	"bufio"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
	"golang.org/x/net/http/httpguts"

	"github.com/harepost/harepost/engine"
)

var testNow = time.Date(2026, 6, 10, 14, 22, 10, 0, time.UTC)

// decodeSend decodes a send under o. What it returns is good until the test
// ends.
func decodeSend(t testing.TB, o Options, body, keyHeader string) (*sendRequest, error) {
	t.Helper()
	s, err := New(nil, o)
	if err != nil {
		t.Fatal(err)
	}
	r := s.acquireSendRequest([]byte(body))
	t.Cleanup(r.release)
	return r, r.decode([]byte(keyHeader), testNow)
}

// with is a send that has a target and the members given.
func with(members string) string {
	if members == "" {
		return `{"target":"https://example.com/hook"}`
	}
	return `{"target":"https://example.com/hook",` + members + `}`
}

func mustDecode(t *testing.T, body string) *sendRequest {
	t.Helper()
	r, err := decodeSend(t, Options{}, body, "")
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return r
}

// mustRefuse checks that the answer is a 400 and that its text has every word.
func mustRefuse(t *testing.T, body string, words ...string) {
	t.Helper()
	_, err := decodeSend(t, Options{}, body, "")
	checkRefusal(t, body, err, words)
}

func checkRefusal(t *testing.T, body string, err error, words []string) {
	t.Helper()
	var p *problem
	if !errors.As(err, &p) {
		t.Errorf("%s: got %v, want a refusal", clip([]byte(body)), err)
		return
	}
	if p.status != 400 {
		t.Errorf("%s: status %d", clip([]byte(body)), p.status)
	}
	for _, w := range words {
		if !strings.Contains(p.Error(), w) {
			t.Errorf("%s: refused with %q, want %q in it", clip([]byte(body)), p.Error(), w)
		}
	}
}

// A send with nothing but a target gets the documented defaults.
func TestSendDefaults(t *testing.T) {
	send := mustDecode(t, with("")).send
	want := engine.Policy{
		MaxAttempts: 5, Backoff: engine.BackoffExponential, Jitter: engine.JitterFull,
		BaseDelay: time.Second, MaxDelay: time.Hour, Timeout: 10 * time.Second, RespectRetryAfter: true,
	}
	if send.Policy != want {
		t.Errorf("policy %+v, want %+v", send.Policy, want)
	}
	if send.Method != "POST" || len(send.Headers) != 0 || len(send.Body) != 0 || send.Sign || send.IdempotencyKey != "" ||
		send.Metadata != nil || len(send.Labels) != 0 || !send.NotBefore.IsZero() || !send.ExpiresAt.IsZero() {
		t.Errorf("send %+v", send)
	}
	// null means not given, everywhere.
	send = mustDecode(t, with(`"method":null,"headers":null,"body":null,"delivery":null,"idempotency_key":null,"sign":null,
		"metadata":null,"labels":null,"delay_ms":null,"not_before":null,"expires_at":null`)).send
	if send.Policy != want || send.Method != "POST" || send.Metadata != nil {
		t.Errorf("all null: send %+v", send)
	}
	send = mustDecode(t, with(`"delivery":{"max_attempts":null,"backoff":null,"base_delay_ms":null,"max_delay_ms":null,
		"jitter":null,"timeout_ms":null,"respect_retry_after":null}`)).send
	if send.Policy != want {
		t.Errorf("policy of nulls %+v, want %+v", send.Policy, want)
	}
}

// The bytes of a JSON body go out as they came; a string is what it means.
func TestSendBody(t *testing.T) {
	f := func(written, sent, contentType string) {
		t.Helper()
		send := mustDecode(t, with(`"body": `+written+` `)).send
		if string(send.Body) != sent {
			t.Errorf("%s: body %q, want %q", written, send.Body, sent)
		}
		got := ""
		for _, h := range send.Headers {
			got += h.Name + ": " + h.Value
		}
		if contentType != "" {
			contentType = "Content-Type: " + contentType
		}
		if got != contentType {
			t.Errorf("%s: headers %q, want %q", written, got, contentType)
		}
	}
	const json = "application/json"
	f(`{"a":1}`, `{"a":1}`, json)
	f("{ \"a\" :\t1.0,\r\n \"b\":[ ] }", "{ \"a\" :\t1.0,\r\n \"b\":[ ] }", json)
	f(`{"a":"\u00e9\/\n"}`, `{"a":"\u00e9\/\n"}`, json)
	f(`{"n":12345678901234567890.10e+2}`, `{"n":12345678901234567890.10e+2}`, json)
	f(`{}`, `{}`, json)
	f(`[1, 2]`, `[1, 2]`, json)
	f(`0`, `0`, json)
	f(`-1.50e2`, `-1.50e2`, json)
	f(`true`, `true`, json)
	f(`false`, `false`, json)
	f(`null`, ``, "")
	f(`""`, ``, "")
	f(`"plain"`, `plain`, "")
	f(`"a\"b\\c\/d\b\f\n\r\t\u00e9\ud83d\ude00"`, "a\"b\\c/d\b\f\n\r\té😀", "")
	f(`"{\"a\":1}"`, `{"a":1}`, "")
	f(`"\u0000"`, "\x00", "")

	own := mustDecode(t, with(`"headers":{"content-TYPE":"application/cloudevents+json"},"body":{}`)).send
	if len(own.Headers) != 1 || own.Headers[0].Value != "application/cloudevents+json" {
		t.Errorf("the caller's Content-Type: %+v", own.Headers)
	}
	late := mustDecode(t, with(`"body":{},"headers":{"Content-Type":"text/x"}`)).send
	if len(late.Headers) != 1 {
		t.Errorf("the order of members matters: %+v", late.Headers)
	}
	get := mustDecode(t, with(`"method":"GET","body":{"a":1}`)).send
	if get.Body != nil || len(get.Headers) != 0 {
		t.Errorf("GET has the body %q and headers %+v", get.Body, get.Headers)
	}
	if del := mustDecode(t, with(`"method":"DELETE","body":"x"`)).send; string(del.Body) != "x" {
		t.Errorf("DELETE lost its body: %q", del.Body)
	}
}

// Numbers of the policy are clamped, never refused.
func TestSendPolicyClamps(t *testing.T) {
	f := func(policy string, want func(p *engine.Policy)) {
		t.Helper()
		expected := defaultPolicy
		want(&expected)
		if got := mustDecode(t, with(`"delivery":`+policy)).send.Policy; got != expected {
			t.Errorf("%s:\n got %+v\nwant %+v", policy, got, expected)
		}
	}
	attempts := func(text string, n int) {
		t.Helper()
		f(`{"max_attempts":`+text+`}`, func(p *engine.Policy) { p.MaxAttempts = n })
	}
	attempts("1", 1)
	attempts("25", 25)
	attempts("0", 1)
	attempts("-3", 1)
	attempts("26", 25)
	attempts("1e3", 25)
	attempts("7.0", 7)
	attempts("1e999999999999", 25)
	attempts("-99999999999999999999999", 1)

	const ms = time.Millisecond
	base := func(text string, d time.Duration) {
		t.Helper()
		f(`{"base_delay_ms":`+text+`}`, func(p *engine.Policy) { p.BaseDelay = d })
	}
	base("99", 100*ms)
	base("100", 100*ms)
	base("60000", 60_000*ms)
	base("60001", 60_000*ms)
	most := func(text string, d time.Duration) {
		t.Helper()
		f(`{"max_delay_ms":`+text+`}`, func(p *engine.Policy) { p.MaxDelay = d })
	}
	most("999", 1000*ms)
	most("43200000", 12*time.Hour)
	most("43200001", 12*time.Hour)
	timeout := func(text string, d time.Duration) {
		t.Helper()
		f(`{"timeout_ms":`+text+`}`, func(p *engine.Policy) { p.Timeout = d })
	}
	timeout("0", 1000*ms)
	timeout("2500", 2500*ms)
	timeout("30001", 30_000*ms)

	f(`{"backoff":"fixed","jitter":"none","respect_retry_after":false}`, func(p *engine.Policy) {
		p.Backoff, p.Jitter, p.RespectRetryAfter = engine.BackoffFixed, engine.JitterNone, false
	})
	f(`{"backoff":"exponential","jitter":"full","respect_retry_after":true}`, func(p *engine.Policy) {})
	f(`{"base_delay_ms":60000,"max_delay_ms":1000}`, func(p *engine.Policy) {
		p.BaseDelay, p.MaxDelay = time.Minute, time.Second
	})
}

// A wrong type is named, with what was found and what is allowed.
func TestSendWrongTypes(t *testing.T) {
	f := func(body string, words ...string) { t.Helper(); mustRefuse(t, body, words...) }
	f(`null`, "request body", "null", "an object")
	f(`[]`, "request body", "an array", "an object")
	f(`"x"`, "request body", "a string", "an object")
	f(`{}`, "target is missing")
	f(`{"target":null}`, "target is missing")
	f(`{"target":""}`, "target", "https://")
	f(`{"target":1}`, "target", "a number", "a string")
	f(`{"target":["https://example.com"]}`, "target", "an array", "a string")
	f(with(`"method":"post"`), "method", `"post"`, "POST, PUT, PATCH, DELETE, GET")
	f(with(`"method":"HEAD"`), "method", "HEAD")
	f(with(`"method":""`), "method")
	f(with(`"method":1`), "method", "a number", "a string")
	f(with(`"headers":[]`), "headers", "an array", "an object")
	f(with(`"headers":"X: y"`), "headers", "a string", "an object")
	f(with(`"headers":{"X-N":1}`), "headers.X-N", "a number", "a string")
	f(with(`"headers":{"X-N":["a"]}`), "headers.X-N", "an array", "a string")
	f(with(`"delivery":true`), "delivery", "a boolean", "an object")
	f(with(`"delivery":{"max_attempts":"5"}`), "delivery.max_attempts", "a string", "a whole number")
	f(with(`"delivery":{"max_attempts":2.5}`), "delivery.max_attempts", "2.5", "a whole number")
	f(with(`"delivery":{"max_attempts":{}}`), "delivery.max_attempts", "an object", "a whole number")
	f(with(`"delivery":{"base_delay_ms":0.5}`), "delivery.base_delay_ms", "0.5")
	f(with(`"delivery":{"timeout_ms":true}`), "delivery.timeout_ms", "a boolean")
	f(with(`"delivery":{"max_delay_ms":[]}`), "delivery.max_delay_ms", "an array")
	f(with(`"delivery":{"backoff":"linear"}`), "delivery.backoff", `"linear"`, "exponential or fixed")
	f(with(`"delivery":{"backoff":1}`), "delivery.backoff", "a number", "a string")
	f(with(`"delivery":{"jitter":"equal"}`), "delivery.jitter", `"equal"`, "full or none")
	f(with(`"delivery":{"jitter":false}`), "delivery.jitter", "a boolean")
	f(with(`"delivery":{"respect_retry_after":"yes"}`), "delivery.respect_retry_after", "a string", "true or false")
	f(with(`"sign":"true"`), "sign", "a string", "true or false")
	f(with(`"sign":1`), "sign", "a number")
	f(with(`"idempotency_key":7`), "idempotency_key", "a number", "a string")
	f(with(`"metadata":[]`), "metadata", "an array", "an object")
	f(with(`"metadata":"x"`), "metadata", "a string", "an object")
	f(with(`"labels":"a"`), "labels", "a string", "an array of strings")
	f(with(`"labels":[1]`), "label", "a number", "a string")
	f(with(`"labels":[null]`), "labels")
	f(with(`"delay_ms":"1"`), "delay_ms", "a string")
	f(with(`"delay_ms":1.5`), "delay_ms", "1.5", "a whole number")
	f(with(`"not_before":0`), "not_before", "a number", "a string")
	f(with(`"expires_at":{}`), "expires_at", "an object", "a string")
}

func TestSendMalformed(t *testing.T) {
	f := func(body string, words ...string) { t.Helper(); mustRefuse(t, body, words...) }
	f("", "empty")
	f("   ", "malformed JSON", "too early")
	f("{", "malformed JSON", "too early")
	f(`{"target"`, "malformed JSON", "too early")
	f(`{"target":`, "malformed JSON", "too early")
	f(`{"target":"https://example.com/"`, "malformed JSON", "too early")
	f(`{"target":"https://example.com/",}`, "malformed JSON")
	f(`{target:"https://example.com/"}`, "malformed JSON")
	f(`{'target':'https://example.com/'}`, "malformed JSON")
	f(`{"target" "https://example.com/"}`, "malformed JSON")
	f(`{1:2}`, "malformed JSON")
	f(`target=https://example.com/`, "malformed JSON")
	f("\xef\xbb\xbf"+with(""), "malformed JSON")
	f(with("")+"x", "malformed JSON")
	f(with("")+with(""), "malformed JSON", "more after")
	f(with("")+"[]", "malformed JSON", "more after")
	f(with(`"body":{"a":01}`), "malformed JSON")
	f(with(`"body":NaN`), "malformed JSON")
	f(with(`"body":[1,]`), "malformed JSON")
	f(with(`"body":"`+"\x01"+`"`), "malformed JSON")
	f(with(`"body":"\x41"`), "malformed JSON")
	f(with(`"x":tru`), "malformed JSON")
	// A member that is there twice, wherever it is.
	f(`{"target":"https://example.com/","target":"https://evil.example/"}`, "malformed JSON", "duplicate", "target")
	f(`{"target":"https://example.com/","\u0074arget":"https://evil.example/"}`, "malformed JSON", "duplicate")
	f(with(`"delivery":{"max_attempts":1,"max_attempts":2}`), "duplicate", "max_attempts")
	f(with(`"headers":{"X-A":"1","X-A":"2"}`), "duplicate", "X-A")
	f(with(`"body":{"a":1,"a":2}`), "duplicate")
	f(with(`"metadata":{"a":1,"a":2}`), "duplicate")
	// Not UTF-8.
	f(with(`"body":"`+"\xff"+`"`), "malformed JSON", "UTF-8")
	f(with(`"body":"\ud800"`), "malformed JSON")
	f(with(`"`+"\xc3\x28"+`":1`), "malformed JSON", "UTF-8")
	// Deeper than a parser should go.
	f(with(`"body":`+strings.Repeat("[", 20_000)+strings.Repeat("]", 20_000)), "malformed JSON", "depth")
}

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

// Every limit is exact: its value is accepted, one more is not.
func TestSendLimits(t *testing.T) {
	o := Options{
		Headers: 3, HeadersBytes: 30, URLBytes: 40, MetadataBytes: 20, IdempotencyKeyChars: 5, Labels: 2, LabelChars: 4, Warnings: 2,
		MaxDelay: time.Hour,
	}
	accepted := func(body string) {
		t.Helper()
		if _, err := decodeSend(t, o, body, ""); err != nil {
			t.Errorf("%s: %v", body, err)
		}
	}
	refused := func(body string, words ...string) {
		t.Helper()
		_, err := decodeSend(t, o, body, "")
		checkRefusal(t, body, err, words)
	}
	accepted(with(`"headers":{"A":"1","B":"2","C":"3"}`))
	refused(with(`"headers":{"A":"1","B":"2","C":"3","D":"4"}`), "headers", "3")
	refused(with(`"headers":{"A":"1","B":"2","Host":"3","Te":"4"}`), "headers", "3") // stripped ones count
	accepted(with(`"headers":{"AAAAA":"` + strings.Repeat("v", 25) + `"}`))
	refused(with(`"headers":{"AAAAA":"`+strings.Repeat("v", 26)+`"}`), "headers", "30 bytes")
	accepted(`{"target":"https://example.com/` + strings.Repeat("x", 20) + `"}`)
	refused(`{"target":"https://example.com/`+strings.Repeat("x", 21)+`"}`, "target", "40")
	accepted(with(`"metadata":{"k":"` + strings.Repeat("m", 12) + `"}`))
	refused(with(`"metadata":{"k":"`+strings.Repeat("m", 13)+`"}`), "metadata", "20")
	accepted(with(`"idempotency_key":"12345"`))
	accepted(with(`"idempotency_key":"ééééé"`)) // characters, not bytes
	refused(with(`"idempotency_key":"123456"`), "idempotency_key", "5")
	refused(with(`"idempotency_key":"a\u0000"`), "idempotency_key", "printable")
	refused(with(`"idempotency_key":"a\n"`), "idempotency_key", "printable")
	refused(with(`"idempotency_key":"a\u200b"`), "idempotency_key", "printable")
	refused(with(`"idempotency_key":" a"`), "idempotency_key")
	refused(with(`"idempotency_key":"a "`), "idempotency_key")
	accepted(with(`"labels":["abcd","é 😀"]`))
	refused(with(`"labels":["a","b","c"]`), "labels", "2")
	refused(with(`"labels":["abcde"]`), "labels", "4")
	refused(with(`"labels":[""]`), "labels")
	refused(with(`"labels":["a\t"]`), "labels")
	accepted(with(`"delay_ms":3600000`))
	refused(with(`"delay_ms":3600001`), "delay_ms", "3600000")
	refused(with(`"delay_ms":-1`), "delay_ms")
	accepted(with(`"not_before":"2026-06-10T15:22:10Z"`))
	refused(with(`"not_before":"2026-06-10T15:22:11Z"`), "not_before", "1h")
}

func TestSendSchedule(t *testing.T) {
	f := func(members string, notBefore, expires time.Duration) {
		t.Helper()
		at := func(d time.Duration) time.Time {
			if d == 0 {
				return time.Time{}
			}
			return testNow.Add(d)
		}
		send := mustDecode(t, with(members)).send
		if !send.NotBefore.Equal(at(notBefore)) || !send.ExpiresAt.Equal(at(expires)) {
			t.Errorf("%s: not before %s, expires %s", members, send.NotBefore, send.ExpiresAt)
		}
	}
	f(`"delay_ms":0`, 0, 0)
	f(`"delay_ms":1500`, 1500*time.Millisecond, 0)
	f(`"not_before":"2026-06-10T14:22:20Z"`, 10*time.Second, 0)
	f(`"not_before":"2026-06-10T16:22:20.5+02:00"`, 10500*time.Millisecond, 0)
	f(`"not_before":"2001-01-01T00:00:00Z"`, 0, 0)
	f(`"delay_ms":5000,"not_before":"2026-06-10T14:22:20Z"`, 10*time.Second, 0)
	f(`"delay_ms":50000,"not_before":"2026-06-10T14:22:20Z"`, 50*time.Second, 0)
	f(`"expires_at":"2026-06-10T14:22:11Z"`, 0, time.Second)
	f(`"delay_ms":1000,"expires_at":"2026-06-10T14:22:12Z"`, time.Second, 2*time.Second)
	f(`"expires_at":"2199-12-31T23:59:59Z"`, 0, time.Date(2199, 12, 31, 23, 59, 59, 0, time.UTC).Sub(testNow))

	refuse := func(members string, words ...string) { t.Helper(); mustRefuse(t, with(members), words...) }
	refuse(`"not_before":"tomorrow"`, "not_before", "tomorrow", "RFC 3339")
	refuse(`"not_before":"2026-06-10"`, "not_before", "RFC 3339")
	refuse(`"not_before":"2026-06-10T14:22:10"`, "not_before", "RFC 3339")
	refuse(`"not_before":"2026-13-10T14:22:10Z"`, "not_before", "RFC 3339")
	refuse(`"not_before":"2027-06-10T14:22:11Z"`, "not_before", "further ahead")
	refuse(`"delay_ms":31536000001`, "delay_ms")
	refuse(`"expires_at":"2026-06-10T14:22:10Z"`, "expires_at")
	refuse(`"delay_ms":1000,"expires_at":"2026-06-10T14:22:11Z"`, "expires_at")
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
	answer := r.appendReceipt(nil, engine.Receipt{CreatedAt: testNow})
	if len(answer) > 2000 || !strings.Contains(string(answer), `"and 985 more"`) {
		t.Errorf("the answer is %d bytes: %s", len(answer), answer)
	}
}

func TestReceipt(t *testing.T) {
	id := engine.DeliveryID{1, 2, 3}
	f := func(members string, duplicate bool, want string) {
		t.Helper()
		r := mustDecode(t, with(members))
		got := string(r.appendReceipt(nil, engine.Receipt{ID: id, CreatedAt: testNow.Add(999 * time.Millisecond), Duplicate: duplicate}))
		if want = `{"queue_id":"` + id.String() + `","status":"queued","created_at":"2026-06-10T14:22:10Z"` + want + "}\n"; got != want {
			t.Errorf("%s:\n got %s\nwant %s", members, got, want)
		}
	}
	f(``, false, ``)
	f(`"idempotency_key":"a\"b"`, false, `,"idempotency_key":"a\"b"`)
	f(`"idempotency_key":"k"`, true, `,"idempotency_key":"k","duplicate":true`)
	f(`"x":1`, false, `,"warnings":["unknown field \"x\" ignored"]`)
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

const benchSend = `{"target":"https://hooks.example.com/v1/orders","headers":{"X-Event":"order.paid","X-Tenant":"t_4711"},` +
	`"body":{"id":"ord_123","event":"order.paid","amount":4200,"currency":"EUR","items":[{"sku":"a-1","n":2}]},` +
	`"delivery":{"max_attempts":5,"timeout_ms":10000},"idempotency_key":"ord_123-paid","sign":true}`

// The hot path allocates what net/url and the name of the target cost, and
// nothing that grows with the request.
func TestDecodeSendAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool drop what it is given")
	}
	s, err := New(nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, extra := range []string{"", strings.Repeat(`,"x":{"y":[1,2,3]}`, 1), strings.Repeat("z", 10_000)} {
		body := []byte(strings.Replace(benchSend, `"amount":4200`, `"amount":4200`+strings.ReplaceAll(extra, "z", ` `), 1))
		got := testing.AllocsPerRun(200, func() {
			r := s.acquireSendRequest(body)
			if err := r.decode(nil, testNow); err != nil {
				t.Fatal(err)
			}
			r.release()
		})
		if got > 4 {
			t.Errorf("%d bytes: %.0f allocations", len(body), got)
		}
	}
}

func BenchmarkDecodeSend(b *testing.B) {
	s, err := New(nil, Options{})
	if err != nil {
		b.Fatal(err)
	}
	body := []byte(benchSend)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		r := s.acquireSendRequest(body)
		if err := r.decode(nil, testNow); err != nil {
			b.Fatal(err)
		}
		r.release()
	}
}

func BenchmarkParseTarget(b *testing.B) {
	r := rules()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parseTarget("https://hooks.example.com/v1/orders", r); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkServe is everything of ours in a send but the log: it ends at a
// target that is not verified.
func BenchmarkServe(b *testing.B) {
	s := startServer(b, Options{}, nil)
	key := s.account()
	var ctx fasthttp.RequestCtx
	ctx.Init(&fasthttp.Request{}, nil, nil)
	head := "POST /v1/send HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + key + "\r\nContent-Type: application/json\r\n" +
		"User-Agent: bench\r\nAccept: */*\r\nContent-Length: " + strconv.Itoa(len(benchSend)) + "\r\n\r\n"
	if err := ctx.Request.Read(bufio.NewReader(strings.NewReader(head + benchSend))); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		ctx.Response.Reset()
		s.serve(&ctx)
		if ctx.Response.StatusCode() != 403 {
			b.Fatalf("%d %s", ctx.Response.StatusCode(), ctx.Response.Body())
		}
	}
}
