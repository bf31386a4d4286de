package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/harepost/harepost/bench/report"
	"github.com/harepost/harepost/client"
)

// Outage is the scenario "outage": a receiver goes away for a while under load,
// and comes back able to take less than it was sent. Another host has its own load
// all the time.
type Outage struct {
	Options
	Rate        float64       // sends a second until it is back. Default: 2,000; quick: 300
	Before      time.Duration // of load, after the warm-up. Default: 10 s; quick: 2 s
	Away        time.Duration // Default: 60 s; quick: 3 s
	Capacity    float64       // attempts a second it takes once it is back. Default: a quarter of Rate
	Excess      string        // what becomes of more: a status, or slow. Default: 503
	After       time.Duration // of the other host's load, once it is back. Default: 1.5 times what the capacity needs
	Beside      float64       // sends a second to the other host. Default: 200; quick: 50
	How         string        // behaviour while it is away, see behaviour. Default: down, which refuses
	Delivery    string        // policy. Default: 25 attempts, 10 s apart at most; quick: 1 s
	Connections int           // of each generator. Default: 64
}

func (o *Outage) name() string { return "outage" }

func (o *Outage) complete() error {
	setDefault(&o.Rate, sized(&o.Options, 300.0, 2000))
	setDefault(&o.Before, sized(&o.Options, 2*time.Second, 10*time.Second))
	setDefault(&o.Away, sized(&o.Options, 3*time.Second, time.Minute))
	setDefault(&o.Capacity, o.Rate/4)
	setDefault(&o.Excess, "503")
	setDefault(&o.After, time.Duration(1.5*o.Rate/max(o.Capacity, 0.1)*float64(o.Away)))
	setDefault(&o.Beside, sized(&o.Options, 50.0, 200))
	setDefault(&o.How, Down)
	setDefault(&o.Delivery, sized(&o.Options,
		`{"max_attempts":25,"base_delay_ms":200,"max_delay_ms":1000,"timeout_ms":1000}`,
		`{"max_attempts":25,"max_delay_ms":10000}`))
	setDefault(&o.Connections, 64)
	setDefault(&o.Rounds, 1)
	if o.Duration != 0 {
		return errors.New("bench: an outage has a length before, away and after, not one")
	}
	o.Duration = o.Before + o.Away + o.After
	if o.How != Down {
		if _, err := parseBehaviour(behaviourPrefix + o.How); err != nil {
			return fmt.Errorf("bench: how it is away: %w", err)
		}
	}
	if _, err := parseBehaviour(behaviourPrefix + o.back()); err != nil {
		return fmt.Errorf("bench: how it is back: %w", err)
	}
	if err := atLeast(1, map[string]float64{"the rate": o.Rate, "the rate beside it": o.Beside, "the capacity": o.Capacity}); err != nil {
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

// back is the behaviour of the receiver that is back.
func (o *Outage) back() string { return fmt.Sprintf("capacity=%g:%s", o.Capacity, o.Excess) }

// outageRound is what one round found.
type outageRound struct {
	noticed, drained time.Duration // after it went, after it came back
	drainedAtAll     bool
	backlog          float64        // pending when it came back
	spent            float64        // attempts while it was away
	back             moment         // when it was
	then             ReceiverCounts // what it had seen
	beside           [3]float64     // arrival p99 of the other host before, while it was away, while it drained
	mostAttempts     int            // of any delivery
	timeline         []report.Sample
}

func (o *Outage) play(ctx context.Context, s *session) error {
	s.set("load", fmt.Sprintf("%g sends/s to 1 host until it is back, %g/s to another all the time", o.Rate, o.Beside))
	s.set("away", fmt.Sprintf("after %s, for %s; %s", o.Before, o.Away, o.How))
	s.set("back", fmt.Sprintf("%g attempts/s are taken; what is more: %s", o.Capacity, o.Excess))
	s.set("policy", o.Delivery)
	f := flow{
		at: report.Load{Axis: "rate", Value: o.Rate, Unit: "/s"}, generator: openLoop(o.Rate, o.Connections),
		duration: o.Before + o.Away,
	}
	f.generator.Delivery = o.Delivery
	other := flow{at: report.Load{Axis: "beside", Value: o.Beside, Unit: "/s"}, generator: openLoop(o.Beside, o.Connections)}
	var all []outageRound
	var ends []outageEnd
	for number := 1; number <= o.Rounds; number++ {
		var found outageRound
		flows, err := s.together(ctx, number, []flow{f, other}, func(ctx context.Context, all []*flowing) (err error) {
			found, err = o.direct(ctx, all[0], all[1])
			return err
		})
		if err != nil {
			return err
		}
		if !found.drainedAtAll {
			s.note("Round %d: the backlog had not drained %s after the receiver was back.", number, found.drained)
		}
		s.report.Rounds[len(s.report.Rounds)-2].Timeline = found.timeline
		all = append(all, found)
		ends = append(ends, o.end(found, flows[0].arrivals))
	}
	o.tell(s, all, ends)
	return nil
}

// tell adds the findings: medians of the rounds.
func (o *Outage) tell(s *session, all []outageRound, ends []outageEnd) {
	find := func(name, unit string, better report.Direction, number func(outageRound, outageEnd) float64) {
		var numbers []float64
		for i := range all {
			numbers = append(numbers, number(all[i], ends[i]))
		}
		s.find(name, median(numbers), unit, better)
	}
	find("first failed attempt, after it went", "ms", report.Lower, func(r outageRound, _ outageEnd) float64 { return millis(r.noticed) })
	find("attempts spent while it was away", "", report.Lower, func(r outageRound, _ outageEnd) float64 { return r.spent })
	find("backlog when it came back", "", report.Lower, func(r outageRound, _ outageEnd) float64 { return r.backlog })
	find("backlog drained, after it came back", "ms", report.Lower, func(r outageRound, _ outageEnd) float64 { return millis(r.drained) })
	find("the same at the capacity", "ms", report.Neither, func(r outageRound, _ outageEnd) float64 { return 1000 * r.backlog / o.Capacity })
	find("share of the attempts that were more than it takes", "", report.Lower, func(_ outageRound, e outageEnd) float64 { return e.above })
	find("share of the attempts that it refused", "", report.Lower, func(_ outageRound, e outageEnd) float64 { return e.refused })
	find("longest stretch above 1.2 times the capacity", "ms", report.Lower, func(_ outageRound, e outageEnd) float64 { return millis(e.longest) })
	find("peak rate to it (1 s), against the capacity", "×", report.Lower, func(_ outageRound, e outageEnd) float64 { return e.peak })
	find("most attempts of a delivery", "", report.Lower, func(r outageRound, _ outageEnd) float64 { return float64(r.mostAttempts) })
	for phase, name := range [...]string{"before", "while it was away", "while it drained"} {
		find("the other host's arrival p99, "+name, "ms", report.Lower, func(r outageRound, _ outageEnd) float64 { return r.beside[phase] })
	}
	for phase, name := range [...]string{"while it was away", "while it drained"} {
		find("the other host's arrival p99, "+name+" against before", "×", report.Lower, func(r outageRound, _ outageEnd) float64 {
			return r.beside[phase+1] / max(r.beside[0], 0.001)
		})
	}
}

// outageEnd is what a receiver was offered once it was back.
type outageEnd struct {
	above, refused float64 // of the attempts, what was more than the capacity, and what it refused
	longest        time.Duration
	peak           float64 // against the capacity
}

func (o *Outage) end(r outageRound, arrivals receiverReport) (e outageEnd) {
	line := arrivals.timeline()
	if attempts := float64(arrivals.Attempts - r.then.Attempts); attempts > 0 {
		e.refused = float64(arrivals.Refused-r.then.Refused) / attempts
		e.above = line.above(r.back, o.Capacity) / attempts
	}
	e.longest = line.longestAbove(r.back, 1.2*o.Capacity)
	e.peak = line.peak(r.back, arrivals.At, second) / o.Capacity
	return e
}

// outagePoll is how often the outage looks at the engine's metrics.
const outagePoll = 50 * time.Millisecond

// direct sends the receiver away and brings it back.
func (o *Outage) direct(ctx context.Context, f, other *flowing) (found outageRound, err error) {
	if err := errors.Join(f.arrives(ctx), other.arrives(ctx)); err != nil {
		return found, err
	}
	if err := pause(ctx, o.Warmup); err != nil {
		return found, err
	}
	sampling := startSampler(ctx, f.stage, o.Duration, func() Generating { return Generating{} }, other.addRecent)
	defer func() { found.timeline = sampling.finish() }()
	if _, err := other.phase(); err != nil {
		return found, err
	}
	if err := pause(ctx, o.Before); err != nil {
		return found, err
	}
	if err := o.goAway(ctx, f, other, &found); err != nil {
		return found, err
	}
	if err := o.comeBack(ctx, f, other, &found); err != nil {
		return found, err
	}
	found.mostAttempts, err = f.mostAttempts(ctx)
	return found, err
}

// goAway plays the outage itself.
func (o *Outage) goAway(ctx context.Context, f, other *flowing, found *outageRound) error {
	before, err := f.stage.system.metrics(ctx)
	if err != nil {
		return err
	}
	if found.beside[0], err = other.phase(); err != nil {
		return err
	}
	gone, err := f.switchTo(0, o.How)
	if err != nil {
		return err
	}
	found.noticed, _, err = f.watch(ctx, gone, o.Away, func(p page) bool { return p[seriesFailed] > before[seriesFailed] })
	if err != nil {
		return err
	}
	if err := pause(ctx, o.Away-now().sub(gone)); err != nil {
		return err
	}
	there, err := f.stage.system.metrics(ctx)
	if err != nil {
		return err
	}
	found.backlog, found.spent = there[seriesPending], there[seriesFailed]-before[seriesFailed]
	found.beside[1], err = other.phase()
	return err
}

// comeBack lets the receiver take what it can, until the backlog has drained.
func (o *Outage) comeBack(ctx context.Context, f, other *flowing, found *outageRound) (err error) {
	if found.then, err = f.stage.counts(); err != nil {
		return err
	}
	if found.back, err = f.switchTo(0, o.back()); err != nil {
		return err
	}
	// Some of the other host's are always on their way.
	found.drained, found.drainedAtAll, err = f.watch(ctx, found.back, o.After+o.DrainWait, func(p page) bool {
		return p[seriesPending] <= max(o.Beside/10, 1)
	})
	if err == nil {
		found.beside[2], err = other.phase()
	}
	return err
}

// phase is the arrival p99 since it was last called.
func (f *flowing) phase() (float64, error) {
	var recent report.Distribution
	err := f.stage.receiver.ask(request{Do: doRecent, Reader: phaseReader}, &recent)
	return quantile(recent, 99), err
}

// Who asks for the recent latencies of the other host.
const (
	sampleReader = 0
	phaseReader  = 1
)

// addRecent adds the flow's latency since the last sample to another's.
func (f *flowing) addRecent(s report.Sample) {
	var recent report.Distribution
	if err := f.stage.receiver.ask(request{Do: doRecent, Reader: sampleReader}, &recent); err == nil && recent.Count > 0 {
		s.Values[report.BesideP99] = quantile(recent, 99)
	}
}

// mostAttempts is the greatest number of attempts of any delivery of the account.
func (f *flowing) mostAttempts(ctx context.Context) (most int, err error) {
	h := &http.Client{Transport: &http.Transport{}}
	defer h.CloseIdleConnections()
	c, err := client.New(f.stage.system.url, f.stage.system.keys[0], client.Options{HTTPClient: h})
	if err != nil {
		return 0, err
	}
	for d, err := range c.Deliveries(ctx, client.Filter{Limit: client.MaxPage}) {
		if err != nil {
			return 0, fmt.Errorf("bench: list deliveries: %w", err)
		}
		most = max(most, d.Attempts)
	}
	return most, nil
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
