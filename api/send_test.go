package api

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/harepost/harepost/engine"
)

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
		`"metadata":{"order": 123},"labels":\["orders","eu"\],"max_attempts":5,"next_attempt_at":null,"expires_at":null,"flow_key":null,"body_bytes":29}`)
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
