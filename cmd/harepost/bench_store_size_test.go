package main

import (
	"math"
	"strings"
	"testing"

	"github.com/harepost/harepost/bench/report"
)

// A store is filled, everything of it arrives, and a round with an empty store and
// one with the filled one follow. The pages are full, or the scenario fails.
func TestBenchStoreSize(t *testing.T) {
	t.Parallel() // most of it is waiting until engines are at rest
	r, numbers := playScenario(t, "store-size", "--count=2500", "--warmup=50ms", "--duration=200ms", "--connections=4")
	rounds := wantRounds(t, r, 3)
	allArrived(t, rounds...)
	var loads []string
	for _, round := range rounds {
		loads = append(loads, round.Load.String())
	}
	if got, want := strings.Join(loads, "; "), "0 finished, filling; 0 finished; 2,500 finished"; got != want {
		t.Errorf("rounds of %s, want %s", got, want)
	}
	if v := rounds[0].Values; v[report.Accepted] != 2500 || v[report.Duplicates] > 0 || v[report.CPU] <= 0 {
		t.Errorf("filling: %v", v)
	}
	for _, name := range []string{"CPU per delivery, filled store against empty", "CPU per delivery over all rounds, filled store against empty"} {
		wantFinding(t, numbers, name, 0.001, 1000)
	}
	// Of one pair of rounds, the ratio over all is that of the pair.
	if pair, all := numbers["CPU per delivery, filled store against empty"], numbers["CPU per delivery over all rounds, filled store against empty"]; math.Abs(pair-all) > pair/1e6 {
		t.Errorf("one pair of rounds has a ratio of %g, and all rounds have %g", pair, all)
	}
	// Payloads of 300 bytes, of which half are random letters.
	wantFinding(t, numbers, "data on disk after the fill", 2500*100, 1<<30)
	wantFinding(t, numbers, "log after the fill", 2500*100, 1<<30)
	wantFinding(t, numbers, "ready, after a restart on it", 1, 60_000)
	for _, page := range []string{"page of the newest", "page of the newest delivered", "page from the middle, by cursor"} {
		for _, what := range []string{", after a restart, the first", ", the first", ", p50", ", p99"} {
			wantFinding(t, numbers, page+what, 0.001, 60_000)
		}
	}
}
