package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/job"
)

// clerk is what the goroutine that works on jobs shares with those that begin
// them. It does one step of each running job in turn, and waits for its commit
// before the next: a job never has more than one step in the log, so that sends
// do not wait behind it.
type clerk struct {
	wake chan struct{} // a job has begun or ended; room for one

	stuck map[JobID]bool // of the last round: told once, not every second; the clerk's own

	mu    sync.Mutex
	paces map[JobID]pace
}

// pace is when a job with a rate may go on.
type pace struct {
	since time.Time // the moment from which done counts
	done  int64     // deliveries since
}

func (c *clerk) init() {
	c.wake = make(chan struct{}, 1)
	c.paces = make(map[JobID]pace)
}

func (c *clerk) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// stepEvery is how long a step of a job with a rate is meant to cover.
const stepEvery = 100 * time.Millisecond

// stepMost bounds the deliveries of a step. While a step is applied no send is
// answered: with steps of command.MostControlled, beside replays at 5,000/s the
// 99th percentile of fresh sends was three times what it is with these.
const stepMost = 64

// allowance is how many deliveries a job may take on now, and when it may
// again if that is none. It keeps to the rate from the moment on at which the
// job was first looked at; a pause (a slow disk) is not made up for beyond one
// second's worth.
func (c *clerk) allowance(j *Job, now time.Time) (int, time.Time) {
	if j.RatePerSecond == 0 {
		return stepMost, time.Time{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.paces[j.ID]
	rate := int64(j.RatePerSecond)
	if !ok || now.Before(p.since) || now.Sub(p.since)-perRate(p.done, rate) > time.Second {
		p = pace{since: now}
		c.paces[j.ID] = p
	}
	// Whole steps where the rate allows: one delivery at a time would be a
	// command each.
	step := min(max(rate*int64(stepEvery)/int64(time.Second), 1), stepMost)
	due := p.since.Add(perRate(p.done, rate))
	if due.After(now) {
		return 0, due
	}
	return int(step), time.Time{}
}

// perRate is how long n deliveries take at a rate a second.
func perRate(n, rate int64) time.Duration {
	return time.Duration(n/rate)*time.Second + time.Duration(n%rate)*time.Second/time.Duration(rate)
}

func (c *clerk) took(id JobID, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.paces[id]; ok {
		p.done += int64(n)
		c.paces[id] = p
	}
}

func (c *clerk) forget(id JobID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.paces, id)
}

// jobRetry is how long a job waits that could not go on.
const jobRetry = time.Second

// work is the clerk's life.
func (e *Engine) work() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-e.clerk.wake:
		case <-e.stop:
			return
		case <-e.failed:
			return
		}
		if next := e.round(ctx); !next.IsZero() {
			timer.Reset(max(next.Sub(e.opts.Now()), 0))
		}
	}
}

// round does a step of every running job, and returns when there is more to do;
// zero if no job runs.
func (e *Engine) round(ctx context.Context) (next time.Time) {
	earlier := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	var stuck map[JobID]bool
	if !e.leads() {
		return time.Time{}
	}
	for _, j := range e.state().RunningJobs() {
		if e.ended() != nil || !e.leads() {
			return time.Time{}
		}
		due, err := e.step(ctx, &j)
		was := e.clerk.stuck[j.ID]
		switch {
		case err != nil && e.ended() == nil:
			if !was {
				e.opts.Logger.Error("a job cannot go on; it is tried again every second", "job", j.ID, "error", err)
			}
			if stuck == nil {
				stuck = make(map[JobID]bool)
			}
			stuck[j.ID] = true
			earlier(e.opts.Now().Add(jobRetry))
		case err == nil:
			if was {
				e.opts.Logger.Info("a job goes on", "job", j.ID)
			}
			if !due.IsZero() {
				earlier(due)
			}
		}
	}
	e.clerk.stuck = stuck
	return next
}

// step does one step of a job, and returns when the next is due; zero if it was
// the last.
func (e *Engine) step(ctx context.Context, j *Job) (time.Time, error) {
	if j.Matched < 0 {
		return e.opts.Now(), e.countJob(ctx, j)
	}
	if j.Kind == JobReplay {
		if err := e.Ready(); err != nil {
			return time.Time{}, err // a full disk: replays would be more to keep
		}
	}
	limit, due := e.clerk.allowance(j, e.opts.Now())
	if limit == 0 {
		return due, nil
	}
	e.control.Lock()
	defer e.control.Unlock()
	term := e.reign.Load()
	now, ok := e.state().Job(j.Account, j.ID)
	if !ok || now.Status != JobRunning {
		e.clerk.forget(j.ID) // as when its account was deleted
		return time.Time{}, nil
	}
	page, err := e.Deliveries(ctx, now.Account, now.Filter, now.After, limit)
	if err != nil {
		return time.Time{}, err
	}
	c := command.Control{Kind: now.Kind, Account: now.Account, At: e.now().UnixMilli(), Job: now.ID, After: page.Next, Last: page.Next.IsZero()}
	for i := range page.Deliveries {
		c.IDs = append(c.IDs, page.Deliveries[i].ID)
	}
	changed, err := e.proposeControl(ctx, term, command.AppendControl(nil, &c))
	if err != nil {
		return time.Time{}, err
	}
	e.clerk.took(now.ID, len(c.IDs))
	e.metrics.controlled(now.Kind, changed, len(c.IDs)-changed)
	if c.Last {
		e.jobEnded(now.Account, now.ID)
		return time.Time{}, nil
	}
	return e.opts.Now(), nil
}

func (e *Engine) jobEnded(a AccountID, id JobID) {
	e.clerk.forget(id)
	if j, ok := e.state().Job(a, id); ok {
		e.opts.Logger.Info("job ended", "job", j.ID, "account", j.Account, "kind", j.Kind.String(),
			"status", j.Status.String(), "matched", j.Matched, "done", j.Done, "skipped", j.Skipped)
	}
}

// countJob counts what a job's filter matches, and commits the count.
func (e *Engine) countJob(ctx context.Context, j *Job) error {
	term := e.reign.Load()
	n, err := e.count(ctx, j.Account, j.Filter)
	if err != nil {
		return err
	}
	counted := *j
	counted.Matched, counted.UpdatedAt = n, e.now()
	return e.propose(ctx, term, command.AppendPutJob(nil, &counted))
}

// countChunk is how many deliveries are counted at a time.
const countChunk = 2000

// count counts, in bounded chunks, between any two of which the engine may end.
func (e *Engine) count(ctx context.Context, a AccountID, f Filter) (n int64, err error) {
	var after DeliveryID
	for {
		page, err := e.Deliveries(ctx, a, f, after, countChunk)
		if err != nil {
			return 0, err
		}
		n += int64(len(page.Deliveries))
		if after = page.Next; after.IsZero() {
			return n, nil
		}
		if err := errors.Join(ctx.Err(), e.ended()); err != nil {
			return 0, err
		}
	}
}

// narrow makes a filter match only what a kind of job works on.
func narrow(k JobKind, f Filter) Filter {
	f.Dead, f.Pending = k != JobCancel, k == JobCancel
	return f
}

// CountMatching counts what a job would work on: a dry run.
func (e *Engine) CountMatching(ctx context.Context, a AccountID, k JobKind, f Filter) (int64, error) {
	return e.count(ctx, a, narrow(k, f))
}

// StartJob begins a bulk operation on the deliveries that the filter matches
// and that were accepted before now: replays and purges are of dead letters,
// cancellations of what is pending. It goes on after a restart. ErrTooMany says
// that JobsPerAccount of the account run already, ErrSuspended that a suspended
// account wants a replay; a replay is also refused as a send is for want of room.
func (e *Engine) StartJob(ctx context.Context, a AccountID, k JobKind, f Filter, ratePerSecond int) (Job, error) {
	if k == JobReplay {
		if err := e.Ready(); err != nil {
			return Job{}, err
		}
		if owner, ok := e.state().Directory().Account(a); ok && owner.Suspended {
			return Job{}, ErrSuspended
		}
	}
	id, err := job.NewID()
	if err != nil {
		return Job{}, err
	}
	now := e.now()
	f = narrow(k, f)
	// Ids count milliseconds: what was accepted in this one, before this call,
	// is meant too.
	if until := now.Add(time.Millisecond); f.Until.IsZero() || f.Until.After(until) {
		f.Until = until
	}
	j := Job{
		ID: id, Account: a, Kind: k, Filter: f, RatePerSecond: ratePerSecond,
		Status: JobRunning, Matched: -1, CreatedAt: now, UpdatedAt: now,
	}
	e.control.Lock()
	defer e.control.Unlock()
	term := e.reign.Load()
	running := 0
	for _, other := range e.state().Jobs(a) {
		if other.Status == JobRunning {
			running++
		}
	}
	if running >= e.opts.JobsPerAccount {
		return Job{}, fmt.Errorf("%w: %d bulk operations of the account run already", ErrTooMany, running)
	}
	if err := e.propose(ctx, term, command.AppendPutJob(nil, &j)); err != nil {
		return Job{}, err
	}
	if _, ok := e.state().Job(a, id); !ok {
		return Job{}, ErrUnauthorized // the account was deleted this moment
	}
	e.opts.Logger.Info("job began", "job", j.ID, "account", a, "kind", k.String(), "rate_per_second", ratePerSecond)
	e.clerk.signal()
	return j, nil
}

// Job is a bulk operation of an account; ErrNotFound.
func (e *Engine) Job(_ context.Context, a AccountID, id JobID) (Job, error) {
	j, ok := e.state().Job(a, id)
	if !ok {
		return Job{}, ErrNotFound
	}
	return j, nil
}

// Jobs are the bulk operations of an account, the youngest first: those that
// run and the last that have ended, 100 in all.
func (e *Engine) Jobs(_ context.Context, a AccountID) ([]Job, error) { return e.state().Jobs(a), nil }

// CancelJob stops a bulk operation. What it has done stays done. Errors:
// ErrNotFound, ErrFinished.
func (e *Engine) CancelJob(ctx context.Context, a AccountID, id JobID) (Job, error) {
	e.control.Lock()
	defer e.control.Unlock()
	term := e.reign.Load()
	j, ok := e.state().Job(a, id)
	if !ok {
		return Job{}, ErrNotFound
	}
	if j.Status != JobRunning {
		return Job{}, ErrFinished
	}
	j.Status, j.UpdatedAt = JobCanceled, e.now()
	if err := e.propose(ctx, term, command.AppendPutJob(nil, &j)); err != nil {
		return Job{}, err
	}
	e.jobEnded(a, id)
	e.clerk.signal()
	return e.Job(ctx, a, id)
}
