package api

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/harepost/harepost/engine"
	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/wal"
)

// A refusal, and a target that never recovers, end in the dead-letter queue
// with all their attempts.
func TestFailuresAreOnRecord(t *testing.T) {
	s, key := startDev(t)
	gone := startReceiver(t, 410)
	id := s.sendOK(key, `{"target":"`+gone.url+`","body":"keep me"}`)
	d := s.settled(key, id)
	attempts := d["attempts"].([]any)
	if d["status"] != "rejected" || d["last_status"] != 410.0 || len(attempts) != 1 {
		t.Fatalf("delivery %v", d)
	}
	fields(t, "attempt", attempts[0], "attempt", "outcome", "http_status", "latency_ms", "error", "created_at", "started_at",
		"next_attempt_at", "timing", "remote_ip", "response_body", "response_body_truncated")
	first := attempts[0].(map[string]any)
	if first["outcome"] != "rejected" || first["response_body"] != "thank you" || first["response_body_truncated"] != false ||
		!strings.HasPrefix(first["error"].(string), "http_status: ") {
		t.Errorf("attempt %v", first)
	}
	if p := s.do("GET", "/v1/deliveries/"+id+"?include=payload", key, "").want(200); p["body"] != "keep me" {
		t.Errorf("payload %v", p)
	}

	broken := startReceiver(t, 500)
	id = s.sendOK(key, `{"target":"`+broken.url+`","delivery":{"max_attempts":2,"base_delay_ms":100,"jitter":"none"}}`)
	d = s.settled(key, id)
	attempts = d["attempts"].([]any)
	if d["status"] != "dead_letter" || len(attempts) != 2 || d["max_attempts"] != 2.0 {
		t.Fatalf("delivery %v", d)
	}
	for i, a := range attempts {
		a := a.(map[string]any)
		if a["attempt"] != float64(i+1) || a["outcome"] != "failed" || a["http_status"] != 500.0 || (a["next_attempt_at"] == nil) != (i == 1) {
			t.Errorf("attempt %d: %v", i+1, a)
		}
	}

	// Nobody listens there any more.
	id = s.sendOK(key, `{"target":"http://127.0.0.1:1024/","delivery":{"max_attempts":1}}`)
	d = s.settled(key, id)
	a := d["attempts"].([]any)[0].(map[string]any)
	if d["status"] != "dead_letter" || d["last_status"] != nil || a["http_status"] != nil || !strings.HasPrefix(a["error"].(string), "connection_refused: ") {
		t.Errorf("delivery %v", d)
	}
}

// A list pages through everything once, newest first, and filters combine.
func TestList(t *testing.T) {
	s, key := startDev(t)
	good, bad := startReceiver(t, 200), startReceiver(t, 404)
	var ids []string
	for i := range 30 {
		target := good.url + "/a/" + fmt.Sprint(i)
		if i%3 == 0 {
			target = bad.url + "/b/" + fmt.Sprint(i)
		}
		ids = append(ids, s.sendOK(key, fmt.Sprintf(`{"target":%q,"labels":["n%d","all"],"idempotency_key":"k%d"}`, target, i%2, i)))
	}
	for _, id := range ids {
		s.settled(key, id)
	}
	slices.Reverse(ids)
	list := func(query string) (got []string, next any) {
		t.Helper()
		page := s.do("GET", "/v1/deliveries"+query, key, "").want(200)
		fields(t, "page", page, "data", "next_cursor")
		for _, d := range page["data"].([]any) {
			fields(t, "item", d, "queue_id", "target", "method", "status", "last_status", "idempotency_key", "created_at", "updated_at", "attempts")
			if n := d.(map[string]any)["attempts"]; n != 1.0 {
				t.Errorf("attempts %v, want a count of 1", n)
			}
			got = append(got, d.(map[string]any)["queue_id"].(string))
		}
		return got, page["next_cursor"]
	}
	whole := func(query string) (got []string) {
		t.Helper()
		next := any("")
		for next != nil {
			var page []string
			page, next = list(query + "&cursor=" + next.(string))
			got = append(got, page...)
		}
		return got
	}
	same := func(what string, got, want []string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %d %v\nwant %d %v", what, len(got), got, len(want), want)
		}
	}
	pick := func(keep func(i int) bool) (want []string) {
		for at, id := range ids {
			if keep(29 - at) {
				want = append(want, id)
			}
		}
		return want
	}
	page, next := list("")
	same("first page", page, ids[:25])
	if next == nil {
		t.Error("no cursor after 25 of 30")
	}
	same("pages of 7", whole("?limit=7"), ids)
	same("limit 1", whole("?limit=1"), ids)
	page, _ = list("?limit=0")
	same("limit 0 is 1", page, ids[:1])
	page, _ = list("?limit=-99999999999999999999999")
	same("limit below 1 is 1", page, ids[:1])
	page, next = list("?limit=1000")
	same("limit 1000 is 100", page, ids)
	if next != nil {
		t.Errorf("a cursor after the last page: %v", next)
	}
	page, _ = list("?limit=99999999999999999999999")
	same("a limit beyond any integer", page, ids)
	third := func(i int) bool { return i%3 == 0 }
	same("status", whole("?status=rejected&limit=3"), pick(third))
	same("status delivered", whole("?status=delivered"), pick(func(i int) bool { return !third(i) }))
	same("status queued", whole("?status=queued"), nil)
	same("label", whole("?label=n1"), pick(func(i int) bool { return i%2 == 1 }))
	same("label and status", whole("?label=n1&status=rejected&limit=2"), pick(func(i int) bool { return i%2 == 1 && third(i) }))
	same("target", whole("?target="+bad.url+"/b/"), pick(third))
	same("target of one", whole("?target="+good.url+"/a/29"), pick(func(i int) bool { return i == 29 }))
	same("host", whole("?host=127.0.0.1"), ids)
	same("another host", whole("?host=localhost"), nil)
	same("idempotency key", whole("?idempotency_key=k7"), pick(func(i int) bool { return i == 7 }))
	same("since", whole("?since=2026-01-01T00:00:00Z"), ids)
	same("since later", whole("?since="+time.Now().Add(time.Hour).UTC().Format(time.RFC3339)), nil)
	same("since the beginning", whole("?since=0000-01-01T00:00:00Z&until=9999-12-31T23:59:59Z"), ids)
	same("until", whole("?until=2020-01-01T00:00:00Z"), nil)
	same("until with an offset", whole("?until=2099-01-01T00:00:00%2B02:00"), ids)
	same("empty parameters", whole("?label=&limit=&cursor="), ids)

	refuse := func(query string, words ...string) {
		t.Helper()
		s.do("GET", "/v1/deliveries?"+query, key, "").refused(400, words...)
	}
	refuse("limit=ten", "limit", "ten")
	refuse("limit=1.5", "limit")
	refuse("limit=-", "limit")
	refuse("limit=0x10", "limit")
	refuse("status=done", "status", "done", "dead_letter")
	refuse("status=Queued", "status")
	refuse("status=", "status", "queued")
	refuse("cursor=x", "cursor")
	refuse("cursor=AAAAAAAAAAAAAAAAAAAAAAAAAAAA", "cursor")
	refuse("since=yesterday", "since", "RFC 3339")
	refuse("until=2026-01-01", "until", "RFC 3339")
	refuse("since=0000-01-01T00:00:00%2B01:00", "since")
	refuse("until=9999-12-31T23:59:59-01:00", "until")
	refuse("host=a%20b", "host")
	refuse("host=%5B::1%25eth0%5D", "host")
}

// A parameter that is misspelt widens a list, so every list names it, also
// where there are no parameters at all.
func TestListsNameParametersThatTheyDoNotKnow(t *testing.T) {
	s, key := startDev(t)
	for _, path := range []string{"deliveries", "dead-letters", "keys", "domains", "jobs", "replays", "accounts"} {
		bearer := key
		if path == "accounts" {
			bearer = adminToken
		}
		for _, query := range []string{"stauts=queued", "stauts=", "stauts"} {
			got := s.do("GET", "/v1/"+path+"?"+query, bearer, "").want(200)
			if fmt.Sprint(got["warnings"]) != `[unknown query parameter "stauts" ignored]` {
				t.Errorf("%s?%s: warnings %v", path, query, got["warnings"])
			}
		}
		if got := s.do("GET", "/v1/"+path, bearer, "").want(200); got["warnings"] != nil {
			t.Errorf("%s: warnings %v", path, got["warnings"])
		}
	}
}

// A body that retention has dropped is said to be so, and cannot be replayed;
// the delivery is shown like any other.
func TestDroppedBodyIsSaidToBeSo(t *testing.T) {
	fs := vfs.NewMem()
	var eo engine.Options
	s := startServer(t, Options{Dev: true}, func(o *engine.Options) {
		o.FS, o.RetainPayload = fs, time.Hour
		eo = *o
	})
	key := s.account()
	good := startReceiver(t, 200)
	id := s.sendOK(key, `{"target":"`+good.url+`","body":"forget me","headers":{"X-A":"b"}}`)
	s.settled(key, id)
	path := "/v1/deliveries/" + id
	if d := s.do("GET", path+"?include=payload", key, "").want(200); d["body"] != "forget me" || d["body_dropped"] != nil {
		t.Errorf("before: %v", d)
	}

	// The engine drops bodies once a minute, and once its clock has stood for an
	// hour: here the command for it is in the log that the next start replays.
	if err := s.engine.Close(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(filepath.Dir(t.TempDir()), "001") // the engine's, the test's first
	log, err := wal.Open(filepath.Join(dir, "wal"), wal.Options{FS: fs, Logger: eo.Logger})
	if err != nil {
		t.Fatal(err)
	}
	log.Start()
	drop := command.DropBodies{Last: 1<<64 - 1, Before: time.Now().Add(2 * time.Hour).UnixMilli()}
	if err := errors.Join(log.Append(wal.Entry{Term: 1, Data: command.AppendDropBodies(nil, &drop)}), log.Close()); err != nil {
		t.Fatal(err)
	}
	again := &testServer{t: t, names: s.names, log: s.log}
	if again.engine, err = engine.Open(dir, eo); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := again.engine.Close(); err != nil {
			t.Errorf("close the engine: %v", err)
		}
	})
	if again.Server, err = New(again.engine, Options{Dev: true, AdminToken: adminToken, Logger: eo.Logger}); err != nil {
		t.Fatal(err)
	}
	again.listen()
	d := again.do("GET", path+"?include=payload", key, "").want(200)
	if body, there := d["body"]; !there || body != nil || d["body_dropped"] != true {
		t.Errorf("a body that was dropped: %v", d)
	}
	if d["status"] != "delivered" || len(d["attempts"].([]any)) != 1 {
		t.Errorf("the rest of it: %v", d)
	}
	if d := again.do("GET", path, key, "").want(200); d["body_dropped"] != nil {
		t.Errorf("without include=payload: %v", d)
	}
	again.do("POST", path+"/replay", key, "").refused(409, "payload is no longer kept")
	if d := again.do("GET", path, key, "").want(200); d["status"] != "delivered" || len(good.got) != 1 {
		t.Errorf("after a replay that was refused: %v, %d arrived", d["status"], len(good.got))
	}
}
