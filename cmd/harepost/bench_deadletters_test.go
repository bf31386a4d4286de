package main

import (
	"encoding/json"
	"testing"

	"github.com/harepost/harepost/bench/report"
)

// The scenario of many dead letters, in a small size: what it counts adds up, and
// nothing is lost or arrives twice. What it measures is for a quiet machine.
func TestBenchDeadLettersAddsUp(t *testing.T) {
	r := runProcess(t, nil, "bench", "dead-letters", "--count", "2000", "--replay-rate", "2000", "--fresh-rate", "100",
		"--alone", "100ms", "--dir", t.TempDir(), "--json")
	if r.Status != exitOK {
		t.Fatalf("status %d\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	var found report.Report
	if err := json.Unmarshal([]byte(r.Stdout), &found); err != nil {
		t.Fatal(err)
	}
	numbers := map[string]float64{}
	for _, f := range found.Findings {
		numbers[f.Name] = f.Value
	}
	if numbers["replayed"] < 1000 || numbers["replayed"]+numbers["purged"] != 2000 ||
		numbers["dead letters left"]+numbers["replays missing"]+numbers["replays twice"] != 0 {
		t.Errorf("%v", numbers)
	}
	if len(found.Rounds) != 3 {
		t.Fatalf("%d phases, want 3", len(found.Rounds))
	}
	for _, r := range found.Rounds {
		sent := r.Values[report.Accepted]
		if r.Values[report.Failed]+r.Values[report.Lost] > 0 || r.Latencies["answer"].Count != int64(sent) || r.Latencies["arrival"].Count != int64(sent) {
			t.Errorf("%s: %+v", r.Load.Variant, r)
		}
	}
	if r := runProcess(t, nil, "bench", "dead-letters", "--count", "-5"); r.Status == exitOK {
		t.Error("a negative count is taken")
	}
}
