package main

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var (
	wholeSecondUTC = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$`)
	queueIDForm    = regexp.MustCompile(`^hr_[a-z0-9]+$`)
	keyForm        = regexp.MustCompile(`^hp_live_[0-9A-Za-z]{32}$`)
	secretForm     = regexp.MustCompile(`^whsec_[0-9A-Za-z+/]{43}=$`)
)

func wantForm(t testing.TB, what string, form *regexp.Regexp, got any) string {
	t.Helper()
	text, _ := got.(string)
	if !form.MatchString(text) {
		t.Errorf("%s is %v, want the form %s", what, got, form)
	}
	return text
}

// The quickstart, from an empty directory to a delivery on record.
func TestQuickstart(t *testing.T) {
	t.Parallel()
	w := startWorld(t)

	// Sign up. The key is shown once; only a hash of it is kept.
	for _, token := range []string{"", "guessed", worldAdminToken + "x"} {
		w.call(t, "POST", "/v1/accounts", token, `{"name":"acme"}`).refused(401)
	}
	made := w.call(t, "POST", "/v1/accounts", worldAdminToken, `{"name":"acme"}`).want(201)
	wantKeys(t, "the account", made, "account_id", "name", "api_key", "signing_secret", "created_at")
	wantForm(t, "api_key", keyForm, made["api_key"])
	wantForm(t, "signing_secret", secretForm, made["signing_secret"])
	wantForm(t, "created_at", wholeSecondUTC, made["created_at"])
	acme := &tenant{w, made["api_key"].(string), made["signing_secret"].(string)}
	if keys := acme.call(t, "GET", "/v1/keys", ""); strings.Contains(string(keys.body), acme.key) {
		t.Errorf("the key is shown again: %s", keys.body)
	}
	if again := acme.call(t, "GET", "/v1/signing-secret", "").want(200); again["signing_secret"] != acme.secret {
		t.Errorf("the signing secret reads %v later, %s at sign-up", again["signing_secret"], acme.secret)
	}

	// Add the domain, and publish what the answer says.
	added := acme.call(t, "POST", "/v1/domains", `{"domain":"your-app.com"}`).want(201)
	wantKeys(t, "the domain", added, "domain", "status", "record", "created_at", "verified_at")
	record := added["record"].(map[string]any)
	wantKeys(t, "the record", record, "type", "name", "value")
	if added["domain"] != "your-app.com" || added["status"] != "pending" || added["verified_at"] != nil ||
		record["type"] != "TXT" || record["name"] != "_harepost-challenge.your-app.com" {
		t.Errorf("added: %v", added)
	}
	value := wantForm(t, "the record's value", regexp.MustCompile(`^harepost-verify=[0-9A-Za-z]{16,}$`), record["value"])

	early := acme.call(t, "POST", "/v1/domains/verify", `{"domain":"your-app.com"}`).refused(409)
	if early["status"] != "pending" || early["domain"] != "your-app.com" {
		t.Errorf("verified too early: %v", early)
	}
	if shown, _ := early["record"].(map[string]any); shown["value"] != value {
		t.Errorf("the record changed: %v, then %v", record, early["record"])
	}
	w.names.txt("_harepost-challenge.your-app.com", "somebody-else's")
	acme.call(t, "POST", "/v1/domains/verify", `{"domain":"your-app.com"}`).refused(409)
	w.names.txt("_harepost-challenge.your-app.com", value)
	for range 2 { // verified now, and verified before
		verified := acme.call(t, "POST", "/v1/domains/verify", `{"domain":"your-app.com"}`).want(200)
		wantKeys(t, "the verified domain", verified, "domain", "status", "verified_at")
		wantForm(t, "verified_at", wholeSecondUTC, verified["verified_at"])
		if verified["status"] != "verified" {
			t.Errorf("verified: %v", verified)
		}
	}

	// Send to a subdomain, which needs no check of its own, and look it up.
	in := w.inbox(t, "eu.hooks.your-app.com", answers(200))
	sent := acme.post(t, in.url+"/webhook?a=b", `"body":{"event":"order.paid"}`)
	wantKeys(t, "the 202", sent, "queue_id", "status", "created_at")
	id := wantForm(t, "queue_id", queueIDForm, sent["queue_id"])
	wantForm(t, "created_at", wholeSecondUTC, sent["created_at"])
	if sent["status"] != "queued" {
		t.Errorf("sent: %v", sent)
	}
	got := in.next(t)
	if got.method != "POST" || got.uri != "/webhook?a=b" || string(got.body) != `{"event":"order.paid"}` ||
		got.host != strings.TrimPrefix(in.url, "https://") {
		t.Errorf("received %s %s for %s: %s", got.method, got.uri, got.host, got.body)
	}
	h := acme.final(t, id)
	if h.Status != "delivered" || h.LastStatus == nil || *h.LastStatus != 200 || h.Target != in.url+"/webhook?a=b" || h.Method != "POST" {
		t.Errorf("on record: %s", h.text)
	}
	if len(h.Attempts) != 1 || h.Attempts[0].Attempt != 1 || h.Attempts[0].Outcome != "delivered" ||
		*h.Attempts[0].HTTPStatus != 200 || h.Attempts[0].Error != nil || h.Attempts[0].LatencyMillis < 0 {
		t.Errorf("attempts on record: %s", h.text)
	}
	in.empty(t)
}

// Every code that the contract lists for a refusal.
func TestEveryRefusalHasItsCode(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	other := w.tenant(t, "other")
	in := w.inbox(t, "api.your-app.com", answers(200))
	id := acme.queue(t, in.url, "")
	in.next(t)
	w.names.address("inside.your-app.com", "10.1.2.3")

	t.Run("400", func(t *testing.T) {
		f := func(body string, words ...string) {
			t.Helper()
			acme.call(t, "POST", "/v1/send", body).refused(400, words...)
		}
		f(``, "empty")
		f(`{"target":`, "malformed")
		f(`[]`, "object")
		f(`{}`, "target")
		f(sendBody("http://api.your-app.com/", ""), "https")
		f(sendBody("https://inside.your-app.com/", ""), "not allowed")
		f(sendBody("https://127.0.0.1/", ""))
		f(sendBody("https://user:secret@api.your-app.com/", ""))
		f(sendBody(in.url, `"method":"TRACE"`), "method", "TRACE", "PATCH")
		f(sendBody(in.url, `"sign":"yes"`), "sign", "string")
		f(sendBody(in.url, `"metadata":[]`), "metadata", "object")
		f(sendBody(in.url, `"delivery":{"backoff":"linear"}`), "delivery.backoff", "linear", "fixed")
		f(sendBody(in.url, `"delivery":{"max_attempts":"3"}`), "delivery.max_attempts", "string")
		f(sendBody(in.url, `"delivery":{"base_delay_ms":1.5}`), "delivery.base_delay_ms", "1.5")
		f(sendBody(in.url, `"headers":{"X-A":"b\r\nX-C: d"}`), "headers.X-A")
		f(sendBody(in.url, `"idempotency_key":"`+strings.Repeat("k", 256)+`"`), "idempotency_key", "255")
		f(sendBody("https://api.your-app.com/"+strings.Repeat("a", 2048), ""), "2048")
		acme.call(t, "POST", "/v1/domains", `{}`).refused(400, "domain")
		acme.call(t, "POST", "/v1/domains", `{"domain":"https://your-app.com"}`).refused(400, "scheme")
		acme.call(t, "POST", "/v1/domains", `{"domain":"co.uk"}`).refused(400, "public suffix")
	})
	t.Run("401", func(t *testing.T) {
		for _, key := range []string{"", "hp_live_00000000000000000000000000000000", acme.key[:len(acme.key)-1], worldAdminToken} {
			for _, route := range []string{"POST /v1/send", "GET /v1/deliveries", "GET /v1/deliveries/" + id,
				"GET /v1/domains", "POST /v1/domains", "POST /v1/domains/verify", "GET /v1/signing-secret"} {
				method, path, _ := strings.Cut(route, " ")
				w.call(t, method, path, key, sendBody(in.url, "")).refused(401)
			}
		}
	})
	t.Run("403", func(t *testing.T) {
		refusal := other.call(t, "POST", "/v1/send", sendBody(in.url, "")).refused(403)
		detail, _ := refusal["detail"].(string)
		if refusal["error"] != "destination domain is not verified" ||
			!strings.HasPrefix(detail, "Verify api.your-app.com before sending to it") {
			t.Errorf("not the contract's words: %v", refusal)
		}
		// Nor is a name covered that only ends in the same letters.
		acme.call(t, "POST", "/v1/send", sendBody("https://notyour-app.com/", "")).refused(403)
	})
	t.Run("404", func(t *testing.T) {
		other.call(t, "GET", "/v1/deliveries/"+id, "").refused(404)
		acme.call(t, "GET", "/v1/deliveries/hr_9f2a81k2", "").refused(404)
		acme.call(t, "GET", "/v1/nothing", "").refused(404)
		acme.call(t, "POST", "/v1/domains/verify", `{"domain":"never-added.com"}`).refused(404)
	})
	t.Run("405", func(t *testing.T) {
		f := func(method, path, allow string) {
			t.Helper()
			r := acme.call(t, method, path, "")
			r.refused(405)
			if got := r.header.Get("Allow"); !strings.Contains(got, allow) || strings.Contains(got, method) {
				t.Errorf("%s %s: Allow is %q", method, path, got)
			}
		}
		f("GET", "/v1/send", "POST")
		f("DELETE", "/v1/deliveries", "GET")
		f("POST", "/v1/deliveries/"+id, "GET")
		f("GET", "/v1/domains/verify", "POST")
		f("PUT", "/v1/domains", "POST")
		f("POST", "/v1/signing-secret", "GET")
	})
	t.Run("409", func(t *testing.T) {
		acme.call(t, "POST", "/v1/domains", `{"domain":"pending.com"}`).want(201)
		if r := acme.call(t, "POST", "/v1/domains/verify", `{"domain":"pending.com"}`).refused(409); r["status"] != "pending" {
			t.Errorf("%v", r)
		}
	})
	t.Run("413", func(t *testing.T) {
		acme.call(t, "POST", "/v1/send", sendBody(in.url, `"body":"`+strings.Repeat("x", 1<<20)+`"`)).refused(413)
	})
	// Nothing of all that was sent.
	if list := acme.call(t, "GET", "/v1/deliveries", "").want(200)["data"].([]any); len(list) != 1 {
		t.Errorf("%d deliveries, only one was accepted: %v", len(list), list)
	}
	in.empty(t)
}

func TestWhatIsIgnoredIsSaid(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	in := w.inbox(t, "your-app.com", answers(200))
	sent := acme.post(t, in.url, `"delivry":{"max_attempts":3},"delivery":{"max_atempts":3},"headers":{"Cookie":"a=b"}`)
	wantKeys(t, "the 202", sent, "queue_id", "status", "created_at", "warnings")
	want := []string{`unknown field "delivry" ignored`, `unknown field "delivery.max_atempts" ignored`, `header "Cookie" is not forwarded`}
	got, _ := sent["warnings"].([]any)
	if len(got) != len(want) {
		t.Fatalf("warnings %q, want %q", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("warning %q, want %q", got[i], want[i])
		}
	}
}

// The limit is an account's own, and is said in seconds.
func TestRateLimitIsPerAccount(t *testing.T) {
	t.Parallel()
	w := startWorld(t, "--rate-limit", "3")
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	other := w.tenant(t, "other").verified(t, "your-app.com")
	in := w.inbox(t, "your-app.com", answers(200))
	for range 3 {
		acme.queue(t, in.url, "")
	}
	over := acme.call(t, "POST", "/v1/send", sendBody(in.url, ""))
	over.refused(http.StatusTooManyRequests)
	if wait, err := strconv.Atoi(over.header.Get("Retry-After")); err != nil || wait < 1 || wait > 20 {
		t.Errorf("Retry-After %q at three a minute", over.header.Get("Retry-After"))
	}
	acme.call(t, "GET", "/v1/deliveries", "").want(200) // reading is not sending
	other.queue(t, in.url, "")
}
