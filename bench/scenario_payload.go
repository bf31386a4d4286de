package bench

import (
	"context"

	"github.com/harepost/harepost/bench/report"
)

// Payload is the scenario "payload": a closed loop with payloads of each size.
type Payload struct {
	Options
	Traffic           // without its sizes
	Connections int   // default: 64
	Sizes       []int // default: 0.1, 0.3, 1, 4, 16, 64 and 256 KiB; quick: 0.1, 4 and 64 KiB
}

func (p *Payload) name() string { return "payload" }

func (p *Payload) complete() error {
	p.measures(report.Forwarder, report.Engine)
	setDefault(&p.Connections, 64)
	setDefault(&p.Rounds, sized(&p.Options, 1, 3))
	if len(p.Sizes) == 0 {
		p.Sizes = sized(&p.Options, []int{102, 4 << 10, 64 << 10}, []int{102, 307, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10})
	}
	for _, size := range p.Sizes {
		if _, err := ParseSizes(FixedSize(size).String()); err != nil {
			return err
		}
	}
	if err := p.Traffic.complete(); err != nil {
		return err
	}
	if err := checkConnections(p.Connections); err != nil {
		return err
	}
	return p.Options.complete()
}

func (p *Payload) play(ctx context.Context, s *session) error {
	p.describe(s)
	s.set("connections", p.Connections)
	ceiling := p.plan(&p.Options, "", report.Load{}, p.Connections).generator
	ceiling.Payload = FixedSize(p.Sizes[0])
	if err := s.measureCeiling(ctx, ceiling); err != nil {
		return err
	}
	for _, size := range p.Sizes {
		var plans []plan
		for _, system := range p.Systems {
			one := p.plan(&p.Options, system, report.Load{Axis: "payload", Value: float64(size), Unit: "B"}, p.Connections)
			one.generator.Payload = FixedSize(size)
			plans = append(plans, one)
		}
		if err := s.interleave(ctx, plans...); err != nil {
			return err
		}
	}
	return nil
}
