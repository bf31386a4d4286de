package bench

import (
	"context"
	"errors"

	"github.com/harepost/harepost/bench/report"
)

// Batch is the scenario "batch": the batch API beside the single one and beside
// the forwarder. The forwarder has no batches, so it gets single sends on
// SingleConnections in each comparison, as the engine does at a batch of 1.
type Batch struct {
	Options
	Traffic
	Sizes             []int // sends of a batch. Default: 100, 1,000; quick: 100
	Connections       int   // with batches. Default: 16
	SingleConnections int   // with single sends. Default: 256
}

func (b *Batch) name() string { return "batch" }

func (b *Batch) complete() error {
	b.measures(report.Forwarder, report.Engine)
	if len(b.Sizes) == 0 {
		b.Sizes = sized(&b.Options, []int{100}, []int{100, 1000})
	}
	setDefault(&b.Rounds, sized(&b.Options, 1, 3))
	setDefault(&b.Connections, 16)
	setDefault(&b.SingleConnections, 256)
	for _, size := range b.Sizes {
		if size < 1 || size > 10_000 {
			return errors.New("bench: a batch has 1 to 10,000 sends")
		}
	}
	if !b.Rate.IsZero() {
		return errors.New("bench: batches are measured in a closed loop")
	}
	b.defaultPayload()
	if err := b.Traffic.complete(); err != nil {
		return err
	}
	if err := checkConnections(b.Connections, b.SingleConnections); err != nil {
		return err
	}
	return b.Options.complete()
}

func (b *Batch) play(ctx context.Context, s *session) error {
	b.describe(s)
	s.set("connections with batches", b.Connections)
	s.set("connections with single sends", b.SingleConnections)
	s.note("An answer latency is that of a request, a batch's that of all its sends. Batch 1 is POST /v1/send; the forwarder gets single sends under every load.")
	if err := s.measureCeiling(ctx, b.plan(&b.Options, "", report.Load{}, b.SingleConnections).generator); err != nil {
		return err
	}
	for _, size := range append([]int{1}, b.Sizes...) {
		var plans []plan
		for _, system := range b.Systems {
			plans = append(plans, b.batchPlan(system, size))
		}
		if err := s.interleave(ctx, plans...); err != nil {
			return err
		}
	}
	return nil
}

func (b *Batch) batchPlan(system string, size int) plan {
	at := report.Load{Axis: "batch", Value: float64(size), Unit: "sends"}
	if size == 1 || system == report.Forwarder || system == report.Direct {
		return b.plan(&b.Options, system, at, b.SingleConnections)
	}
	p := b.plan(&b.Options, system, at, b.Connections)
	p.generator.Batch = size
	return p
}
