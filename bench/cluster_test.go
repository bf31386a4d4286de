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
	nothing := func(f report.Finding) bool { return f.Value <= 0 }
	var r *report.Report
	// On a busy machine nothing may be accepted for as long as is measured.
	for d := time.Second; d < 20*time.Second && (r == nil || slices.ContainsFunc(r.Findings, nothing)); d *= 4 {
		r = playFor(t, &Cluster{Options: smallOptions(t), Traffic: Traffic{Rate: ConstantRate(100)}, Connections: []int{4}, Failovers: 2}, d)
	}
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
		if nothing(f) {
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

// Settings of a cluster are measured beside the default and held against it, each in
// nodes that have its flags.
func TestClusterSettings(t *testing.T) {
	t.Parallel()
	c := &Cluster{Options: smallOptions(t), Connections: []int{4}, EntryBytes: []Bytes{16 << 10, 2 << 20}, InFlight: []int{1, 8}}
	r := playFor(t, c, time.Second)
	want := []string{"cluster 4 connections", "16KiB×1 4 connections", "16KiB×8 4 connections", "2MiB×1 4 connections", "2MiB×8 4 connections"}
	if got := played(r); !slices.Equal(got, want) {
		t.Errorf("rounds of %q, want %q", got, want)
	}
	against := map[string]bool{}
	for _, ratio := range r.Ratios() {
		against[ratio.System+" / "+ratio.Against] = true
	}
	if len(against) != 4 || !against["2MiB×8 / cluster"] {
		t.Errorf("the ratios are %v, want each setting's to the cluster", against)
	}
	f := func(size Bytes, inFlight int, want ...string) {
		t.Helper()
		name, flags := entrySetting(size, inFlight)
		if got := append([]string{name}, flags...); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	f(1<<20, 0, "1MiB", "--cluster-entry-bytes=1048576")
	f(0, 2, "2 in flight", "--cluster-entries-in-flight=2")
	f(5000, 64, "5000×64", "--cluster-entry-bytes=5000", "--cluster-entries-in-flight=64")
}

// A system with flags of its own has its own name in the report.
func TestAPlanHasFlags(t *testing.T) {
	t.Parallel()
	s := &session{options: smallOptions(t), report: new(report.Report), progress: new(progress)}
	s.options.EngineFlags = []string{"--repeat=1"}
	if err := s.options.complete(); err != nil {
		t.Fatal(err)
	}
	traffic := Traffic{Rate: ConstantRate(100)}
	traffic.defaultPayload()
	if err := traffic.complete(); err != nil {
		t.Fatal(err)
	}
	with := traffic.plan(&s.options, report.Engine, report.Load{}, 2)
	without := with
	with.as, with.flags = "another", []string{"--repeat=-1"}
	if err := s.interleave(t.Context(), with, without); err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		system     string
		duplicates float64
	}{{"another", 0}, {report.Engine, 1}} {
		if r := s.report.Rounds[i]; r.System != want.system || r.Values[report.Duplicates] != want.duplicates {
			t.Errorf("%s has %g duplicates, want %g of %s", r.System, r.Values[report.Duplicates], want.duplicates, want.system)
		}
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
