package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/harepost/harepost/engine"
)

// What an operator can do with accounts, and that only the admin token does it.
func TestAdminAccounts(t *testing.T) {
	s := startServer(t, Options{}, nil)
	var ids []string
	keys := map[string]string{}
	for i := range 5 {
		made := s.do("POST", "/v1/accounts", adminToken, fmt.Sprintf(`{"name":"n%d"}`, i)).want(201)
		id := made["account_id"].(string)
		ids, keys[id] = append(ids, id), made["api_key"].(string)
	}
	slices.Sort(ids)
	page := func(query string) (got []string, next any) {
		t.Helper()
		p := s.do("GET", "/v1/accounts"+query, adminToken, "").want(200)
		for _, a := range p["data"].([]any) {
			fields(t, "account", a, "account_id", "name", "rate_limit_per_minute", "suspended", "created_at")
			got = append(got, a.(map[string]any)["account_id"].(string))
		}
		return got, p["next_cursor"]
	}
	all, next := page("")
	if !slices.Equal(all, ids) || next != nil {
		t.Errorf("all accounts: %v, then %v; want %v", all, next, ids)
	}
	var walked []string
	for query, next := "?limit=2", any(""); next != nil; query = "?limit=2&cursor=" + fmt.Sprint(next) {
		var some []string
		some, next = page(query)
		walked = append(walked, some...)
		if len(some) == 0 || len(some) > 2 || len(walked) > 5 {
			t.Fatalf("a page of %d after %d", len(some), len(walked))
		}
	}
	if !slices.Equal(walked, ids) {
		t.Errorf("by pages: %v; want %v", walked, ids)
	}
	s.do("GET", "/v1/accounts?cursor=acc_x", adminToken, "").refused(400, "cursor")
	s.do("GET", "/v1/accounts?limit=x", adminToken, "").refused(400, "limit")
	if w := s.do("GET", "/v1/accounts?limti=1", adminToken, "").want(200)["warnings"]; w == nil {
		t.Error("no warning of an unknown parameter")
	}

	id := ids[2]
	path := "/v1/accounts/" + id
	s.do("GET", path, adminToken, "").shaped(`{"account_id":"` + id + `","name":"n\d","rate_limit_per_minute":null,"suspended":false,"created_at":"TIME"}`)
	change := func(body, want string) {
		t.Helper()
		s.do("PATCH", path, adminToken, body).shaped(`{"account_id":"` + id + `",` + want + `}`)
		if !strings.Contains(body, "plan") {
			s.do("GET", path, adminToken, "").shaped(`{"account_id":"` + id + `",` + want + `}`)
		}
	}
	change(`{"name":"renamed"}`, `"name":"renamed","rate_limit_per_minute":null,"suspended":false,"created_at":"TIME"`)
	change(`{"rate_limit_per_minute":7}`, `"name":"renamed","rate_limit_per_minute":7,"suspended":false,"created_at":"TIME"`)
	change(`{"suspended":true,"name":null,"plan":1}`, `"name":"renamed","rate_limit_per_minute":7,"suspended":true,"created_at":"TIME","warnings":\["unknown field \\"plan\\" ignored"\]`)
	change(`{"rate_limit_per_minute":0}`, `"name":"renamed","rate_limit_per_minute":0,"suspended":true,"created_at":"TIME"`)
	change(`{"rate_limit_per_minute":null,"suspended":false}`, `"name":"renamed","rate_limit_per_minute":null,"suspended":false,"created_at":"TIME"`)
	change(`{}`, `"name":"renamed","rate_limit_per_minute":null,"suspended":false,"created_at":"TIME"`)
	refuse := func(body string, words ...string) {
		t.Helper()
		s.do("PATCH", path, adminToken, body).refused(400, words...)
	}
	refuse(``, "empty")
	refuse(`[]`, "an array")
	refuse(`{"name":""}`, "name")
	refuse(`{"name":4}`, "name", "a number")
	refuse(`{"suspended":"yes"}`, "suspended", "a string")
	refuse(`{"rate_limit_per_minute":-1}`, "rate_limit_per_minute", "-1")
	refuse(`{"rate_limit_per_minute":1.5}`, "rate_limit_per_minute", "1.5")
	refuse(`{"rate_limit_per_minute":99999999999999}`, "rate_limit_per_minute")
	refuse(`{"suspended":true,"suspended":false}`, "duplicate")

	if a := s.do("DELETE", path, adminToken, ""); a.status != 204 || a.body != "" {
		t.Errorf("delete: %d %s", a.status, a.body)
	}
	s.do("GET", "/v1/deliveries", keys[id], "").refused(401)
	s.do("GET", path, adminToken, "").refused(404)
	s.do("DELETE", path, adminToken, "").refused(404)
	s.do("PATCH", path, adminToken, `{}`).refused(404)
	s.do("GET", "/v1/deliveries", keys[ids[0]], "").want(200)

	for _, token := range []string{"", keys[ids[0]], adminToken + "x"} {
		for _, route := range []string{"GET /v1/accounts", "GET " + path, "PATCH " + path, "DELETE " + path} {
			method, path, _ := strings.Cut(route, " ")
			s.do(method, path, token, "{}").refused(401, "admin token")
		}
	}
}

// Open sign-up opens POST /v1/accounts and nothing else.
func TestOpenSignupOpensNothingElse(t *testing.T) {
	s := startServer(t, Options{OpenSignup: true}, nil)
	id := s.do("POST", "/v1/accounts", "", `{"name":"anyone"}`).want(201)["account_id"].(string)
	routes := []string{"GET /v1/accounts", "HEAD /v1/accounts", "GET /v1/accounts/" + id, "PATCH /v1/accounts/" + id, "DELETE /v1/accounts/" + id}
	for _, route := range routes {
		method, path, _ := strings.Cut(route, " ")
		if a := s.do(method, path, "", `{"suspended":true}`); a.status != 401 {
			t.Errorf("%s: %d", route, a.status)
		}
	}
	s.o.AdminToken = "" // as after New without one
	for _, route := range routes {
		method, path, _ := strings.Cut(route, " ")
		if a := s.do(method, path, "", `{"suspended":true}`); a.status != 403 {
			t.Errorf("%s: %d", route, a.status)
		}
	}
}

// A suspended account may look and manage, but not send.
func TestSuspended(t *testing.T) {
	s, _ := startDev(t)
	to := startReceiver(t, 200)
	made := s.do("POST", "/v1/accounts", adminToken, `{"name":"x"}`).want(201)
	key, path := made["api_key"].(string), "/v1/accounts/"+made["account_id"].(string)
	s.do("PATCH", path, adminToken, `{"suspended":true}`).want(200)
	s.do("POST", "/v1/send", key, `{"target":"`+to.url+`"}`).refused(403, "account is suspended")
	s.do("GET", "/v1/deliveries", key, "").want(200)
	s.do("PATCH", path, adminToken, `{"suspended":false}`).want(200)
	s.sendOK(key, `{"target":"`+to.url+`"}`)
	to.next(t)
}

// The account's own limit holds from the next send on, and Retry-After is the
// whole seconds until a token is there.
func TestAccountRateLimit(t *testing.T) {
	s, _ := startDev(t)
	to := startReceiver(t, 200)
	made := s.do("POST", "/v1/accounts", adminToken, `{"name":"x"}`).want(201)
	key, path := made["api_key"].(string), "/v1/accounts/"+made["account_id"].(string)
	s.do("PATCH", path, adminToken, `{"rate_limit_per_minute":1}`).want(200)
	s.sendOK(key, `{"target":"`+to.url+`"}`)
	a := s.do("POST", "/v1/send", key, `{"target":"`+to.url+`"}`)
	a.refused(429, "rate limit")
	if after := a.header.Get("Retry-After"); after != "60" && after != "59" && after != "58" {
		t.Errorf("Retry-After %q, want the rest of a minute", after)
	}
	s.do("GET", "/v1/deliveries", key, "").want(200) // only sends count
	s.do("PATCH", path, adminToken, `{"rate_limit_per_minute":null}`).want(200)
	s.sendOK(key, `{"target":"`+to.url+`"}`)
	to.next(t)
	to.next(t)
}

// A rotation gives a new secret, and says when the old one ends.
func TestRotateSigningSecret(t *testing.T) {
	s := startServer(t, Options{}, nil)
	key := s.account()
	first := s.do("GET", "/v1/signing-secret", key, "").want(200)["signing_secret"]
	rotate := func(body string, overlap time.Duration) any {
		t.Helper()
		before := time.Now()
		a := s.do("POST", "/v1/signing-secret/rotate", key, body)
		made := a.want(200)
		if a.header.Get("Cache-Control") != "no-store" {
			t.Error("a cache may keep the secret")
		}
		ends, err := time.Parse(time.RFC3339, made["previous_expire_at"].(string))
		if err != nil || ends.Before(before.Add(overlap-time.Second)) || ends.After(time.Now().Add(overlap)) {
			t.Errorf("%s: the earlier secrets end at %v", body, made["previous_expire_at"])
		}
		if shown := s.do("GET", "/v1/signing-secret", key, "").want(200)["signing_secret"]; shown != made["signing_secret"] {
			t.Errorf("%s: another secret is shown", body)
		}
		return made["signing_secret"]
	}
	second := rotate("", 24*time.Hour)
	third := rotate(`{"overlap_seconds":null}`, 24*time.Hour)
	fourth := rotate(`{"overlap_seconds":2592000}`, 30*24*time.Hour)
	if first == second || second == third || third == fourth {
		t.Error("a secret came twice")
	}
	s.do("POST", "/v1/signing-secret/rotate", key, "").refused(400, "too many", "4")
	rotate(`{"overlap_seconds":0}`, 0)
	refuse := func(body string, words ...string) {
		t.Helper()
		s.do("POST", "/v1/signing-secret/rotate", key, body).refused(400, words...)
	}
	refuse(`{"overlap_seconds":2592001}`, "overlap_seconds", "2592000")
	refuse(`{"overlap_seconds":-1}`, "overlap_seconds", "-1")
	refuse(`{"overlap_seconds":"1"}`, "overlap_seconds", "a string")
	refuse(`{"overlap_seconds":0.5}`, "overlap_seconds")
	refuse(`[]`)
	if w := s.do("POST", "/v1/signing-secret/rotate", key, `{"overlap":1}`).want(200)["warnings"]; w == nil {
		t.Error("no warning of an unknown field")
	}
}

// refusedAdmin makes the errors of the admin routes.
func (r *tour) refusedAdmin(s, closed *testServer) {
	made := s.do("POST", "/v1/accounts", adminToken, `{"name":"x"}`).want(http.StatusCreated)
	for _, operation := range []string{"GET /v1/accounts", "GET /v1/accounts/{id}", "PATCH /v1/accounts/{id}", "DELETE /v1/accounts/{id}"} {
		method, path, _ := strings.Cut(operation, " ")
		r.ask(closed, 403, method, path, made["account_id"].(string), adminToken, "{}")
		if path != "/v1/accounts" {
			r.ask(s, 404, method, path, engine.AccountID(7).String(), adminToken, "{}")
		}
	}
}
