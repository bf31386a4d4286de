package main

import (
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// The challenge is found however the zone has it: in pieces, among others, or
// behind an alias. What is not it is not taken for it.
func TestChallengeIsFoundAsZonesHaveIt(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme")
	f := func(domain string, status int, words string, publish func(name, value string)) {
		t.Helper()
		body := `{"domain":"` + domain + `"}`
		record := acme.call(t, "POST", "/v1/domains", body).want(201)["record"].(map[string]any)
		publish(record["name"].(string), record["value"].(string))
		r := acme.call(t, "POST", "/v1/domains/verify", body)
		r.want(status)
		if !strings.Contains(string(r.body), words) {
			t.Errorf("%s: %s; want %q in it", domain, r.body, words)
		}
	}
	f("pieces.com", 200, "verified", func(name, value string) {
		w.names.set(name, "TXT", `"`+value[:20]+`" "`+value[20:]+`"`)
	})
	f("among-others.com", 200, "verified", func(name, value string) {
		w.names.txt(name, "v=spf1 -all")
		w.names.add(name, "TXT", `"`+value+`"`)
		w.names.add(name, "TXT", `"something else"`)
	})
	f("alias.com", 200, "verified", func(name, value string) {
		w.names.set(name, "CNAME", "challenges.elsewhere.net.")
		w.names.txt("challenges.elsewhere.net", value)
	})
	f("upper.com", 409, "pending", func(name, value string) { w.names.txt(name, strings.ToUpper(value)) })
	f("longer.com", 409, "pending", func(name, value string) { w.names.txt(name, value+"x") })
	f("wrong-place.com", 409, "pending", func(_, value string) { w.names.txt("wrong-place.com", value) })
	f("servfail.com", 409, "failed", func(name, _ string) { w.names.fail(name, dns.RcodeServerFailure) })
}

// A domain covers what is below it and nothing beside it; added again it keeps
// its token; deleted, it takes with it what is still to be sent.
func TestLifeOfADomain(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	first := acme.call(t, "GET", "/v1/domains/your-app.com", "").want(200)
	again := acme.call(t, "POST", "/v1/domains", `{"domain":"Your-App.COM."}`).want(200)
	if again["domain"] != "your-app.com" || again["record"].(map[string]any)["value"] != first["record"].(map[string]any)["value"] {
		t.Errorf("added again: %v, first: %v", again, first)
	}
	listed := acme.call(t, "GET", "/v1/domains", "").want(200)["data"].([]any)
	if len(listed) != 1 {
		t.Fatalf("listed: %v", listed)
	}
	wantKeys(t, "a listed domain", listed[0].(map[string]any), "domain", "status", "created_at", "verified_at")

	deep := w.inbox(t, "a.b.c.your-app.com", answers(200))
	acme.queue(t, deep.url, "")
	deep.next(t)

	pending := acme.queue(t, deep.url, `"delay_ms":700`)
	if r := acme.call(t, "DELETE", "/v1/domains/your-app.com", ""); r.status != 204 {
		t.Fatalf("delete: %d %s", r.status, r.body)
	}
	acme.call(t, "POST", "/v1/send", sendBody(deep.url, "")).refused(403)
	h := acme.final(t, pending)
	if got, want := ofHistory(h), "rejected: rejected - canceled"; got != want {
		t.Errorf("%s\nwant %s\n%s", got, want, h.text)
	}
	deep.empty(t)
	acme.call(t, "GET", "/v1/domains/your-app.com", "").refused(404)
	fresh := acme.call(t, "POST", "/v1/domains", `{"domain":"your-app.com"}`).want(201)
	if fresh["record"].(map[string]any)["value"] == first["record"].(map[string]any)["value"] {
		t.Error("a domain that was deleted comes back with its old token")
	}
}

// A key that was revoked is nobody's, at once and after a crash.
func TestRevokedKeysAreDead(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	made := acme.call(t, "POST", "/v1/keys", "{}").want(201)
	second := made["api_key"].(string)
	w.call(t, "GET", "/v1/domains", second, "").want(200)
	if r := acme.call(t, "DELETE", "/v1/keys/"+made["id"].(string), ""); r.status != 204 {
		t.Fatalf("delete: %d %s", r.status, r.body)
	}
	w.call(t, "GET", "/v1/domains", second, "").refused(401)
	w.server.kill9()
	w.start()
	w.call(t, "GET", "/v1/domains", second, "").refused(401)
	acme.call(t, "GET", "/v1/domains", "").want(200)
}
