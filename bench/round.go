package bench

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/harepost/harepost/bench/report"
)

// A plan is one system under one load, which is measured in as many rounds as
// there are to be.
type plan struct {
	system    string
	flags     []string // of the engine, after those of the options
	as        string   // what the report calls the system with these flags; empty: as without
	load      report.Load
	generator GeneratorOptions // as stage.load completes them
	receiver  ReceiverOptions
	accounts  int
	profile   string // path of a CPU profile to take; empty: none
}

// name is the system's in the report.
func (p *plan) name() string { return cmp.Or(p.as, p.system) }

// A bout is a round while it runs.
type bout struct {
	plan  plan
	stage *stage

	generated    Generated
	generatorCPU time.Duration
	timeline     []report.Sample

	// At the end of the warm-up, at that of the load, and when the system is idle
	// again.
	before, loaded, settled look
}

// measure starts all processes, loads the system and ends them again.
func (s *session) measure(ctx context.Context, p plan, number int) (r report.Round, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	o := s.options
	o.EngineFlags = slices.Concat(o.EngineFlags, p.flags)
	st, err := newStage(ctx, o, stageOptions{
		system: p.system, receiver: p.receiver, accounts: p.accounts, workers: p.generator.Connections,
	})
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	b := bout{plan: p, stage: st}
	// What others left in memory is not to be written on this system's bill.
	if err := st.disk.flush(); err != nil {
		return r, err
	}
	watch := s.progress.watch(p, number)
	if err := b.load(ctx, watch); err != nil {
		return r, err
	}
	if err := b.drain(ctx); err != nil {
		return r, err
	}
	var arrivals receiverReport
	if err := st.receiver.ask(request{Do: doReport}, &arrivals); err != nil {
		return r, err
	}
	r = b.result(arrivals)
	r.System, r.Load, r.Number = p.name(), p.load, number
	return r, nil
}

// load runs the generator and looks at both ends of the measuring.
func (b *bout) load(ctx context.Context, tell func(report.Sample)) (err error) {
	g, err := b.stage.load(ctx, b.plan.generator)
	if err != nil {
		return err
	}
	length := b.plan.generator.Warmup + b.plan.generator.Duration
	sampling := startSampler(ctx, b.stage, length, func() Generating { return *g.far.Load() }, tell)
	defer func() { b.timeline = sampling.finish() }()
	err = g.warmedUp()
	if err == nil {
		b.before, err = b.stage.look(ctx, doMeasure)
	}
	profiled := make(chan error, 1)
	if b.plan.profile == "" || b.stage.system.profile == nil {
		profiled <- nil
	} else {
		d := b.plan.generator.Duration - time.Second/2
		go func() { profiled <- b.stage.system.profile(ctx, b.plan.profile, d) }() // read below
	}
	if err == nil {
		err = g.until(g.measured)
	}
	if err == nil {
		b.loaded, err = b.stage.look(ctx, doCounts)
	}
	var loadErr error
	b.generated, loadErr = g.wait()
	b.generatorCPU = g.cpu
	if loadErr != nil {
		err = loadErr // of which the others follow
	}
	return errors.Join(err, <-profiled)
}

// drain waits until everything acknowledged has arrived, or nothing did for
// DrainWait, and then until the system is idle. A duplicate that comes late
// comes in that time.
func (b *bout) drain(ctx context.Context) error {
	if err := b.stage.drain(ctx, b.generated.Accepted, b.stage.options.DrainWait); err != nil {
		return err
	}
	if err := b.stage.system.settle(ctx, b.stage.options.SettleWait); err != nil {
		return err
	}
	if err := b.stage.disk.flush(); err != nil {
		return err
	}
	var err error
	b.settled, err = b.stage.look(ctx, doCounts)
	return err
}

// drain waits until so many sends have arrived, or nothing did for wait.
func (s *stage) drain(ctx context.Context, arrivals uint64, wait time.Duration) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	last, err := s.counts()
	progress := last.At
	for err == nil && last.Arrived < arrivals && last.At.sub(progress) < wait {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		before := last.Arrived
		if last, err = s.counts(); last.Arrived > before {
			progress = last.At
		}
	}
	return err
}

func (b *bout) result(arrivals receiverReport) report.Round {
	g := b.generated
	r := report.Round{
		Values: map[string]float64{
			report.Accepted:      float64(g.Accepted),
			report.Refused:       float64(g.Refused),
			report.Failed:        float64(g.Failed),
			report.Arrived:       float64(arrivals.Arrived),
			report.Duplicates:    float64(arrivals.Duplicates),
			report.Reordered:     float64(arrivals.Reordered),
			report.AcceptedRate:  perSecond(g.MeasuredAccepted, g.MeasuredTime),
			report.DeliveredRate: perSecond(b.loaded.counts.Arrived-b.before.counts.Arrived, b.loaded.counts.At.sub(b.before.counts.At)),
			report.DrainTime:     max(0, millis(arrivals.LastArrival.sub(b.loaded.counts.At))),
		},
		Latencies:    map[string]report.Distribution{latencyAnswer: g.AnswerLatency, latencyArrival: arrivals.Latency},
		Timeline:     b.timeline,
		FirstFailure: g.FirstFailure,
	}
	// Of these there are usually none, and a column of zeros says nothing.
	for name, count := range map[string]uint64{report.Unadvised: g.Unadvised, report.Unsent: g.Unsent, report.Repeated: g.Repeated} {
		if count > 0 {
			r.Values[name] = float64(count)
		}
	}
	if arrivals.Lookups > 0 {
		r.Values[report.Lookups] = float64(arrivals.Lookups)
	}
	compareMarks(r.Values, g, arrivals)
	b.fillCost(r.Values, float64(arrivals.Arrived-b.before.counts.Arrived))
	b.fillFromPages(r.Values)
	if g.Attempted > 0 {
		r.Values[report.GeneratorCPU] = float64(b.generatorCPU.Microseconds()) / float64(g.Attempted+g.Repeated)
	}
	if !b.plan.generator.Rate.IsZero() {
		r.Values[report.GeneratorLateMax] = millis(g.LateMax)
	}
	return r
}

// The names of the latencies of every round.
const (
	latencyAnswer  = "answer"
	latencyArrival = "arrival"
)

// fillCost sets what the deliveries after the warm-up cost the system's process,
// if it is one of ours.
func (b *bout) fillCost(values map[string]float64, delivered float64) {
	if b.settled.usage.RSSBytes == 0 {
		return
	}
	values[report.RSS] = float64(b.loaded.usage.RSSBytes)
	values[report.PeakRSS] = float64(b.settled.usage.PeakRSSBytes)
	if delivered > 0 {
		values[report.CPU] = float64((b.settled.usage.CPU - b.before.usage.CPU).Microseconds()) / delivered
	}
	if b.stage.disk.name == "" {
		return
	}
	written := float64(b.settled.written - b.before.written)
	values[report.WrittenBytes] = written
	if payload := delivered * float64(b.generated.PayloadBytes) / float64(max(b.generated.Accepted, 1)); payload > 0 {
		values[report.WrittenPerByte] = written / payload
	}
}

// fillFromPages sets what the system's own metrics say of the measuring.
func (b *bout) fillFromPages(values map[string]float64) {
	fillFromPage(values, b.loaded.page)
	syncs, ok := b.loaded.page.since(b.before.page, seriesSyncs)
	if !ok || syncs <= 0 {
		return
	}
	values[report.SyncRate] = syncs / b.loaded.counts.At.sub(b.before.counts.At).Seconds()
	if entries, ok := b.loaded.page.since(b.before.page, seriesEntries); ok {
		values[report.EntriesPerSync] = entries / syncs
	}
}

// compareMarks counts losses and arrivals that should not be, mark by mark: equal
// totals could hide one of each.
func compareMarks(values map[string]float64, g Generated, arrivals receiverReport) {
	unsent := arrivals.Seen.from(g.Attempted)
	values[report.Lost] = float64(g.AcceptedMarks.minus(arrivals.Seen))
	values[report.Unacknowledged] = float64(arrivals.Seen.minus(g.AcceptedMarks) - unsent)
	values[report.Strangers] = float64(arrivals.Strangers + unsent)
}

func perSecond(count uint64, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(count) / d.Seconds()
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
