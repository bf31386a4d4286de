package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/harepost/harepost/bench/report"
	"github.com/harepost/harepost/client"
)

// StoreSize is the scenario "store-size": what a delivery costs with an empty
// store and with one that holds millions of finished deliveries of the same
// account, in turns; and what pages of those cost.
type StoreSize struct {
	Options
	Count       int           // finished deliveries. Default: 10,000,000; quick: 100,000
	Connections int           // of the rounds. Default: 256
	Rest        time.Duration // bounds the wait until a filled store is at rest. Default: 5 min; quick: 5 s
}

func (z *StoreSize) name() string { return "store-size" }

func (z *StoreSize) complete() error {
	setDefault(&z.Count, sized(&z.Options, 100_000, 10_000_000))
	setDefault(&z.Connections, 256)
	setDefault(&z.Rest, sized(&z.Options, 5*time.Second, 5*time.Minute))
	setDefault(&z.Duration, sized(&z.Options, time.Second, 10*time.Second))
	if z.Count < 4*pageSize || z.Count > maxSends {
		return fmt.Errorf("bench: %d finished deliveries, want %d to %d", z.Count, 4*pageSize, maxSends)
	}
	if err := checkConnections(z.Connections); err != nil {
		return err
	}
	if err := engineOnly(&z.Options); err != nil {
		return err
	}
	return z.Options.complete()
}

func (z *StoreSize) play(ctx context.Context, s *session) (err error) {
	s.set("finished deliveries", fmt.Sprintf("%d of one account, of %d bytes, made by batches of %d", z.Count, fillPayload, batchSends))
	s.set("rounds' connections", fmt.Sprintf("%d, closed loop, the same account", z.Connections))
	s.set("warm-up", s.options.Warmup)
	s.set("measured", s.options.Duration)
	s.set("pages", fmt.Sprintf("%d deliveries, %d times each over one connection, engine idle", pageSize, pageTimes))
	if err := s.measureCeiling(ctx, z.generator()); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(z.Dir, "bench-*")
	if err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	k := &keptStore{StoreSize: z, session: s, dir: dir}
	for _, phase := range []func(context.Context) error{k.fill, k.weigh, k.compare, k.pages} {
		if err := phase(ctx); err != nil {
			return err
		}
	}
	s.find("ready, after a restart on it", median(k.ready), "ms", report.Lower)
	return nil
}

func (z *StoreSize) generator() GeneratorOptions {
	return GeneratorOptions{Connections: z.Connections, Payload: FixedSize(fillPayload), Seed: 1}
}

// A keptStore is a data directory that many engines run on, one after the other.
type keptStore struct {
	*StoreSize
	session *session
	dir     string
	keys    []string  // of its account
	older   string    // cursor to its middle
	ready   []float64 // ms that engines took to be ready on it
}

// open is a stage whose engine runs on the store. Its close leaves the store
// there.
func (k *keptStore) open(ctx context.Context, o Options) (*stage, error) {
	// A stage's own engine would run on a directory that ends with the stage.
	st, err := newStage(ctx, o, stageOptions{system: report.Direct, receiver: ReceiverOptions{Targets: 1}})
	if err != nil {
		return nil, err
	}
	accounts := 0
	if k.keys == nil {
		accounts = 1
	}
	began := now()
	engine, err := startEngine(ctx, o, accounts, k.dir)
	if err != nil {
		return nil, errors.Join(err, st.close())
	}
	if k.keys == nil {
		k.keys = engine.keys
	} else {
		k.ready = append(k.ready, millis(now().sub(began)))
	}
	engine.keys, st.system = k.keys, engine
	return st, nil
}

// fill makes the finished deliveries. To the report it is a round like others,
// with a generator of its own.
func (k *keptStore) fill(ctx context.Context) (err error) {
	o := k.session.options
	o.SettleWait = k.Rest
	st, err := k.open(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	h := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: batchSenders}}
	defer h.CloseIdleConnections()
	c, err := client.New(st.system.url, k.keys[0], client.Options{HTTPClient: h})
	if err != nil {
		return err
	}
	b := bout{stage: st}
	f := newFiller(c, st.run, st.targets[0], k.Count)
	if err := k.run(ctx, &b, f); err != nil {
		return err
	}
	var arrivals receiverReport
	if err := st.receiver.ask(request{Do: doReport}, &arrivals); err != nil {
		return err
	}
	r := b.result(arrivals)
	delete(r.Values, report.GeneratorCPU) // it is the harness's own process
	r.System, r.Load, r.Number = report.Engine, report.Load{Axis: axisFinished, Variant: "filling"}, 1
	k.session.report.Rounds = append(k.session.report.Rounds, r)
	k.session.progress.round(r)
	k.findFill(&b, f, arrivals)
	return k.findOlder(st.system, *f.half.Load())
}

// run lets the filler work, and waits until all has arrived and the engine is at
// rest.
func (k *keptStore) run(ctx context.Context, b *bout, f *filler) (err error) {
	if err := b.stage.disk.flush(); err != nil {
		return err
	}
	if b.before, err = b.stage.look(ctx, doMeasure); err != nil {
		return err
	}
	const guessedRate = 20_000 // a second; it only sets how far apart samples are
	length := time.Duration(k.Count) * time.Second / guessedRate
	sampling := startSampler(ctx, b.stage, length, f.generating, func(s report.Sample) {
		k.session.progress.passing("filling: %d of %d, %.0f delivered/s", f.accepted.Load(), k.Count, s.Values[report.DeliveredRate])
	})
	err = f.fill(ctx)
	b.timeline = sampling.finish()
	if err != nil {
		return err
	}
	b.generated = f.generated()
	if b.loaded, err = b.stage.look(ctx, doCounts); err != nil {
		return err
	}
	k.session.progress.passing("filled: waiting for the engine to be at rest")
	return b.drain(ctx)
}

func (k *keptStore) findFill(b *bout, f *filler, arrivals receiverReport) {
	s := k.session
	took := arrivals.LastArrival.sub(f.began)
	s.find("fill, until the last has arrived", millis(took), "ms", report.Lower)
	s.find("fill rate", perSecond(arrivals.Arrived, took), "/s", report.Higher)
	s.find("log after the fill", b.settled.page["harepost_log_bytes"], "B", report.Lower)
	rest := b.settled.counts.At.sub(arrivals.LastArrival)
	s.find("at rest, after the last has arrived", millis(rest), "ms", report.Lower)
	if rest > k.Rest {
		s.note("The engine was still busy %s after the fill: compactions may be part of what follows.", rest.Round(time.Second))
	}
}

func (k *keptStore) findOlder(engine *system, before time.Time) error {
	p, err := newPager(engine)
	if err != nil {
		return err
	}
	defer p.close()
	k.older, err = p.cursorBefore(before)
	return err
}

// weigh finds what the store takes on disk, while no engine runs on it.
func (k *keptStore) weigh(context.Context) error {
	bytes, err := allocatedBytes(k.dir)
	if err != nil {
		return err
	}
	k.session.find("data on disk after the fill", float64(bytes), "B", report.Lower)
	return nil
}

// compare measures deliveries with an empty store and with the filled one, in
// turns.
func (k *keptStore) compare(ctx context.Context) error {
	s := k.session
	s.note("The filled store grows by what its rounds deliver.")
	for number := 1; number <= s.options.Rounds; number++ {
		for _, finished := range []int{0, k.Count} {
			if err := k.round(ctx, finished, number); err != nil {
				return fmt.Errorf("%s, round %d: %w", k.at(finished), number, err)
			}
		}
	}
	for _, of := range []struct {
		name   string
		better report.Direction
		number func(report.Round) float64
	}{
		{"CPU per delivery", report.Lower, func(r report.Round) float64 { return r.Values[report.CPU] }},
		{"delivered/s", report.Higher, func(r report.Round) float64 { return r.Values[report.DeliveredRate] }},
		{"arrival p99", report.Lower, percentile(latencyArrival, 99)},
	} {
		k.findRatio(of.name+", filled store against empty", of.better, of.number)
	}
	s.note("A compaction is the cost of many rounds' deliveries and falls into one of them; an empty store is too young for one. So mind the ratios over all rounds, of which there should be some.")
	k.findOverall("CPU per delivery over all rounds, filled store against empty", report.CPU)
	k.findOverall("written per payload byte over all rounds, filled store against empty", report.WrittenPerByte)
	return nil
}

const axisFinished = "finished"

// at is the load of the rounds with so many finished deliveries.
func (k *keptStore) at(finished int) report.Load {
	return report.Load{Axis: axisFinished, Value: float64(finished)}
}

// round measures a closed loop against an engine that was just started.
func (k *keptStore) round(ctx context.Context, finished, number int) (err error) {
	s := k.session
	var st *stage
	if finished == 0 {
		st, err = newStage(ctx, s.options, stageOptions{system: report.Engine, receiver: ReceiverOptions{Targets: 1}})
	} else {
		st, err = k.open(ctx, s.options)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	// What the start left to do is not on the deliveries' bill.
	if err := errors.Join(st.system.settle(ctx, st.options.SettleWait), st.disk.flush()); err != nil {
		return err
	}
	f := s.prepare(flow{at: k.at(finished), generator: k.generator()}, st)
	if err := s.runFlows(ctx, number, []*flowing{f}, nil); err != nil {
		return err
	}
	if err := f.finish(ctx, number, 1); err != nil {
		return err
	}
	s.report.Rounds = append(s.report.Rounds, f.round)
	s.progress.round(f.round)
	return nil
}

// findRatio finds the median of the pairs' ratios, and notes the range.
func (k *keptStore) findRatio(name string, better report.Direction, number func(report.Round) float64) {
	s := k.session
	var ratios []float64
	empty, filled := s.rounds(report.Engine, k.at(0)), s.rounds(report.Engine, k.at(k.Count))
	for i := range min(len(empty), len(filled)) {
		if n := number(empty[i]); n > 0 {
			ratios = append(ratios, number(filled[i])/n)
		}
	}
	if len(ratios) == 0 {
		s.note("%s: nothing to compare with.", name)
		return
	}
	s.find(name, median(ratios), "×", better)
	s.note("%s, by pairs of rounds: %.3f.", name, ratios)
}

// findOverall finds the ratio of a metric's means, in which rounds count by their
// deliveries.
func (k *keptStore) findOverall(name, metric string) {
	mean := func(finished int) float64 {
		var sum, deliveries float64
		for _, r := range k.session.rounds(report.Engine, k.at(finished)) {
			sum += r.Values[metric] * r.Values[report.Arrived]
			deliveries += r.Values[report.Arrived]
		}
		return sum / max(deliveries, 1)
	}
	if empty := mean(0); empty > 0 {
		k.session.find(name, mean(k.Count)/empty, "×", report.Lower)
	}
}

// pageTimes is how often each page is asked for.
const pageTimes = 200

// pages measures what pages of the filled store take, each with an engine that
// was just started: first while its caches fill, and then again.
func (k *keptStore) pages(ctx context.Context) error {
	k.session.note("The first page after a restart finds the engine's own caches empty; the system's page cache may have the files.")
	for _, kind := range []struct{ name, query string }{
		{"page of the newest", ""},
		{"page of the newest delivered", "&status=delivered"},
		{"page from the middle, by cursor", "&cursor=" + k.older},
	} {
		if err := k.page(ctx, kind.name, kind.query); err != nil {
			return fmt.Errorf("%s: %w", kind.name, err)
		}
	}
	return nil
}

func (k *keptStore) page(ctx context.Context, name, query string) (err error) {
	st, err := k.open(ctx, k.session.options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	if err := st.system.settle(ctx, k.Rest); err != nil {
		return err
	}
	p, err := newPager(st.system)
	if err != nil {
		return err
	}
	defer p.close()
	for _, when := range []string{", after a restart", ""} {
		latency, first, err := p.pages(ctx, query, pageTimes)
		if err != nil {
			return err
		}
		k.findPage(name+when, latency, first)
	}
	return nil
}

func (k *keptStore) findPage(name string, d report.Distribution, first time.Duration) {
	k.session.find(name+", the first", millis(first), "ms", report.Lower)
	for _, percent := range []float64{50, 99} {
		k.session.find(fmt.Sprintf("%s, p%g", name, percent), quantile(d, percent), "ms", report.Lower)
	}
	k.session.progress.line("%s: the first %.3f ms, p50 %.3f ms, p99 %.3f ms", name, millis(first), quantile(d, 50), quantile(d, 99))
}
