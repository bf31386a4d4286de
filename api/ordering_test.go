package api

import (
	"strings"
	"testing"
)

func TestSendOrdering(t *testing.T) {
	f := func(members, key string, skip bool) {
		t.Helper()
		send := mustDecode(t, with(members)).send
		if send.OrderingKey != key || send.SkipFailed != skip {
			t.Errorf("%s: key %q, skip %t", members, send.OrderingKey, send.SkipFailed)
		}
	}
	f(`"ordering_key":"customer 7"`, "customer 7", false)
	f(`"ordering_key":"é","on_failure":"block"`, "é", false)
	f(`"on_failure":"skip","ordering_key":"k"`, "k", true)
	f(`"ordering_key":null,"on_failure":null`, "", false)
	long := strings.Repeat("é", 255) // characters, not bytes
	f(`"ordering_key":"`+long+`"`, long, false)

	mustRefuse(t, with(`"ordering_key":"`+long+`x"`), "ordering_key", "255")
	mustRefuse(t, with(`"ordering_key":""`), "ordering_key", "1 to 255")
	mustRefuse(t, with(`"ordering_key":" k"`), "ordering_key", "space")
	mustRefuse(t, with(`"ordering_key":"a\n"`), "ordering_key", "printable")
	mustRefuse(t, with(`"ordering_key":7`), "ordering_key", "a number", "a string")
	mustRefuse(t, with(`"ordering_key":"k","on_failure":"stop"`), "on_failure", "stop", "block or skip")
	mustRefuse(t, with(`"ordering_key":"k","on_failure":true`), "on_failure", "a string")
	mustRefuse(t, with(`"on_failure":"block"`), "on_failure", "ordering_key")
	mustRefuse(t, with(`"on_failure":"skip","ordering_key":null`), "on_failure", "ordering_key")
}

// The sends of a batch go out in its order, a dead letter holds its key, and
// look-ups, lists and jobs know the key.
func TestOrderingIsShown(t *testing.T) {
	s, key := startDev(t)
	bad, good := startReceiver(t, 404), startReceiver(t, 200)
	body, headers := batchOf(false,
		`{"target":"`+bad.url+`","ordering_key":"k","on_failure":"skip"}`,
		`{"target":"`+bad.url+`","ordering_key":"k"}`,
		`{"target":"`+good.url+`","ordering_key":"k","on_failure":"block"}`,
		`{"target":"`+good.url+`"}`,
	)
	var ids []string
	for _, r := range results(t, s.do("POST", "/v1/send/batch", key, body, headers...).want(202)) {
		ids = append(ids, r["queue_id"].(string))
	}
	for i, want := range []string{"skip", "block", "", ""} {
		if i == 2 {
			continue
		}
		d := s.settled(key, ids[i])
		if got, _ := d["on_failure"].(string); got != want || (want != "") != (d["ordering_key"] == "k") || d["waiting_for"] != nil {
			t.Errorf("send %d: %v", i, d)
		}
	}
	d := s.do("GET", "/v1/deliveries/"+ids[2], key, "").want(200)
	if d["status"] != "queued" || d["ordering_key"] != "k" || d["on_failure"] != "block" || d["waiting_for"] != "order" {
		t.Errorf("behind a dead letter: %v", d)
	}
	for query, want := range map[string]int{"?ordering_key=k": 3, "?ordering_key=other": 0, "?ordering_key=": 4} {
		page := s.do("GET", "/v1/deliveries"+query, key, "").want(200)
		if got := len(page["data"].([]any)); got != want {
			t.Errorf("%s: %d deliveries, want %d", query, got, want)
		}
	}
	if job := s.do("DELETE", "/v1/dead-letters?ordering_key=other&dry_run=true", key, "").want(200); job["matched"] != 0.0 {
		t.Errorf("another key: %v", job)
	}
	job := s.do("DELETE", "/v1/dead-letters?ordering_key=k&status=rejected", key, "").want(202)
	if f := job["filter"].(map[string]any); f["ordering_key"] != "k" {
		t.Errorf("the job's filter: %v", f)
	}
	if d := s.settled(key, ids[2]); d["status"] != "delivered" || d["waiting_for"] != nil {
		t.Errorf("after the purge: %v", d)
	}
}
