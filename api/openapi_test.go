package api

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/harepost/harepost/engine"
)

// The document has every route with its methods, and no other.
func TestOpenAPIHasEveryRoute(t *testing.T) {
	c, err := theDocument()
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var routes []string
	for _, r := range s.routes {
		for method := range r.methods {
			routes = append(routes, method+" "+r.path)
		}
	}
	slices.Sort(routes)
	documented := slices.Sorted(maps.Keys(c.Operations()))
	if !slices.Equal(routes, documented) {
		t.Errorf("routes    %q\ndocumented %q", routes, documented)
	}
}

// unbounded are the values that the document sets no bound, and why: a bound
// that the server does not hold would be worse than none.
var unbounded = func() map[string]string {
	all := map[string]string{}
	for why, places := range map[string][]string{
		"clamped, never refused":                      {"Policy.max_attempts", "Policy.base_delay_ms", "Policy.max_delay_ms", "Policy.timeout_ms", "parameters.Limit"},
		"replaced when it is not fit, never refused":  {"parameters.RequestID"},
		"longer than there can be matches nothing":    {"Filter.target", "Filter.label", "Filter.idempotency_key", "Filter.ordering_key", "parameters.OrderingKey", "parameters.Target", "parameters.Label", "parameters.IdempotencyKey", "GET /v1/openapi.json If-None-Match", "parameters.NamePrefix"},
		"bounded with its request, as the flags have": {"Send.body", "POST /v1/send/batch application/x-ndjson", "Delivery.body", "Delivery.body_bytes", "Delivery.headers", "Delivery.headers{}"},
		"as many as the account has deliveries":       {"Job.matched", "Job.done", "Job.skipped", "Job.remaining", "DryRun.matched", "Destination.pending", "Destination.in_flight", "Destination.limit"},
		"as many as a host has ports in use":          {"DestinationPage.data"},
		"measured":                                    {"Attempt.latency_ms", "Timing.dns_ms", "Timing.connect_ms", "Timing.tls_ms", "Timing.first_byte_ms", "Destination.pace", "Destination.oldest_due_age_seconds", "Destination.p50_ms", "Destination.p99_ms", "NodeStanding.leader_contact_ms", "ClusterStatus.leader_contact_ms", "ClusterNode.contact_ms"},
		"as long as there are entries, or elections":  {"NodeStanding.term", "NodeStanding.commit_index", "NodeStanding.applied_index", "NodeStanding.lag_entries", "ClusterStatus.term", "ClusterStatus.commit_index", "ClusterStatus.applied_index", "ClusterStatus.lag_entries", "ClusterStatus.last_index", "ClusterStatus.snapshot_index", "ClusterSnapshot.index", "ClusterNode.lag_entries", "ClusterNode.lag_bytes"},
		"words for people":                            {"Error.error", "Error.detail", "BatchRefusal.error", "BatchRefusal.detail", "DomainPending.error", "DomainPending.detail", "Warnings[]"},
		"a page or a stream, not a value":             {"GET /metrics 200 text/plain", "GET /v1/backup 200 application/x-tar"},
	} {
		for _, place := range places {
			all[place] = why
		}
	}
	return all
}()

// Every operation, parameter, header, field and content is described, bounded
// and has an example that is as it should be.
func TestOpenAPIIsComplete(t *testing.T) {
	c, err := theDocument()
	if err != nil {
		t.Fatal(err)
	}
	for _, gap := range c.Gaps(unbounded) {
		t.Error(gap)
	}
}

// The document's numbers are the code's.
func TestDocumentedBounds(t *testing.T) {
	var doc struct {
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal(OpenAPI(), &doc); err != nil {
		t.Fatal(err)
	}
	f := func(want int, places ...string) {
		t.Helper()
		for _, place := range places {
			var at any = doc.Components.Schemas
			for name := range strings.SplitSeq(place, " ") {
				object, _ := at.(map[string]any)
				at = object[name]
			}
			if at != float64(want) {
				t.Errorf("%s is %v, want %d", place, at, want)
			}
		}
	}
	o := Options{}.withDefaults()
	f(o.URLChars, "Send properties target maxLength")
	f(o.Headers, "Send properties headers maxProperties")
	f(o.HeadersBytes, "Send properties headers additionalProperties maxLength")
	f(o.IdempotencyKeyChars, "Send properties idempotency_key maxLength", "Receipt properties idempotency_key maxLength",
		"Delivery properties idempotency_key maxLength", "DeliveryItem properties idempotency_key maxLength")
	f(orderingKeyChars, "Send properties ordering_key maxLength", "Delivery properties ordering_key maxLength")
	f(flowKeyChars, "Send properties flow_key maxLength", "Delivery properties flow_key maxLength")
	f(engine.MostRate, "Send properties rate maximum", "Destination properties rate maximum", "DestinationChange properties rate maximum")
	f(engine.MostParallelism, "Send properties parallelism maximum", "Destination properties parallelism maximum", "DestinationChange properties parallelism maximum")
	f(o.Labels, "Send properties labels maxItems", "Delivery properties labels maxItems")
	f(o.LabelChars, "Send properties labels items maxLength", "Delivery properties labels items maxLength")
	f(int(o.MaxDelay.Milliseconds()), "Send properties delay_ms maximum")
	f(o.BatchSends, "BatchResults properties results maxItems")
	f(o.Warnings+1, "Warnings maxItems") // the last says how many more there were
	f(maxAttempts, "Delivery properties max_attempts maximum")
	f(maxPage, "DeliveryPage properties data maxItems", "AccountPage properties data maxItems")
	f(maxRatePerSecond, "Bulk properties rate_per_second maximum", "Job properties rate_per_second maximum")
	f(maxAccountNameChars, "AccountName properties name maxLength", "AccountChange properties name maxLength",
		"Account properties name maxLength", "NewAccount properties name maxLength")
	f(int(maxOverlap.Seconds()), "SecretRotate properties overlap_seconds maximum")
	f(engine.MaxRatePerMinute, "AccountChange properties rate_limit_per_minute maximum", "Account properties rate_limit_per_minute maximum")
	f(maxHostBytes, "DomainName properties domain maxLength", "Filter properties host maxLength")
	f(maxHostBytes-len(engine.ChallengeLabel), "Domain properties domain maxLength", "DomainItem properties domain maxLength")
}

func TestOpenAPIRoute(t *testing.T) {
	s := startServer(t, Options{}, nil)
	a := s.do("GET", "/v1/openapi.json", "", "")
	if a.want(200)["openapi"] != "3.1.0" {
		t.Errorf("%.100s", a.body)
	}
	tag := a.header.Get("ETag")
	for _, given := range []string{tag, `"x", W/` + tag, "*"} {
		if a := s.do("GET", "/v1/openapi.json", "", "", "If-None-Match: "+given); a.status != 304 || a.body != "" || a.header.Get("ETag") != tag {
			t.Errorf("If-None-Match %s: %d %.100s", given, a.status, a.body)
		}
	}
	if a := s.do("GET", "/v1/openapi.json", "", "", `If-None-Match: "x"`); a.status != 200 {
		t.Errorf("another tag: %d", a.status)
	}
}

// A tour makes every answer that the document promises.
type tour struct {
	t    testing.TB
	left map[string]bool // "METHOD /path status" that was not seen yet
}

// saw notes an answer, which has been held against the document; path is as
// documented.
func (r *tour) saw(method, path string, status int) {
	delete(r.left, fmt.Sprintf("%s %s %d", method, path, status))
}

// Every status that any operation documents is answered by it in this test, as
// documented.
func TestEveryDocumentedAnswer(t *testing.T) {
	c, err := theDocument()
	if err != nil {
		t.Fatal(err)
	}
	r := &tour{t: t, left: map[string]bool{}}
	for operation, codes := range c.Operations() {
		for _, code := range codes {
			r.left[fmt.Sprintf("%s %d", operation, code)] = true
		}
	}
	r.successes()
	r.general(slices.Sorted(maps.Keys(c.Operations())))
	r.particular()
	for _, missing := range slices.Sorted(maps.Keys(r.left)) {
		t.Errorf("never answered: %s", missing)
	}
}

// general makes the errors that every operation can have.
func (r *tour) general(operations []string) {
	s := startServer(r.t, Options{ReadTimeout: 50 * time.Millisecond, ReadBufferBytes: 2048}, nil)
	full := startServer(r.t, Options{Connections: 1, ReadTimeout: 50 * time.Millisecond}, nil)
	held := full.dial()
	defer held.Close()
	fmt.Fprint(held, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
	if resp, _ := statusOf(r.t, "GET /healthz", bufio.NewReader(held)); resp.StatusCode != 200 {
		r.t.Fatal(resp.Status)
	}
	broken := startServer(r.t, Options{}, nil)
	for _, route := range broken.routes {
		route.access = public
		for method := range route.methods {
			route.methods[method] = func(*call) error { panic("broken") }
		}
	}
	for _, operation := range operations {
		method, path, _ := strings.Cut(operation, " ")
		line := method + " " + strings.NewReplacer("{id}", "x", "{domain}", "x", "{host}", "your-app.com").Replace(path)
		try := func(s *testServer, rest string) {
			r.t.Helper()
			conn := s.dial()
			defer conn.Close()
			go io.WriteString(conn, line+rest) // fails when refused early
			resp, _ := statusOf(r.t, line, bufio.NewReader(conn))
			r.saw(method, path, resp.StatusCode)
		}
		const head = " HTTP/1.1\r\nHost: x\r\n"
		try(s, head+" folded: line\r\n\r\n")                      // 400
		try(s, head+"\r\n")                                       // 401
		try(s, head+"Content-Length: 5\r\n\r\n{")                 // 408
		try(s, head+"Content-Length: 99999\r\n\r\n{")             // 413, of a large body 401
		try(s, head+"Content-Encoding: gzip\r\n\r\n")             // 415
		try(s, head+"X-A: "+strings.Repeat("a", 3000)+"\r\n\r\n") // 431
		try(broken, head+"\r\n")                                  // 500
		if full.routes[path] != nil && full.routes[path].probe {
			try(full, head) // 503: one that does not come
		} else {
			try(full, head+"\r\n") // 503
		}
		if resp := s.do("PROPFIND", strings.Fields(line)[1], "", ""); resp.status != 405 {
			r.t.Errorf("PROPFIND %s: %d", path, resp.status)
		}
	}
}

// ask makes one request, and expects one status. A path's query is not part of
// the operation.
func (r *tour) ask(s *testServer, status int, method, path, param, key, body string, headers ...string) *answer {
	r.t.Helper()
	target := strings.NewReplacer("{id}", param, "{domain}", param, "{host}", param).Replace(path)
	a := s.do(method, target, key, body, headers...)
	if a.status != status {
		r.t.Fatalf("%s: %d %s, want %d", a.what, a.status, a.body, status)
	}
	if status >= 400 {
		a.refused(status)
	}
	path, _, _ = strings.Cut(path, "?")
	r.saw(method, path, a.status)
	return a
}

// particular makes the errors that only some operations have.
func (r *tour) particular() {
	s := startServer(r.t, Options{RequestBytes: 50_000}, func(o *engine.Options) { o.RatePerMinute = 1 })
	key := s.account()
	r.ask(s, 413, "POST", "/v1/send", "", key, strings.Repeat(" ", 50_001))
	r.ask(s, 413, "POST", "/v1/send/batch", "", key, "["+strings.Repeat("1,", 10_000)+"1]")
	r.ask(s, 403, "POST", "/v1/send", "", key, `{"target":"https://your-app.com/"}`)
	s.verified(key, "your-app.com")
	r.ask(s, 409, "POST", "/v1/domains/verify", "", key, s.addedDomain(key, "other-app.com"))
	r.ask(s, 404, "POST", "/v1/domains/verify", "", key, `{"domain":"never.example"}`)
	r.ask(s, 404, "GET", "/v1/domains/{domain}", "never.example", key, "")
	r.ask(s, 404, "DELETE", "/v1/domains/{domain}", "never.example", key, "")
	r.ask(s, 404, "GET", "/v1/deliveries/{id}", "hr_x", key, "")
	r.ask(s, 404, "DELETE", "/v1/keys/{id}", "key_x", key, "")
	r.ask(s, 429, "POST", "/v1/send", "", key, `{"target":"https://your-app.com/"}`)

	closed := startServer(r.t, Options{}, nil)
	closed.o.AdminToken = "" // as after New without one
	r.ask(closed, 403, "POST", "/v1/accounts", "", "", `{"name":"x"}`)
	r.refusedAdmin(s, closed)
	r.refusedControl()
	r.refusedDestinations(s, closed, key)
	r.refusedBackup(s, closed)
	r.refusedCluster(s, closed)
	r.refusedStorage()
	made := s.do("POST", "/v1/accounts", adminToken, `{"name":"test"}`).want(201)
	s.do("PATCH", "/v1/accounts/"+made["account_id"].(string), adminToken, `{"suspended":true}`).want(200)
	r.ask(s, 403, "POST", "/v1/send/batch", "", made["api_key"].(string), "[]")
}

// refusedStorage has a server whose limit is below what its log takes.
func (r *tour) refusedStorage() {
	s := startServer(r.t, Options{Dev: true}, func(o *engine.Options) { o.MaxDataBytes = 1 })
	key := s.account()
	eventually(r.t, "the limit is noticed", func() bool { return strings.Contains(s.do("GET", "/readyz", "", "").body, `"accepting_sends":false`) })
	r.ask(s, 507, "POST", "/v1/send", "", key, `{"target":"http://localhost:19999/"}`)
	r.ask(s, 507, "POST", "/v1/deliveries/{id}/replay", "hr_06h0nb0n4r000ey7c6ak1gjkk8", key, "")
	r.ask(s, 507, "POST", "/v1/dead-letters/replay", "", key, `{"filter":{}}`)
}

func (r *tour) refusedBackup(s, closed *testServer) {
	r.ask(closed, 403, "GET", "/v1/backup", "", adminToken, "")
	b, err := s.engine.Backup(s.ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	defer b.Close()
	r.ask(s, 409, "GET", "/v1/backup", "", adminToken, "")
}

// addedDomain adds a domain and returns the body that names it.
func (s *testServer) addedDomain(key, name string) string {
	body := `{"domain":"` + name + `"}`
	s.do("POST", "/v1/domains", key, body).want(201)
	return body
}
