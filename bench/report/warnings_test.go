package report

import (
	"strings"
	"testing"
)

func TestWarnings(t *testing.T) {
	check := func(want string, change func(*Report)) {
		t.Helper()
		r := sampleThroughput(1)
		if had := strings.Join(r.Warnings(), "\n"); had != "" {
			t.Errorf("a good report warns: %s", had)
		}
		change(r)
		if got := strings.Join(r.Warnings(), "\n"); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("warns %q, want %q", got, want)
		}
	}
	check("ACKNOWLEDGED SENDS LOST: 1", func(r *Report) { r.Rounds[7].Values[Lost] = 1 })
	check("3 arrivals were no send", func(r *Report) { r.Rounds[2].Values[Strangers] = 3 })
	check("in memory", func(r *Report) { r.Machine.Filesystem = "ramfs" })
	check("somebody else was at work", func(r *Report) { r.Machine.LoadAverage = "0.51" })
	check("", func(r *Report) { r.Machine.LoadAverage = "" })
	check("1,500 ms behind its schedule", func(r *Report) { r.Rounds[0].Values[GeneratorLateMax] = 1500 })
	check("a smoke test", func(r *Report) { r.Quick = true })
	check("only 2 rounds of some systems", func(r *Report) { r.Rounds = r.Rounds[:4] })
	check("nothing was measured", func(r *Report) { r.Rounds = nil })
}

// The generator's ceiling counts requests: a batch of many sends is one. What the
// generator sends itself may come near it.
func TestCeilingWarnings(t *testing.T) {
	near := func(system string, load Load, rate float64) int {
		r := &Report{
			Ceiling: &Ceiling{RequestsPerSecond: 1000},
			Rounds:  []Round{{System: system, Number: 1, Load: load, Values: map[string]float64{AcceptedRate: rate}}},
		}
		return len(r.ceilingWarnings())
	}
	connections, batch := Load{Axis: "connections", Value: 64}, Load{Axis: "batch", Value: 100}
	if near(Engine, connections, 710) != 1 || near(Engine, connections, 690) != 0 {
		t.Error("70 % of the ceiling is not where the warning begins")
	}
	if near(Direct, connections, 990) != 0 {
		t.Error("the generator is warned of itself")
	}
	if near(Engine, batch, 50_000) != 0 || near(Engine, batch, 80_000) != 1 {
		t.Error("a batch is not counted as one request")
	}
}

func TestRemarksAreBounded(t *testing.T) {
	var r Report
	for range maxRemarks + 7 {
		r.Rounds = append(r.Rounds, Round{System: Engine, Number: 1, Values: map[string]float64{Failed: 2}})
	}
	got := r.remarks()
	if len(got) != maxRemarks+1 || got[maxRemarks] != "and 7 rounds more of these" {
		t.Errorf("%d remarks, the last is %q", len(got), got[len(got)-1])
	}
	if want := "2 failed, first failure: no reason known"; !strings.Contains(got[0], want) {
		t.Errorf("%q, want %q in it", got[0], want)
	}
}

// A line of many samples is thinned, and its peak of one sample stays.
func TestPeaksSurviveThinning(t *testing.T) {
	var timeline []Sample
	for i := range 100_000 {
		v := 100.0
		if i == 77_777 {
			v = 9000
		}
		timeline = append(timeline, Sample{int64(i), map[string]float64{Pending: v}})
	}
	points := timelinePoints(Pending, timeline)
	peak, last := 0.0, -1.0
	for _, p := range points {
		peak = max(peak, p.y)
		if p.x < last {
			t.Fatalf("the line turns back from %v to %v", last, p.x)
		}
		last = p.x
	}
	if len(points) > maxPoints || peak != 9000 {
		t.Errorf("%d points with a peak of %v", len(points), peak)
	}
}
