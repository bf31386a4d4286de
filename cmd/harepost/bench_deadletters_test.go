package main

import (
	"encoding/json"
	"testing"

	"github.com/harepost/harepost/bench"
)

// The scenario of many dead letters, in a small size: what it counts adds up, and
// nothing is lost or arrives twice. What it measures is for a quiet machine.
func TestBenchDeadLettersAddsUp(t *testing.T) {
	r := runProcess(t, nil, "bench", "dead-letters", "--count", "2000", "--replay-rate", "2000", "--fresh-rate", "100",
		"--alone", "100ms", "--dir", t.TempDir(), "--json")
	if r.Status != exitOK {
		t.Fatalf("status %d\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	var report bench.DeadLetterReport
	if err := json.Unmarshal([]byte(r.Stdout), &report); err != nil {
		t.Fatal(err)
	}
	if report.Replayed < 1000 || report.Replayed+report.Purged != 2000 || report.LeftOver+int(report.Missing)+int(report.FreshLost)+int(report.Duplicates) != 0 {
		t.Errorf("%+v", report)
	}
	for _, f := range []bench.FreshSends{report.Alone, report.Replaying, report.Purging} {
		if f.Failed > 0 || f.Answer.Count != f.Sent || f.Arrival.Count != f.Sent {
			t.Errorf("fresh sends: %+v", f)
		}
	}
	if r := runProcess(t, nil, "bench", "dead-letters", "--count", "-5"); r.Status == exitOK {
		t.Error("a negative count is taken")
	}
}
