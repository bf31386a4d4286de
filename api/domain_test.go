package api

import (
	"fmt"
	"strings"
	"testing"

	"github.com/harepost/harepost/engine"
)

func TestDomainName(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		if got, err := domainName(text); err != nil || got != want {
			t.Errorf("%q: got %q, %v; want %q", text, got, err, want)
		}
	}
	refused := func(text, reason string) {
		t.Helper()
		got, err := domainName(text)
		if err == nil {
			t.Errorf("%q: accepted as %q", text, got)
		} else if !strings.Contains(err.Error(), reason) {
			t.Errorf("%q: refused with %q, want %q in it", text, err, reason)
		}
	}
	f("example.com", "example.com")
	f("EXAMPLE.Com", "example.com")
	f("example.com.", "example.com")
	f("hooks.example.com", "hooks.example.com")
	f("a_b.example.com", "a_b.example.com")
	f("bücher.example", "xn--bcher-kva.example")
	f("BÜCHER.example", "xn--bcher-kva.example")
	f("XN--BCHER-KVA.example", "xn--bcher-kva.example")
	f("example.co.uk", "example.co.uk")
	f("me.github.io", "me.github.io")
	f("hooks.test", "hooks.test")

	refused("", "empty")
	refused(".", "empty")
	refused("https://example.com", "scheme")
	refused("https://example.com/", "scheme")
	refused("example.com/", "path")
	refused("example.com?x", "path")
	refused("example.com:443", "port")
	refused("user@example.com", "alone")
	refused("*.example.com", "wildcards")
	refused("*", "wildcards")
	refused("example", "single label")
	refused("localhost", "single label")
	refused("com", "single label")
	refused("com.", "single label")
	refused("co.uk", "public suffix")
	refused("CO.UK.", "public suffix")
	refused("github.io", "public suffix")
	refused("herokuapp.com", "public suffix")
	refused("公司.cn", "public suffix")
	refused("127.0.0.1", "IP address")
	refused("127.0.0.1.", "IP address")
	refused("::1", "IP address")
	refused("[::1]", "IP address")
	refused("１２７.0.0.1", "IP address")
	refused("127.1", "number")
	refused("0x7f.1", "number")
	refused("example..com", "label")
	refused(".example.com", "label")
	refused("-a.example.com", "hyphen")
	refused("exa mple.com", "characters")
	refused("example.com\n", "characters")
	refused("exa\x00mple.com", "characters")
	refused("a\u200db.example", "internationalised")
	refused("\xff.example", "internationalised")
	refused(strings.Repeat("a", 64)+".com", "label")
	refused(strings.Repeat("a.", 126)+"com", "longer")
	refused(strings.Repeat("abcde.", 39)+"com", "challenge record")
	refused(strings.Repeat("x", 1<<20), "longer")
}

// A name that was made canonical stays as it is.
func FuzzDomainName(f *testing.F) {
	for _, seed := range []string{"example.com", "BÜCHER.example.", "xn--bcher-kva.example", "127.0.0.1", "a_b.c", "co.uk"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		name, err := domainName(text)
		if err != nil {
			return
		}
		again, err := domainName(name)
		if err != nil || again != name {
			t.Fatalf("%q became %q, which became %q, %v", text, name, again, err)
		}
		if strings.ToLower(name) != name || strings.HasSuffix(name, ".") || !strings.Contains(name, ".") {
			t.Fatalf("%q became %q", text, name)
		}
	})
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
