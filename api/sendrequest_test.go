package api

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

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

// What is taken and means less than it looks like is said.
func TestSendWarnsOfWhatHasNoEffect(t *testing.T) {
	f := func(members, header string, want ...string) {
		t.Helper()
		r, err := decodeSend(t, Options{}, with(members), header)
		if err != nil {
			t.Fatalf("%s: %v", members, err)
		}
		if !slices.Equal(r.list, want) {
			t.Errorf("%s: warnings %q, want %q", members, r.list, want)
		}
	}
	const body = "body ignored: a GET is sent without one"
	f(`"method":"GET","body":"x"`, "", body)
	f(`"body":{"a":1},"method":"GET"`, "", body)
	f(`"method":"GET","body":0`, "", body)
	f(`"method":"GET","body":""`, "")
	f(`"method":"GET","body":null`, "")
	f(`"method":"GET"`, "")
	f(`"method":"DELETE","body":"x"`, "")
	const key = "idempotency_key is empty, which is the same as none: a repetition is a new send"
	f(`"idempotency_key":""`, "", key)
	f(`"idempotency_key":""`, "from-the-header")
	f(`"idempotency_key":null`, "")
	f(`"idempotency_key":"k"`, "")
	f("", "")
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
	f(with(`"labels":[1]`), "invalid labels[0]", "labels[0] is a number", "a string")
	f(with(`"labels":["a",{}]`), "invalid labels[1]", "an object", "a string")
	f(with(`"labels":[null]`), "labels[0]", "null", "a string")
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
	f(with(`"unknown":1,"unknown":2`), "duplicate", "unknown")
	// Not UTF-8.
	f(with(`"body":"`+"\xff"+`"`), "malformed JSON", "UTF-8")
	f(with(`"body":"\ud800"`), "malformed JSON")
	f(with(`"`+"\xc3\x28"+`":1`), "malformed JSON", "UTF-8")
	// Deeper than a parser should go.
	f(with(`"body":`+strings.Repeat("[", 20_000)+strings.Repeat("]", 20_000)), "malformed JSON", "depth")
}

// What is inside body and metadata is the caller's: it goes on byte for byte,
// repeated names included. The send's own members are still checked behind it.
func TestInnerDuplicates(t *testing.T) {
	s, err := New(nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	r := s.acquireSendRequest([]byte(with(`"body": {"a":1,  "a":{"b":1,"b":2}},"metadata":{"a":1,"a":2},"x":{"y":1,"y":1}`)))
	if err := r.decode(nil, testNow); err != nil {
		t.Fatal(err)
	}
	if got := string(r.send.Body); got != `{"a":1,  "a":{"b":1,"b":2}}` {
		t.Errorf("body %s", got)
	}
	if got := string(r.send.Metadata); got != `{"a":1,"a":2}` {
		t.Errorf("metadata %s", got)
	}
	r.release()
	many := ""
	for i := range 50 {
		many += fmt.Sprintf(`"u%d":1,`, i)
	}
	for _, body := range []string{
		with(`"body":{"a":1,"a":2},"body":{}`),
		with(`"metadata":{"a":1,"a":2},"delivery":{"jitter":"full","jitter":"full"}`),
		with(many + `"u7":1`), with(many + `"v":1,"v":1`), with(`"headers":{` + many + `"u49":"x"}`),
	} {
		r := s.acquireSendRequest([]byte(strings.ReplaceAll(body, `":1,"u`, `":null,"u`)))
		if err := r.decode(nil, testNow); err == nil || !strings.Contains(err.Error(), "duplicate member") {
			t.Errorf("%s: %v", body, err)
		}
		r.release()
	}
}

// Every limit is exact: its value is accepted, one more is not.
func TestSendLimits(t *testing.T) {
	o := Options{
		Headers: 3, HeadersBytes: 30, URLChars: 40, MetadataBytes: 20, IdempotencyKeyChars: 5, Labels: 2, LabelChars: 4, Warnings: 2,
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
