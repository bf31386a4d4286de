package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/harepost/harepost/client"
	"github.com/valyala/fasthttp"
)

// DeadLetterOptions configure DeadLetters.
type DeadLetterOptions struct {
	Count      int // dead letters; default 1,000,000
	ReplayRate int // a second; default 5,000
	FreshRate  int // fresh sends a second beside all that; default 1,000

	// Alone is how long the fresh sends are measured alone. Default 10 s.
	Alone time.Duration

	Engine      []string // as in Options
	EngineFlags []string
	Dir         string
	JSON        bool
	Progress    io.Writer // a line per phase; nil: none
}

// A DeadLetterReport says what bulk work on many dead letters took, and what the
// fresh sends beside it noticed.
type DeadLetterReport struct {
	Machine    Machine `json:"machine"`
	Count      int     `json:"count"`
	ReplayRate int     `json:"replay_rate_per_second"`
	FreshRate  int     `json:"fresh_rate_per_second"`

	FillMS   float64 `json:"fill_ms"`
	DryRunMS float64 `json:"dry_run_ms"`

	Alone     FreshSends `json:"fresh_alone"`
	Replaying FreshSends `json:"fresh_while_replaying"`
	Purging   FreshSends `json:"fresh_while_purging"`

	Replayed        int64   `json:"replayed"`
	ReplayPerSecond float64 `json:"replayed_per_second"`
	CancelMS        float64 `json:"cancel_ms"` // until the operation was not running any more
	Purged          int64   `json:"purged"`
	PurgeMS         float64 `json:"purge_ms"`

	LeftOver   int    `json:"left_over"`  // dead letters after the purge
	Duplicates uint64 `json:"duplicates"` // replays that arrived more than once
	Missing    int64  `json:"missing"`    // replays that never arrived
	FreshLost  int64  `json:"fresh_lost"`
}

// FreshSends are what sends at a constant rate saw, counted from the moment at
// which each was due, so that waiting is not hidden.
type FreshSends struct {
	Sent    int64   `json:"sent"`
	Failed  int64   `json:"failed"` // not answered with 202
	Answer  Latency `json:"answer"`
	Arrival Latency `json:"arrival"`
}

func (o DeadLetterOptions) withDefaults() (DeadLetterOptions, error) {
	if len(o.Engine) == 0 {
		self, err := os.Executable()
		if err != nil {
			return o, fmt.Errorf("bench: find this program: %w", err)
		}
		o.Engine = []string{self}
	}
	setDefault(&o.Count, 1_000_000)
	setDefault(&o.ReplayRate, 5000)
	setDefault(&o.FreshRate, 1000)
	setDefault(&o.Alone, 10*time.Second)
	setDefault(&o.Dir, ".")
	if o.Count < 100 || o.Count > maxSends || o.ReplayRate < 1 || o.FreshRate < 1 {
		return o, fmt.Errorf("bench: %d dead letters, %d replays and %d sends a second: must be positive, and at least 100 dead letters",
			o.Count, o.ReplayRate, o.FreshRate)
	}
	return o, nil
}

// RunDeadLetters makes dead letters, counts them, replays half of them while fresh
// sends go on, stops that, purges the rest, and writes the report to w. It returns
// ErrLost when a replay or a fresh send did not arrive.
func RunDeadLetters(ctx context.Context, o DeadLetterOptions, w io.Writer) error {
	o, err := o.withDefaults()
	if err != nil {
		return err
	}
	r, err := measureDeadLetters(ctx, o)
	if err != nil {
		return fmt.Errorf("bench: dead letters: %w", err)
	}
	if err := r.write(w, o.JSON); err != nil {
		return err
	}
	if r.Missing > 0 || r.FreshLost > 0 || r.LeftOver > 0 {
		return ErrLost
	}
	return nil
}

// aftermath is one run: the engine, its target, and what arrived.
type aftermath struct {
	o      DeadLetterOptions
	client *client.Client
	engine *system
	url    string // of the engine

	target     *server
	broken     atomic.Bool
	replayed   atomic.Int64
	duplicates atomic.Uint64
	seen       *sequenceSet
	freshSent  int64 // answered with 202, of the phases that are over
	freshCame  atomic.Int64
	arrival    atomic.Pointer[latencyRecorder]
}

func measureDeadLetters(ctx context.Context, o DeadLetterOptions) (r *DeadLetterReport, err error) {
	dir, err := os.MkdirTemp(o.Dir, "harepost-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	a := &aftermath{o: o, seen: newSequenceSet()}
	a.arrival.Store(newLatencyRecorder())
	if a.target, err = serve("receiver", 2, a.receive); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, a.target.close()) }()
	if a.engine, err = startEngine(ctx, Options{Engine: o.Engine, EngineFlags: o.EngineFlags}, dir); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, a.engine.stop()) }()
	a.url = "http://" + a.engine.addr
	h := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	defer h.CloseIdleConnections()
	if a.client, err = client.New(a.url, strings.TrimPrefix(a.engine.authorization, "Bearer "), client.Options{HTTPClient: h}); err != nil {
		return nil, err
	}
	r = &DeadLetterReport{Machine: describeMachine(o.Dir), Count: o.Count, ReplayRate: o.ReplayRate, FreshRate: o.FreshRate}
	return r, a.play(ctx, r)
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

func (a *aftermath) tell(format string, args ...any) {
	if a.o.Progress != nil {
		fmt.Fprintf(a.o.Progress, " "+format+"\n", args...)
	}
}

func (a *aftermath) play(ctx context.Context, r *DeadLetterReport) error {
	begin := time.Now()
	a.broken.Store(true)
	if err := a.fill(ctx); err != nil {
		return err
	}
	a.broken.Store(false)
	r.FillMS = millis(time.Since(begin))
	a.tell("%d dead letters made in %.1f s", a.o.Count, r.FillMS/1000)

	begin = time.Now()
	all := client.Bulk{All: true, DryRun: true}
	counted, err := a.client.StartReplay(ctx, all)
	if err != nil {
		return err
	}
	if r.DryRunMS = millis(time.Since(begin)); counted.Matched == nil || *counted.Matched != int64(a.o.Count) {
		return fmt.Errorf("a dry run matches %v of %d", counted.Matched, a.o.Count)
	}
	a.tell("a dry run took %.0f ms", r.DryRunMS)

	err = a.besides(ctx, &r.Alone, func(ctx context.Context) error {
		return pause(ctx, a.o.Alone)
	})
	if err != nil {
		return err
	}
	a.tell("fresh sends alone: answer p99 %.2f ms, arrival p99 %.2f ms", r.Alone.Answer.P99MS, r.Alone.Arrival.P99MS)
	if err := a.besides(ctx, &r.Replaying, func(ctx context.Context) error { return a.replayHalf(ctx, r) }); err != nil {
		return err
	}
	a.tell("replayed %d at %.0f/s, stopped in %.0f ms; fresh sends: answer p99 %.2f ms, arrival p99 %.2f ms",
		r.Replayed, r.ReplayPerSecond, r.CancelMS, r.Replaying.Answer.P99MS, r.Replaying.Arrival.P99MS)
	if err := a.besides(ctx, &r.Purging, func(ctx context.Context) error { return a.purge(ctx, r) }); err != nil {
		return err
	}
	a.tell("purged %d in %.1f s; fresh sends: answer p99 %.2f ms", r.Purged, r.PurgeMS/1000, r.Purging.Answer.P99MS)
	return a.settle(ctx, r)
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

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
	left := make([]int, 0, end-first)
	for n := first; n < end; n++ {
		left = append(left, n)
	}
	for len(left) > 0 {
		var b bytes.Buffer
		for _, n := range left {
			fmt.Fprintf(&b, `{"target":%q,"body":"%d","delivery":{"max_attempts":1}}`+"\n", to, n)
		}
		results, err := a.client.SendLines(ctx, b.Bytes())
		var refused *client.Error
		switch {
		case errors.As(err, &refused) && refused.Status == http.StatusServiceUnavailable:
			if err := pause(ctx, max(refused.RetryAfter, 100*time.Millisecond)); err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		}
		again := left[:0]
		for i, r := range results {
			if r.Err != nil {
				again = append(again, left[i])
			}
		}
		left = again
	}
	return nil
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

func (a *aftermath) replayHalf(ctx context.Context, r *DeadLetterReport) error {
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
	if j, err = a.client.CancelJob(ctx, j.JobID); err != nil {
		return err
	}
	r.CancelMS = millis(time.Since(begin))
	r.Replayed, r.ReplayPerSecond = j.Done, float64(j.Done)/took.Seconds()
	return nil
}

func (a *aftermath) purge(ctx context.Context, r *DeadLetterReport) error {
	begin := time.Now()
	j, err := a.client.Purge(ctx, client.Bulk{All: true})
	if err == nil {
		j, err = a.client.WaitJob(ctx, j, nil)
	}
	r.Purged, r.PurgeMS = j.Done, millis(time.Since(begin))
	return err
}

// settle waits for what is on its way, and counts.
func (a *aftermath) settle(ctx context.Context, r *DeadLetterReport) error {
	err := a.until(ctx, "nothing is pending", func() (bool, error) { return a.none(ctx, "queued", "retrying") })
	if err != nil {
		return err
	}
	left, err := a.client.StartReplay(ctx, client.Bulk{All: true, DryRun: true})
	if err != nil {
		return err
	}
	if left.Matched != nil {
		r.LeftOver = int(*left.Matched)
	}
	r.Duplicates = a.duplicates.Load()
	r.Missing = r.Replayed - a.replayed.Load()
	r.FreshLost = a.freshSent - a.freshCame.Load()
	return nil
}

// besides sends at the constant rate while fn works.
func (a *aftermath) besides(ctx context.Context, f *FreshSends, fn func(context.Context) error) error {
	a.arrival.Store(newLatencyRecorder())
	answer := newLatencyRecorder()
	h := &fasthttp.HostClient{Addr: a.engine.addr, MaxConns: freshSenders, MaxIdemponentCallAttempts: 1}
	defer h.CloseIdleConnections()
	stop := make(chan struct{})
	due := make(chan moment, 1<<16)
	var sending sync.WaitGroup
	var failed atomic.Int64
	for range freshSenders {
		sending.Go(func() {
			for at := range due {
				if !a.sendFresh(h, at) {
					failed.Add(1)
				}
				answer.record(uint32(at), now().sub(at))
			}
		})
	}
	var pacing sync.WaitGroup
	pacing.Go(func() { f.Sent = pace(a.o.FreshRate, due, stop) })
	err := fn(ctx)
	close(stop)
	pacing.Wait()
	close(due)
	sending.Wait()
	f.Failed, f.Answer = failed.Load(), answer.summary()
	// What is on its way belongs to this phase.
	a.freshSent += f.Sent - f.Failed
	underway, cancel := context.WithTimeout(ctx, arrivalWait)
	defer cancel()
	_ = a.until(underway, "fresh sends have arrived", func() (bool, error) { // settle counts what has not
		return a.freshCame.Load() >= a.freshSent, nil
	})
	f.Arrival = a.arrival.Load().summary()
	return errors.Join(err, ctx.Err())
}

// arrivalWait is for how long an accepted send is waited for before it is lost.
const arrivalWait = time.Minute

// freshSenders is how many fresh sends may be on their way at once.
const freshSenders = 64

// pace says when each send is due, at the rate and whatever became of those before
// it, until stop; how many.
func pace(rate int, due chan<- moment, stop <-chan struct{}) (n int64) {
	begin, gap := now(), time.Second/time.Duration(rate)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return n
		case <-tick.C:
		}
		for at := begin + moment(time.Duration(n)*gap); at <= now(); at = begin + moment(time.Duration(n)*gap) {
			select {
			case due <- at:
				n++
			case <-stop:
				return n
			}
		}
	}
}

func (a *aftermath) sendFresh(h *fasthttp.HostClient, at moment) bool {
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.SetRequestURI(a.url + "/v1/send")
	req.Header.SetMethod(fasthttp.MethodPost)
	req.Header.Set(fasthttp.HeaderAuthorization, a.engine.authorization)
	req.SetBodyString(fmt.Sprintf(`{"target":"http://%s/fresh","body":"%d"}`, a.target.listeners[1].Addr(), int64(at)))
	return h.Do(req, resp) == nil && resp.StatusCode() == fasthttp.StatusAccepted
}

func (r *DeadLetterReport) write(w io.Writer, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "machine  %s\n\n", r.Machine)
	fmt.Fprintf(&b, "%d dead letters, %d fresh sends/s beside what is done to them\n", r.Count, r.FreshRate)
	fmt.Fprintf(&b, "  made       %8.1f s\n  dry run    %8.0f ms\n", r.FillMS/1000, r.DryRunMS)
	fmt.Fprintf(&b, "  replayed   %8d at %.0f/s (asked for %d), stopped in %.0f ms\n", r.Replayed, r.ReplayPerSecond, r.ReplayRate, r.CancelMS)
	fmt.Fprintf(&b, "  purged     %8d in %.1f s, %d left\n", r.Purged, r.PurgeMS/1000, r.LeftOver)
	fmt.Fprintf(&b, "  missing    %8d replays, %d fresh sends; %d replays arrived twice\n\n", r.Missing, r.FreshLost, r.Duplicates)
	fmt.Fprintf(&b, "  fresh sends       sent  failed  answer p50, p99 ms  arrival p50, p99 ms\n")
	for _, f := range []struct {
		name string
		*FreshSends
	}{{"alone", &r.Alone}, {"beside a replay", &r.Replaying}, {"beside a purge", &r.Purging}} {
		fmt.Fprintf(&b, "  %-15s %6d  %6d  %8.2f, %8.2f  %9.2f, %8.2f\n", f.name, f.Sent, f.Failed,
			f.Answer.P50MS, f.Answer.P99MS, f.Arrival.P50MS, f.Arrival.P99MS)
	}
	_, err := w.Write(b.Bytes())
	return err
}
