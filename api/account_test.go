package api

import (
	"fmt"
	"strings"
	"testing"

	"github.com/harepost/harepost/engine"
)

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
	for _, body := range []string{`{`, `[]`, `null`, `{"name":"a","name":"b"}`, `{} {}`} {
		s.do("POST", "/v1/keys", first, body).refused(400)
	}
	third := s.do("POST", "/v1/keys", first, `{"name":"ci"}`).want(201)
	if fmt.Sprint(third["warnings"]) != `[unknown field "name" ignored]` {
		t.Errorf("warnings %v", third["warnings"])
	}
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
