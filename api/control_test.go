package api

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// dead makes dead letters: one rejected and one dead_letter a round.
func (s *testServer) dead(t testing.TB, key string, rounds int, fields string) (ids []string) {
	t.Helper()
	gone, broken := startReceiver(t, 410), startReceiver(t, 500)
	for range rounds {
		ids = append(ids,
			s.sendOK(key, `{"target":"`+gone.url+`/gone"`+fields+`}`),
			s.sendOK(key, `{"target":"`+broken.url+`/broken","delivery":{"max_attempts":1}`+fields+`}`))
	}
	for _, id := range ids {
		s.settled(key, id)
	}
	slices.Reverse(ids)
	return ids
}

// later is a send that stays pending.
func later(target, fields string) string {
	return `{"target":"` + target + `","delay_ms":3600000` + fields + `}`
}

func idsOf(page map[string]any) (ids []string) {
	for _, d := range page["data"].([]any) {
		ids = append(ids, d.(map[string]any)["queue_id"].(string))
	}
	return ids
}

// ended waits until a job is not running any more.
func (s *testServer) ended(key, id string) (j map[string]any) {
	s.t.Helper()
	eventually(s.t, "job "+id+" has ended", func() bool {
		j = s.do("GET", "/v1/jobs/"+id, key, "").want(200)
		return j["status"] != "running"
	})
	return j
}

// The dead letters are the dead_letter and the rejected ones, in pages and with
// filters like all deliveries.
func TestDeadLetters(t *testing.T) {
	s, key := startDev(t)
	ids := s.dead(t, key, 3, `,"labels":["l"]`)
	good := startReceiver(t, 200)
	s.settled(key, s.sendOK(key, `{"target":"`+good.url+`"}`))
	s.sendOK(key, later(good.url, ""))

	page := s.do("GET", "/v1/dead-letters", key, "").want(200)
	fields(t, "page", page, "data", "next_cursor")
	if got := idsOf(page); !slices.Equal(got, ids) || page["next_cursor"] != nil {
		t.Errorf("got %v, then %v; want %v", got, page["next_cursor"], ids)
	}
	fields(t, "item", page["data"].([]any)[0], "queue_id", "target", "method", "status", "last_status", "idempotency_key", "created_at", "updated_at", "attempts")
	var walked []string
	for cursor := any(""); cursor != nil; {
		page := s.do("GET", "/v1/dead-letters?limit=4&cursor="+cursor.(string), key, "").want(200)
		walked, cursor = append(walked, idsOf(page)...), page["next_cursor"]
	}
	if !slices.Equal(walked, ids) {
		t.Errorf("by pages %v; want %v", walked, ids)
	}
	count := func(query string, want int) {
		t.Helper()
		if got := idsOf(s.do("GET", "/v1/dead-letters?"+query, key, "").want(200)); len(got) != want {
			t.Errorf("%s: %d, want %d", query, len(got), want)
		}
	}
	count("status=rejected", 3)
	count("status=dead_letter", 3)
	count("label=l", 6)
	count("label=m", 0)
	count("host=127.0.0.1", 6)
	for _, status := range []string{"", "queued", "retrying", "delivered", "canceled", "nonsense"} {
		s.do("GET", "/v1/dead-letters?status="+status, key, "").refused(400, "status", "dead_letter")
	}
	s.do("GET", "/v1/dead-letters?limit=x", key, "").refused(400, "limit")
	if other := s.account(); len(idsOf(s.do("GET", "/v1/dead-letters", other, "").want(200))) != 0 {
		t.Error("another account sees them")
	}
}

// A replay keeps the id, counts on, and begins a new budget.
func TestReplay(t *testing.T) {
	s, key := startDev(t)
	broken := startReceiver(t, 500)
	id := s.sendOK(key, `{"target":"`+broken.url+`","delivery":{"max_attempts":2,"base_delay_ms":100,"jitter":"none"}}`)
	s.settled(key, id)
	a := s.do("POST", "/v1/deliveries/"+id+"/replay", key, "")
	d := a.want(202)
	if d["queue_id"] != id || d["status"] != "retrying" || d["body"] != nil {
		t.Errorf("replayed: %s", a.body)
	}
	var attempts []any
	eventually(t, "the budget is used up again", func() bool {
		d = s.do("GET", "/v1/deliveries/"+id, key, "").want(200)
		attempts = d["attempts"].([]any)
		return d["status"] == "dead_letter" && len(attempts) == 4
	})
	if n := attempts[3].(map[string]any)["attempt"]; n != 4.0 {
		t.Errorf("the last attempt is number %v", n)
	}

	good := startReceiver(t, 200)
	id = s.sendOK(key, `{"target":"`+good.url+`","body":"again"}`)
	s.settled(key, id)
	good.next(t)
	s.do("POST", "/v1/deliveries/"+id+"/replay", key, "{}").want(202) // a delivered one too
	if got := good.next(t); got.body != "again" {
		t.Errorf("replayed %q", got.body)
	}

	pending := s.sendOK(key, later(good.url, ""))
	s.do("POST", "/v1/deliveries/"+pending+"/replay", key, "").refused(409, "pending")
	s.do("POST", "/v1/deliveries/hr_x/replay", key, "").refused(404)
	s.do("POST", "/v1/deliveries/"+id+"/replay", s.account(), "").refused(404)
	s.do("POST", "/v1/deliveries/"+id+"/replay", key, "[]").refused(400)
	s.do("GET", "/v1/deliveries/"+id+"/replay", key, "").refused(405)
	s.do("POST", "/v1/deliveries/"+id+"/replai", key, "").refused(404)
}

// A cancellation ends what is pending, and only that.
func TestCancel(t *testing.T) {
	s, key := startDev(t)
	good := startReceiver(t, 200)
	id := s.sendOK(key, later(good.url, ""))
	d := s.do("POST", "/v1/deliveries/"+id+"/cancel", key, `{"reason":"a mistake"}`).want(200)
	if w := fmt.Sprint(d["warnings"]); w != `[unknown field "reason" ignored]` {
		t.Errorf("warnings %s", w)
	}
	if d["queue_id"] != id || d["status"] != "canceled" || d["next_attempt_at"] != nil {
		t.Errorf("canceled: %v", d)
	}
	if d := s.do("GET", "/v1/deliveries/"+id, key, "").want(200); d["status"] != "canceled" {
		t.Errorf("looked up: %v", d)
	}
	s.do("POST", "/v1/deliveries/"+id+"/cancel", key, "").refused(409, "finished")
	if ids := idsOf(s.do("GET", "/v1/deliveries?status=canceled", key, "").want(200)); !slices.Equal(ids, []string{id}) {
		t.Errorf("status=canceled: %v", ids)
	}
	if ids := idsOf(s.do("GET", "/v1/dead-letters", key, "").want(200)); len(ids) != 0 {
		t.Errorf("dead letters: %v", ids)
	}
	done := s.sendOK(key, `{"target":"`+good.url+`"}`)
	s.settled(key, done)
	s.do("POST", "/v1/deliveries/"+done+"/cancel", key, "").refused(409, "finished")
	s.do("POST", "/v1/deliveries/hr_x/cancel", key, "").refused(404)
	s.do("POST", "/v1/deliveries/"+id+"/cancel", s.account(), "").refused(404)
}

// Dead letters are counted, replayed and purged by filter, and what is pending
// cancelled; a job says how far it is.
func TestBulk(t *testing.T) {
	s, key := startDev(t)
	s.dead(t, key, 3, `,"labels":["l"]`)
	other := s.account()
	kept := s.dead(t, other, 1, "")
	dryRun := func(a *answer, want float64) {
		t.Helper()
		fields(t, a.what, a.want(200), "dry_run", "matched")
		if got := a.want(200); got["matched"] != want || got["dry_run"] != true {
			t.Errorf("%s: %s, want %v", a.what, a.body, want)
		}
	}
	dryRun(s.do("POST", "/v1/dead-letters/replay", key, `{"filter":{},"dry_run":true}`), 6)
	dryRun(s.do("POST", "/v1/dead-letters/replay", key, `{"filter":{"status":"rejected","label":"l"},"dry_run":true}`), 3)
	dryRun(s.do("DELETE", "/v1/dead-letters?all=true&dry_run=true", key, ""), 6)
	dryRun(s.do("DELETE", "/v1/dead-letters?dry_run=true&status=dead_letter&host=127.0.0.1", key, ""), 3)
	dryRun(s.do("DELETE", "/v1/dead-letters?dry_run=true&label=m", key, ""), 0)
	dryRun(s.do("POST", "/v1/deliveries/cancel", key, `{"filter":{},"dry_run":true}`), 0)
	if jobs := s.do("GET", "/v1/jobs", key, "").want(200)["data"].([]any); len(jobs) != 0 {
		t.Errorf("dry runs left jobs: %v", jobs)
	}

	members := []string{"job_id", "kind", "status", "matched", "done", "skipped", "remaining", "rate_per_second", "filter", "created_at", "updated_at"}
	begin := func(a *answer, kind string, extra ...string) string {
		t.Helper()
		j := a.want(202)
		fields(t, a.what, j, append(slices.Clone(members), extra...)...)
		if j["kind"] != kind || j["status"] != "running" {
			t.Errorf("%s: %s", a.what, a.body)
		}
		return j["job_id"].(string)
	}
	done := func(id string, want float64) {
		t.Helper()
		j := s.ended(key, id)
		if j["status"] != "done" || j["matched"] != want || j["done"] != want || j["skipped"] != 0.0 || j["remaining"] != 0.0 {
			t.Errorf("job %v, want %v done", j, want)
		}
	}
	a := s.do("POST", "/v1/dead-letters/replay", key, `{"filter":{"status":"rejected","since":"2026-01-01T00:00:00.5+01:00"},"rate_per_second":1000}`)
	replay := begin(a, "replay", "replay_id")
	j := a.want(202)
	if f := j["filter"].(map[string]any); f["status"] != "rejected" || f["since"] != "2025-12-31T23:00:00.5Z" || j["rate_per_second"] != 1000.0 || j["replay_id"] != replay {
		t.Errorf("replay %s", a.body)
	}
	done(replay, 3)
	eventually(t, "they are rejected again", func() bool {
		return len(idsOf(s.do("GET", "/v1/dead-letters?status=rejected", key, "").want(200))) == 3
	})

	purge := begin(s.do("DELETE", "/v1/dead-letters?status=dead_letter", key, ""), "purge")
	done(purge, 3)
	if ids := idsOf(s.do("GET", "/v1/dead-letters", key, "").want(200)); len(ids) != 3 {
		t.Errorf("%d left after the purge, want the 3 rejected", len(ids))
	}
	done(begin(s.do("DELETE", "/v1/dead-letters?all=true", key, ""), "purge"), 3)

	good := startReceiver(t, 200)
	for i := range 4 {
		s.sendOK(key, later(good.url, fmt.Sprintf(`,"labels":["n%d"]`, i%2)))
	}
	cancel := begin(s.do("POST", "/v1/deliveries/cancel", key, `{"filter":{"label":"n1","target":"`+good.url+`"}}`), "cancel")
	done(cancel, 2)
	if ids := idsOf(s.do("GET", "/v1/deliveries?status=canceled", key, "").want(200)); len(ids) != 2 {
		t.Errorf("%d canceled, want 2", len(ids))
	}

	// Jobs are listed, replays also by themselves, and another's are not there.
	jobs := s.do("GET", "/v1/jobs", key, "").want(200)["data"].([]any)
	if len(jobs) != 4 || jobs[0].(map[string]any)["job_id"] != cancel {
		t.Errorf("jobs %v", jobs)
	}
	replays := s.do("GET", "/v1/replays", key, "").want(200)["data"].([]any)
	if len(replays) != 1 || replays[0].(map[string]any)["replay_id"] != replay {
		t.Errorf("replays %v", replays)
	}
	s.do("GET", "/v1/replays/"+replay, key, "").want(200)
	s.do("GET", "/v1/replays/"+purge, key, "").refused(404)
	s.do("POST", "/v1/replays/"+purge+"/cancel", key, "").refused(404)
	s.do("POST", "/v1/replays/"+replay+"/cancel", key, "").refused(409, "finished")
	s.do("POST", "/v1/jobs/"+cancel+"/cancel", key, "").refused(409, "finished")
	for _, path := range []string{"/v1/jobs/" + replay, "/v1/replays/" + replay, "/v1/jobs/job_x"} {
		s.do("GET", path, other, "").refused(404)
		s.do("POST", path+"/cancel", other, "").refused(404)
	}
	if ids := idsOf(s.do("GET", "/v1/dead-letters", other, "").want(200)); !slices.Equal(ids, kept) {
		t.Errorf("the other account's: %v, want %v", ids, kept)
	}
}

// A replay can be stopped; its rate holds.
func TestStopReplay(t *testing.T) {
	s, key := startDev(t)
	s.dead(t, key, 3, "")
	id := s.do("POST", "/v1/dead-letters/replay", key, `{"filter":{},"rate_per_second":1}`).want(202)["replay_id"].(string)
	stopped := s.do("POST", "/v1/replays/"+id+"/cancel", key, `{"now":true}`).want(200)
	if w := fmt.Sprint(stopped["warnings"]); w != `[unknown field "now" ignored]` {
		t.Errorf("warnings %s", w)
	}
	if stopped["status"] != "canceled" || stopped["done"].(float64) > 3 {
		t.Errorf("stopped %v", stopped)
	}
	if again := s.do("GET", "/v1/replays/"+id, key, "").want(200); again["status"] != "canceled" || again["done"] != stopped["done"] {
		t.Errorf("it went on: %v after %v", again, stopped)
	}
}

// Nothing is done to more deliveries than was meant because of a slip.
func TestBulkSlips(t *testing.T) {
	s, key := startDev(t)
	ids := s.dead(t, key, 1, "")
	body := func(body string, words ...string) {
		t.Helper()
		s.do("POST", "/v1/dead-letters/replay", key, body).refused(400, words...)
		s.do("POST", "/v1/deliveries/cancel", key, body).refused(400, words...)
	}
	body(``, "empty")
	body(`{}`, "filter is missing", "{}")
	body(`[]`, "an array")
	body(`{"filter":null}`, "filter", "null")
	body(`{"filter":"all"}`, "filter", "a string")
	body(`{"fliter":{}}`, "unknown field", "fliter")
	body(`{"filter":{},"dryrun":true}`, "unknown field", "dryrun")
	body(`{"filter":{},"dry_run":"true"}`, "dry_run", "a string")
	body(`{"filter":{},"dry_run":null}`, "dry_run", "null")
	body(`{"filter":{"hots":"your-app.com"}}`, "unknown field", "hots", "host")
	body(`{"filter":{"foo":1}}`, "unknown field", "foo", "idempotency_key")
	body(`{"filter":{"foo":null}}`, "unknown field", "foo")
	body(`{"filter":{"foo":""}}`, "unknown field", "foo")
	body(`{"filter":{"host":""}}`, "host", "empty")
	body(`{"filter":{"host":null}}`, "host", "null")
	body(`{"filter":{"host":["a.example"]}}`, "host", "an array")
	body(`{"filter":{"host":"a b"}}`, "host")
	body(`{"filter":{"host":"a.example","host":"b.example"}}`, "duplicate")
	body(`{"filter":{"label":"a"},"filter":{}}`, "duplicate")
	body(`{"filter":{"status":"delivered"}}`, "status", "delivered")
	body(`{"filter":{"status":"nonsense"}}`, "status", "nonsense")
	body(`{"filter":{"since":"yesterday"}}`, "since", "RFC 3339")
	body(`{"filter":{},"rate_per_second":0}`, "rate_per_second", "from 1")
	body(`{"filter":{},"rate_per_second":1000001}`, "rate_per_second")
	body(`{"filter":{},"rate_per_second":1.5}`, "rate_per_second")
	s.do("POST", "/v1/dead-letters/replay", key, `{"filter":{"status":"queued"}}`).refused(400, "status", "rejected")
	s.do("POST", "/v1/deliveries/cancel", key, `{"filter":{"status":"rejected"}}`).refused(400, "status", "queued")

	query := func(query string, words ...string) {
		t.Helper()
		s.do("DELETE", "/v1/dead-letters"+query, key, "").refused(400, words...)
	}
	query("", "filter is missing", "all=true")
	query("?dry_run=true", "filter is missing")
	query("?all=false", "filter is missing")
	query("?all=yes", "all", "true or false")
	query("?all", "all")
	query("?all=true&label=a", "all", "filter")
	query("?hots=a.example", "unknown", "hots")
	query("?foo=", "unknown", "foo", "idempotency_key")
	query("?host=", "host", "empty")
	query("?host=a.example&host=b.example", "host", "twice")
	query("?label=a&dryrun=true", "unknown", "dryrun")
	query("?label=a&dry_run=", "dry_run")
	query("?label=a&dry_run=1", "dry_run", "true or false")
	query("?label=a&limit=1", "unknown", "limit")
	query("?status=queued", "status", "rejected")
	query("?label=a&rate_per_second=fast", "rate_per_second")
	query("?label=a&rate_per_second=0", "rate_per_second")
	query("?until="+url.QueryEscape(time.Now().Format(time.RFC1123)), "until", "RFC 3339")
	s.do("DELETE", "/v1/dead-letters?all=true", key, `{"filter":{"label":"a"}}`).refused(400, "body", "query")

	if left := idsOf(s.do("GET", "/v1/dead-letters", key, "").want(200)); !slices.Equal(left, ids) {
		t.Errorf("left %v, want %v", left, ids)
	}
	if jobs := s.do("GET", "/v1/jobs", key, "").want(200)["data"].([]any); len(jobs) != 0 {
		t.Errorf("jobs %v", jobs)
	}
}

// Every member of a filter comes back as it was given.
func TestFilterComesBack(t *testing.T) {
	s, key := startDev(t)
	const filter = `{"status":"rejected","target":"https://a.example/\"x","host":"a.example","label":"l","idempotency_key":"k","ordering_key":"o",` +
		`"since":"2026-06-10T14:22:10Z","until":"2026-06-11T00:00:00Z"}`
	a := s.do("POST", "/v1/dead-letters/replay", key, `{"filter":`+filter+`}`)
	a.want(202)
	if !strings.Contains(a.body, `"filter":`+filter) {
		t.Errorf("%s, want %s in it", a.body, filter)
	}
}

// refusedControl makes the errors of dead letters and control.
func (r *tour) refusedControl() {
	s := startServer(r.t, Options{Dev: true}, nil)
	made := s.do("POST", "/v1/accounts", adminToken, `{"name":"x"}`).want(201)
	key := made["api_key"].(string)
	good := startReceiver(r.t, 200)
	done, pending := s.sendOK(key, `{"target":"`+good.url+`"}`), s.sendOK(key, later(good.url, ""))
	s.settled(key, done)
	job := s.do("POST", "/v1/dead-letters/replay", key, `{"filter":{}}`).want(202)["job_id"].(string)
	s.ended(key, job)
	for _, route := range []string{"/v1/deliveries/{id}/replay", "/v1/deliveries/{id}/cancel", "/v1/replays/{id}/cancel", "/v1/jobs/{id}/cancel"} {
		r.ask(s, 404, "POST", route, "x", key, "")
	}
	for _, route := range []string{"/v1/replays/{id}", "/v1/jobs/{id}"} {
		r.ask(s, 404, "GET", route, "x", key, "")
	}
	r.ask(s, 409, "POST", "/v1/deliveries/{id}/replay", pending, key, "")
	r.ask(s, 409, "POST", "/v1/deliveries/{id}/cancel", done, key, "")
	r.ask(s, 409, "POST", "/v1/replays/{id}/cancel", job, key, "")
	r.ask(s, 409, "POST", "/v1/jobs/{id}/cancel", job, key, "")
	s.do("PATCH", "/v1/accounts/"+made["account_id"].(string), adminToken, `{"suspended":true}`).want(200)
	r.ask(s, 403, "POST", "/v1/deliveries/{id}/replay", done, key, "")
	r.ask(s, 403, "POST", "/v1/dead-letters/replay", "", key, `{"filter":{}}`)
}
