package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/harepost/harepost/bench/report"
	"github.com/harepost/harepost/client"
)

// Backlog is the scenario "backlog": millions of deliveries are pending, to hosts
// that are dead or slow. The engine is stopped and started again, and then the
// dead hosts come back.
type Backlog struct {
	Options
	Count    int           // deliveries. Default: 10,000,000; quick: 50,000
	Lanes    int           // hosts, half of them dead, half slow. Default: 100,000; quick: 2,000
	Slow     string        // behaviour of the slow ones. Default: delay=exp:5s
	Delivery string        // policy. Default: 25 attempts, a minute and more apart; quick: 2 s
	Drain    time.Duration // how long the drain is watched. Default: 60 s; quick: 6 s
}

func (b *Backlog) name() string { return "backlog" }

func (b *Backlog) complete() error {
	setDefault(&b.Count, sized(&b.Options, 50_000, 10_000_000))
	setDefault(&b.Lanes, sized(&b.Options, 2000, 100_000))
	setDefault(&b.Slow, "delay=exp:5s")
	setDefault(&b.Delivery, sized(&b.Options,
		`{"max_attempts":25,"base_delay_ms":2000,"max_delay_ms":4000,"timeout_ms":2000}`,
		`{"max_attempts":25,"base_delay_ms":60000}`))
	setDefault(&b.Drain, sized(&b.Options, 6*time.Second, time.Minute))
	setDefault(&b.Rounds, 1)
	if b.Count < 1 || b.Count > maxSends || b.Lanes < 2 || b.Lanes > maxReceiverHosts {
		return fmt.Errorf("bench: %d deliveries over %d lanes, want up to %d over 2 to %d", b.Count, b.Lanes, maxSends, maxReceiverHosts)
	}
	if _, err := parseBehaviour(behaviourPrefix + b.Slow); err != nil {
		return fmt.Errorf("bench: how slow: %w", err)
	}
	if err := engineOnly(&b.Options); err != nil {
		return err
	}
	return b.Options.complete()
}

func (b *Backlog) play(ctx context.Context, s *session) error {
	s.set("deliveries", b.Count)
	s.set("lanes", fmt.Sprintf("%d, half of them to hosts that refuse, half to slow ones (%s)", b.Lanes, b.Slow))
	s.set("policy", b.Delivery)
	s.note("A slow host has a delivery when it comes, and answers later. If that is too late for the attempt, the next one is a duplicate.")
	// Attempts at slow hosts that are under way at a stop are made again.
	s.options.EngineFlags = append(s.options.EngineFlags, "--drain-timeout=1s")
	for number := 1; number <= b.Rounds; number++ {
		if err := b.round(ctx, s, number); err != nil {
			return fmt.Errorf("round %d: %w", number, err)
		}
	}
	return nil
}

// The ports of the receiver.
const (
	deadPort = 0
	slowPort = 1
)

// A pile is a round of a Backlog while it runs.
type pile struct {
	*Backlog
	session *session
	stage   *stage
	number  int
	client  *client.Client
	targets []string
	before  look // of the engine, when it is full
}

func (b *Backlog) round(ctx context.Context, s *session, number int) (err error) {
	st, err := newStage(ctx, s.options, stageOptions{system: report.Engine, receiver: ReceiverOptions{Targets: 2, Hosts: b.Lanes / 2}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	h := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: fillers}}
	defer h.CloseIdleConnections()
	p := &pile{Backlog: b, session: s, stage: st, number: number}
	if p.client, err = client.New(st.system.url, st.system.keys[0], client.Options{HTTPClient: h}); err != nil {
		return err
	}
	for i, t := range st.targets {
		if i >= b.Lanes/2 {
			t += behaviourPrefix[1:] + b.Slow + "/"
		}
		p.targets = append(p.targets, t)
	}
	if err := st.receiver.ask(request{Do: doSwitch, Port: deadPort, Behaviour: Down}, new(ReceiverCounts)); err != nil {
		return err
	}
	for _, phase := range []func(context.Context) error{p.fill, p.restart, p.drain} {
		if err := phase(ctx); err != nil {
			return err
		}
	}
	return nil
}

// add adds the round of a phase to the report.
func (p *pile) add(phase string, l look, values map[string]float64) {
	values[report.RSS] = float64(l.usage.RSSBytes)
	values[report.PeakRSS] = float64(l.usage.PeakRSSBytes)
	values[report.Arrived] = float64(l.counts.Arrived)
	values[report.Duplicates] = float64(l.counts.Duplicates)
	values[report.Open] = float64(l.counts.Open)
	fillFromPage(values, l.page)
	r := report.Round{System: report.Engine, Load: report.Load{Axis: "phase", Variant: phase}, Number: p.number, Values: values}
	p.session.report.Rounds = append(p.session.report.Rounds, r)
	p.session.progress.line("%-8s %.0f pending, %.0f arrived, RSS %.0f MiB", phase, values[report.Pending], values[report.Arrived], values[report.RSS]/(1<<20))
}

const (
	fillers   = 4    // goroutines that fill
	fillBatch = 1000 // sends of a batch
)

// fill sends batches until all are accepted.
func (p *pile) fill(ctx context.Context) error {
	began := now()
	var next atomic.Int64
	var filling sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make(chan error, fillers)
	for range fillers {
		filling.Go(func() {
			for {
				first := int(next.Add(fillBatch)) - fillBatch
				if first >= p.Count {
					return
				}
				if err := p.post(ctx, first, min(first+fillBatch, p.Count)); err != nil {
					errs <- err
					cancel()
					return
				}
				p.session.progress.passing("filling: %d of %d", first, p.Count)
			}
		})
	}
	filling.Wait()
	close(errs)
	for err := range errs {
		return fmt.Errorf("fill: %w", err)
	}
	took := now().sub(began)
	var err error
	if p.before, err = p.stage.look(ctx, doCounts); err != nil {
		return err
	}
	p.add("full", p.before, map[string]float64{report.Accepted: float64(p.Count), report.AcceptedRate: perSecond(uint64(p.Count), took)})
	p.session.find("RSS when full", float64(p.before.usage.RSSBytes), "B", report.Lower)
	return nil
}

// post sends one batch, again and again what of it was refused for now.
func (p *pile) post(ctx context.Context, first, end int) error {
	return sendUntilTaken(ctx, p.client, first, end, refusedPause, p.appendLine)
}

func (p *pile) appendLine(b []byte, n uint32) []byte {
	b = fmt.Appendf(b, `{"target":%q,"delivery":%s,"body":`, p.targets[int(n)%len(p.targets)], p.Delivery)
	b = appendPayload(b, 300, mark{Run: p.stage.run, Sequence: n, SentAt: now()})
	return append(b, "}\n"...)
}

// restart stops the engine and starts it on what it has.
func (p *pile) restart(ctx context.Context) error {
	stopping := now()
	if err := p.stage.system.stop(); err != nil {
		return err
	}
	stopped := now()
	keys := p.stage.system.keys
	p.stage.system = nil // close must not stop it again
	s, err := startEngine(ctx, p.session.options, 0, p.stage.dir)
	if err != nil {
		return fmt.Errorf("restart: %w", err)
	}
	ready := now()
	s.keys, p.stage.system = keys, s
	l, err := p.stage.look(ctx, doCounts)
	if err != nil {
		return err
	}
	p.add("restarted", l, map[string]float64{report.Accepted: float64(p.Count)})
	p.session.find("stopped, after SIGTERM", millis(stopped.sub(stopping)), "ms", report.Lower)
	p.session.find("ready, after the start", millis(ready.sub(stopped)), "ms", report.Lower)
	p.session.find("RSS when ready", float64(l.usage.RSSBytes), "B", report.Lower)
	f := flowing{bout: bout{stage: p.stage}}
	first, ok, err := f.watch(ctx, ready, engineWait, func(p page) bool {
		return p[seriesFailed]+p[seriesDelivered] > 0
	})
	if !ok && err == nil {
		p.session.note("No attempt had ended %s after the restart.", first)
	}
	p.session.find("first attempt ended, after ready", millis(first), "ms", report.Lower)
	return err
}

// drain brings the dead hosts back and watches what becomes of the backlog.
func (p *pile) drain(ctx context.Context) error {
	if err := p.stage.receiver.ask(request{Do: doSwitch, Port: deadPort}, new(ReceiverCounts)); err != nil {
		return err
	}
	before, err := p.stage.look(ctx, doCounts)
	if err != nil {
		return err
	}
	sampling := startSampler(ctx, p.stage, p.Drain, func() Generating { return Generating{} }, nil)
	err = p.stage.drainFor(ctx, uint64(p.Count), p.Drain)
	timeline := sampling.finish()
	if err != nil {
		return err
	}
	l, err := p.stage.look(ctx, doCounts)
	if err != nil {
		return err
	}
	values := map[string]float64{
		report.Accepted:      float64(p.Count),
		report.DeliveredRate: perSecond(l.counts.Arrived-before.counts.Arrived, l.counts.At.sub(before.counts.At)),
	}
	p.add("drain", l, values)
	rounds := p.session.report.Rounds
	rounds[len(rounds)-1].Timeline = timeline
	p.session.find("delivered/s once the dead are back", values[report.DeliveredRate], "", report.Higher)
	return nil
}

// drainFor waits until so many have arrived, or for so long.
func (s *stage) drainFor(ctx context.Context, arrivals uint64, limit time.Duration) error {
	began := now()
	for {
		c, err := s.counts()
		if err != nil || c.Arrived >= arrivals || c.At.sub(began) > limit {
			return err
		}
		if err := pause(ctx, outagePoll); err != nil {
			return err
		}
	}
}

// seriesDelivered counts the attempts that delivered.
const seriesDelivered = `harepost_attempts_total{outcome="delivered"}`
