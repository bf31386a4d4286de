package bench

import (
	"context"
	"fmt"

	"github.com/harepost/harepost/bench/report"
)

// NoisyTenant is the scenario "noisy-tenant": one account sends as fast as it is
// answered, another at a constant rate. What does the quiet one notice?
type NoisyTenant struct {
	Options
	Quiet            float64 // sends a second of the quiet account. Default: 500; quick: 200
	QuietConnections int     // Default: 16
	Flood            int     // connections of the flood, a closed loop. Default: 256; quick: 64
}

func (n *NoisyTenant) name() string { return "noisy-tenant" }

func (n *NoisyTenant) complete() error {
	setDefault(&n.Quiet, sized(&n.Options, 200.0, 500))
	setDefault(&n.QuietConnections, 16)
	setDefault(&n.Flood, sized(&n.Options, 64, 256))
	if err := atLeast(1, map[string]float64{"the quiet rate": n.Quiet}); err != nil {
		return err
	}
	if err := checkConnections(n.QuietConnections, n.Flood); err != nil {
		return err
	}
	if err := engineOnly(&n.Options); err != nil {
		return err
	}
	return n.Options.complete()
}

func (n *NoisyTenant) loads() (alone, beside, flood report.Load) {
	alone = report.Load{Axis: "quiet", Value: n.Quiet, Unit: "/s", Variant: "alone"}
	beside = report.Load{Axis: "quiet", Value: n.Quiet, Unit: "/s", Variant: "beside the flood"}
	flood = report.Load{Axis: "flood", Value: float64(n.Flood), Unit: " connections"}
	return alone, beside, flood
}

func (n *NoisyTenant) play(ctx context.Context, s *session) error {
	s.set("quiet account", fmt.Sprintf("%g sends/s", n.Quiet))
	s.set("noisy account", fmt.Sprintf("a closed loop of %d connections", n.Flood))
	alone, beside, loud := n.loads()
	quiet := flow{generator: openLoop(n.Quiet, n.QuietConnections)}
	flood := flow{at: loud, account: 1, generator: GeneratorOptions{Connections: n.Flood, Payload: FixedSize(300)}}
	for number := 1; number <= n.Rounds; number++ {
		quiet.at = alone
		if _, err := s.together(ctx, number, []flow{quiet}, nil); err != nil {
			return err
		}
		quiet.at = beside
		if _, err := s.together(ctx, number, []flow{quiet, flood}, nil); err != nil {
			return err
		}
	}
	s.besideAlone("quiet answer p99, beside the flood against alone", beside, alone, percentile(latencyAnswer, 99))
	s.besideAlone("quiet arrival p99, beside the flood against alone", beside, alone, percentile(latencyArrival, 99))
	return nil
}
