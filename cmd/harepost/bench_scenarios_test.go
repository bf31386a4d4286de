package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/harepost/harepost/bench/report"
)

// Every scenario runs from the command line with the real engine, in a small
// size, and everything arrives. What it measures is for a quiet machine.
func TestBenchScenariosRun(t *testing.T) {
	check := func(name string, rounds int, flags ...string) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file, page := filepath.Join(t.TempDir(), "report.json"), filepath.Join(t.TempDir(), "report.html")
			args := append([]string{"bench", name, "--quick", "--rounds", "1", "--warmup", "50ms", "--duration", "200ms",
				"--dir", t.TempDir(), "--output", file, "--html", page}, flags...)
			r := runProcess(t, nil, args...)
			if r.Status != exitOK {
				t.Fatalf("status %d\n%s%s", r.Status, r.Stdout, r.Stderr)
			}
			found, err := readReport(file)
			if err != nil {
				t.Fatal(err)
			}
			if found.Scenario != name || found.Versions.Harepost == "" || len(found.Rounds) != rounds || !slices.Contains(found.Command, name) {
				t.Errorf("%d rounds, want %d, of %s", len(found.Rounds), rounds, found.Scenario)
			}
			for _, r := range found.Rounds {
				v := r.Values
				exact := v[report.Arrived] == v[report.Accepted] && v[report.Duplicates] == 0
				if name == "cluster" && r.System != report.Engine { // on a busy machine the leader may be taken for dead
					exact = v[report.Arrived] >= v[report.Accepted]
				}
				if v[report.Accepted] == 0 || !exact || v[report.Lost] > 0 {
					t.Errorf("%s, %s: %v, first failure %q", r.System, r.Load, v, r.FirstFailure)
				}
				if _, heap := v[report.HeapBytes]; r.System == report.Engine && (!heap || v[report.SyncRate] == 0 || v[report.EntriesPerSync] == 0) {
					t.Errorf("%s: of the engine's own metrics there are only %v", r.Load, v)
				}
			}
			if !strings.Contains(r.Stdout, "delivered/s") || strings.Count(r.Stderr, "\n") <= rounds {
				t.Errorf("the table or the progress is missing:\n%s%s", r.Stdout, r.Stderr)
			}
			if html, err := os.ReadFile(page); err != nil || !strings.Contains(string(html), "</html>") {
				t.Errorf("the page: %v, %.200s", err, html)
			}
			if r := runProcess(t, nil, "bench", "compare", file, file); r.Status != exitOK {
				t.Errorf("a report compared with itself: status %d\n%s%s", r.Status, r.Stdout, r.Stderr)
			}
		})
	}
	check("throughput", 2, "--connections", "8", "--accounts", "2", "--hosts", "2", "--payload", "uniform:100-1000", "--repeat", "0.2", "--systems", "engine,direct")
	check("batch", 4, "--batch", "10", "--connections", "2", "--single-connections", "4")
	check("latency", 4, "--rate", "100..300", "--poisson", "--saturation", "1000", "--shares", "20")
	check("cluster", 4, "--connections", "8", "--rate", "100", "--failovers", "1", "--duration", "1s")
	check("cluster", 3, "--connections", "8", "--entry-bytes", "16KiB", "--in-flight", "1,8", "--duration", "1s")
	check("payload", 2, "--sizes", "100,65536", "--connections", "4", "--systems", "engine", "--duration", "1s")
}

func TestBenchRefusesFlagsThatMakeNoSense(t *testing.T) {
	check := func(want string, args ...string) {
		t.Helper()
		r := runProcess(t, nil, append([]string{"bench"}, args...)...)
		if r.Status == exitOK || !strings.Contains(r.Stderr, want) {
			t.Errorf("%q: status %d, %q; want an error with %q", args, r.Status, r.Stderr, want)
		}
	}
	check("payload sizes", "throughput", "--payload", "huge")
	check("rate", "latency", "--rate", "fast")
	check("is not a size", "cluster", "--entry-bytes", "big")
	check("--entry-bytes must be from 4096", "cluster", "--entry-bytes", "64KiB,1KiB")
	check("--in-flight must be from 1", "cluster", "--in-flight", "0")
	check("no system", "throughput", "--systems", "peer")
	check("API key", "throughput", "--url", "http://127.0.0.1:1")
	empty := filepath.Join(t.TempDir(), "empty.json")
	if err := os.WriteFile(empty, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	check("no report", "compare", empty, empty)
}

// A report may be published, so it has no keys in it.
func TestBenchCommandLineHasNoKeys(t *testing.T) {
	got := strings.Join(commandLine([]string{"bench", "--api-key", "hp_live_a", "--rounds", "1", "--api-key=hp_live_b"}), " ")
	if want := "harepost bench --api-key … --rounds 1 --api-key=…"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
