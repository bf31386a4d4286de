package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/harepost/harepost/bench/report"
)

// Outage is the scenario "outage": a receiver goes away for a while and comes
// back, and the load goes on.
type Outage struct {
	Options
	Rate        float64       // sends a second. Default: 1,000; quick: 300
	Before      time.Duration // of load, after the warm-up. Default: 10 s; quick: 2 s
	Away        time.Duration // Default: 30 s; quick: 3 s
	After       time.Duration // of load, once it is back. Default: 30 s; quick: 5 s
	How         string        // behaviour while it is away, see behaviour. Default: down, which refuses
	Delivery    string        // policy. Default: 25 attempts, 10 s apart at most; quick: 1 s
	Connections int           // of the generator. Default: 64
}

func (o *Outage) name() string { return "outage" }

func (o *Outage) complete() error {
	setDefault(&o.Rate, sized(&o.Options, 300.0, 1000))
	setDefault(&o.Before, sized(&o.Options, 2*time.Second, 10*time.Second))
	setDefault(&o.Away, sized(&o.Options, 3*time.Second, 30*time.Second))
	setDefault(&o.After, sized(&o.Options, 5*time.Second, 30*time.Second))
	setDefault(&o.How, Down)
	setDefault(&o.Delivery, sized(&o.Options,
		`{"max_attempts":25,"base_delay_ms":200,"max_delay_ms":1000,"timeout_ms":1000}`,
		`{"max_attempts":25,"max_delay_ms":10000}`))
	setDefault(&o.Connections, 64)
	setDefault(&o.Rounds, sized(&o.Options, 1, 3))
	if o.Duration != 0 {
		return errors.New("bench: an outage has a length before, away and after, not one")
	}
	o.Duration = o.Before + o.Away + o.After
	if o.How != Down {
		if _, err := parseBehaviour(behaviourPrefix + o.How); err != nil {
			return fmt.Errorf("bench: how it is away: %w", err)
		}
	}
	if err := atLeast(1, map[string]float64{"the rate": o.Rate}); err != nil {
		return err
	}
	if err := atLeast(0.1, map[string]float64{"seconds before": o.Before.Seconds(), "seconds away": o.Away.Seconds(), "seconds after": o.After.Seconds()}); err != nil {
		return err
	}
	if err := checkConnections(o.Connections); err != nil {
		return err
	}
	if err := engineOnly(&o.Options); err != nil {
		return err
	}
	return o.Options.complete()
}

// outageRound is what one round found.
type outageRound struct {
	noticed, drained time.Duration // after it went, after it came back
	drainedAtAll     bool
	backlog          float64 // pending when it came back
	back             moment
}

func (o *Outage) play(ctx context.Context, s *session) error {
	s.set("load", fmt.Sprintf("%g sends/s to 1 host", o.Rate))
	s.set("away", fmt.Sprintf("after %s, for %s, then %s of load; %s", o.Before, o.Away, o.After, o.How))
	s.set("policy", o.Delivery)
	f := flow{at: report.Load{Axis: "rate", Value: o.Rate, Unit: "/s"}, generator: openLoop(o.Rate, o.Connections)}
	f.generator.Delivery = o.Delivery
	var noticed, backlog, drained, peak []float64
	for number := 1; number <= o.Rounds; number++ {
		var found outageRound
		all, err := s.together(ctx, number, []flow{f}, func(ctx context.Context, all []*flowing) (err error) {
			found, err = o.direct(ctx, all[0])
			return err
		})
		if err != nil {
			return err
		}
		if !found.drainedAtAll {
			s.note("Round %d: the backlog had not drained %s after the receiver was back.", number, found.drained)
		}
		noticed = append(noticed, millis(found.noticed))
		backlog = append(backlog, found.backlog)
		drained = append(drained, millis(found.drained))
		arrivals := all[0].arrivals
		peak = append(peak, arrivals.timeline().peak(found.back, arrivals.At, second)/o.Rate)
	}
	s.find("first failed attempt, after it went", median(noticed), "ms", report.Lower)
	s.find("backlog when it came back", median(backlog), "", report.Lower)
	s.find("backlog drained, after it came back", median(drained), "ms", report.Lower)
	s.find("peak rate to it after that (1 s), against the normal rate", median(peak), "×", report.Lower)
	return nil
}

// outagePoll is how often the outage looks at the engine's metrics.
const outagePoll = 50 * time.Millisecond

// direct sends the receiver away and brings it back.
func (o *Outage) direct(ctx context.Context, f *flowing) (found outageRound, err error) {
	if err := f.arrives(ctx); err != nil {
		return found, err
	}
	if err := pause(ctx, o.Warmup+o.Before); err != nil {
		return found, err
	}
	before, err := f.stage.system.metrics(ctx)
	if err != nil {
		return found, err
	}
	gone, err := f.switchTo(0, o.How)
	if err != nil {
		return found, err
	}
	found.noticed, _, err = f.watch(ctx, gone, o.Away, func(p page) bool { return p[seriesFailed] > before[seriesFailed] })
	if err != nil {
		return found, err
	}
	if err := pause(ctx, o.Away-now().sub(gone)); err != nil {
		return found, err
	}
	there, err := f.stage.system.metrics(ctx)
	if err != nil {
		return found, err
	}
	found.backlog = there[seriesPending]
	if found.back, err = f.switchTo(0, ""); err != nil {
		return found, err
	}
	// Some are always on their way: it has drained when they are no more than are
	// sent in a tenth of a second.
	found.drained, found.drainedAtAll, err = f.watch(ctx, found.back, o.After+o.DrainWait, func(p page) bool { return p[seriesPending] <= max(o.Rate/10, 1) })
	return found, err
}

// arrives waits for the first arrival of a flow, which is when its load has begun.
func (f *flowing) arrives(ctx context.Context) error {
	for {
		c, err := f.stage.counts()
		if err != nil || c.Attempts > 0 {
			return err
		}
		if err := pause(ctx, outagePoll); err != nil {
			return err
		}
	}
}

// watch polls the engine's metrics until they are as wanted, and returns how long
// after a moment that was; false when it was not within limit.
func (f *flowing) watch(ctx context.Context, from moment, limit time.Duration, ok func(page) bool) (time.Duration, bool, error) {
	for {
		p, err := f.stage.system.metrics(ctx)
		took := now().sub(from)
		switch {
		case err != nil:
			return 0, false, err
		case ok(p):
			return took, true, nil
		case took > limit:
			return took, false, nil
		}
		if err := pause(ctx, outagePoll); err != nil {
			return 0, false, err
		}
	}
}

// seriesFailed counts the attempts that failed and are made again.
const seriesFailed = `harepost_attempts_total{outcome="failed"}`
