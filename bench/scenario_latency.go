package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/harepost/harepost/bench/report"
)

// Latency is the scenario "latency": what a system adds to the time that a direct
// POST takes, in an open loop. First at a fixed rate; then at shares of the rate
// at which the system is saturated, which is measured before, and beyond it.
type Latency struct {
	Options
	Traffic     // its Rate is the fixed one. Default: 2,000/s
	Connections int
	// OverloadConnections are those of the points beyond saturation. There are
	// many, since a client that holds back sheds load in the system's place.
	// Default: 4,000; quick: 1,000
	OverloadConnections int
	// Saturation is the rate at which the system is saturated. Default: measured,
	// in a closed loop with Connections.
	Saturation float64
	Shares     []float64 // percent of it. Default: 1, 10, 50, 80, 95, 120; quick: 10, 80, 120
}

func (l *Latency) name() string { return "latency" }

func (l *Latency) complete() error {
	l.measures(report.Direct, report.Engine)
	if l.measured() == "" {
		return fmt.Errorf("bench: latency is that of the engine or of a server, and none is among %v", l.Systems)
	}
	if l.Rate.IsZero() {
		l.Rate = ConstantRate(2000)
	}
	setDefault(&l.Connections, 256)
	setDefault(&l.OverloadConnections, sized(&l.Options, 1000, 4000))
	setDefault(&l.Rounds, sized(&l.Options, 1, 3))
	setDefault(&l.Warmup, sized(&l.Options, 300*time.Millisecond, 2*time.Second))
	setDefault(&l.Duration, sized(&l.Options, time.Second, 10*time.Second))
	if len(l.Shares) == 0 {
		l.Shares = sized(&l.Options, []float64{10, 80, 120}, []float64{1, 10, 50, 80, 95, 120})
	}
	for _, share := range l.Shares {
		if !(share > 0 && share <= 1000) {
			return errors.New("bench: shares of the saturation are above 0 and at most 1,000 percent")
		}
	}
	if l.Saturation < 0 {
		return errors.New("bench: the rate of saturation must not be negative")
	}
	l.defaultPayload()
	if err := l.Traffic.complete(); err != nil {
		return err
	}
	if err := checkConnections(l.Connections, l.OverloadConnections); err != nil {
		return err
	}
	return l.Options.complete()
}

func (l *Latency) play(ctx context.Context, s *session) error {
	l.describe(s)
	s.set("connections", l.Connections)
	s.set("connections beyond saturation", l.OverloadConnections)
	s.note("What is due while all connections wait for answers waits in the generator, and its waiting is in its latency. A client with more connections would have the server hold or refuse it.")
	if err := s.measureCeiling(ctx, l.plan(&l.Options, "", report.Load{}, l.Connections).generator); err != nil {
		return err
	}
	fixed := report.Load{Axis: "rate", Unit: "/s", Value: l.Rate.steps[0]}
	if len(l.Rate.steps) > 1 {
		fixed = report.Load{Axis: "rate", Variant: l.Rate.String() + "/s"}
	}
	if err := l.at(ctx, s, fixed, l.Rate, l.Connections); err != nil {
		return err
	}
	l.findAdded(s, fixed)
	saturation, err := l.saturation(ctx, s)
	if err != nil {
		return err
	}
	for _, share := range l.Shares {
		connections := l.Connections
		if share > 100 {
			connections = l.OverloadConnections
		}
		load := report.Load{Axis: "share of saturation", Value: share, Unit: "%"}
		rate := ConstantRate(max(1, math.Round(saturation*share/100)))
		if err := l.at(ctx, s, load, rate, connections); err != nil {
			return err
		}
	}
	return nil
}

// at measures every system at a rate.
func (l *Latency) at(ctx context.Context, s *session, load report.Load, rate Rate, connections int) error {
	var plans []plan
	for _, system := range l.Systems {
		p := l.plan(&l.Options, system, load, connections)
		p.generator.Rate = rate
		plans = append(plans, p)
	}
	return s.interleave(ctx, plans...)
}

// saturation is the rate that the system takes and delivers in a closed loop.
func (l *Latency) saturation(ctx context.Context, s *session) (float64, error) {
	rate := l.Saturation
	if rate == 0 {
		load := report.Load{Axis: "connections", Value: float64(l.Connections), Variant: "closed loop"}
		p := l.plan(&l.Options, l.measured(), load, l.Connections)
		p.generator.Rate, p.generator.Poisson = Rate{}, false
		if err := s.interleave(ctx, p); err != nil {
			return 0, err
		}
		rate = medianOf(s.rounds(p.system, load), func(r report.Round) float64 {
			return min(r.Values[report.AcceptedRate], r.Values[report.DeliveredRate])
		})
	}
	if rate <= 0 {
		return 0, errors.New("nothing was delivered in a closed loop")
	}
	s.find("saturation", rate, "/s", report.Higher)
	return rate, nil
}

// findAdded reports what the system adds to the arrival of a direct POST: the
// median of the rounds' differences.
func (l *Latency) findAdded(s *session, load report.Load) {
	direct := map[int]report.Round{}
	for _, r := range s.rounds(report.Direct, load) {
		direct[r.Number] = r
	}
	if len(direct) == 0 {
		return
	}
	for _, percent := range []float64{50, 99} {
		added := medianOf(s.rounds(l.measured(), load), func(r report.Round) float64 {
			return quantile(r.Latencies[latencyArrival], percent) - quantile(direct[r.Number].Latencies[latencyArrival], percent)
		})
		s.find(fmt.Sprintf("added to arrival p%g at %s", percent, load), added, "ms", report.Lower)
	}
}
