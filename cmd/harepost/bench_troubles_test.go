package main

import (
	"encoding/json"
	"testing"

	"github.com/harepost/harepost/bench/report"
)

// playScenario runs a scenario in a small size and returns what it found.
func playScenario(t *testing.T, args ...string) (report.Report, map[string]float64) {
	t.Helper()
	args = append([]string{"bench", args[0], "--quick", "--rounds=1", "--json", "--dir", t.TempDir()}, args[1:]...)
	r := runProcess(t, nil, args...)
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
	return found, numbers
}

// allArrived holds that every accepted send of a round arrived, and that the
// latencies are those of all that were measured.
func allArrived(t *testing.T, rounds ...report.Round) {
	t.Helper()
	for _, r := range rounds {
		v := r.Values
		if v[report.Accepted] == 0 || v[report.Arrived] != v[report.Accepted] || v[report.Lost]+v[report.Strangers]+v[report.Unacknowledged] > 0 {
			t.Errorf("%s %s: %v", r.Load.Axis, r.Load.Variant, v)
		}
		if n := float64(r.Latencies["arrival"].Count); n == 0 || n > v[report.Accepted] {
			t.Errorf("%s %s: %g arrivals measured of %g", r.Load.Axis, r.Load.Variant, n, v[report.Accepted])
		}
	}
}

func wantRounds(t *testing.T, r report.Report, n int) []report.Round {
	t.Helper()
	if len(r.Rounds) != n {
		t.Fatalf("%d rounds, want %d", len(r.Rounds), n)
	}
	return r.Rounds
}

func wantFinding(t *testing.T, numbers map[string]float64, name string, least, most float64) {
	t.Helper()
	if n, ok := numbers[name]; !ok || !(n >= least && n <= most) {
		t.Errorf("%q is %g, want %g to %g; there are %v", name, n, least, most, numbers)
	}
}

// Half of the storm's sends fail twice, by the seed: two attempts each, in all.
func TestBenchRetryStorm(t *testing.T) {
	r, numbers := playScenario(t, "retry-storm", "--warmup=100ms", "--duration=500ms", "--healthy-rate=100", "--storm-rate=200", "--fails=2")
	allArrived(t, wantRounds(t, r, 3)...)
	wantFinding(t, numbers, "attempts per delivery of the storm", 1.6, 2.4)
	wantFinding(t, numbers, "peak rate to the failing receiver (1 s), against its sends", 0.1, 1000)
}

// What goes into black holes comes out when they begin to answer.
func TestBenchBlackHoles(t *testing.T) {
	r, numbers := playScenario(t, "black-holes", "--warmup=100ms", "--duration=500ms", "--healthy-rate=40", "--holes=20", "--restart",
		"--delivery", `{"timeout_ms":1000,"base_delay_ms":100}`)
	rounds := wantRounds(t, r, 4)
	allArrived(t, rounds[0], rounds[1], rounds[3])
	if v := rounds[2].Values; v[report.Accepted] == 0 || v[report.Arrived] != v[report.Accepted] {
		t.Errorf("black holes: %v", v)
	}
	wantFinding(t, numbers, "share of the healthy that had arrived at the end of the load", 0.01, 1)
	wantFinding(t, numbers, "healthy arrival p99, beside black holes against alone", 0, 1e6)
	wantFinding(t, numbers, "healthy arrival p99, after a restart with full holes against alone", 0, 1e6)
}

func TestBenchNoisyTenant(t *testing.T) {
	r, numbers := playScenario(t, "noisy-tenant", "--warmup=100ms", "--duration=500ms",
		"--quiet-accounts=4", "--quiet-rate=10", "--times=20", "--flood-connections=4")
	rounds := wantRounds(t, r, 7)
	allArrived(t, rounds...)
	if rounds[2].System != report.Forwarder || rounds[4].System != report.Engine {
		t.Errorf("the noise went through the %s, then through the %s", rounds[2].System, rounds[4].System)
	}
	if quiet, noisy := rounds[3].Values[report.Accepted], rounds[4].Values[report.Accepted]; noisy != 5*quiet {
		t.Errorf("%g quiet sends, %g noisy ones", quiet, noisy)
	}
	for _, beside := range []string{"noise elsewhere", "the noisy account", "a flood"} {
		wantFinding(t, numbers, "quiet answer p99, beside "+beside+" against alone", 0, 1e6)
		wantFinding(t, numbers, "quiet arrival p99, beside "+beside+" against alone", 0, 1e6)
	}
}

// Over https, so that the engine has to be told whom to trust.
func TestBenchManyHosts(t *testing.T) {
	r, numbers := playScenario(t, "many-hosts", "--https", "--warmup=100ms", "--duration=1s", "--hosts=50", "--connections=4")
	rounds := wantRounds(t, r, 1)
	allArrived(t, rounds...)
	wantFinding(t, numbers, "deliveries to each host", rounds[0].Values[report.Accepted]/50, rounds[0].Values[report.Accepted]/50)
	wantFinding(t, numbers, "most open connections", 0, 50*128) // as many as a lane may have
}

// The receiver is away for half a second: its share of the sends is pending then,
// and all of them arrive, though it takes fewer from then on.
func TestBenchOutage(t *testing.T) {
	for _, excess := range []string{"503", "slow"} {
		r, numbers := playScenario(t, "outage", "--warmup=100ms", "--before=300ms", "--away=500ms", "--after=1s", "--rate=100", "--beside-rate=20",
			"--capacity=50", "--excess", excess,
			"--delivery", `{"max_attempts":25,"base_delay_ms":100,"max_delay_ms":1000,"timeout_ms":1000}`)
		allArrived(t, wantRounds(t, r, 2)...)
		wantFinding(t, numbers, "backlog when it came back", 1, 120)
		wantFinding(t, numbers, "backlog drained, after it came back", 0, 60_000)
		wantFinding(t, numbers, "first failed attempt, after it went", 0, 60_000)
		wantFinding(t, numbers, "share of the attempts that were more than it takes", 0, 1)
		wantFinding(t, numbers, "most attempts of a delivery", 2, 25)
		if len(r.Rounds[0].Timeline) == 0 {
			t.Error("an outage without a timeline")
		}
	}
}

// What is pending survives the restart, and all of it arrives once the dead hosts
// are back, though the engine is killed meanwhile.
func TestBenchBacklog(t *testing.T) {
	r, numbers := playScenario(t, "backlog", "--count=1500", "--lanes=20", "--slow=delay=5ms", "--drain=300ms", "--finish=90s",
		"--delivery", `{"max_attempts":25,"base_delay_ms":500,"max_delay_ms":1000,"timeout_ms":10000}`)
	rounds := wantRounds(t, r, 5)
	for _, round := range rounds[:2] {
		// The slow half may have arrived, the dead half cannot have.
		if v := round.Values; v[report.Pending] < 750 || v[report.Arrived] > 750 || v[report.Pending]+v[report.Arrived] < 1500 {
			t.Errorf("%s: %v", round.Load.Variant, v)
		}
	}
	if v := rounds[4].Values; v[report.Arrived] != 1500 {
		t.Errorf("drained: %v, want that all arrived", v)
	}
	wantFinding(t, numbers, "restarted: ready, after the start", 0, 60_000)
	wantFinding(t, numbers, "killed: ready, after the start", 0, 60_000)
	wantFinding(t, numbers, "accepted/s, of the last tenth", 1, 1e9)
	wantFinding(t, numbers, "lost by kill -9", 0, 0)
}

// A soak's mix has failures in it, which are made good.
func TestBenchSoak(t *testing.T) {
	r, numbers := playScenario(t, "soak", "--warmup=100ms", "--duration=2s", "--rate=100", "--hosts=5", "--accounts=2")
	allArrived(t, wantRounds(t, r, 1)...)
	wantFinding(t, numbers, "file descriptors at most", 5, 10_000)
	wantFinding(t, numbers, "RSS at the end", 1<<20, 1<<34)
	if len(r.Rounds[0].Timeline) == 0 {
		t.Error("a soak without a timeline")
	}
}
