package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/harepost/harepost/bench/report"
)

// BlackHoles is the scenario "black-holes": one healthy lane beside many that
// take connections and never answer, all of one account.
type BlackHoles struct {
	Options
	Healthy     float64 // healthy sends a second. Default: 500; quick: 150
	Times       float64 // how many times as many go to the black holes. Default: 10
	Holes       int     // black holes, each a host of its own. Default: 999
	Delivery    string  // policy of what goes to them. Default: none; quick: attempts end after 3 s
	Connections int     // of each generator. Default: 64
	Restart     bool    // the engine is killed while the holes are full, and the healthy lane measured after it once more
}

func (b *BlackHoles) name() string { return "black-holes" }

func (b *BlackHoles) complete() error {
	setDefault(&b.Healthy, sized(&b.Options, 150.0, 500))
	setDefault(&b.Times, 10)
	setDefault(&b.Holes, 999)
	setDefault(&b.Delivery, sized(&b.Options, `{"timeout_ms":3000}`, ""))
	setDefault(&b.Connections, 64)
	setDefault(&b.Duration, sized(&b.Options, 6*time.Second, 40*time.Second))
	setDefault(&b.Rounds, sized(&b.Options, 1, 3))
	if b.Holes < 1 || b.Holes > maxReceiverHosts {
		return fmt.Errorf("bench: %d black holes, want 1 to %d", b.Holes, maxReceiverHosts)
	}
	if err := atLeast(1, map[string]float64{"the healthy rate": b.Healthy, "that of the black holes": b.Healthy * b.Times}); err != nil {
		return err
	}
	if err := checkConnections(b.Connections); err != nil {
		return err
	}
	if err := engineOnly(&b.Options); err != nil {
		return err
	}
	return b.Options.complete()
}

func (b *BlackHoles) loads() (alone, beside, holes report.Load) {
	alone = report.Load{Axis: "healthy", Value: b.Healthy, Unit: "/s", Variant: "alone"}
	beside = report.Load{Axis: "healthy", Value: b.Healthy, Unit: "/s", Variant: "beside black holes"}
	holes = report.Load{Axis: "black holes", Value: b.Healthy * b.Times, Unit: "/s"}
	return alone, beside, holes
}

func (b *BlackHoles) play(ctx context.Context, s *session) error {
	s.set("healthy", fmt.Sprintf("%g sends/s to 1 host", b.Healthy))
	s.set("black holes", fmt.Sprintf("%g sends/s to %d hosts that never answer", b.Healthy*b.Times, b.Holes))
	s.set("policy of what goes to them", cmp.Or(b.Delivery, "the default"))
	s.note("When the load has ended, the black holes begin to answer, so that every send can be told to have arrived. A healthy one that had waited until then counts with that time.")
	alone, beside, holes := b.loads()
	healthy := flow{generator: openLoop(b.Healthy, b.Connections)}
	hole := flow{
		at: holes, receiver: ReceiverOptions{Hosts: b.Holes},
		behaviour: "fail=1:hole", generator: openLoop(b.Healthy*b.Times, b.Connections),
	}
	hole.generator.Delivery = b.Delivery
	var restarted []*report.Round
	number := 0
	hole.after = func(f *flowing) error {
		if b.Restart {
			r, err := b.restarted(ctx, s, f, number)
			if err != nil {
				return err
			}
			restarted = append(restarted, r)
		}
		_, err := f.switchTo(0, "delay=1ms")
		return err
	}
	var held, inTime []float64
	for number = 1; number <= b.Rounds; number++ {
		healthy.at = alone
		if _, err := s.together(ctx, number, []flow{healthy}, nil); err != nil {
			return err
		}
		healthy.at = beside
		both, err := s.together(ctx, number, []flow{healthy, hole}, nil)
		if err != nil {
			return err
		}
		held = append(held, mostOf(both[1].timeline, report.Open))
		inTime = append(inTime, float64(both[0].loaded.counts.Arrived)/float64(max(both[0].generated.Accepted, 1)))
	}
	for _, r := range restarted {
		s.report.Rounds = append(s.report.Rounds, *r)
	}
	if b.Restart {
		s.besideAlone("healthy arrival p99, after a restart with full holes against alone", b.again(), alone, percentile(latencyArrival, 99))
	}
	s.besideAlone("healthy arrival p99, beside black holes against alone", beside, alone, percentile(latencyArrival, 99))
	s.besideAlone("healthy arrival p50, beside black holes against alone", beside, alone, percentile(latencyArrival, 50))
	s.besideAlone("healthy answer p99, beside black holes against alone", beside, alone, percentile(latencyAnswer, 99))
	s.find("share of the healthy that had arrived at the end of the load", median(inTime), "", report.Higher)
	s.find("most connections held by black holes", median(held), "", report.Neither)
	return nil
}

// again is the load after a restart.
func (b *BlackHoles) again() report.Load {
	return report.Load{Axis: "healthy", Value: b.Healthy, Unit: "/s", Variant: "after a restart"}
}

// restarted kills the engine, starts it again, and measures a healthy lane beside
// what it finds. The lane has a run of its own: its sends are counted from 0 again.
func (b *BlackHoles) restarted(ctx context.Context, s *session, f *flowing, number int) (_ *report.Round, err error) {
	if _, _, err := f.stage.restart(ctx, true); err != nil {
		return nil, err
	}
	own, err := f.stage.beside(ctx, ReceiverOptions{Run: f.stage.run + 2})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, own.receiver.close()) }()
	lane := s.prepare(flow{at: b.again(), generator: openLoop(b.Healthy, b.Connections)}, own)
	if err := lane.load(ctx, func(report.Sample) {}); err != nil {
		return nil, err
	}
	if err := lane.finish(ctx, number, 2); err != nil {
		return nil, err
	}
	s.progress.round(lane.round)
	return &lane.round, nil
}

// mostOf is the greatest value of a metric in a timeline.
func mostOf(samples []report.Sample, name string) (most float64) {
	for _, s := range samples {
		most = max(most, s.Values[name])
	}
	return most
}
