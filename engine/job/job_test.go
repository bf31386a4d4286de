package job

import (
	"bytes"
	"log/slog"
	"testing"
	"time"

	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/wire"
)

// A job keeps its filter; one without an ordering key is kept as the first release
// kept it, which could not filter by one.
func TestFilterIsKept(t *testing.T) {
	at := time.UnixMilli(1781101330000).UTC()
	for key, version := range map[string]byte{"": version, "customer-7": orderedVersion} {
		j := Job{ID: 1, Account: 2, Kind: Purge, Status: Running, CreatedAt: at, UpdatedAt: at,
			Filter: delivery.Filter{Dead: true, IdempotencyKey: "k", OrderingKey: key, Until: at}}
		b := j.Append(nil)
		if b[0] != version {
			t.Errorf("ordering key %q: version %d, want %d", key, b[0], version)
		}
		var got Job
		r := wire.NewReader(b)
		got.Read(&r)
		if r.Err() != nil || len(r.Rest()) > 0 || got != j {
			t.Errorf("ordering key %q: got %+v, %v", key, got, r.Err())
		}
	}
}

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
