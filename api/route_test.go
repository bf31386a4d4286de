package api

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/harepost/harepost/engine"
)

// A path or method that is not there is said so in JSON, and a 405 says what
// there is.
func TestRoutes(t *testing.T) {
	s := startServer(t, Options{}, nil)
	key := s.account()
	notFound := func(path string) {
		t.Helper()
		for _, method := range []string{"GET", "POST", "DELETE", "OPTIONS"} {
			s.do(method, path, key, "").refused(404, "not found")
		}
	}
	notFound("/")
	notFound("/v1")
	notFound("/v1/")
	notFound("/v2/send")
	notFound("/v1/send/")
	notFound("/v1//send")
	notFound("/V1/send")
	notFound("/v1/%73end")
	notFound("/v1/x/../send")
	notFound("/v1/./send")
	notFound("/v1/deliveries/a/b")
	notFound("/v1/deliveries//replay")
	notFound("/v1/deliveries/a//replay")
	notFound("/v1/deliveries/a/replay/")
	notFound("/v1/deliveries/a/b/replay")
	notFound("/v1/deliveries/a/%72eplay")
	notFound("/v1/accounts/")
	notFound("/v1/domains/")
	notFound("/healthz/x")

	if got := s.raw("GET /v1/domains/%zz HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + key + "\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 404 ") {
		t.Errorf("a path that cannot be decoded: %s", got)
	}

	allow := func(path string, methods ...string) {
		t.Helper()
		want := strings.Join(methods, ", ")
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "QUERY"} {
			if strings.Contains(want, method) {
				continue
			}
			a := s.do(method, path, key, "")
			a.refused(405, want)
			if got := a.header.Get("Allow"); got != want {
				t.Errorf("%s %s: Allow %q, want %q", method, path, got, want)
			}
		}
		a := s.do("OPTIONS", path, "", "")
		a.want(204)
		if got := a.header.Get("Allow"); got != want {
			t.Errorf("OPTIONS %s: Allow %q, want %q", path, got, want)
		}
	}
	allow("/v1/send", "POST", "OPTIONS")
	allow("/v1/accounts", "GET", "HEAD", "POST", "OPTIONS")
	allow("/v1/accounts/acc_x", "GET", "HEAD", "PATCH", "DELETE", "OPTIONS")
	allow("/v1/signing-secret/rotate", "POST", "OPTIONS")
	allow("/v1/deliveries", "GET", "HEAD", "OPTIONS")
	allow("/v1/deliveries/hr_x", "GET", "HEAD", "OPTIONS")
	allow("/v1/deliveries/cancel", "POST", "OPTIONS")
	allow("/v1/deliveries/hr_x/cancel", "POST", "OPTIONS")
	allow("/v1/deliveries/hr%2Fx/replay", "POST", "OPTIONS")
	allow("/v1/dead-letters", "GET", "HEAD", "DELETE", "OPTIONS")
	allow("/v1/dead-letters/replay", "POST", "OPTIONS")
	allow("/v1/replays", "GET", "HEAD", "OPTIONS")
	allow("/v1/replays/job_x", "GET", "HEAD", "OPTIONS")
	allow("/v1/replays/job_x/cancel", "POST", "OPTIONS")
	allow("/v1/jobs", "GET", "HEAD", "OPTIONS")
	allow("/v1/jobs/job_x", "GET", "HEAD", "OPTIONS")
	allow("/v1/jobs/job_x/cancel", "POST", "OPTIONS")
	allow("/v1/domains", "GET", "HEAD", "POST", "OPTIONS")
	allow("/v1/domains/verify", "POST", "OPTIONS")
	allow("/v1/domains/example.com", "GET", "HEAD", "DELETE", "OPTIONS")
	allow("/v1/keys", "GET", "HEAD", "POST", "OPTIONS")
	allow("/v1/keys/key_x", "DELETE", "OPTIONS")
	allow("/v1/signing-secret", "GET", "HEAD", "OPTIONS")
	allow("/healthz", "GET", "HEAD", "OPTIONS")
	allow("/readyz", "GET", "HEAD", "OPTIONS")
	allow("/metrics", "GET", "HEAD", "OPTIONS")
	allow("/v1/openapi.json", "GET", "HEAD", "OPTIONS")

	head := s.do("HEAD", "/v1/domains", key, "")
	get := s.do("GET", "/v1/domains", key, "")
	if head.status != 200 || head.body != "" || head.header.Get("Content-Length") != get.header.Get("Content-Length") {
		t.Errorf("HEAD: %d %q %v", head.status, head.body, head.header)
	}
}

// Without a key that is exactly right there is no way in.
func TestAuthorization(t *testing.T) {
	s := startServer(t, Options{}, nil)
	key := s.account()
	s.do("GET", "/v1/domains", key, "").want(200)
	s.do("GET", "/v1/domains", "", "", "Authorization: bearer "+key).want(200)
	for _, header := range []string{
		"Authorization: ", "Authorization: " + key, "Authorization: Basic " + key, "Authorization: Bearer", "Authorization: Bearer ",
		"Authorization: Bearer" + key, "Authorization: Bearer x" + key, "Authorization: Bearer " + key + "x",
		"Authorization: Bearer " + key[:len(key)-1], "Authorization: Bearer " + strings.ToUpper(key),
		"Authorization: Bearer " + key + " " + key, "Authorization: Bearer " + adminToken, "X-Api-Key: " + key,
	} {
		for _, route := range []string{
			"POST /v1/send", "GET /v1/deliveries", "GET /v1/deliveries/hr_x", "GET /v1/domains", "POST /v1/domains", "POST /v1/domains/verify",
			"GET /v1/domains/x", "DELETE /v1/domains/x", "GET /v1/keys", "POST /v1/keys", "DELETE /v1/keys/x", "GET /v1/signing-secret",
		} {
			method, path, _ := strings.Cut(route, " ")
			a := s.do(method, path, "", "{", header)
			a.refused(401)
			if got := a.header.Get("Www-Authenticate"); !strings.HasPrefix(got, "Bearer") {
				t.Errorf("%s: WWW-Authenticate %q", route, got)
			}
		}
	}
	s.do("POST", "/v1/accounts", "", `{"name":"x"}`).refused(401, "admin token")
	s.do("POST", "/v1/accounts", adminToken+"x", `{"name":"x"}`).refused(401, "admin token")
	s.do("POST", "/v1/accounts", adminToken[:5], `{"name":"x"}`).refused(401, "admin token")
	s.do("POST", "/v1/accounts", key, `{"name":"x"}`).refused(401, "admin token")
	if logged := s.log.String(); strings.Contains(logged, key) || strings.Contains(logged, adminToken) {
		t.Errorf("a key is in the log: %s", logged)
	}
}

func TestSignup(t *testing.T) {
	open := startServer(t, Options{OpenSignup: true}, nil)
	open.do("POST", "/v1/accounts", "", `{"name":"anyone"}`).want(201)

	open.do("POST", "/v1/accounts", "", `{"name":"my own page"}`, "Origin: http://localhost:3000").want(201)
	open.do("POST", "/v1/accounts", "", `{"name":"my own page"}`, "Origin: http://[::1]:3000").want(201)
	for _, origin := range []string{"http://evil.example", "http://evil.example:8080", "null", "http://localhost.evil.example", "http://10.0.0.1", "http://[::1"} {
		open.do("POST", "/v1/accounts", "", `{"name":"a page"}`, "Origin: "+origin).refused(403, "web page")
	}

	closed := startServer(t, Options{}, nil)
	closed.o.AdminToken = "" // as after New without one
	closed.do("POST", "/v1/accounts", "", `{"name":"x"}`).refused(403, "closed")
	closed.do("POST", "/v1/accounts", adminToken, `{"name":"x"}`).refused(403, "closed")
}

func TestRequestID(t *testing.T) {
	s := startServer(t, Options{}, nil)
	echoed := func(id string) {
		t.Helper()
		if got := s.do("GET", "/healthz", "", "", "X-Request-Id: "+id).header.Get("X-Request-Id"); got != id {
			t.Errorf("X-Request-Id %q came back as %q", id, got)
		}
	}
	replaced := func(id string) {
		t.Helper()
		got := s.do("GET", "/healthz", "", "", "X-Request-Id: "+id).header.Get("X-Request-Id")
		if len(got) != 16 || got == id {
			t.Errorf("X-Request-Id %q came back as %q", id, got)
		}
	}
	echoed("a")
	echoed("01J-x_y.z:/+=")
	echoed(strings.Repeat("x", 128))
	replaced("")
	replaced("a b")
	replaced(`{"x":1}`)
	replaced("é")
	replaced(strings.Repeat("x", 129))
}

// A panic costs its own request and no other.
func TestPanic(t *testing.T) {
	s := startServer(t, Options{Metrics: func(io.Writer) { panic("the secret of the page") }}, nil)
	a := s.do("GET", "/metrics", "", "", "X-Request-Id: find-me")
	a.refused(500, "internal error")
	if strings.Contains(a.body, "secret") {
		t.Errorf("the panic is in the answer: %s", a.body)
	}
	s.do("GET", "/healthz", "", "").want(200)
	for _, want := range []string{"find-me", "the secret of the page", "api.TestPanic", `"level":"ERROR"`} {
		if !strings.Contains(s.log.String(), want) {
			t.Errorf("%q is not in the log: %s", want, s.log.String())
		}
	}
}

// /metrics has the API's own numbers and what the owner adds.
func TestMetricsPage(t *testing.T) {
	s := startServer(t, Options{Metrics: func(w io.Writer) { io.WriteString(w, "engine_says 1\n") }}, nil)
	key := s.account()
	s.do("POST", "/v1/send", key, "{").refused(400)
	s.do("POST", "/v1/send", key, "{").refused(400)
	s.do("POST", "/v1/send", "", "{}").refused(401)
	s.do("GET", "/nowhere", "", "").refused(404)
	s.raw("nonsense\r\n\r\n")
	a := s.do("GET", "/metrics", "", "")
	if !strings.HasPrefix(a.header.Get("Content-Type"), "text/plain") {
		t.Errorf("Content-Type %q", a.header.Get("Content-Type"))
	}
	for _, line := range []string{
		`harepost_api_requests_total{route="/v1/send",code="400"} 2`,
		`harepost_api_requests_total{route="/v1/send",code="401"} 1`,
		`harepost_api_requests_total{route="/v1/accounts",code="201"} 1`,
		`harepost_api_requests_total{route="other",code="404"} 1`,
		`harepost_api_requests_total{route="other",code="400"} 1`,
		`harepost_api_request_duration_seconds_bucket{route="/v1/send",le="+Inf"} 3`,
		`harepost_api_request_duration_seconds_count{route="/v1/send"} 3`,
		`harepost_api_connections_refused_total 0`,
		`engine_says 1`,
	} {
		if !strings.Contains(a.body, line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
	// The page has as many series after a thousand new paths as before.
	for i := range 50 {
		s.do("GET", fmt.Sprintf("/nowhere/%d", i), "", "").refused(404)
	}
	if before, after := strings.Count(a.body, "\n"), strings.Count(s.do("GET", "/metrics", "", "").body, "\n"); after != before {
		t.Errorf("%d lines before, %d after", before, after)
	}
}

// A server that takes no sends can be asked for everything else: a balancer must
// not take it away.
func TestReadyWithoutRoom(t *testing.T) {
	s := startServer(t, Options{Dev: true}, func(o *engine.Options) { o.MaxDataBytes = 1 }) // below what its log takes
	key := s.account()
	eventually(t, "the limit is noticed", func() bool {
		return s.do("POST", "/v1/send", key, `{"target":"http://localhost:9999/"}`).status == 507
	})
	s.do("GET", "/readyz", "", "").shaped(`{"status":"ready","accepting_sends":false,"detail":"[^"]+"}`)
	s.do("GET", "/readyz", "", "").want(200)
	if page := s.do("GET", "/metrics", "", "").body; !strings.Contains(page, "harepost_accepting_sends 0\n") {
		t.Error("the metrics do not say so")
	}
	s.do("GET", "/v1/deliveries", key, "").want(200)
	s.do("DELETE", "/v1/dead-letters?all=true", key, "").want(202)
}

// Readiness follows the engine and the server; liveness does not.
func TestHealth(t *testing.T) {
	s := startServer(t, Options{}, nil)
	s.do("GET", "/healthz", "", "").want(200)
	s.do("GET", "/readyz", "", "").shaped(`{"status":"ready","accepting_sends":true}`)
	if page := s.do("GET", "/metrics", "", "").body; !strings.Contains(page, "harepost_accepting_sends 1\n") {
		t.Error("the metrics do not say so")
	}
	s.Drain()
	a := s.do("GET", "/readyz", "", "")
	a.refused(503, "shutting down")
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	s.do("GET", "/healthz", "", "").want(200)
	s.draining.Store(false)
	if err := s.engine.Close(); err != nil {
		t.Fatal(err)
	}
	s.do("GET", "/readyz", "", "").refused(503, "closed")
	s.do("GET", "/healthz", "", "").want(200)
}
