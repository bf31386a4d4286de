package apitest_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/harepost/harepost/api"
	"github.com/harepost/harepost/api/apitest"
)

// An answer that differs from the document in one thing is found out.
func TestCheck(t *testing.T) {
	c, err := apitest.New(api.OpenAPI())
	if err != nil {
		t.Fatal(err)
	}
	check := func(method, target string, status int, body string, headers ...string) error {
		header := http.Header{"X-Request-Id": {"a-1"}}
		if body != "" || method == "HEAD" {
			header.Set("Content-Type", "application/json")
		}
		for _, h := range headers {
			name, value, _ := strings.Cut(h, ": ")
			if header.Set(name, value); value == "" {
				header.Del(name)
			}
		}
		return c.Check(method, target, status, header, []byte(body))
	}
	fits := func(method, target string, status int, body string, headers ...string) {
		t.Helper()
		if err := check(method, target, status, body, headers...); err != nil {
			t.Error(err)
		}
	}
	differs := func(want, method, target string, status int, body string, headers ...string) {
		t.Helper()
		if err := check(method, target, status, body, headers...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s %s: %d %s %q: %v, want %q", method, target, status, body, headers, err, want)
		}
	}
	const (
		ok        = `{"status":"ok"}`
		refused   = `{"error":"not found"}`
		malformed = `{"error":"malformed HTTP request"}`
		noID      = "X-Request-Id: "
		tag       = `ETag: "0123456789abcdef"`
		cached    = "Cache-Control: public, max-age=300"
	)
	fits("GET", "/healthz?a=b", 200, ok)
	differs("enum", "GET", "/healthz", 200, `{"status":"well"}`)
	differs("additional", "GET", "/healthz", 200, `{"status":"ok","more":1}`)
	differs("X-Request-Id", "GET", "/healthz", 200, ok, noID)
	differs("X-Request-Id", "GET", "/healthz", 200, ok, "X-Request-Id: a b")
	differs("X-Powered-By", "GET", "/healthz", 200, ok, "X-Powered-By: us")
	differs("text/html", "GET", "/healthz", 200, ok, "Content-Type: text/html")
	differs("status", "GET", "/healthz", 201, ok)

	fits("HEAD", "/healthz", 200, "")
	differs("body", "HEAD", "/healthz", 200, ok)
	differs("X-Request-Id", "HEAD", "/healthz", 200, "", noID)
	differs("Content-Type", "HEAD", "/healthz", 200, "", "Content-Type: ")
	fits("DELETE", "/v1/keys/x", 204, "")
	differs("body", "DELETE", "/v1/keys/x", 204, ok)
	differs("X-Request-Id", "DELETE", "/v1/keys/x", 204, "", noID)
	fits("GET", "/v1/openapi.json", 304, "", tag, cached)
	differs("ETag", "GET", "/v1/openapi.json", 304, "", cached)
	differs("ETag", "GET", "/v1/openapi.json", 304, "", cached, "ETag: weak")
	fits("GET", "/v1/jobs/x", 503, refused, "Retry-After: 1")
	differs("Retry-After", "GET", "/v1/jobs/x", 503, refused)
	differs("Retry-After", "GET", "/v1/jobs/x", 503, refused, "Retry-After: soon")

	fits("GET", "/nowhere", 404, refused)
	fits("GET", "/nowhere", 400, malformed)
	fits("GET", "/nowhere", 503, refused, "Retry-After: 1")
	differs("X-Request-Id", "GET", "/nowhere", 404, refused, noID)
	differs("error", "GET", "/nowhere", 404, `{"eror":"not found"}`)
	differs("malformed", "GET", "/nowhere", 400, refused)
	differs("Retry-After", "GET", "/nowhere", 503, refused)
	for _, status := range []int{200, 204, 401, 403, 405, 409, 414, 415, 429, 500, 501, 505, 507} {
		differs("status", "GET", "/nowhere", status, refused)
	}
	fits("PUT", "/healthz", 405, refused, "Allow: GET, HEAD, OPTIONS")
	differs("Allow", "PUT", "/healthz", 405, refused)
	differs("Allow", "PUT", "/healthz", 405, refused, "Allow: anything")
	differs("status", "PUT", "/healthz", 404, refused)
	fits("PUT", "/v1/send", 401, refused, `WWW-Authenticate: Bearer realm="harepost"`)
	differs("WWW-Authenticate", "PUT", "/v1/send", 401, refused)
	fits("OPTIONS", "/healthz", 204, "", "Allow: GET, HEAD, OPTIONS")
	differs("Allow", "OPTIONS", "/healthz", 204, "")
	differs("status", "OPTIONS", "/healthz", 405, refused, "Allow: GET, HEAD, OPTIONS")
}
