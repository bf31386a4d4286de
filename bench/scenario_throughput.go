package bench

import (
	"context"

	"github.com/harepost/harepost/bench/report"
)

// Throughput is the scenario "throughput": a closed loop with so many
// connections, or an open loop at a rate, against each system.
type Throughput struct {
	Options
	Traffic
	Connections []int // each is measured on its own. Default: 256, 64; quick: 64
}

func (t *Throughput) name() string { return "throughput" }

func (t *Throughput) complete() error {
	t.measures(report.Forwarder, report.Engine)
	if len(t.Connections) == 0 {
		t.Connections = sized(&t.Options, []int{64}, []int{256, 64})
	}
	t.defaultPayload()
	if err := t.Traffic.complete(); err != nil {
		return err
	}
	if err := checkConnections(t.Connections...); err != nil {
		return err
	}
	return t.Options.complete()
}

func (t *Throughput) play(ctx context.Context, s *session) error {
	t.describe(s)
	if err := s.measureCeiling(ctx, t.plan(&t.Options, "", report.Load{}, t.Connections[0]).generator); err != nil {
		return err
	}
	for _, connections := range t.Connections {
		var plans []plan
		for _, system := range t.Systems {
			plans = append(plans, t.plan(&t.Options, system, report.Load{Axis: "connections", Value: float64(connections)}, connections))
		}
		if err := s.interleave(ctx, plans...); err != nil {
			return err
		}
	}
	return nil
}
