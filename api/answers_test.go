package api

import (
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/harepost/harepost/api/apitest"
)

// These tests read like a client's log: each request goes over TCP to the
// whole server, each delivery to a receiver on loopback.

const timeForm = `2\d{3}-\d\d-\d\dT\d\d:\d\d:\d\dZ`

// An answer is a response with its body read.
type answer struct {
	t      testing.TB
	what   string
	status int
	header http.Header
	body   string
}

// do makes a request. headers are "Name: value".
func (s *testServer) do(method, path, key, body string, headers ...string) *answer {
	s.t.Helper()
	req, err := http.NewRequest(method, "http://"+s.addr+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	documented(s.t, method, path, resp, b)
	return &answer{t: s.t, what: method + " " + path, status: resp.StatusCode, header: resp.Header, body: string(b)}
}

// theDocument is the OpenAPI document, as every answer is held against it.
var theDocument = sync.OnceValues(func() (*apitest.Checker, error) { return apitest.New(OpenAPI()) })

// documented holds an answer against the OpenAPI document.
func documented(t testing.TB, method, path string, resp *http.Response, body []byte) {
	t.Helper()
	c, err := theDocument()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Check(method, path, resp.StatusCode, resp.Header, body); err != nil {
		t.Error(err)
	}
}

// want checks the status and returns the body as an object.
func (a *answer) want(status int) map[string]any {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("%s: %d %s, want %d", a.what, a.status, a.body, status)
	}
	if status == http.StatusNoContent {
		return nil
	}
	if got := a.header.Get("Content-Type"); got != "application/json" {
		a.t.Errorf("%s: Content-Type %q", a.what, got)
	}
	var object map[string]any
	if err := json.Unmarshal([]byte(a.body), &object); err != nil {
		a.t.Fatalf("%s: %v in %s", a.what, err, a.body)
	}
	return object
}

// refused checks an error answer: its status, its shape, and words in it.
func (a *answer) refused(status int, words ...string) map[string]any {
	a.t.Helper()
	object := a.want(status)
	if text, ok := object["error"].(string); !ok || text == "" {
		a.t.Errorf("%s: no error in %s", a.what, a.body)
	}
	if a.header.Get("X-Request-Id") == "" {
		a.t.Errorf("%s: no X-Request-Id", a.what)
	}
	for _, w := range words {
		if !strings.Contains(a.body, w) {
			a.t.Errorf("%s: %s, want %q in it", a.what, a.body, w)
		}
	}
	return object
}

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

// startDev starts a server with --dev and an account, whose key it returns.
func startDev(t *testing.T) (*testServer, string) {
	s := startServer(t, Options{Dev: true}, nil)
	return s, s.account()
}

// sendOK sends and returns the queue_id.
func (s *testServer) sendOK(key, body string) string {
	s.t.Helper()
	return s.do("POST", "/v1/send", key, body).want(202)["queue_id"].(string)
}
