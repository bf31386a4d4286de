package api

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/harepost/harepost/engine"
)

// destinations asks for a list and returns it by name.
func (s *testServer) destinations(key, path string) map[string]map[string]any {
	s.t.Helper()
	byName := map[string]map[string]any{}
	for _, d := range s.do("GET", path, key, "").want(200)["data"].([]any) {
		d := d.(map[string]any)
		byName[d["destination"].(string)] = d
	}
	return byName
}

// authority is the host and port of a receiver.
func (r *receiver) authority() string { return strings.TrimPrefix(r.url, "http://") }

// A paused destination takes sends and starts nothing. It says so itself, and so
// does the delivery. Resumed, it goes on.
func TestPauseAndResume(t *testing.T) {
	s, key := startDev(t)
	target := startReceiver(t, 200)
	path := "/v1/destinations/" + target.authority()
	s.do("GET", path, key, "").refused(404)
	origin := "/v1/destinations/" + url.PathEscape(target.url)
	for range 2 { // pausing again changes nothing
		paused := s.do("POST", origin+"/pause", key, "").want(200)["data"].([]any)
		if len(paused) != 1 || paused[0].(map[string]any)["destination"] != target.url || paused[0].(map[string]any)["paused"] != true {
			t.Errorf("paused: %v", paused)
		}
	}
	id := s.sendOK(key, `{"target":"`+target.url+`/"}`)
	if got := s.do("GET", "/v1/deliveries/"+id, key, "").want(200); got["status"] != "queued" || got["waiting_for"] != "paused" {
		t.Errorf("delivery to a paused destination: %v, waiting for %v", got["status"], got["waiting_for"])
	}
	d := s.destinations(key, path)[target.url]
	if d["pending"] != 1.0 || d["paused"] != true || d["waiting_for"] != "paused" || d["oldest_due_at"] == nil || d["kind"] != "host" {
		t.Errorf("paused destination: %v", d)
	}
	if list := s.destinations(key, "/v1/destinations?state=paused"); len(list) != 1 {
		t.Errorf("%d paused destinations, want 1", len(list))
	}
	s.do("POST", path+"/resume", key, "").want(200)
	got := s.settled(key, id)
	if got["status"] != "delivered" {
		t.Errorf("after it was resumed: %v", got["status"])
	}
	if why, ok := got["waiting_for"]; ok {
		t.Errorf("a finished delivery waits for %v", why)
	}
	if list := s.destinations(key, "/v1/destinations?state=paused"); len(list) != 0 {
		t.Errorf("%d paused destinations, want none", len(list))
	}
}

// Limits are set for all lanes that the path names, and taken away by null.
func TestChangeDestination(t *testing.T) {
	s, key := startDev(t)
	f := func(param, body, name string, rate, parallelism any) {
		t.Helper()
		list := s.do("PATCH", "/v1/destinations/"+param, key, body).want(200)["data"].([]any)
		if len(list) != 1 {
			t.Fatalf("%s: %v", param, list)
		}
		d := list[0].(map[string]any)
		if d["destination"] != name || d["rate"] != rate || d["parallelism"] != parallelism {
			t.Errorf("%s: %v, want %s with %v and %v", param, d, name, rate, parallelism)
		}
	}
	f("your-app.com", `{"rate":0.5}`, "https://your-app.com:443", 0.5, nil)
	f("Your-App.com.", `{"parallelism":3}`, "https://your-app.com:443", 0.5, 3.0)
	f("your-app.com:443", `{"rate":null}`, "https://your-app.com:443", nil, 3.0)
	f("https:%2F%2Fyour-app.com", `{"parallelism":null}`, "https://your-app.com:443", nil, nil)
	s.do("GET", "/v1/destinations/your-app.com", key, "").refused(404) // nothing is left of it
	f("flow:shop%2F1", `{"rate":2,"parallelism":1,"x":1}`, "flow:shop/1", 2.0, 1.0)

	// What was set by an operator no send changes; what is null again it does.
	target := startReceiver(t, 200)
	send := fmt.Sprintf(`{"target":%q,"flow_key":"shop/1","rate":9000,"parallelism":9}`, target.url)
	s.settled(key, s.sendOK(key, send))
	f("flow:shop%2F1", `{"rate":null}`, "flow:shop/1", nil, 1.0)
	s.settled(key, s.sendOK(key, send))
	f("flow:shop%2F1", `{}`, "flow:shop/1", 9000.0, 1.0)

	for body, word := range map[string]string{
		`{"rate":0}`: "rate", `{"rate":"1"}`: "rate", `{"parallelism":10001}`: "parallelism", `{"parallelism":0.5}`: "parallelism", `[]`: "object",
	} {
		s.do("PATCH", "/v1/destinations/your-app.com", key, body).refused(400, word)
	}
}

func TestParseDestination(t *testing.T) {
	f := func(text string, want engine.DestinationRef) {
		t.Helper()
		if got, err := parseDestination(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", text, got, err, want)
		}
	}
	f("a.example", engine.DestinationRef{Host: "a.example"})
	f("A.Example:8443", engine.DestinationRef{Host: "a.example", Port: 8443})
	f("https://a.example", engine.DestinationRef{Scheme: "https", Host: "a.example", Port: 443})
	f("http://a.example:8080/", engine.DestinationRef{Scheme: "http", Host: "a.example", Port: 8080})
	f("::1", engine.DestinationRef{Host: "::1"})
	f("[::1]:8080", engine.DestinationRef{Host: "::1", Port: 8080})
	f("flow:a b/ü", engine.DestinationRef{FlowKey: "a b/ü"})
	for _, text := range []string{
		"flow:", "flow: a", "ftp://a.example", "https://a.example/hook", "a.example:22", "a.example:", "http://", "a..example", "10.0.0.1", ":8080",
	} {
		if got, err := parseDestination(text); err == nil {
			t.Errorf("%q is taken for %+v", text, got)
		} else if !strings.Contains(err.Error(), "invalid host") {
			t.Errorf("%q: %v does not name the field", text, err)
		}
	}
}

// Pages of a list hold every destination once; filters and the order work.
func TestListDestinations(t *testing.T) {
	s, key := startDev(t)
	var want []string
	for i := range 7 {
		host := fmt.Sprintf("h%d.example", i)
		s.do("PATCH", "/v1/destinations/"+host, key, `{"rate":5}`).want(200)
		want = append(want, "https://"+host+":443")
	}
	s.do("PATCH", "/v1/destinations/flow:h", s.account(), `{"rate":5}`).want(200) // another account's
	var got []string
	for cursor := ""; ; {
		page := s.do("GET", "/v1/destinations?limit=3&cursor="+cursor, key, "").want(200)
		for _, d := range page["data"].([]any) {
			got = append(got, d.(map[string]any)["destination"].(string))
		}
		if page["next_cursor"] == nil {
			break
		}
		cursor = page["next_cursor"].(string)
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("pages hold %v, want %v", got, want)
	}
	target := startReceiver(t, 200)
	for range 3 {
		s.sendOK(key, later(target.url, ""))
	}
	s.sendOK(key, later(target.url, `,"flow_key":"h"`))
	for query, want := range map[string][]string{
		"host=h1.example":                      {"https://h1.example:443"},
		"prefix=https://h2":                    {"https://h2.example:443"},
		"prefix=flow:":                         {"flow:h"}, // as the name is shown
		"sort=pending&limit=2":                 {target.url, "flow:h"},
		"sort=pending&limit=1&host=h3.example": {"https://h3.example:443"},
		"state=waiting":                        nil,
		"state=failing":                        nil,
		"state=breaker":                        nil,
	} {
		if got := slices.Sorted(maps.Keys(s.destinations(key, "/v1/destinations?"+query))); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
	first := s.do("GET", "/v1/destinations?sort=pending&limit=1", key, "").want(200)["data"].([]any)[0].(map[string]any)
	if first["destination"] != target.url || first["pending"] != 3.0 || first["waiting_for"] != "due" || first["oldest_due_age_seconds"] != 0.0 {
		t.Errorf("most pending: %v", first)
	}
	for query, word := range map[string]string{
		"state=open": "state", "sort=name": "sort", "cursor=x": "cursor", "cursor=zzzzzzzzzzzzzzzz": "cursor", "limit=x": "limit", "host=a..b": "host",
		"sort=pending&cursor=0000000000000001": "cursor",
	} {
		s.do("GET", "/v1/destinations?"+query, key, "").refused(400, word)
	}
}

// What fails shows: the error, since when, the ratio, and after a while the
// breaker.
func TestFailingDestination(t *testing.T) {
	s, key := startDev(t)
	broken := startReceiver(t, 500)
	s.settled(key, s.sendOK(key, `{"target":"`+broken.url+`","delivery":{"max_attempts":1}}`))
	d := s.destinations(key, "/v1/destinations?state=failing")[broken.url]
	if d == nil {
		t.Fatal("it is not listed as failing")
	}
	last, _ := d["last_error"].(map[string]any)
	if last["code"] != "http_status" || last["http_status"] != 500.0 || d["failing_since"] == nil || d["success_ratio"] != 0.0 || d["p50_ms"] == nil {
		t.Errorf("failing destination: %v", d)
	}
}

// Whoever runs the server sees and changes any account's destinations.
func TestDestinationsOfAnAccount(t *testing.T) {
	s := startServer(t, Options{Dev: true}, nil)
	made := s.do("POST", "/v1/accounts", adminToken, `{"name":"test"}`).want(201)
	key, of := made["api_key"].(string), "?account_id="+made["account_id"].(string)
	s.do("PATCH", "/v1/destinations/your-app.com"+of, adminToken, `{"parallelism":2}`).want(200)
	for _, list := range []map[string]map[string]any{
		s.destinations(adminToken, "/v1/destinations"+of), s.destinations(key, "/v1/destinations"), s.destinations(adminToken, "/v1/destinations/your-app.com"+of),
	} {
		if d := list["https://your-app.com:443"]; len(list) != 1 || d["parallelism"] != 2.0 {
			t.Errorf("destinations: %v", list)
		}
	}
	s.do("GET", "/v1/destinations"+of, key, "").refused(401)
	s.do("GET", "/v1/destinations", adminToken, "").refused(401)
	s.do("GET", "/v1/destinations?account_id=x", adminToken, "").refused(400, "account_id")
}

// refusedDestinations makes the errors of destinations.
func (r *tour) refusedDestinations(s, closed *testServer, key string) {
	const nobody = "?account_id=acc_04t9qm2x7c3e0"
	for _, route := range []string{
		"GET /v1/destinations", "GET /v1/destinations/{host}", "PATCH /v1/destinations/{host}",
		"POST /v1/destinations/{host}/pause", "POST /v1/destinations/{host}/resume",
	} {
		method, path, _ := strings.Cut(route, " ")
		r.ask(closed, 403, method, path+nobody, "your-app.com", adminToken, "")
		r.ask(s, 404, method, path+nobody, "your-app.com", adminToken, "")
	}
	r.ask(s, 404, "GET", "/v1/destinations/{host}", "never.example", key, "")
}
