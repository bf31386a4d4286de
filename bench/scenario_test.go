package bench

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/harepost/harepost/bench/report"
)

// play runs a scenario in a small size and returns its report, as a program
// that reads the JSON gets it.
func play(t *testing.T, s Scenario) *report.Report {
	t.Helper()
	return playFor(t, s, 150*time.Millisecond)
}

// playFor is play, and measures for so long.
func playFor(t *testing.T, s Scenario, d time.Duration) *report.Report {
	t.Helper()
	o := s.common()
	o.JSON = true
	o.Duration = d
	var out bytes.Buffer
	if err := Run(t.Context(), s, &out); err != nil {
		t.Fatal(err)
	}
	r, err := report.Read(&out)
	if err != nil {
		t.Fatal(err)
	}
	if r.Scenario != s.name() || !r.Quick || r.Machine.CPUs == 0 || r.Ceiling == nil || r.Durability == "" {
		t.Errorf("the report says too little of itself: %+v", r)
	}
	for _, round := range r.Rounds {
		v := round.Values
		if v[report.Accepted] == 0 || v[report.Arrived] != v[report.Accepted] || v[report.Failed]+v[report.Lost]+v[report.Duplicates]+v[report.Strangers] > 0 {
			t.Errorf("%s, %s: %v, first failure %q", round.System, round.Load, v, round.FirstFailure)
		}
	}
	return r
}

// played are the systems and loads of a report's rounds, in their order.
func played(r *report.Report) []string {
	var of []string
	for _, round := range r.Rounds {
		of = append(of, round.System+" "+round.Load.String())
	}
	return of
}

func TestSystemsTakeTurns(t *testing.T) {
	t.Parallel()
	s := smallThroughput(t, report.Direct, report.Engine)
	s.Connections = []int{2, 4}
	s.Rounds = 2
	got := played(play(t, s))
	want := []string{
		"direct 2 connections", "engine 2 connections", "direct 2 connections", "engine 2 connections",
		"direct 4 connections", "engine 4 connections", "direct 4 connections", "engine 4 connections",
	}
	if !slices.Equal(got, want) {
		t.Errorf("rounds of %q, want %q", got, want)
	}
}

// In the batches of the faulty system every tenth send is refused.
func TestBatchScenario(t *testing.T) {
	t.Parallel()
	r := play(t, &Batch{Options: smallOptions(t), Sizes: []int{20}, Connections: 2, SingleConnections: 4})
	if got := played(r); len(got) != 4 || got[0][:9] != "forwarder" || got[1][:6] != "engine" {
		t.Errorf("rounds of %q, want the forwarder and the engine at a batch of 1 and of 20", got)
	}
	v := r.Rounds[3].Values
	if v[report.Refused]*9 != v[report.Accepted] {
		t.Errorf("of batches of 20 %g are refused and %g accepted, want a tenth", v[report.Refused], v[report.Accepted])
	}
}

func TestLatencyScenario(t *testing.T) {
	t.Parallel()
	r := play(t, &Latency{
		Options: smallOptions(t), Traffic: Traffic{Rate: ConstantRate(200), Accounts: 2}, Connections: 4, OverloadConnections: 8, Shares: []float64{50, 150}, Saturation: 400,
	})
	got := played(r)
	want := []string{
		"direct rate 200/s", "engine rate 200/s",
		"direct share of saturation 50.0%", "engine share of saturation 50.0%", "direct share of saturation 150%", "engine share of saturation 150%",
	}
	if !slices.Equal(got, want) {
		t.Errorf("rounds of %q, want %q", got, want)
	}
	for i, sends := range []float64{40, 40, 40, 40, 120, 120} { // in 200 ms
		if r.Rounds[i].Values[report.Accepted] != sends {
			t.Errorf("%s: %g accepted, want %g", got[i], r.Rounds[i].Values[report.Accepted], sends)
		}
	}
	names := ""
	for _, f := range r.Findings {
		names += f.Name + "; "
	}
	if want := "added to arrival p50 at rate 200/s; added to arrival p99 at rate 200/s; saturation; "; names != want {
		t.Errorf("findings %q, want %q", names, want)
	}
}

func TestLatencyMeasuresTheSaturationItself(t *testing.T) {
	t.Parallel()
	o := smallOptions(t, report.Engine)
	const measured = 2 * time.Second // within less a busy machine may deliver nothing
	r := playFor(t, &Latency{Options: o, Traffic: Traffic{Rate: ConstantRate(100)}, Connections: 2, Shares: []float64{10}}, measured)
	if len(r.Rounds) != 3 || len(r.Findings) != 1 {
		t.Fatalf("%d rounds and %d findings", len(r.Rounds), len(r.Findings))
	}
	closed, share := r.Rounds[1].Values, r.Rounds[2].Values
	least := min(closed[report.AcceptedRate], closed[report.DeliveredRate])
	if r.Findings[0].Value != least {
		t.Errorf("the saturation is %g, want the lesser of %g accepted/s and %g delivered/s", r.Findings[0].Value, closed[report.AcceptedRate], closed[report.DeliveredRate])
	}
	if sends := least / 10 * (o.Warmup + measured).Seconds(); share[report.Accepted] < sends*0.9-2 || share[report.Accepted] > sends*1.1+2 {
		t.Errorf("%g sends at a tenth of the saturation, want %.0f", share[report.Accepted], sends)
	}
}

func TestPayloadScenario(t *testing.T) {
	t.Parallel()
	r := play(t, &Payload{Options: smallOptions(t, report.Forwarder), Connections: 2, Sizes: []int{102, 20_000}})
	want := []string{"forwarder payload 102 B", "forwarder payload 19.5 KiB"}
	if got := played(r); !slices.Equal(got, want) {
		t.Errorf("rounds of %q, want %q", got, want)
	}
}

// A running server is measured by its URL alone: here a forwarder that the test
// runs, which knows no metrics and no accounts.
func TestARunningServerIsMeasuredByItsURL(t *testing.T) {
	t.Parallel()
	f, err := NewForwarder(ForwarderOptions{Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	o := smallThroughput(t)
	o.URL, o.Keys = "http://"+f.Addr()+"/", []string{"key"}
	o.Payload, err = ParseSizes("mix:100x1,300x1")
	if err != nil {
		t.Fatal(err)
	}
	r := play(t, o)
	if got := played(r); !slices.Equal(got, []string{"forwarder 8 connections", "server 8 connections"}) {
		t.Fatalf("rounds of %q", got)
	}
	v := r.Rounds[1].Values
	for _, name := range []string{report.CPU, report.RSS, report.WrittenBytes, report.SyncRate} {
		if _, ok := v[name]; ok {
			t.Errorf("%s of a server that is not ours: %g", name, v[name])
		}
	}
}

func TestScenariosRefuseWhatContradicts(t *testing.T) {
	check := func(s Scenario, want string) {
		t.Helper()
		if err := s.complete(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error with %q", s.name(), err, want)
		}
	}
	check(&Batch{Options: smallOptions(t), Sizes: []int{0}}, "batch")
	check(&Batch{Options: smallOptions(t), Traffic: Traffic{Rate: ConstantRate(5)}}, "closed")
	check(&Latency{Options: smallOptions(t, report.Direct)}, "engine")
	check(&Latency{Options: smallOptions(t), Shares: []float64{0}}, "shares")
	check(&Latency{Options: smallOptions(t), Saturation: -1}, "saturation")
	check(&Payload{Options: smallOptions(t), Sizes: []int{1 << 20}}, "size")
	check(&DeadLetters{Options: smallOptions(t), Count: -5}, "dead letters")
}
