package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

// A harness that cannot see a loss proves nothing by reporting none. Equal
// totals must not hide it: one send is lost, another arrives twice.
func TestLossAndDuplicateAreCountedApart(t *testing.T) {
	o := quickOptions(t, SystemEngine)
	o.EngineFlags = []string{"--drop=2", "--repeat=5"} // each of the 8 connections sends at least once
	var out bytes.Buffer
	o.JSON = true
	if err := Run(t.Context(), o, &out); !errors.Is(err, ErrLost) {
		t.Fatalf("Run returned %v, want ErrLost", err)
	}
	var report Report
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		t.Fatal(err)
	}
	r := report.Rounds[0]
	if r.Lost != 1 || r.Duplicates != 1 || r.Unacknowledged != 0 || r.Strangers != 0 {
		t.Errorf("lost %d, duplicates %d, unacknowledged %d, strangers %d; want 1, 1, 0, 0",
			r.Lost, r.Duplicates, r.Unacknowledged, r.Strangers)
	}
	if r.Arrived != r.Accepted-1 {
		t.Errorf("%d sends arrived of %d accepted, want all but one", r.Arrived, r.Accepted)
	}
}

func TestKnownDelayIsReportedAsThatDelay(t *testing.T) {
	const answer, arrival = 100 * time.Millisecond, 200 * time.Millisecond
	o := quickOptions(t, SystemEngine)
	o.Duration = 800 * time.Millisecond
	o.EngineFlags = []string{"--answer-delay=" + answer.String(), "--arrival-delay=" + arrival.String()}
	report, err := Measure(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	check := func(name string, gotMS float64, want time.Duration) {
		t.Helper()
		got := time.Duration(gotMS * float64(time.Millisecond))
		// Never less than the delay; more by what a busy machine adds.
		if got < want-time.Millisecond || got > 2*want {
			t.Errorf("%s p50 is %s, want %s", name, got, want)
		}
	}
	r := report.Rounds[0]
	check("answer", r.AnswerLatency.P50MS, answer)
	check("arrival", r.ArrivalLatency.P50MS, arrival)
	// 8 connections, one send every 100 ms each.
	if r.AcceptedPerSecond < 35 || r.AcceptedPerSecond > 82 {
		t.Errorf("%.1f accepted/s, want about 80", r.AcceptedPerSecond)
	}
	if r.Lost != 0 {
		t.Errorf("%d lost: what arrives after the load is late, not lost", r.Lost)
	}
}

// Forwarder beside itself, as real processes: the numbers exist and agree.
func TestForwarderDeliversEverythingOnce(t *testing.T) {
	o := quickOptions(t, SystemForwarder, SystemForwarder)
	o.Targets = 2
	o.ProfileDir = t.TempDir()
	o.Duration = time.Second
	report, err := Measure(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Rounds) != 2 {
		t.Fatalf("%d rounds, want one of each", len(report.Rounds))
	}
	for _, r := range report.Rounds {
		if r.Accepted == 0 || r.Arrived != r.Accepted || r.Lost+r.Duplicates+r.Strangers+r.Failed > 0 {
			t.Errorf("accepted %d, arrived %d, lost %d, duplicates %d, strangers %d, failed %d (%s)",
				r.Accepted, r.Arrived, r.Lost, r.Duplicates, r.Strangers, r.Failed, r.FirstFailure)
		}
		if r.DeliveredPerSecond <= 0 || r.CPUSecondsPerMillion <= 0 || r.PeakRSSBytes == 0 || r.ArrivalLatency.P50MS <= 0 {
			t.Errorf("a number is missing: %+v", r)
		}
	}
	profile, err := os.Stat(profilePath(o.ProfileDir, SystemForwarder, 8))
	if err != nil || profile.Size() == 0 {
		t.Errorf("the forwarder's profile: %v, %v", profile, err)
	}
	left, err := os.ReadDir(o.Dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestSystemThatDoesNotStartIsQuoted(t *testing.T) {
	o := quickOptions(t, SystemEngine)
	o.EngineFlags = []string{"--no-such-flag"}
	_, err := Measure(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "no-such-flag") {
		t.Errorf("Measure returned %v, want what the system wrote", err)
	}
}

func TestCanceledMeasureEnds(t *testing.T) {
	o := quickOptions(t, SystemForwarder)
	o.Duration = time.Hour
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := Measure(ctx, o); err == nil {
		t.Error("a cancelled measurement reports success")
	}
}

func TestOptionsRefuseWhatContradicts(t *testing.T) {
	check := func(name string, change func(*Options), want string) {
		t.Helper()
		o := quickOptions(t, SystemForwarder)
		change(&o)
		_, err := o.withDefaults()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error with %q", name, err, want)
		}
	}
	check("unknown system", func(o *Options) { o.Systems = []string{"peer"} }, "peer")
	check("no connections", func(o *Options) { o.Connections = []int{64, 0} }, "connections")
	check("no rounds", func(o *Options) { o.Rounds = -1 }, "rounds")
	check("no duration", func(o *Options) { o.Duration = -1 }, "rounds")
	check("no room for the mark", func(o *Options) { o.PayloadBytes = 20 }, "payload")
	check("more targets than connections", func(o *Options) { o.Targets = 9 }, "targets")
	check("no queue", func(o *Options) { o.QueueRequests = -1 }, "queue")
}
