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
// that are dead or slow. The engine is stopped and started again, then the dead
// hosts come back. In the middle of the drain it is killed; after the next start
// the slow hosts are quick, and everything is to arrive.
type Backlog struct {
	Options
	Count    int           // deliveries. Default: 10,000,000; quick: 50,000
	Lanes    int           // hosts, half of them dead, half slow. Default: 100,000; quick: 2,000
	Slow     string        // behaviour of the slow ones. Default: delay=exp:5s
	Delivery string        // policy. Default: 25 attempts, a minute or two apart; quick: 2 s
	Drain    time.Duration // how long it drains before it is killed. Default: 60 s; quick: 3 s
	Finish   time.Duration // how long what is left may take. Default: 15 min; quick: 60 s
}

func (b *Backlog) name() string { return "backlog" }

func (b *Backlog) complete() error {
	setDefault(&b.Count, sized(&b.Options, 50_000, 10_000_000))
	setDefault(&b.Lanes, sized(&b.Options, 2000, 100_000))
	setDefault(&b.Slow, "delay=exp:5s")
	setDefault(&b.Delivery, sized(&b.Options,
		`{"max_attempts":25,"base_delay_ms":2000,"max_delay_ms":4000,"timeout_ms":2000}`,
		`{"max_attempts":25,"base_delay_ms":60000,"max_delay_ms":120000}`))
	setDefault(&b.Drain, sized(&b.Options, 3*time.Second, time.Minute))
	setDefault(&b.Finish, sized(&b.Options, time.Minute, 15*time.Minute))
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
	for _, phase := range []func(context.Context) error{p.fill, p.restart, p.drain, p.kill} {
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
	tenths := fillTenths{count: p.Count, began: began}
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
				tenths.taken(min(fillBatch, p.Count-first))
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
	p.session.find("accepted/s, of the first tenth", tenths.rate(0), "", report.Higher)
	p.session.find("accepted/s, of the last tenth", tenths.rate(9), "", report.Higher)
	p.session.find("peak RSS when full", float64(p.before.usage.PeakRSSBytes), "B", report.Lower)
	return p.settled(ctx)
}

// settled looks again when nothing has been sent for a while.
func (p *pile) settled(ctx context.Context) error {
	if err := pause(ctx, p.SettleWait); err != nil {
		return err
	}
	l, err := p.stage.look(ctx, doCounts)
	if err == nil {
		p.session.find("RSS when full and settled", float64(l.usage.RSSBytes), "B", report.Lower)
	}
	return err
}

// fillTenths tell how long each tenth of the sends took.
type fillTenths struct {
	count int
	began moment

	mu   sync.Mutex
	done int
	ends [10]moment
}

// taken says that n more are accepted.
func (f *fillTenths) taken(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done += n
	for i := range f.ends {
		if f.ends[i] == 0 && f.done >= f.count*(i+1)/10 {
			f.ends[i] = now()
		}
	}
}

// rate is that of a tenth, from 0, a second. One that ended with the one before it,
// within a batch, is as fast as a microsecond.
func (f *fillTenths) rate(tenth int) float64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	from := f.began
	if tenth > 0 {
		from = f.ends[tenth-1]
	}
	return perSecond(uint64(f.count/10), max(f.ends[tenth].sub(from), time.Microsecond))
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
	ended, err := p.again(ctx, "restarted", false)
	if err == nil {
		p.session.find("stopped, after SIGTERM", millis(ended.sub(stopping)), "ms", report.Lower)
	}
	return err
}

// again ends the engine and starts it, and waits for the first attempt that it
// makes. It returns when the engine had ended.
func (p *pile) again(ctx context.Context, phase string, kill bool) (ended moment, err error) {
	ended, ready, err := p.stage.restart(ctx, kill)
	if err != nil {
		return 0, err
	}
	f := flowing{bout: bout{stage: p.stage}}
	first, ok, err := f.watch(ctx, ready, engineWait, func(p page) bool {
		return p[seriesFailed]+p[seriesDelivered] > 0
	})
	if err != nil {
		return 0, err
	}
	if !ok {
		p.session.note("%s: no attempt had ended %s after it was ready.", phase, first)
	}
	l, err := p.stage.look(ctx, doCounts)
	if err != nil {
		return 0, err
	}
	p.add(phase, l, map[string]float64{report.Accepted: float64(p.Count)})
	p.session.find(phase+": ready, after the start", millis(ready.sub(ended)), "ms", report.Lower)
	p.session.find(phase+": first attempt on record, after the start", millis(ready.sub(ended)+first), "ms", report.Lower)
	p.session.find(phase+": RSS then", float64(l.usage.RSSBytes), "B", report.Lower)
	return ended, nil
}

// drain brings the dead hosts back and watches what becomes of the backlog.
func (p *pile) drain(ctx context.Context) error {
	if err := p.stage.receiver.ask(request{Do: doSwitch, Port: deadPort}, new(ReceiverCounts)); err != nil {
		return err
	}
	rate, err := p.watchDrain(ctx, "drain", p.Drain)
	p.session.find("delivered/s once the dead are back, the slow as slow", rate, "", report.Higher)
	return err
}

// kill kills the engine in the middle of the drain, and makes the slow hosts quick,
// so that all that was accepted can arrive.
func (p *pile) kill(ctx context.Context) error {
	if _, err := p.again(ctx, "killed", true); err != nil {
		return err
	}
	if err := p.stage.receiver.ask(request{Do: doSwitch, Port: slowPort, Behaviour: "delay=1ms"}, new(ReceiverCounts)); err != nil {
		return err
	}
	rate, err := p.watchDrain(ctx, "drained", p.Finish)
	if err != nil {
		return err
	}
	p.session.find("delivered/s with all hosts back", rate, "", report.Higher)
	// What has arrived may be pending still; what is neither is lost.
	values := p.session.report.Rounds[len(p.session.report.Rounds)-1].Values
	left := float64(p.Count) - values[report.Arrived]
	values[report.Lost] = max(0, left-values[report.Pending])
	if left > 0 {
		p.session.note("%.0f had not arrived %s after the engine was killed; %.0f were pending.", left, p.Finish, values[report.Pending])
	}
	p.session.find("lost by kill -9", values[report.Lost], "", report.Lower)
	p.session.find("arrived twice", values[report.Duplicates], "", report.Lower)
	return nil
}

// watchDrain watches until everything has arrived, at most so long, and returns how
// many arrived a second.
func (p *pile) watchDrain(ctx context.Context, phase string, limit time.Duration) (rate float64, err error) {
	before, err := p.stage.look(ctx, doCounts)
	if err != nil {
		return 0, err
	}
	sampling := startSampler(ctx, p.stage, limit, func() Generating { return Generating{} }, p.progress)
	err = p.stage.drainFor(ctx, uint64(p.Count), limit)
	timeline := sampling.finish()
	if err != nil {
		return 0, err
	}
	l, err := p.stage.look(ctx, doCounts)
	if err != nil {
		return 0, err
	}
	rate = perSecond(l.counts.Arrived-before.counts.Arrived, l.counts.At.sub(before.counts.At))
	p.add(phase, l, map[string]float64{report.Accepted: float64(p.Count), report.DeliveredRate: rate})
	rounds := p.session.report.Rounds
	rounds[len(rounds)-1].Timeline = timeline
	p.session.find(phase+": peak RSS", float64(l.usage.PeakRSSBytes), "B", report.Lower)
	return rate, nil
}

// progress shows how far the drain is.
func (p *pile) progress(s report.Sample) {
	p.session.progress.passing("draining: %.0f pending, %.0f delivered/s, RSS %.0f MiB",
		s.Values[report.Pending], s.Values[report.DeliveredRate], s.Values[report.RSS]/(1<<20))
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
