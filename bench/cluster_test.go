package bench

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/harepost/harepost/bench/report"
)

// One node and three take turns, and what three reach of one is said. The leader
// is killed, and what the system costs is the sum of its processes.
func TestClusterScenario(t *testing.T) {
	t.Parallel()
	c := &Cluster{Options: smallOptions(t), Traffic: Traffic{Rate: ConstantRate(100)}, Connections: []int{4}, Failovers: 2}
	r := playFor(t, c, time.Second) // within less a busy machine may deliver nothing
	want := []string{"engine 4 connections", "cluster 4 connections", "engine rate 100/s", "cluster rate 100/s"}
	if got := played(r); !slices.Equal(got, want) {
		t.Errorf("rounds of %q, want %q", got, want)
	}
	if one, three := r.Rounds[0].Values[report.RSS], r.Rounds[1].Values[report.RSS]; three < 1.4*one { // the race detector has its own use of memory
		t.Errorf("one node has %g bytes in memory, three have %g", one, three)
	}
	var names []string
	for _, f := range r.Findings {
		names = append(names, f.Name)
		if f.Value <= 0 {
			t.Errorf("%s: %g", f.Name, f.Value)
		}
	}
	if len(names) != 4 || !strings.Contains(names[3], "killed, longest") {
		t.Errorf("found %q", names)
	}
	against := map[string]bool{}
	for _, ratio := range r.Ratios() {
		if ratio.System == report.Cluster {
			against[ratio.Against] = true
		}
	}
	if len(against) != 1 || !against[report.Engine] {
		t.Errorf("the cluster is held against %v, want the engine", against)
	}
}

// What makes no sense together is refused.
func TestClusterScenarioRefuses(t *testing.T) {
	f := func(words string, c *Cluster) {
		t.Helper()
		if err := c.complete(); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%v, want %q", err, words)
		}
	}
	f("no cluster", &Cluster{Options: smallOptions(t, report.Engine)})
	f("1,000", &Cluster{Options: smallOptions(t), Failovers: 1001})
	running := smallOptions(t)
	running.URL, running.Keys = "http://127.0.0.1:1", []string{"x"}
	f("names one that runs", &Cluster{Options: running})
}
