package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/harepost/harepost/bench/report"
)

// A harness that cannot see a loss proves nothing by reporting none. Equal
// totals must not hide it: one send is lost, another arrives twice.
func TestLossAndDuplicateAreCountedApart(t *testing.T) {
	t.Parallel()
	o := smallThroughput(t, report.Engine)
	o.DrainWait = 500 * time.Millisecond
	o.EngineFlags = []string{"--drop=2", "--repeat=5"} // each of the 8 connections sends at least once
	var out bytes.Buffer
	o.JSON = true
	if err := Run(t.Context(), o, &out); !errors.Is(err, ErrLost) {
		t.Fatalf("Run returned %v, want ErrLost", err)
	}
	var found report.Report
	if err := json.Unmarshal(out.Bytes(), &found); err != nil {
		t.Fatal(err)
	}
	v := found.Rounds[0].Values
	if v[report.Lost] != 1 || v[report.Duplicates] != 1 || v[report.Unacknowledged] != 0 || v[report.Strangers] != 0 {
		t.Errorf("lost %g, duplicates %g, unacknowledged %g, strangers %g; want 1, 1, 0, 0",
			v[report.Lost], v[report.Duplicates], v[report.Unacknowledged], v[report.Strangers])
	}
	if v[report.Arrived] != v[report.Accepted]-1 {
		t.Errorf("%g sends arrived of %g accepted, want all but one", v[report.Arrived], v[report.Accepted])
	}
}

func TestKnownDelayIsReportedAsThatDelay(t *testing.T) {
	t.Parallel()
	const answer, arrival = 100 * time.Millisecond, 200 * time.Millisecond
	o := smallThroughput(t, report.Engine)
	o.Duration = 800 * time.Millisecond
	o.EngineFlags = []string{"--answer-delay=" + answer.String(), "--arrival-delay=" + arrival.String()}
	var r report.Round
	var wrong []string
	check := func(name string, want time.Duration) {
		got := time.Duration(quantile(r.Latencies[name], 50) * float64(time.Millisecond))
		if got < want-time.Millisecond || got > 2*want {
			wrong = append(wrong, fmt.Sprintf("%s p50 is %s, want %s", name, got, want))
		}
	}
	for range 5 { // a busy machine may add anything to one measurement
		found, err := Measure(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		r, wrong = found.Rounds[0], nil
		check("answer", answer)
		check("arrival", arrival)
		// 8 connections, one send every 100 ms each.
		if rate := r.Values[report.AcceptedRate]; rate < 35 || rate > 82 {
			wrong = append(wrong, fmt.Sprintf("%.1f accepted/s, want about 80", rate))
		}
		if len(wrong) == 0 {
			break
		}
	}
	for _, w := range wrong {
		t.Error(w)
	}
	if r.Values[report.Lost] != 0 {
		t.Errorf("%g lost: what arrives after the load is late, not lost", r.Values[report.Lost])
	}
}

// Forwarder beside itself, as real processes: the numbers exist and agree.
func TestForwarderDeliversEverythingOnce(t *testing.T) {
	o := smallThroughput(t, report.Forwarder, report.Forwarder)
	o.Hosts = 2
	o.ProfileDir = t.TempDir()
	var found *report.Report
	// On a busy machine a profile may have no sample of a short round.
	for d := time.Second; d < 20*time.Second && (found == nil || len(found.Findings) == 0); d *= 4 {
		o.Duration = d
		var err error
		if found, err = Measure(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	if len(found.Rounds) != 2 {
		t.Fatalf("%d rounds, want one of each", len(found.Rounds))
	}
	for _, r := range found.Rounds {
		v := r.Values
		if v[report.Accepted] == 0 || v[report.Arrived] != v[report.Accepted] || v[report.Lost]+v[report.Duplicates]+v[report.Strangers]+v[report.Failed] > 0 {
			t.Errorf("%v, first failure %q", v, r.FirstFailure)
		}
		for _, name := range []string{report.DeliveredRate, report.CPU, report.PeakRSS, report.GeneratorCPU} {
			if v[name] <= 0 {
				t.Errorf("%s is %g", name, v[name])
			}
		}
		if quantile(r.Latencies["arrival"], 50) <= 0 || len(r.Timeline) == 0 {
			t.Errorf("no latencies or no timeline: %+v", r)
		}
	}
	if c := found.Ceiling; c == nil || c.RequestsPerSecond <= 0 || c.CPUSecondsPerMillion <= 0 {
		t.Errorf("the generator's ceiling is %+v", c)
	}
	profile, err := os.Stat(profilePath(o.ProfileDir, report.Forwarder, 8))
	if err != nil || profile.Size() == 0 {
		t.Errorf("the forwarder's profile: %v, %v", profile, err)
	}
	checkStages(t, found)
	left, err := os.ReadDir(o.Dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// checkStages checks that the stages of the forwarder sum up to what a delivery
// costs it.
func checkStages(t *testing.T, found *report.Report) {
	t.Helper()
	var costs []float64
	for _, r := range found.Rounds {
		costs = append(costs, r.Values[report.CPU])
	}
	sum, other := 0.0, 0.0
	for _, f := range found.Findings {
		if strings.HasPrefix(f.Name, "forwarder CPU: ") && f.Unit == "µs" && !strings.HasSuffix(f.Name, ", in the kernel") {
			sum += f.Value
		}
		if f.Name == "forwarder CPU: other" {
			other = f.Value
		}
	}
	if want := median(costs); math.Abs(sum-want) > 0.1 || other > want/2 {
		t.Errorf("the stages sum up to %g µs, %g of it unknown; a delivery costs %g: %+v", sum, other, want, found.Findings)
	}
}

func TestSystemThatDoesNotStartIsQuoted(t *testing.T) {
	o := smallThroughput(t, report.Engine)
	o.EngineFlags = []string{"--no-such-flag"}
	_, err := Measure(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "no-such-flag") {
		t.Errorf("Measure returned %v, want what the system wrote", err)
	}
}

func TestCanceledMeasureEnds(t *testing.T) {
	o := smallThroughput(t, report.Forwarder)
	o.Duration = time.Hour
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := Measure(ctx, o); err == nil {
		t.Error("a cancelled measurement reports success")
	}
}

func TestOptionsRefuseWhatContradicts(t *testing.T) {
	check := func(name string, change func(*Throughput), want string) {
		t.Helper()
		o := smallThroughput(t, report.Forwarder)
		change(o)
		if err := o.complete(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error with %q", name, err, want)
		}
	}
	check("unknown system", func(o *Throughput) { o.Systems = []string{"peer"} }, "peer")
	check("no connections", func(o *Throughput) { o.Connections = []int{64, 0} }, "connections")
	check("no rounds", func(o *Throughput) { o.Rounds = -1 }, "rounds")
	check("no duration", func(o *Throughput) { o.Duration = -1 }, "rounds")
	check("too many hosts", func(o *Throughput) { o.Hosts = maxHosts + 1 }, "hosts")
	check("no accounts", func(o *Throughput) { o.Accounts = -1 }, "accounts")
	check("Poisson in a closed loop", func(o *Throughput) { o.Poisson = true }, "rate")
	check("no queue", func(o *Throughput) { o.QueueRequests = -1 }, "queue")
	check("no address of the server", func(o *Throughput) { o.Systems = []string{report.Server} }, "URL")
	check("no key for the server", func(o *Throughput) { o.Systems, o.URL = nil, "http://127.0.0.1:1" }, "key")
}
