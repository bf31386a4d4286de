package bench

import (
	"context"
	"fmt"

	"github.com/harepost/harepost/bench/report"
)

// RetryStorm is the scenario "retry-storm": a receiver fails the first attempts
// of a share of its deliveries. What does that cost it, and the healthy traffic
// beside it?
type RetryStorm struct {
	Options
	Healthy     float64 // healthy sends a second. Default: 1,000; quick: 300
	Storm       float64 // sends a second to the failing receiver. Default: 2,000; quick: 500
	Share       float64 // of those, how many fail at first. Default: 0.5
	Fails       int     // how often each of them does. Default: 3
	Delivery    string  // policy of the failing ones. Default: 10 attempts; quick: with short delays
	Connections int     // of each generator. Default: 64
	Seed        uint64  // of what fails. Default: 1
}

func (r *RetryStorm) name() string { return "retry-storm" }

func (r *RetryStorm) complete() error {
	setDefault(&r.Healthy, sized(&r.Options, 300.0, 1000))
	setDefault(&r.Storm, sized(&r.Options, 500.0, 2000))
	setDefault(&r.Share, 0.5)
	setDefault(&r.Fails, 3)
	setDefault(&r.Delivery, sized(&r.Options, `{"max_attempts":10,"base_delay_ms":100}`, `{"max_attempts":10}`))
	setDefault(&r.Connections, 64)
	setDefault(&r.Seed, 1)
	if !(r.Share > 0 && r.Share <= 1) || r.Fails < 1 || r.Fails > maxFirstFailures {
		return fmt.Errorf("bench: a share of %g fails %d times, want above 0 and up to 1, and 1 to %d", r.Share, r.Fails, maxFirstFailures)
	}
	if err := atLeast(1, map[string]float64{"the healthy rate": r.Healthy, "the failing rate": r.Storm}); err != nil {
		return err
	}
	if err := checkConnections(r.Connections); err != nil {
		return err
	}
	if err := engineOnly(&r.Options); err != nil {
		return err
	}
	return r.Options.complete()
}

// loads are the points of the report: the healthy traffic alone, and beside the
// failing one.
func (r *RetryStorm) loads() (alone, beside, storm report.Load) {
	alone = report.Load{Axis: "healthy", Value: r.Healthy, Unit: "/s", Variant: "alone"}
	beside = report.Load{Axis: "healthy", Value: r.Healthy, Unit: "/s", Variant: "beside the storm"}
	storm = report.Load{Axis: "storm", Value: r.Storm, Unit: "/s"}
	return alone, beside, storm
}

func (r *RetryStorm) play(ctx context.Context, s *session) error {
	s.set("healthy", fmt.Sprintf("%g sends/s", r.Healthy))
	s.set("storm", fmt.Sprintf("%g sends/s, of which %g fail %d times with 503", r.Storm, r.Share, r.Fails))
	s.set("policy of the storm", r.Delivery)
	s.withoutBreakers()
	alone, beside, storm := r.loads()
	healthy := flow{generator: openLoop(r.Healthy, r.Connections)}
	failing := flow{
		at: storm, account: 1, receiver: ReceiverOptions{Seed: r.Seed},
		behaviour: fmt.Sprintf("fail-first=%d:503:%g", r.Fails, r.Share),
		generator: openLoop(r.Storm, r.Connections),
	}
	failing.generator.Delivery = r.Delivery
	var attempts, peaks []float64
	for number := 1; number <= r.Rounds; number++ {
		healthy.at = alone
		if _, err := s.together(ctx, number, []flow{healthy}, nil); err != nil {
			return err
		}
		healthy.at = beside
		both, err := s.together(ctx, number, []flow{healthy, failing}, nil)
		if err != nil {
			return err
		}
		c := both[1].arrivals
		attempts = append(attempts, float64(c.Attempts)/float64(max(c.Arrived, 1)))
		peaks = append(peaks, c.timeline().peak(0, c.At, second)/r.Storm)
	}
	s.besideAlone("healthy arrival p99, beside the storm against alone", beside, alone, percentile(latencyArrival, 99))
	s.besideAlone("healthy answer p99, beside the storm against alone", beside, alone, percentile(latencyAnswer, 99))
	s.find("attempts per delivery of the storm", median(attempts), "", report.Neither)
	s.find("peak rate to the failing receiver (1 s), against its sends", median(peaks), "×", report.Lower)
	return nil
}

// openLoop is a plain load of 300 bytes at a rate.
func openLoop(rate float64, connections int) GeneratorOptions {
	return GeneratorOptions{Connections: connections, Payload: FixedSize(300), Rate: ConstantRate(rate)}
}
