package main

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// What the caller wrote is what the target reads, to the byte.
func TestBodiesArriveAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	in := w.inbox(t, "your-app.com", answers(200))
	f := func(fields, body, contentType string) {
		t.Helper()
		acme.queue(t, in.url, fields)
		got := in.next(t)
		if string(got.body) != body || got.header.Get("Content-Type") != contentType {
			t.Errorf("%s\narrived as %q of type %q\nwant       %q of type %q", fields, got.body, got.header.Get("Content-Type"), body, contentType)
		}
		if want := fmt.Sprint(len(body)); got.method != "GET" && got.header.Get("Content-Length") != want {
			t.Errorf("%s: Content-Length %q, want %s", fields, got.header.Get("Content-Length"), want)
		}
	}
	const json = "application/json"
	f(`"body":"plain, \"quoted\" \u00e4\n\u0000"`, "plain, \"quoted\" ä\n\x00", "")
	f(`"body":"{\"is\": \"a string\"}"`, `{"is": "a string"}`, "")
	f(`"body":{"b" :1,   "a":[ 1.0, 1e3,"\u00e4\/" ],"nested":{ }}`, `{"b" :1,   "a":[ 1.0, 1e3,"\u00e4\/" ],"nested":{ }}`, json)
	f("\"body\": {\n\t\"lines\": true\r\n} ", "{\n\t\"lines\": true\r\n}", json)
	f(`"body":[1, 2,{"three":3}]`, `[1, 2,{"three":3}]`, json)
	f(`"body":12345678901234567890.10`, `12345678901234567890.10`, json)
	f(`"body":false`, `false`, json)
	f(`"body":{},"headers":{"content-type":"application/cloudevents+json"}`, `{}`, "application/cloudevents+json")
	f(`"body":"a=b","headers":{"Content-Type":"application/x-www-form-urlencoded"}`, "a=b", "application/x-www-form-urlencoded")
	f(`"body":null`, "", "")
	f(`"body":""`, "", "")
	f(`"method":"PUT"`, "", "")
	f(`"method":"GET","body":{"ignored":true}`, "", "")
	f(`"method":"GET","body":"ignored"`, "", "")
	large := strings.Repeat("0123456789abcdef", 60<<10)
	f(`"body":"`+large+`"`, large, "")
}

func TestMethodsArriveAsTheyWereChosen(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	in := w.inbox(t, "your-app.com", answers(200))
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "GET"} {
		id := acme.queue(t, in.url+"/%7Ea/b%2Fc?d=%20e&d", `"body":"x","method":"`+method+`"`)
		if got := in.next(t); got.method != method || got.uri != "/%7Ea/b%2Fc?d=%20e&d" {
			t.Errorf("%s arrived as %s %s", method, got.method, got.uri)
		}
		if h := acme.final(t, id); h.Method != method {
			t.Errorf("%s is on record as %s", method, h.Method)
		}
	}
	for _, method := range []string{"HEAD", "OPTIONS", "CONNECT", "post", ""} {
		acme.call(t, "POST", "/v1/send", sendBody(in.url, `"method":"`+method+`"`)).refused(400, "method")
	}
	in.empty(t)
}

// Headers go through, less those that are the connection's, a credential, or
// ours; each of those is named to the caller.
func TestHeadersThatAreForwardedAndThoseThatAreNot(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	in := w.inbox(t, "your-app.com", answers(200))

	stripped := []string{"Host", "content-length", "Connection", "Keep-Alive", "Proxy-Authorization", "proxy-anything",
		"TE", "Trailer", "Transfer-Encoding", "Upgrade", "Expect", "AUTHORIZATION", "Cookie",
		"X-Harepost-Delivery", "x-harepost-signature", "Webhook-Id"}
	var members []string
	for _, name := range stripped {
		members = append(members, `"`+name+`":"forged"`)
	}
	members = append(members, `"X-Api-Key":"k","X-Empty":"","Accept":"text/plain","X-Utf8":"gr\u00fcn"`)
	sent := acme.post(t, in.url, `"idempotency_key":"order-1","headers":{`+strings.Join(members, ",")+`}`)
	got := in.next(t)

	warnings, _ := sent["warnings"].([]any)
	if len(warnings) != len(stripped) {
		t.Errorf("%d headers were stripped, the warnings are %q", len(stripped), warnings)
	}
	for i, name := range stripped {
		if want := fmt.Sprintf("header %q is not forwarded", name); i < len(warnings) && warnings[i] != want {
			t.Errorf("warning %q, want %q", warnings[i], want)
		}
	}
	for name, values := range got.header {
		if strings.Contains(strings.Join(values, " "), "forged") {
			t.Errorf("%s: %q went through", name, values)
		}
	}
	if got.host == "forged" {
		t.Error("the host was forged")
	}
	for name, want := range map[string]string{
		"X-Api-Key": "k", "X-Empty": "", "Accept": "text/plain", "X-Utf8": "grün",
		"X-Harepost-Delivery":        sent["queue_id"].(string),
		"X-Harepost-Attempt":         "1",
		"X-Harepost-Idempotency-Key": "order-1",
	} {
		if values := got.header.Values(name); len(values) != 1 || values[0] != want {
			t.Errorf("%s arrived as %q, want %q", name, values, want)
		}
	}
	if agent := got.header.Get("User-Agent"); !strings.HasPrefix(agent, "Harepost/") {
		t.Errorf("User-Agent %q", agent)
	}
	for _, name := range []string{"X-Harepost-Signature", "Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"} {
		if values := got.header.Values(name); values != nil {
			t.Errorf("%s: %q, and no signature was asked for", name, values)
		}
	}
}

// Without an idempotency key there is no header for it, and no member in the
// answers that could be mistaken for one.
func TestNothingIsAddedThatWasNotGiven(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	in := w.inbox(t, "your-app.com", answers(200))
	id := acme.queue(t, in.url, "")
	got := in.next(t)
	for _, name := range []string{"X-Harepost-Idempotency-Key", "Content-Type", "Accept-Encoding", "Authorization"} {
		if values := got.header.Values(name); values != nil {
			t.Errorf("%s: %q", name, values)
		}
	}
	if h := acme.final(t, id); h.IdempotencyKey != nil || string(h.Metadata) != "null" || len(h.Labels) != 0 {
		t.Errorf("on record: %s", h.text)
	}
}

// Metadata and labels are the caller's own: they are read back, and the target
// learns nothing of them.
func TestMetadataStaysHere(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	in := w.inbox(t, "your-app.com", answers(200))
	const metadata = `{"invoice" : "inv_4711", "n":[1,  2]}`
	id := acme.queue(t, in.url, `"body":"paid","labels":["label_4711"],"metadata":`+metadata)
	got := in.next(t)
	if everything := fmt.Sprint(got.uri, got.header, string(got.body)); strings.Contains(everything, "4711") {
		t.Errorf("the target got %s", everything)
	}
	h := acme.final(t, id)
	if string(h.Metadata) != metadata || len(h.Labels) != 1 || h.Labels[0] != "label_4711" {
		t.Errorf("on record: %s", h.text)
	}
	whole := acme.call(t, "GET", "/v1/deliveries/"+id+"?include=payload", "").want(200)
	if whole["body"] != "paid" {
		t.Errorf("the payload reads %v", whole["body"])
	}
}

// The same send twice is one delivery: by field, by header, and after the
// server was killed.
func TestIdempotency(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	other := w.tenant(t, "other").verified(t, "your-app.com")
	in := w.inbox(t, "your-app.com", answers(200))

	first := acme.post(t, in.url, `"idempotency_key":"ord_123-paid","body":"a"`)
	wantKeys(t, "the first answer", first, "queue_id", "status", "created_at", "idempotency_key")
	again := func(name string, want bool, c *tenant, target, fields string, headers ...string) {
		t.Helper()
		got := c.post(t, target, fields, headers...)
		same := got["queue_id"] == first["queue_id"]
		if same != want || (got["duplicate"] == true) != want {
			t.Errorf("%s: %v after %v", name, got, first)
		}
		if want && (got["created_at"] != first["created_at"] || got["idempotency_key"] != "ord_123-paid") {
			t.Errorf("%s: %v is not the answer of %v", name, got, first)
		}
	}
	const key = `"idempotency_key":"ord_123-paid"`
	again("the same", true, acme, in.url, `"body":"a",`+key)
	again("key in the header", true, acme, in.url, `"body":"a"`, "Idempotency-Key: ord_123-paid")
	again("key in both", true, acme, in.url, `"body":"a",`+key, "Idempotency-Key: ord_123-paid")
	w.server.kill9()
	w.start()
	again("after a crash", true, acme, in.url, `"body":"a",`+key)
	in.next(t)
	in.empty(t) // one delivery, however often it was sent

	acme.call(t, "POST", "/v1/send", sendBody(in.url, key), "Idempotency-Key: another").refused(400, "idempotency_key")
	again("another body", false, acme, in.url, `"body":"b",`+key)
	again("another method", false, acme, in.url, `"body":"a","method":"PUT",`+key)
	again("another target", false, acme, in.url+"/else", `"body":"a",`+key)
	again("another account", false, other, in.url, `"body":"a",`+key)
	again("another key", false, acme, in.url, `"body":"a","idempotency_key":"ord_124"`)
	for range 5 {
		in.next(t)
	}
}

// Of sends that race with one key, one is queued.
func TestIdempotentSendsThatRace(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	in := w.inbox(t, "your-app.com", answers(200))
	const racers = 16
	for round := range 5 {
		ids := make(chan string, racers)
		var originals atomic.Int32
		race(racers, func(int) {
			r, err := w.try(t, "POST", "/v1/send", acme.key, sendBody(in.url, fmt.Sprintf(`"idempotency_key":"round-%d"`, round)))
			if err != nil || r.status != http.StatusAccepted {
				t.Errorf("round %d: %v %d %s", round, err, r.status, r.body)
			}
			var got struct {
				QueueID   string `json:"queue_id"`
				Duplicate bool   `json:"duplicate"`
			}
			if strictJSON(r.body, &got) == nil && !got.Duplicate {
				originals.Add(1)
			}
			ids <- got.QueueID
		})
		one := <-ids
		for range racers - 1 {
			if id := <-ids; id != one {
				t.Errorf("round %d: two deliveries, %s and %s", round, one, id)
			}
		}
		if n := originals.Load(); n != 1 {
			t.Errorf("round %d: %d sends were told that theirs was the first", round, n)
		}
		in.next(t)
	}
	in.empty(t)
}

// Each name is resolved for itself, also when requests follow each other on
// one connection and answers are still kept: half of these names lead to an
// address that is allowed and half to one that is not.
func TestNamesAreNotMixedUp(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	const names = 100
	host := func(i int) string { return fmt.Sprintf("n%02d.your-app.com", i) }
	for i := range names {
		w.names.address(host(i), []string{"127.0.0.1", "10.0.0.1"}[i%2])
	}
	for round := range 5 {
		for i := range names {
			want := []int{http.StatusAccepted, http.StatusBadRequest}[i%2]
			if r := acme.call(t, "POST", "/v1/send", sendBody("https://"+host(i), `"delay_ms":3600000`)); r.status != want {
				t.Errorf("round %d, %s: %d %s; want %d", round, host(i), r.status, r.body, want)
			}
		}
	}
}
