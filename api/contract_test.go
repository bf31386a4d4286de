package api

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/engine"
)

// These tests read like a client's log: each request goes over TCP to the
// whole server, each delivery to a receiver on loopback.

const timeForm = `2\d{3}-\d\d-\d\dT\d\d:\d\d:\d\dZ`

// shaped checks a whole answer against a pattern of it.
func (a *answer) shaped(pattern string) {
	a.t.Helper()
	if !regexp.MustCompile("^" + strings.ReplaceAll(pattern, "TIME", timeForm) + "\n$").MatchString(a.body) {
		a.t.Errorf("%s:\n got %s\nwant %s", a.what, a.body, pattern)
	}
}

// fields checks that an object has exactly these members.
func fields(t *testing.T, what string, object any, want ...string) {
	t.Helper()
	m, ok := object.(map[string]any)
	if !ok {
		t.Errorf("%s is %v, not an object", what, object)
		return
	}
	var got []string
	for name := range m {
		got = append(got, name)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s has %v, want %v", what, got, want)
	}
}

func startDev(t *testing.T) (*testServer, string) {
	s := startServer(t, Options{Dev: true}, nil)
	return s, s.account()
}

// send sends and returns the queue_id.
func (s *testServer) sendOK(key, body string) string {
	s.t.Helper()
	return s.do("POST", "/v1/send", key, body).want(202)["queue_id"].(string)
}

func TestAccounts(t *testing.T) {
	s := startServer(t, Options{}, nil)
	a := s.do("POST", "/v1/accounts", adminToken, `{"name":"Acme \"Hooks\""}`)
	made := a.want(201)
	a.shaped(`{"account_id":"acc_[0-9a-z]{13}","name":"Acme \\"Hooks\\"","api_key":"hp_live_[0-9A-Za-z]{32}",` +
		`"signing_secret":"whsec_[0-9A-Za-z+/]{43}=","created_at":"TIME"}`)
	if a.header.Get("Cache-Control") != "no-store" {
		t.Error("a cache may keep the key")
	}
	secret := s.do("GET", "/v1/signing-secret", made["api_key"].(string), "").want(200)
	fields(t, "signing secret", secret, "signing_secret")
	if secret["signing_secret"] != made["signing_secret"] {
		t.Error("the signing secret is another one")
	}
	refuse := func(body string, words ...string) {
		t.Helper()
		s.do("POST", "/v1/accounts", adminToken, body).refused(400, words...)
	}
	refuse(``, "empty")
	refuse(`{}`, "name is missing")
	refuse(`{"name":null}`, "name is missing")
	refuse(`{"name":5}`, "name", "a number", "a string")
	refuse(`{"name":""}`, "name")
	refuse(`{"name":" x"}`, "name")
	refuse(`{"name":"a\nb"}`, "name")
	refuse(`{"name":"`+strings.Repeat("x", 129)+`"}`, "name", "128")
	refuse(`{"name":"a","name":"b"}`, "duplicate")
	warned := s.do("POST", "/v1/accounts", adminToken, `{"name":"x","plan":"free"}`).want(201)
	if fmt.Sprint(warned["warnings"]) != `[unknown field "plan" ignored]` {
		t.Errorf("warnings %v", warned["warnings"])
	}
}

// A key works from the moment it is made to the moment it is deleted.
func TestKeys(t *testing.T) {
	s := startServer(t, Options{}, func(o *engine.Options) { o.KeysPerAccount = 3 })
	first := s.account()
	a := s.do("POST", "/v1/keys", first, "")
	second := a.want(201)
	a.shaped(`{"id":"key_[0-9a-z]{13}","prefix":"hp_live_[0-9A-Za-z]+","created_at":"TIME","api_key":"hp_live_[0-9A-Za-z]{32}"}`)
	key, id := second["api_key"].(string), second["id"].(string)
	if prefix := second["prefix"].(string); !strings.HasPrefix(key, prefix) || len(prefix) > 16 {
		t.Errorf("prefix %q", prefix)
	}
	list := s.do("GET", "/v1/keys", key, "").want(200)["data"].([]any)
	if len(list) != 2 {
		t.Fatalf("%d keys", len(list))
	}
	for _, k := range list {
		fields(t, "key", k, "id", "prefix", "created_at", "last_used_at")
		if k.(map[string]any)["last_used_at"] == nil {
			t.Errorf("a key in use was never used: %v", k)
		}
	}
	s.do("POST", "/v1/keys", first, "").want(201)
	s.do("POST", "/v1/keys", first, "").refused(400, "too many", "3")
	other := s.account()
	s.do("DELETE", "/v1/keys/"+id, other, "").refused(404)
	s.do("DELETE", "/v1/keys/key_nonsense", first, "").refused(404)
	if a := s.do("DELETE", "/v1/keys/"+id, first, ""); a.status != 204 || a.body != "" {
		t.Errorf("delete: %d %s", a.status, a.body)
	}
	s.do("GET", "/v1/keys", key, "").refused(401)
	s.do("DELETE", "/v1/keys/"+id, first, "").refused(404)
}

// A domain goes from pending to verified once its TXT record is there.
func TestDomains(t *testing.T) {
	s := startServer(t, Options{}, func(o *engine.Options) { o.DomainsPerAccount = 2 })
	key := s.account()
	s.do("GET", "/v1/domains", key, "").shaped(`{"data":\[\]}`)

	a := s.do("POST", "/v1/domains", key, `{"domain":"Your-App.com."}`)
	a.want(201)
	a.shaped(`{"domain":"your-app.com","status":"pending","record":{"type":"TXT","name":"_harepost-challenge.your-app.com",` +
		`"value":"harepost-verify=[0-9A-Za-z]{16,}"},"created_at":"TIME","verified_at":null}`)
	record := a.want(201)["record"].(map[string]any)

	again := s.do("POST", "/v1/domains", key, `{"domain":"your-app.com"}`).want(200)
	if fmt.Sprint(again["record"]) != fmt.Sprint(record) {
		t.Errorf("added again: record %v, was %v", again["record"], record)
	}
	s.do("GET", "/v1/domains", key, "").shaped(`{"data":\[{"domain":"your-app.com","status":"pending","created_at":"TIME","verified_at":null}\]}`)

	pending := s.do("POST", "/v1/domains/verify", key, `{"domain":"your-app.com"}`).refused(409, `"status":"pending"`)
	fields(t, "pending", pending, "domain", "status", "record", "error", "detail")
	if fmt.Sprint(pending["record"]) != fmt.Sprint(record) {
		t.Errorf("pending: record %v, was %v", pending["record"], record)
	}
	s.do("POST", "/v1/send", key, `{"target":"https://hooks.your-app.com/x"}`).refused(403)

	s.names.set("_harepost-challenge.your-app.com", "TXT", `"harepost-verify=somethingelse"`)
	s.do("POST", "/v1/domains/verify", key, `{"domain":"your-app.com"}`).refused(409)
	s.names.set("_harepost-challenge.your-app.com", "TXT", `"`+record["value"].(string)+`"`)
	for range 2 { // and again when verified already
		a = s.do("POST", "/v1/domains/verify", key, `{"domain":"YOUR-APP.com"}`)
		a.want(200)
		a.shaped(`{"domain":"your-app.com","status":"verified","verified_at":"TIME"}`)
	}
	s.do("GET", "/v1/domains", key, "").shaped(`{"data":\[{"domain":"your-app.com","status":"verified","created_at":"TIME","verified_at":"TIME"}\]}`)
	one := s.do("GET", "/v1/domains/your-app.com", key, "").want(200)
	fields(t, "domain", one, "domain", "status", "record", "created_at", "verified_at")
	s.do("POST", "/v1/domains", key, `{"domain":"your-app.com"}`).want(200)

	s.do("POST", "/v1/domains", key, `{"domain":"b\u00fccher.example"}`).want(201)
	if got := s.do("GET", "/v1/domains/b%C3%BCcher.example", key, "").want(200)["domain"]; got != "xn--bcher-kva.example" {
		t.Errorf("domain %v", got)
	}
	s.do("POST", "/v1/domains", key, `{"domain":"third.example"}`).refused(400, "too many", "2")

	// Another account neither sees nor changes any of it.
	other := s.account()
	s.do("GET", "/v1/domains/your-app.com", other, "").refused(404)
	s.do("DELETE", "/v1/domains/your-app.com", other, "").refused(404)
	s.do("POST", "/v1/domains/verify", other, `{"domain":"your-app.com"}`).refused(404)
	s.do("POST", "/v1/send", other, `{"target":"https://your-app.com/x"}`).refused(403)

	s.do("POST", "/v1/domains/verify", key, `{"domain":"never.example"}`).refused(404)
	s.do("GET", "/v1/domains/never.example", key, "").refused(404)
	s.do("GET", "/v1/domains/not a domain", key, "").refused(404)
	refuse := func(body string, words ...string) {
		t.Helper()
		s.do("POST", "/v1/domains", key, body).refused(400, words...)
		s.do("POST", "/v1/domains/verify", key, body).refused(400, words...)
	}
	refuse(``, "empty")
	refuse(`{}`, "domain is missing")
	refuse(`{"domain":["a.example"]}`, "an array", "a string")
	refuse(`{"domain":"https://a.example"}`, "scheme")
	refuse(`{"domain":"co.uk"}`, "public suffix")
	refuse(`{"domain":"127.0.0.1"}`, "IP address")

	if a := s.do("DELETE", "/v1/domains/your-app.com", key, ""); a.status != 204 {
		t.Errorf("delete: %d %s", a.status, a.body)
	}
	s.do("GET", "/v1/domains/your-app.com", key, "").refused(404)
	s.do("POST", "/v1/send", key, `{"target":"https://your-app.com/x"}`).refused(403)
}

// Where a send may go: to hosts of verified domains, at public addresses.
func TestSendRefusedDestinations(t *testing.T) {
	s := startServer(t, Options{}, nil)
	key := s.account()
	s.verified(key, "your-app.com")
	send := func(target string) *answer {
		t.Helper()
		return s.do("POST", "/v1/send", key, `{"target":"`+target+`"}`)
	}
	forbidden := send("https://other.example/x").refused(403, "Verify other.example before sending to it")
	fields(t, "403", forbidden, "error", "detail")
	if forbidden["error"] != "destination domain is not verified" {
		t.Errorf("error %v", forbidden["error"])
	}
	send("https://notyour-app.com/").refused(403)
	send("https://your-app.com.evil.example/").refused(403)
	send("https://com/").refused(400)

	s.names.set("nowhere.your-app.com", "A", "10.1.2.3")
	s.names.set("meta.your-app.com", "A", "169.254.169.254")
	s.names.set("six.your-app.com", "AAAA", "fd00::1")
	for _, host := range []string{"nowhere", "meta", "six"} {
		blocked := send("https://"+host+".your-app.com/").refused(400, "not allowed")
		if text := fmt.Sprint(blocked); strings.Contains(text, "10.1") || strings.Contains(text, "169.") || strings.Contains(text, "fd00") {
			t.Errorf("the address is in the answer: %s", text)
		}
	}
	send("http://your-app.com/").refused(400, "only https")
	send("https://127.0.0.1/").refused(400, "IP address")
	send("https://localhost/").refused(400)
	send("https://user:pw@your-app.com/").refused(400, "user name")
	send("ftp://your-app.com/").refused(400, "https://")

	// Covered at any depth; that it does not resolve now is no reason to refuse.
	send("https://your-app.com/").want(202)
	send("https://a.b.c.YOUR-APP.com./").want(202)
}

// A send comes back as 202 with its id, is readable at once, and reaches the
// receiver with exactly what was asked for.
func TestSendAndLookup(t *testing.T) {
	s, key := startDev(t)
	r := startReceiver(t, 200)
	a := s.do("POST", "/v1/send", key, `{"target":"`+r.url+`/hook?a=%2F","method":"PUT",
		"headers":{"X-Event":"paid","Authorization":"Bearer receiver"},
		"body": { "id" : 1.50, "t":"\u00e9" } ,
		"idempotency_key":"ord_123-paid","sign":true,"metadata":{"order": 123},"labels":["orders","eu"],"colour":"red"}`)
	sent := a.want(202)
	a.shaped(`{"queue_id":"hr_[0-9a-z]{26}","status":"queued","created_at":"TIME","idempotency_key":"ord_123-paid",` +
		`"warnings":\["header \\"Authorization\\" is not forwarded","unknown field \\"colour\\" ignored"\]}`)
	id := sent["queue_id"].(string)
	s.do("GET", "/v1/deliveries/"+id, key, "").want(200)

	got := r.next(t)
	if got.method != "PUT" || got.path != "/hook?a=%2F" || got.body != `{ "id" : 1.50, "t":"\u00e9" }` {
		t.Errorf("delivered %s %s %q", got.method, got.path, got.body)
	}
	for name, want := range map[string]string{
		"X-Event": "paid", "Authorization": "", "Content-Type": "application/json", "X-Harepost-Idempotency-Key": "ord_123-paid",
		"X-Harepost-Delivery": id, "X-Harepost-Attempt": "1", "Webhook-Id": id,
	} {
		if value := got.header.Get(name); value != want {
			t.Errorf("delivered with %s: %q, want %q", name, value, want)
		}
	}
	if got.header.Get("X-Harepost-Signature") == "" {
		t.Error("delivered without a signature")
	}

	d := s.settled(key, id)
	lookup := s.do("GET", "/v1/deliveries/"+id, key, "")
	lookup.shaped(`{"queue_id":"` + id + `","target":"` + regexp.QuoteMeta(r.url+"/hook?a=%2F") + `","method":"PUT",` +
		`"status":"delivered","last_status":200,"idempotency_key":"ord_123-paid","created_at":"TIME","updated_at":"TIME",` +
		`"attempts":\[{"attempt":1,"outcome":"delivered","http_status":200,"latency_ms":\d+,"error":null,"created_at":"TIME",` +
		`"started_at":"TIME","next_attempt_at":null,` +
		`"timing":{"dns_ms":[\d.]+,"connect_ms":[\d.]+,"tls_ms":[\d.]+,"first_byte_ms":[\d.]+,"reused":(true|false)},"remote_ip":"127.0.0.1"}\],` +
		`"metadata":{"order": 123},"labels":\["orders","eu"\],"max_attempts":5,"next_attempt_at":null,"expires_at":null,"body_bytes":29}`)
	if d["created_at"] != sent["created_at"] {
		t.Errorf("created at %v, was %v", d["created_at"], sent["created_at"])
	}
	payload := s.do("GET", "/v1/deliveries/"+id+"?include=payload", key, "").want(200)
	if fmt.Sprint(payload["headers"]) != "map[Content-Type:application/json X-Event:paid]" || payload["body"] != `{ "id" : 1.50, "t":"\u00e9" }` {
		t.Errorf("payload: headers %v, body %v", payload["headers"], payload["body"])
	}
	s.do("GET", "/v1/deliveries/"+id+"?include=everything", key, "").refused(400, "include", "payload")

	// Another account cannot know that it is there.
	other := s.account()
	s.do("GET", "/v1/deliveries/"+id, other, "").refused(404)
	s.do("GET", "/v1/deliveries/"+id+"?include=payload", other, "").refused(404)
	s.do("GET", "/v1/deliveries/hr_"+strings.Repeat("0", 26), key, "").refused(404)
	s.do("GET", "/v1/deliveries/hr_nonsense", key, "").refused(404)
	if list := s.do("GET", "/v1/deliveries", other, "").want(200); len(list["data"].([]any)) != 0 {
		t.Errorf("another account's list: %v", list)
	}
}

// A send with nothing but a target, and one whose body is bytes.
func TestSendPlain(t *testing.T) {
	s, key := startDev(t)
	r := startReceiver(t, 204)
	a := s.do("POST", "/v1/send", key, `{"target":"`+r.url+`"}`)
	a.want(202)
	a.shaped(`{"queue_id":"hr_[0-9a-z]{26}","status":"queued","created_at":"TIME"}`)
	if got := r.next(t); got.method != "POST" || got.path != "/" || got.body != "" {
		t.Errorf("delivered %+v", got)
	}
	id := a.want(202)["queue_id"].(string)
	d := s.settled(key, id)
	if d["idempotency_key"] != nil || d["metadata"] != nil || fmt.Sprint(d["labels"]) != "[]" || d["body_bytes"] != 0.0 || d["last_status"] != 204.0 {
		t.Errorf("delivery %v", d)
	}

	// A NUL is UTF-8 and comes back as a string.
	id = s.sendOK(key, `{"target":"`+r.url+`","body":"a\u0000\u00ff","headers":{"Content-Type":"application/x-thing"}}`)
	if got := r.next(t); got.body != "a\x00ÿ" || got.header.Get("Content-Type") != "application/x-thing" {
		t.Errorf("delivered %+v", got)
	}
	if p := s.do("GET", "/v1/deliveries/"+id+"?include=payload", key, "").want(200); p["body"] != "a\x00ÿ" || p["body_encoding"] != nil {
		t.Errorf("payload %v", p)
	}
	get := s.sendOK(key, `{"target":"`+r.url+`/ping","method":"GET","body":{"ignored":true}}`)
	if got := r.next(t); got.method != "GET" || got.body != "" || got.header.Get("Content-Type") != "" {
		t.Errorf("delivered %+v", got)
	}
	if d := s.settled(key, get); d["body_bytes"] != 0.0 {
		t.Errorf("delivery %v", d)
	}
}

// A refusal, and a target that never recovers, end in the dead-letter queue
// with all their attempts.
func TestFailuresAreOnRecord(t *testing.T) {
	s, key := startDev(t)
	gone := startReceiver(t, 410)
	id := s.sendOK(key, `{"target":"`+gone.url+`","body":"keep me"}`)
	d := s.settled(key, id)
	attempts := d["attempts"].([]any)
	if d["status"] != "rejected" || d["last_status"] != 410.0 || len(attempts) != 1 {
		t.Fatalf("delivery %v", d)
	}
	fields(t, "attempt", attempts[0], "attempt", "outcome", "http_status", "latency_ms", "error", "created_at", "started_at",
		"next_attempt_at", "timing", "remote_ip", "response_body", "response_body_truncated")
	first := attempts[0].(map[string]any)
	if first["outcome"] != "rejected" || first["response_body"] != "thank you" || first["response_body_truncated"] != false ||
		!strings.HasPrefix(first["error"].(string), "http_status: ") {
		t.Errorf("attempt %v", first)
	}
	if p := s.do("GET", "/v1/deliveries/"+id+"?include=payload", key, "").want(200); p["body"] != "keep me" {
		t.Errorf("payload %v", p)
	}

	broken := startReceiver(t, 500)
	id = s.sendOK(key, `{"target":"`+broken.url+`","delivery":{"max_attempts":2,"base_delay_ms":100,"jitter":"none"}}`)
	d = s.settled(key, id)
	attempts = d["attempts"].([]any)
	if d["status"] != "dead_letter" || len(attempts) != 2 || d["max_attempts"] != 2.0 {
		t.Fatalf("delivery %v", d)
	}
	for i, a := range attempts {
		a := a.(map[string]any)
		if a["attempt"] != float64(i+1) || a["outcome"] != "failed" || a["http_status"] != 500.0 || (a["next_attempt_at"] == nil) != (i == 1) {
			t.Errorf("attempt %d: %v", i+1, a)
		}
	}

	// Nobody listens there any more.
	id = s.sendOK(key, `{"target":"http://127.0.0.1:1024/","delivery":{"max_attempts":1}}`)
	d = s.settled(key, id)
	a := d["attempts"].([]any)[0].(map[string]any)
	if d["status"] != "dead_letter" || d["last_status"] != nil || a["http_status"] != nil || !strings.HasPrefix(a["error"].(string), "connection_refused: ") {
		t.Errorf("delivery %v", d)
	}
}

// The same key, target, method and body is the same send, also in a race.
func TestIdempotency(t *testing.T) {
	s, key := startDev(t)
	r := startReceiver(t, 200)
	body := `{"target":"` + r.url + `/a","body":"x","idempotency_key":"k1"}`
	first := s.do("POST", "/v1/send", key, body).want(202)
	second := s.do("POST", "/v1/send", key, body).want(202)
	if second["queue_id"] != first["queue_id"] || second["created_at"] != first["created_at"] || second["duplicate"] != true || second["idempotency_key"] != "k1" {
		t.Errorf("first %v, second %v", first, second)
	}
	alias := s.do("POST", "/v1/send", key, `{"target":"`+r.url+`/a","body":"x"}`, "Idempotency-Key: k1").want(202)
	if alias["queue_id"] != first["queue_id"] || alias["duplicate"] != true {
		t.Errorf("by the header: %v", alias)
	}
	s.do("POST", "/v1/send", key, body, "Idempotency-Key: k2").refused(400, "idempotency_key", "differ")
	for _, other := range []string{
		`{"target":"` + r.url + `/b","body":"x","idempotency_key":"k1"}`,
		`{"target":"` + r.url + `/a","body":"y","idempotency_key":"k1"}`,
		`{"target":"` + r.url + `/a","body":"x","idempotency_key":"k1","method":"PUT"}`,
		`{"target":"` + r.url + `/a","body":"x","idempotency_key":"k3"}`,
	} {
		if fresh := s.do("POST", "/v1/send", key, other).want(202); fresh["duplicate"] != nil || fresh["queue_id"] == first["queue_id"] {
			t.Errorf("%s: %v", other, fresh)
		}
	}
	answers := make([]*answer, 8)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() {
			answers[i] = s.do("POST", "/v1/send", key, `{"target":"`+r.url+`/race","idempotency_key":"k4"}`)
		})
	}
	wg.Wait()
	made := 0
	for _, a := range answers {
		sent := a.want(202)
		if sent["queue_id"] != answers[0].want(202)["queue_id"] {
			t.Errorf("a race made %v and %v", sent, answers[0].body)
		}
		if sent["duplicate"] == nil {
			made++
		}
	}
	if made != 1 {
		t.Errorf("%d of a race say that they are the first", made)
	}
}

// A list pages through everything once, newest first, and filters combine.
func TestList(t *testing.T) {
	s, key := startDev(t)
	good, bad := startReceiver(t, 200), startReceiver(t, 404)
	var ids []string
	for i := range 30 {
		target := good.url + "/a/" + fmt.Sprint(i)
		if i%3 == 0 {
			target = bad.url + "/b/" + fmt.Sprint(i)
		}
		ids = append(ids, s.sendOK(key, fmt.Sprintf(`{"target":%q,"labels":["n%d","all"],"idempotency_key":"k%d"}`, target, i%2, i)))
	}
	for _, id := range ids {
		s.settled(key, id)
	}
	slices.Reverse(ids)
	list := func(query string) (got []string, next any) {
		t.Helper()
		page := s.do("GET", "/v1/deliveries"+query, key, "").want(200)
		fields(t, "page", page, "data", "next_cursor")
		for _, d := range page["data"].([]any) {
			fields(t, "item", d, "queue_id", "target", "method", "status", "last_status", "idempotency_key", "created_at", "updated_at", "attempts")
			if n := d.(map[string]any)["attempts"]; n != 1.0 {
				t.Errorf("attempts %v, want a count of 1", n)
			}
			got = append(got, d.(map[string]any)["queue_id"].(string))
		}
		return got, page["next_cursor"]
	}
	whole := func(query string) (got []string) {
		t.Helper()
		next := any("")
		for next != nil {
			var page []string
			page, next = list(query + "&cursor=" + next.(string))
			got = append(got, page...)
		}
		return got
	}
	same := func(what string, got, want []string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %d %v\nwant %d %v", what, len(got), got, len(want), want)
		}
	}
	pick := func(keep func(i int) bool) (want []string) {
		for at, id := range ids {
			if keep(29 - at) {
				want = append(want, id)
			}
		}
		return want
	}
	page, next := list("")
	same("first page", page, ids[:25])
	if next == nil {
		t.Error("no cursor after 25 of 30")
	}
	same("pages of 7", whole("?limit=7"), ids)
	same("limit 1", whole("?limit=1"), ids)
	page, _ = list("?limit=0")
	same("limit 0 is 1", page, ids[:1])
	page, _ = list("?limit=-99999999999999999999999")
	same("limit below 1 is 1", page, ids[:1])
	page, next = list("?limit=1000")
	same("limit 1000 is 100", page, ids)
	if next != nil {
		t.Errorf("a cursor after the last page: %v", next)
	}
	page, _ = list("?limit=99999999999999999999999")
	same("a limit beyond any integer", page, ids)
	third := func(i int) bool { return i%3 == 0 }
	same("status", whole("?status=rejected&limit=3"), pick(third))
	same("status delivered", whole("?status=delivered"), pick(func(i int) bool { return !third(i) }))
	same("status queued", whole("?status=queued"), nil)
	same("label", whole("?label=n1"), pick(func(i int) bool { return i%2 == 1 }))
	same("label and status", whole("?label=n1&status=rejected&limit=2"), pick(func(i int) bool { return i%2 == 1 && third(i) }))
	same("target", whole("?target="+bad.url+"/b/"), pick(third))
	same("target of one", whole("?target="+good.url+"/a/29"), pick(func(i int) bool { return i == 29 }))
	same("host", whole("?host=127.0.0.1"), ids)
	same("another host", whole("?host=localhost"), nil)
	same("idempotency key", whole("?idempotency_key=k7"), pick(func(i int) bool { return i == 7 }))
	same("since", whole("?since=2026-01-01T00:00:00Z"), ids)
	same("since later", whole("?since="+time.Now().Add(time.Hour).UTC().Format(time.RFC3339)), nil)
	same("until", whole("?until=2020-01-01T00:00:00Z"), nil)
	same("until with an offset", whole("?until=2099-01-01T00:00:00%2B02:00"), ids)
	same("empty parameters", whole("?status=&label=&limit="), ids)

	refuse := func(query string, words ...string) {
		t.Helper()
		s.do("GET", "/v1/deliveries?"+query, key, "").refused(400, words...)
	}
	refuse("limit=ten", "limit", "ten")
	refuse("limit=1.5", "limit")
	refuse("limit=-", "limit")
	refuse("limit=0x10", "limit")
	refuse("status=done", "status", "done", "dead_letter")
	refuse("status=Queued", "status")
	refuse("cursor=x", "cursor")
	refuse("cursor=AAAAAAAAAAAAAAAAAAAAAAAAAAAA", "cursor")
	refuse("since=yesterday", "since", "RFC 3339")
	refuse("until=2026-01-01", "until", "RFC 3339")
	refuse("host=a%20b", "host")
	unknown := s.do("GET", "/v1/deliveries?stauts=queued", key, "").want(200)
	if fmt.Sprint(unknown["warnings"]) != `[unknown query parameter "stauts" ignored]` {
		t.Errorf("warnings %v", unknown["warnings"])
	}
}

// A delayed send waits, and says until when.
func TestDelayedSend(t *testing.T) {
	s, key := startDev(t)
	r := startReceiver(t, 200)
	d := s.do("GET", "/v1/deliveries/"+s.sendOK(key, `{"target":"`+r.url+`","delay_ms":3600000,"expires_at":"2099-01-01T00:00:00Z"}`), key, "").want(200)
	next, err := time.Parse(time.RFC3339, d["next_attempt_at"].(string))
	if err != nil || time.Until(next) < 59*time.Minute || d["status"] != "queued" || d["expires_at"] != "2099-01-01T00:00:00Z" || fmt.Sprint(d["attempts"]) != "[]" {
		t.Errorf("delivery %v", d)
	}
	soon := s.sendOK(key, `{"target":"`+r.url+`/soon","delay_ms":50}`)
	if got := r.next(t); got.path != "/soon" {
		t.Errorf("delivered %s", got.path)
	}
	s.settled(key, soon)
}

// Nothing of a request is kept by reference: of many sends over the same
// connections, and so in the same buffers, each is delivered and read back as
// it was written.
func TestSendsDoNotMix(t *testing.T) {
	s, key := startDev(t)
	r := startReceiver(t, 200)
	const clients, each = 8, 25
	ids := make([][each]string, clients)
	text := func(c, i int) string { return strings.Repeat(fmt.Sprintf("%d-%d;", c, i), 1+(c*i)%40) }
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := range each {
				x := text(c, i)
				a := s.do("POST", "/v1/send", key, fmt.Sprintf(`{"target":"%s/%d-%d","method":"PUT","headers":{"X-%d-%d":%q},"body":"\u003c%s\u003e",`+
					`"idempotency_key":"k%d-%d","metadata":{"m":%q},"labels":["l%d-%d"],"delay_ms":3600000}`, r.url, c, i, c, i, x, x, c, i, x, c, i))
				if a.status == 202 {
					ids[c][i] = a.body[len(`{"queue_id":"`):][:len("hr_")+26]
				}
			}
		})
	}
	wg.Wait()
	for c := range clients {
		for i := range each {
			d := s.do("GET", "/v1/deliveries/"+ids[c][i]+"?include=payload", key, "").want(200)
			x := text(c, i)
			got := fmt.Sprint(d["target"], d["method"], d["headers"], d["body"], d["idempotency_key"], d["metadata"], d["labels"])
			want := fmt.Sprintf("%s/%d-%dPUTmap[X-%d-%d:%s]<%s>k%d-%dmap[m:%s] [l%d-%d]", r.url, c, i, c, i, x, x, c, i, x, c, i)
			if got != want {
				t.Errorf("client %d send %d:\n got %s\nwant %s", c, i, got, want)
			}
		}
	}
}

// Above its rate an account is told when to come back; another is not.
func TestRateLimit(t *testing.T) {
	s := startServer(t, Options{Dev: true}, func(o *engine.Options) { o.RatePerMinute = 3 })
	key, other := s.account(), s.account()
	r := startReceiver(t, 200)
	body := `{"target":"` + r.url + `"}`
	for range 3 {
		s.sendOK(key, body)
	}
	a := s.do("POST", "/v1/send", key, body)
	a.refused(429, "rate limit")
	if after := a.header.Get("Retry-After"); !regexp.MustCompile(`^([1-9]|1\d|20)$`).MatchString(after) {
		t.Errorf("Retry-After %q, want whole seconds up to 20", after)
	}
	s.sendOK(other, body)
	s.do("GET", "/v1/deliveries", key, "").want(200)
}

// An engine that has closed refuses with a 503 that says what to do.
func TestUnavailable(t *testing.T) {
	s, key := startDev(t)
	if err := s.engine.Close(); err != nil {
		t.Fatal(err)
	}
	a := s.do("POST", "/v1/send", key, `{"target":"http://127.0.0.1:9000/"}`)
	a.refused(503)
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}

// Each error of the engine has its answer.
func TestProblems(t *testing.T) {
	s, err := New(nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	f := func(err error, status int, retryAfter time.Duration, words ...string) {
		t.Helper()
		p := s.problemOf(fmt.Errorf("while testing: %w", err))
		if p.status != status || p.retryAfter != retryAfter {
			t.Errorf("%v: %d, retry after %s", err, p.status, p.retryAfter)
		}
		for _, w := range words {
			if !strings.Contains(p.Error(), w) {
				t.Errorf("%v: %q, want %q in it", err, p.Error(), w)
			}
		}
	}
	f(engine.ErrNotFound, 404, 0, "not found")
	f(engine.ErrUnauthorized, 401, 0)
	f(engine.ErrOverloaded, 503, time.Second, "nothing was accepted")
	f(engine.ErrUnknown, 503, time.Second, "same idempotency key")
	f(fmt.Errorf("%w: %w", engine.ErrUnknown, engine.ErrClosed), 503, time.Second, "may or may not")
	f(engine.ErrClosed, 503, time.Second, "shutting down")
	f(fmt.Errorf("%w: at most 7", engine.ErrTooMany), 400, 0, "at most 7")
	f(&engine.RateLimitedError{RetryAfter: 1500 * time.Millisecond}, 429, 1500*time.Millisecond)
	f(&engine.RateLimitedError{RetryAfter: time.Microsecond}, 429, time.Second)
	f(&engine.DomainNotVerifiedError{Host: "a.example"}, 403, 0, "Verify a.example")
	f(&engine.AddressBlockedError{Host: "a.example"}, 400, 0, "a.example")
	f(&engine.DomainPendingError{Detail: "no record"}, 409, 0, "no record")
	p := s.problemOf(fmt.Errorf("disk: /secret/path"))
	if p.status != 500 || strings.Contains(p.Error(), "secret") || p.cause == nil {
		t.Errorf("an unknown error: %+v", p)
	}
}

// Retry-After is in whole seconds and never too early.
func TestRetryAfter(t *testing.T) {
	f := func(d time.Duration, want string) {
		t.Helper()
		var ctx fasthttp.RequestCtx
		writeProblem(&ctx, &problem{status: 503, message: "x", retryAfter: d})
		if got := string(ctx.Response.Header.Peek("Retry-After")); got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
	f(0, "")
	f(time.Nanosecond, "1")
	f(time.Second, "1")
	f(time.Second+1, "2")
	f(1500*time.Millisecond, "2")
	f(time.Minute, "60")
}

func TestAppendText(t *testing.T) {
	f := func(raw, want string) {
		t.Helper()
		if got := string(appendText(nil, "body", []byte(raw))); got != want {
			t.Errorf("%q: %s, want %s", raw, got, want)
		}
	}
	f("", `"body":""`)
	f("a\"b\\c\n\x00é😀\u2028", `"body":"a\"b\\c\n\u0000é😀`+"\u2028"+`"`)
	f("\xff\x00", `"body":"`+base64.StdEncoding.EncodeToString([]byte("\xff\x00"))+`","body_encoding":"base64"`)
}

func TestAppendMillis(t *testing.T) {
	f := func(d time.Duration, want string) {
		t.Helper()
		if got := string(appendMillis(nil, d)); got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
	f(0, "0")
	f(-time.Second, "0")
	f(499*time.Nanosecond, "0")
	f(time.Microsecond, "0.001")
	f(80*time.Microsecond, "0.08")
	f(1250*time.Microsecond, "1.25")
	f(84*time.Millisecond, "84")
	f(12*time.Hour, "43200000")
}

func TestCursor(t *testing.T) {
	id := engine.DeliveryID{1, 2, 3, 255}
	text := string(appendCursor(nil, id))
	if got, ok := parseCursor(text); !ok || got != id {
		t.Errorf("%s: %v, %v", text, got, ok)
	}
	// Every change of one character is noticed.
	for i := range text {
		for _, c := range []byte("A_-z0=") {
			changed := text[:i] + string(c) + text[i+1:]
			if got, ok := parseCursor(changed); changed != text && ok {
				t.Fatalf("%s, which is %s changed at %d, is read as %v", changed, text, i, got)
			}
		}
	}
	for _, bad := range []string{"", "x", text + "A", text[1:], id.String()} {
		if _, ok := parseCursor(bad); ok {
			t.Errorf("%q is a cursor", bad)
		}
	}
}
