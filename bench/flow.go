package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/harepost/harepost/bench/report"
)

// A flow is the traffic of one generator to one receiver, beside others through
// the same engine. The first goes through the engine. Flows have receivers of their own, so that their losses and
// latencies are told apart.
type flow struct {
	at        report.Load // of its rounds
	account   int         // its first; flows of one number share an account
	accounts  int         // how many it has. Default: 1
	receiver  ReceiverOptions
	behaviour string // of all its targets, see behaviour; empty: they behave well
	// targets says which URLs are sent to, and how often, by what the receiver
	// has. Default: all of them.
	targets   func([]string) []string
	generator GeneratorOptions
	forwarded bool          // it goes through a forwarder, beside the engine
	duration  time.Duration // of its load, after the warm-up. Default: the scenario's
	// after is called when all loads have ended, before what is on its way is
	// waited for. Nil: nothing is to be done.
	after func(*flowing) error
}

// A flowing is a flow while it runs, and what was found when it has.
type flowing struct {
	flow
	bout
	arrivals receiverReport
	round    report.Round
}

// together plays flows at once through one engine, calls during with them while
// they run, and adds a round of each to the report. During may be nil.
func (s *session) together(ctx context.Context, number int, flows []flow, during func(context.Context, []*flowing) error) (all []*flowing, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	accounts := 1
	for _, f := range flows {
		accounts = max(accounts, f.account+max(f.accounts, 1))
	}
	st, err := newStage(ctx, s.options, stageOptions{system: report.Engine, receiver: flows[0].receiver, accounts: accounts})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	for i, f := range flows {
		own := st
		if i > 0 {
			if own, err = st.beside(ctx, f.receiver); err != nil {
				return nil, err
			}
			defer func() { err = errors.Join(err, own.receiver.close()) }()
		}
		if f.forwarded {
			if own.system, err = startForwarder(ctx, s.options, f.generator.Connections); err != nil {
				return nil, err
			}
			defer func() { err = errors.Join(err, own.system.stop()) }()
		}
		all = append(all, s.prepare(f, own))
	}
	if err := st.disk.flush(); err != nil {
		return nil, err
	}
	if err := s.runFlows(ctx, number, all, during); err != nil {
		return nil, err
	}
	for _, f := range all {
		if f.after != nil {
			if err := f.after(f); err != nil {
				return nil, err
			}
		}
	}
	for _, f := range all {
		if err := f.finish(ctx, number, len(all)); err != nil {
			return nil, err
		}
		s.report.Rounds = append(s.report.Rounds, f.round)
		s.progress.round(f.round)
	}
	return all, nil
}

// beside is the same stage with a receiver of its own, which the caller closes.
func (s *stage) beside(ctx context.Context, o ReceiverOptions) (*stage, error) {
	own := *s
	setDefault(&o.Run, s.run)
	own.run = o.Run
	var err error
	if own.receiver, err = startPart(ctx, s.options.Child, roleReceiver, o); err != nil {
		return nil, err
	}
	var ready receiverReady
	if err := own.receiver.hear("start", &ready); err != nil {
		return nil, errors.Join(err, own.receiver.close())
	}
	own.targets = ready.Targets
	return &own, nil
}

// prepare completes what the generator is told.
func (s *session) prepare(f flow, st *stage) *flowing {
	g := f.generator
	g.Targets = slices.Clone(st.targets)
	if f.targets != nil {
		g.Targets = f.targets(g.Targets)
	}
	if f.behaviour != "" {
		for i := range g.Targets {
			g.Targets[i] += behaviourPrefix[1:] + f.behaviour + "/"
		}
	}
	if !f.forwarded { // a forwarder knows no accounts
		g.Keys = st.system.keys[f.account : f.account+max(f.accounts, 1)]
	}
	g.Warmup, g.Duration = s.options.Warmup, s.options.Duration
	if f.duration > 0 {
		g.Duration = f.duration
	}
	return &flowing{flow: f, bout: bout{stage: st, plan: plan{system: st.system.name, load: f.at, generator: g}}}
}

// runFlows loads the engine with all flows. It returns when all have ended, and
// ends them when one fails.
func (s *session) runFlows(ctx context.Context, number int, all []*flowing, during func(context.Context, []*flowing) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan error)
	for i, f := range all {
		tell := func(report.Sample) {}
		if i == 0 {
			tell = s.progress.watch(f.plan, number)
		}
		go func() { results <- f.load(ctx, tell) }() // read below
	}
	running := len(all)
	if during != nil {
		running++
		go func() { results <- during(ctx, all) }() // read below
	}
	var first error
	for range running {
		if err := <-results; err != nil && first == nil {
			first = err
			cancel()
		}
	}
	return first
}

// finish waits for what is on its way, and fills the round.
func (f *flowing) finish(ctx context.Context, number, flows int) error {
	if err := f.drain(ctx); err != nil {
		return err
	}
	if err := f.stage.receiver.ask(request{Do: doReport}, &f.arrivals); err != nil {
		return err
	}
	f.round = f.result(f.arrivals)
	f.round.System, f.round.Load, f.round.Number = f.plan.system, f.at, number
	if flows > 1 {
		// The process and the disk are those of all flows.
		for _, name := range []string{report.CPU, report.WrittenBytes, report.WrittenPerByte} {
			delete(f.round.Values, name)
			for _, sample := range f.round.Timeline {
				delete(sample.Values, name)
			}
		}
	}
	return nil
}

// switchTo changes how a port of the flow's receiver behaves, see Receiver.Switch,
// and returns when it was.
func (f *flowing) switchTo(port int, behaviour string) (moment, error) {
	var c ReceiverCounts
	err := f.stage.receiver.ask(request{Do: doSwitch, Port: port, Behaviour: behaviour}, &c)
	return c.At, err
}

// besideAlone says how many times greater a number is beside something than
// alone: the median over the rounds, each paired with its own.
func (s *session) besideAlone(name string, beside, alone report.Load, number func(report.Round) float64) {
	var ratios []float64
	with, without := s.rounds(report.Engine, beside), s.rounds(report.Engine, alone)
	for i := range min(len(with), len(without)) {
		if n := number(without[i]); n > 0 {
			ratios = append(ratios, number(with[i])/n)
		}
	}
	if len(ratios) == 0 {
		s.note("%s: nothing to compare with.", name)
		return
	}
	s.find(name, median(ratios), "×", report.Lower)
}

// percentile reads a percentile of a round's latency.
func percentile(latency string, percent float64) func(report.Round) float64 {
	return func(r report.Round) float64 { return quantile(r.Latencies[latency], percent) }
}

// engineOnly refuses what does not go with a scenario that measures an engine
// that it starts itself.
func engineOnly(o *Options) error {
	if o.URL != "" || len(o.Systems) > 0 && !slices.Equal(o.Systems, []string{report.Engine}) {
		return errors.New("bench: this scenario measures an engine that it starts itself")
	}
	o.Systems = []string{report.Engine}
	return nil
}

// atLeast says which of the named numbers is too small.
func atLeast(least float64, numbers map[string]float64) error {
	var errs []error
	for name, n := range numbers {
		if !(n >= least) {
			errs = append(errs, fmt.Errorf("bench: %s is %g, want at least %g", name, n, least))
		}
	}
	return errors.Join(errs...)
}

// peak is the greatest rate a second, over a window of so many steps, that began
// between two moments.
func (l timeline) peak(from, to moment, window int) float64 {
	step := moment(timelineStep)
	first := max(int((from-l.Began)/step), 0)
	last := min(int((to-l.Began)/step), len(l.Attempts)-1)
	most := uint32(0)
	for i := first; i <= last; i++ {
		sum := uint32(0)
		for _, n := range l.Attempts[i:min(i+window, len(l.Attempts))] {
			sum += n
		}
		most = max(most, sum)
	}
	return float64(most) / (time.Duration(window) * timelineStep).Seconds()
}

// above is how many attempts since a moment were beyond a rate, second by second.
func (l timeline) above(from moment, rate float64) (above float64) {
	for _, n := range l.seconds(from, second) {
		above += max(n-rate, 0)
	}
	return above
}

// longestAbove is the longest time since a moment in which every second, begun at
// any step, had more attempts than a rate.
func (l timeline) longestAbove(from moment, rate float64) (longest time.Duration) {
	run := 0
	for _, n := range l.seconds(from, 1) {
		if n <= rate {
			run = 0
			continue
		}
		run++
		longest = max(longest, time.Duration(run-1)*timelineStep+time.Second)
	}
	return longest
}

// seconds are the attempts of each second that began after a moment, so many steps
// apart.
func (l timeline) seconds(from moment, apart int) (counts []float64) {
	first := max(int((from-l.Began)/moment(timelineStep))+1, 0)
	for i := first; i+second <= len(l.Attempts); i += apart {
		sum := 0.0
		for _, n := range l.Attempts[i : i+second] {
			sum += float64(n)
		}
		counts = append(counts, sum)
	}
	return counts
}

// timeline is that of all groups of a receiver.
func (r receiverReport) timeline() (all timeline) {
	for _, g := range r.PerGroup {
		all.Began = g.Timeline.Began
		steps := make([]timelineCount, len(g.Timeline.Attempts))
		for i := range steps {
			steps[i] = timelineCount{g.Timeline.Attempts[i], g.Timeline.Arrived[i]}
		}
		all.add(steps)
	}
	return all
}

// second is a window of a timeline.
const second = int(time.Second / timelineStep)
