package job

import (
	"bytes"
	"log/slog"
	"testing"
)

// What the logs call a job is what the API calls it.
func TestIDsAreLoggedAsTheyAreShown(t *testing.T) {
	var logs bytes.Buffer
	id := ID(58919590004529082)
	slog.New(slog.NewJSONHandler(&logs, nil)).Info("job ended", "job", id)
	if want := `"job":"` + id.String() + `"`; !bytes.Contains(logs.Bytes(), []byte(want)) {
		t.Errorf("%s, want %s", logs.String(), want)
	}
}

// A job that was stopped says how much is left, one that is done that nothing is.
func TestRemaining(t *testing.T) {
	f := func(s Status, matched, done, skipped, want int64) {
		t.Helper()
		if got := (&Job{Status: s, Matched: matched, Done: done, Skipped: skipped}).Remaining(); got != want {
			t.Errorf("%s, %d matched, %d done, %d skipped: %d remain, want %d", s, matched, done, skipped, got, want)
		}
	}
	f(Running, 10, 3, 1, 6)
	f(Canceled, 10, 3, 1, 6)
	f(Done, 10, 9, 0, 0)
	f(Running, -1, 0, 0, 0)
	f(Running, 10, 12, 0, 0)
}
