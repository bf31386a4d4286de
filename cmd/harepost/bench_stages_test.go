package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/pprof/profile"
)

// writeProfile writes a CPU profile in which one function ran for so long.
func writeProfile(t *testing.T, path, function string, ns int64) string {
	t.Helper()
	f := &profile.Function{ID: 1, Name: function}
	l := &profile.Location{ID: 1, Line: []profile.Line{{Function: f}}}
	p := profile.Profile{
		SampleType: []*profile.ValueType{{Type: "cpu", Unit: "nanoseconds"}},
		Function:   []*profile.Function{f},
		Location:   []*profile.Location{l},
		Sample:     []*profile.Sample{{Location: []*profile.Location{l}, Value: []int64{ns}}},
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := p.Write(out); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestBenchStagesSetsProfilesSideBySide(t *testing.T) {
	dir := t.TempDir()
	before := writeProfile(t, filepath.Join(dir, "before", "engine.prof"), "github.com/harepost/harepost/wal.(*writer).run", 5e9)
	after := writeProfile(t, filepath.Join(dir, "after", "engine.prof"), "github.com/harepost/harepost/scheduler.(*Scheduler).Next", 4e9)

	status, stdout, stderr := runHere(t, "bench", "stages", "--cpu-us", "35.2,27.2", before, after)
	if status != exitOK || stderr != "" {
		t.Fatalf("status %d, %s", status, stderr)
	}
	for _, want := range []string{
		"before/engine: 35.2 µs of CPU per delivery",
		"\nlog           |     35.2     0.0 100.0 %  |      0.0     0.0   0.0 %  |   -35.2\n",
		"\nschedule      |      0.0     0.0   0.0 %  |     27.2     0.0 100.0 %  |   +27.2\n",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("%q is not in\n%s", want, stdout)
		}
	}

	status, stdout, stderr = runHere(t, "bench", "stages", "--json", "--cpu-us", "20", after)
	var columns []struct {
		Name string  `json:"name"`
		US   float64 `json:"cpu_us_per_delivery"`
	}
	if err := json.Unmarshal([]byte(stdout), &columns); err != nil || status != exitOK || len(columns) != 1 || columns[0].US != 20 || columns[0].Name != "engine" {
		t.Errorf("status %d, %v: %s%s", status, err, stdout, stderr)
	}
}

func TestBenchStagesRefuses(t *testing.T) {
	dir := t.TempDir()
	good := writeProfile(t, filepath.Join(dir, "good.prof"), "runtime.mcall", 1)
	report := filepath.Join(dir, "report.json")
	if err := os.WriteFile(report, []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	f := func(want string, args ...string) {
		t.Helper()
		status, stdout, stderr := runHere(t, append([]string{"bench", "stages"}, args...)...)
		if status == exitOK || stdout != "" || !strings.Contains(stderr, want) {
			t.Errorf("%q: status %d, %s%s; want %q", args, status, stdout, stderr, want)
		}
	}
	f(report+": stages: not a CPU profile", good, report)
	f("--cpu-us has 1 numbers for 2 profiles", "--cpu-us", "3", good, good)
	f("above 0", "--cpu-us", "0", good)
	f("above 0", "--cpu-us", "NaN", good)
	f("at most 8 fit", good, good, good, good, good, good, good, good, good)
}
