package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/harepost/harepost/bench/report"
	"github.com/harepost/harepost/client"
	"github.com/valyala/fasthttp"
)

// DeadLetters is the scenario "dead-letters": it makes dead letters, counts them,
// replays half of them while fresh sends go on, stops that, and purges the rest.
// What the fresh sends noticed is a round for each phase.
type DeadLetters struct {
	Options
	Count      int // dead letters. Default: 1,000,000; quick: 20,000
	ReplayRate int // a second. Default: 5,000
	FreshRate  int // fresh sends a second beside all that. Default: 1,000

	// Alone is how long the fresh sends are measured alone. Default: 10 s; quick: 3 s.
	Alone time.Duration
}

func (d *DeadLetters) name() string { return "dead-letters" }

func (d *DeadLetters) complete() error {
	d.Systems = []string{report.Engine}
	setDefault(&d.Count, sized(&d.Options, 20_000, 1_000_000))
	setDefault(&d.ReplayRate, 5000)
	setDefault(&d.FreshRate, 1000)
	setDefault(&d.Alone, sized(&d.Options, 3*time.Second, 10*time.Second))
	if d.Count < 100 || d.Count > maxSends || d.ReplayRate < 1 || d.FreshRate < 1 {
		return fmt.Errorf("bench: %d dead letters, %d replays and %d sends a second: must be positive, and at least 100 dead letters",
			d.Count, d.ReplayRate, d.FreshRate)
	}
	return d.Options.complete()
}

// aftermath is one run: the engine, its target, and what arrived.
type aftermath struct {
	o       *DeadLetters
	session *session
	client  *client.Client
	engine  *system

	target     *server
	broken     atomic.Bool
	replayed   atomic.Int64
	duplicates atomic.Uint64
	seen       *sequenceSet
	freshSent  int64 // answered with 202, of the phases that are over
	freshCame  atomic.Int64
	arrival    atomic.Pointer[latencyRecorder]
	done       int64 // replays, as the engine counts them
}

func (d *DeadLetters) play(ctx context.Context, s *session) (err error) {
	s.set("dead letters", d.Count)
	s.set("replays", fmt.Sprintf("%d/s", d.ReplayRate))
	s.set("fresh sends", fmt.Sprintf("%d/s, evenly", d.FreshRate))
	s.withoutBreakers()
	dir, err := os.MkdirTemp(d.Dir, "bench-*")
	if err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	a := &aftermath{o: d, session: s, seen: newSequenceSet()}
	a.arrival.Store(newLatencyRecorder())
	if a.target, err = serve("receiver", 2, a.receive); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.target.close()) }()
	if a.engine, err = startEngine(ctx, s.options, 1, dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.engine.stop()) }()
	h := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	defer h.CloseIdleConnections()
	if a.client, err = client.New(a.engine.url, a.engine.keys[0], client.Options{HTTPClient: h}); err != nil {
		return err
	}
	return a.play(ctx)
}

// receive answers 500 to what is to die, while it is broken, and counts the rest.
func (a *aftermath) receive(ctx *fasthttp.RequestCtx) {
	body := ctx.PostBody()
	if string(ctx.Path()) == "/fresh" {
		due, err := strconv.ParseInt(string(body), 10, 64)
		if err != nil {
			ctx.SetStatusCode(fasthttp.StatusBadRequest)
			return
		}
		a.freshCame.Add(1)
		a.arrival.Load().record(uint32(due), now().sub(moment(due)))
		return
	}
	if a.broken.Load() {
		ctx.SetStatusCode(fasthttp.StatusInternalServerError)
		return
	}
	n, err := strconv.ParseUint(string(body), 10, 32)
	if err != nil || int(n) >= a.o.Count {
		ctx.SetStatusCode(fasthttp.StatusBadRequest)
		return
	}
	if a.seen.add(uint32(n)) {
		a.replayed.Add(1)
	} else {
		a.duplicates.Add(1)
	}
}

func (a *aftermath) play(ctx context.Context) error {
	begin := time.Now()
	a.broken.Store(true)
	if err := a.fill(ctx); err != nil {
		return err
	}
	a.broken.Store(false)
	a.find("fill", time.Since(begin))

	begin = time.Now()
	counted, err := a.client.StartReplay(ctx, client.Bulk{All: true, DryRun: true})
	if err != nil {
		return err
	}
	if a.find("dry run", time.Since(begin)); counted.Matched == nil || *counted.Matched != int64(a.o.Count) {
		return fmt.Errorf("a dry run matches %v of %d", counted.Matched, a.o.Count)
	}
	phases := []struct {
		name string
		work func(context.Context) error
	}{
		{"alone", func(ctx context.Context) error { return pause(ctx, a.o.Alone) }},
		{besideReplay, a.replayHalf},
		{"beside a purge", a.purge},
	}
	for i, phase := range phases {
		load := report.Load{Axis: "phase", Value: float64(i + 1), Variant: phase.name}
		if err := a.besides(ctx, load, phase.work); err != nil {
			return fmt.Errorf("%s: %w", phase.name, err)
		}
	}
	return a.settle(ctx)
}

// besideReplay is the phase in which what is replayed has to arrive.
const besideReplay = "beside a replay"

// find adds a time that something took to the report.
func (a *aftermath) find(name string, took time.Duration) {
	a.session.find(name, millis(took), "ms", report.Lower)
	a.session.progress.line("%s took %.1f s", name, took.Seconds())
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fill sends batches until Count deliveries are dead.
func (a *aftermath) fill(ctx context.Context) error {
	const lines = 2000
	to := "http://" + a.target.listeners[0].Addr().String() + "/dead"
	var next atomic.Int64
	var posting sync.WaitGroup
	errs := make(chan error, 4)
	for range cap(errs) {
		posting.Go(func() {
			for {
				first := int(next.Add(lines)) - lines
				if first >= a.o.Count {
					return
				}
				if err := a.postDead(ctx, to, first, min(first+lines, a.o.Count)); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	posting.Wait()
	select {
	case err := <-errs:
		return err
	default:
	}
	return a.until(ctx, "everything is dead", func() (bool, error) { return a.none(ctx, "queued", "retrying") })
}

// postDead sends one batch, again and again what of it was refused for now.
func (a *aftermath) postDead(ctx context.Context, to string, first, end int) error {
	return sendUntilTaken(ctx, a.client, first, end, 100*time.Millisecond, func(b []byte, n uint32) []byte {
		return fmt.Appendf(b, `{"target":%q,"body":"%d","delivery":{"max_attempts":1}}`+"\n", to, n)
	})
}

// none reports whether the account has no delivery in these statuses.
func (a *aftermath) none(ctx context.Context, statuses ...string) (bool, error) {
	for _, s := range statuses {
		page, err := a.client.DeliveriesPage(ctx, client.Filter{Status: s, Limit: 1})
		if err != nil || len(page.Data) > 0 {
			return false, err
		}
	}
	return true, nil
}

// deadLetterWait bounds every wait of this scenario.
const deadLetterWait = 15 * time.Minute

func (a *aftermath) until(ctx context.Context, what string, ok func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, deadLetterWait)
	defer cancel()
	for {
		done, err := ok()
		if err != nil || done {
			return err
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("wait until %s: %w", what, err)
		}
	}
}

func (a *aftermath) replayHalf(ctx context.Context) error {
	j, err := a.client.StartReplay(ctx, client.Bulk{All: true, RatePerSecond: a.o.ReplayRate})
	if err != nil {
		return err
	}
	begin := time.Now()
	err = a.until(ctx, "half is replayed", func() (bool, error) {
		now, err := a.client.Job(ctx, j.JobID)
		return now.Done >= int64(a.o.Count)/2 || now.Status != client.JobRunning, err
	})
	if err != nil {
		return err
	}
	took := time.Since(begin)
	begin = time.Now()
	id := j.JobID
	if j, err = a.client.CancelJob(ctx, id); errors.Is(err, client.ErrConflict) { // it has ended by itself
		j, err = a.client.Job(ctx, id)
	}
	if err != nil {
		return err
	}
	a.find("stopping a replay", time.Since(begin))
	a.done = j.Done
	a.session.find("replayed", float64(j.Done), "", report.Neither)
	a.session.find("replayed per second", float64(j.Done)/took.Seconds(), "/s", report.Higher)
	return nil
}

func (a *aftermath) purge(ctx context.Context) error {
	begin := time.Now()
	j, err := a.client.Purge(ctx, client.Bulk{All: true})
	if err == nil {
		j, err = a.client.WaitJob(ctx, j, nil)
	}
	a.find("purge", time.Since(begin))
	a.session.find("purged", float64(j.Done), "", report.Neither)
	return err
}

// settle waits for what is on its way, and counts. What was replayed and did not
// arrive is lost, like a fresh send.
func (a *aftermath) settle(ctx context.Context) error {
	err := a.until(ctx, "nothing is pending", func() (bool, error) { return a.none(ctx, "queued", "retrying") })
	if err != nil {
		return err
	}
	left, err := a.client.StartReplay(ctx, client.Bulk{All: true, DryRun: true})
	if err != nil {
		return err
	}
	leftOver := int64(0)
	if left.Matched != nil {
		leftOver = *left.Matched
	}
	missing := a.done - a.replayed.Load()
	a.session.find("dead letters left", float64(leftOver), "", report.Lower)
	a.session.find("replays missing", float64(missing), "", report.Lower)
	a.session.find("replays twice", float64(a.duplicates.Load()), "", report.Lower)
	for _, r := range a.session.report.Rounds {
		if r.Load.Variant == besideReplay {
			r.Values[report.Lost] += float64(missing)
		}
	}
	if leftOver > 0 {
		return fmt.Errorf("%d dead letters were not purged", leftOver)
	}
	return nil
}
