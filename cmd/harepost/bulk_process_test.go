package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// sent sends one delivery with args, and returns its id.
func (u user) sent(status int, args ...string) string {
	u.t.Helper()
	return strings.Fields(u.runs(status, append([]string{"send"}, args...)...).Stdout)[0]
}

// jobOf is the id of the bulk operation that a command printed.
func jobOf(t *testing.T, r processResult) string {
	t.Helper()
	words := strings.Fields(r.Stdout)
	if len(words) == 0 || !strings.HasPrefix(words[0], "job_") {
		t.Fatalf("no bulk operation in\n%s%s", r.Stdout, r.Stderr)
	}
	return words[0]
}

// An endpoint rejected everything at first. What was meant for it is found,
// counted, replayed and delivered.
func TestDeadLettersAreReplayed(t *testing.T) {
	l := startListen(t, "--fail-first", "1", "--fail-status", "422")
	s := startServer(t, "--dev")
	u := newUser(t, s.URL, s.devKey())
	var ids []string
	for range 3 {
		ids = append(ids, u.sent(exitUndelivered, l.url, "--label", "orders", "-d", "{}", "--wait"))
	}
	other := u.sent(exitUndelivered, l.url, "--label", "others", "-d", "{}", "--wait")
	u.prints(strings.Join(ids, "|")+"|rejected", exitOK, "dead-letters", "list", "--label", "orders")
	u.prints("3 deliveries would be replayed", exitOK, "dead-letters", "replay", "--label", "orders", "--dry-run")
	u.prints("0 deliveries would be", exitOK, "dead-letters", "replay", "--label", "orders", "--until", "1h", "--dry-run")

	done := u.prints("replay|done|matched 3, done 3", exitOK, "dead-letters", "replay", "--label", "orders")
	for _, id := range ids {
		u.prints("delivered|200", exitOK, "deliveries", "get", id, "--wait")
	}
	u.prints("rejected", exitOK, "deliveries", "get", other)
	id := jobOf(t, done)
	u.prints(id+"|replay|done", exitOK, "replays", "list")
	u.prints(id+"|done 3", exitOK, "replays", "get", id)
	u.prints(id, exitOK, "replays", "watch", id)
	u.prints("409", exitConflict, "replays", "cancel", id)
	u.prints("404", exitNotFound, "replays", "get", "job_0000000000000")
	u.prints("400", exitRefused, "dead-letters", "replay", "--status", "delivered")

	u.prints(other+"|retrying", exitOK, "deliveries", "replay", other)
	u.prints("delivered", exitOK, "deliveries", "get", other, "--wait")
	u.prints("QUEUE_ID", exitOK, "dead-letters", "list")
	l.end(t)
}

// A replay at a rate takes its time: it can be watched, stopped, and goes on
// after a restart.
func TestAReplayIsStoppedOverARestart(t *testing.T) {
	l := startListen(t, "--status", "422")
	data := filepath.Join(t.TempDir(), "data")
	s := startServer(t, "--dev", "--data-dir", data)
	u := newUser(t, s.URL, s.devKey())
	for range 4 {
		u.sent(exitUndelivered, l.url, "-d", "{}", "--wait")
	}
	id := jobOf(t, u.prints("running", exitOK, "dead-letters", "replay", "--rate", "1", "--detach", "--host", "127.0.0.1"))
	s.kill9()
	s = startServer(t, "--dev", "--data-dir", data)
	u = newUser(t, s.URL, s.devKey())
	u.prints(id+"|canceled", exitOK, "replays", "cancel", id)
	u.prints("canceled before its end", exitFailed, "replays", "watch", id)
	l.end(t)
}

func TestPendingDeliveriesAreCancelled(t *testing.T) {
	s := startServer(t, "--dev")
	u := newUser(t, s.URL, s.devKey())
	later := func(label string) string {
		return u.sent(exitOK, "http://127.0.0.1:1024/", "--delay", "1h", "--label", label)
	}
	one := later("one")
	u.prints("409|pending", exitConflict, "deliveries", "replay", one)
	u.prints(one+"|canceled", exitOK, "deliveries", "cancel", one)
	u.prints("409", exitConflict, "deliveries", "cancel", one)
	u.prints("404", exitNotFound, "deliveries", "cancel", "hr_00000000000000000000000000")

	ids := []string{later("many"), later("many"), later("many")}
	kept := later("kept")
	u.prints("3 deliveries would be cancelled", exitOK, "deliveries", "cancel", "--label", "many", "--dry-run")
	u.prints("This would cancel 3 deliveries.|--yes", exitUsage, "deliveries", "cancel", "--label", "many")
	u.prints("queued", exitOK, "deliveries", "get", ids[0])
	u.prints("done 3", exitOK, "deliveries", "cancel", "--label", "many", "--yes")
	for _, id := range ids {
		u.prints("canceled", exitOK, "deliveries", "get", id)
	}
	u.prints("queued", exitOK, "deliveries", "get", kept)
}

func TestDeadLettersArePurged(t *testing.T) {
	l := startListen(t, "--status", "422")
	s := startServer(t, "--dev")
	u := newUser(t, s.URL, s.devKey())
	for n := range 3 {
		u.sent(exitUndelivered, l.url, "-d", "{}", "--wait", "--label", fmt.Sprint("label-", n))
	}
	u.prints("This would purge 3 deliveries.", exitUsage, "dead-letters", "purge")
	u.prints("done 1", exitOK, "dead-letters", "purge", "--label", "label-0", "--yes")
	var list struct{ Data []json.RawMessage }
	if err := json.Unmarshal([]byte(u.runs(exitOK, "dead-letters", "list", "--json").Stdout), &list); err != nil || len(list.Data) != 2 {
		t.Errorf("%d are left, want 2: %v", len(list.Data), err)
	}
	u.prints("done 2", exitOK, "dead-letters", "purge", "--yes")
	if all := u.runs(exitOK, "dead-letters", "list", "--all", "--json"); all.Stdout != "" {
		t.Errorf("after the purge of everything:\n%s", all.Stdout)
	}
	l.end(t)
}

// A file of many sends: what is right is accepted in requests of a thousand,
// what is not is told by its line.
func TestABatchIsSentByTheCommandLine(t *testing.T) {
	s := startServer(t, "--dev")
	u := newUser(t, s.URL, s.devKey())
	var text strings.Builder
	for n := range 2500 {
		fmt.Fprintf(&text, `{"target":"http://127.0.0.1:1024/","body": {"n": %d}, "delay_ms":3600000, "labels":["batch"]}`+"\n", n)
	}
	text.WriteString("\nnonsense\n" + `{"target":17}` + "\n" + `{"target":"https://not-verified.example/"}` + "\n")
	file := filepath.Join(t.TempDir(), "sends.ndjson")
	writeFile(t, file, []byte(text.String()))

	r := u.prints("accepted 2,500, duplicates 0, refused 3|line 2502: |line 2503: |line 2504: ", exitRefused, "send", "--batch", file)
	ids := strings.Fields(r.Stdout)
	if len(ids) != 2500 {
		t.Fatalf("%d ids", len(ids))
	}
	u.prints(`{"n": 2499}`, exitOK, "deliveries", "get", ids[2499], "--payload")
	u.prints("2,500 deliveries would be cancelled", exitOK, "deliveries", "cancel", "--label", "batch", "--dry-run")

	once := filepath.Join(t.TempDir(), "once.ndjson")
	writeFile(t, once, []byte(`{"target":"http://127.0.0.1:1024/","idempotency_key":"k","delay_ms":3600000}`+"\n"))
	u.prints("accepted 1, duplicates 0, refused 0", exitOK, "send", "--batch", once)
	again := u.prints("accepted 0, duplicates 1, refused 0", exitOK, "send", "--batch", once, "--json")
	var line struct {
		Line   int
		Result struct {
			QueueID   string `json:"queue_id"`
			Duplicate bool
		}
	}
	if err := json.Unmarshal([]byte(again.Stdout), &line); err != nil || line.Line != 1 || !line.Result.Duplicate {
		t.Errorf("%v in\n%s", err, again.Stdout)
	}
}

// A line above what the server takes in a whole request is refused alone.
func TestAHugeLineOfABatchTakesNoOtherAlong(t *testing.T) {
	s := startServer(t, "--dev")
	u := newUser(t, s.URL, s.devKey())
	line := func(n int) string {
		return `{"target":"http://127.0.0.1:1024/","delay_ms":3600000,"body":"` + strings.Repeat("x", n) + `"}` + "\n"
	}
	file := filepath.Join(t.TempDir(), "sends.ndjson")
	writeFile(t, file, []byte(strings.Repeat(line(10), 3)+line(17<<20)+line(2<<20)+line(10)))
	r := u.prints("accepted 4, duplicates 0, refused 2|line 4: request body is too large|line 5: send is too large", exitRefused, "send", "--batch", file)
	if ids := strings.Fields(r.Stdout); len(ids) != 4 {
		t.Errorf("%d ids, want 4", len(ids))
	}
}
