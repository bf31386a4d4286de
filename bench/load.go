package bench

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// A load is one run of the generator.
type load struct {
	options  GeneratorOptions
	roots    *x509.CertPool // nil: those of the system
	writer   *requestWriter
	next     atomic.Uint64 // sequence number of the next send
	accepted *sequenceSet

	measuring atomic.Bool
	stopping  atomic.Bool
	stop      chan struct{} // closed with stopping, for those who pause
	abort     chan struct{} // closed when nothing is to be sent any more

	// Of an open loop; due is nil in a closed one.
	due         chan moment // from the pacer to the senders
	measureFrom moment
	giveUp      moment
	unsent      atomic.Uint64

	failure     sync.Once
	firstFailed error
}

// Generate opens the connections, loads the system for Warmup and Duration,
// waits for the answers under way and returns. It tells how far it is a few
// times a second, and at both ends of the measuring, from its own goroutine; tell
// may be nil. The error is of the load itself: refusals and failed requests
// are counts.
func Generate(ctx context.Context, o GeneratorOptions, tell func(Generating)) (Generated, error) {
	if err := o.validate(); err != nil {
		return Generated{}, err
	}
	writer, err := newRequestWriter(o)
	if err != nil {
		return Generated{}, err
	}
	l := &load{
		options:  o,
		writer:   writer,
		accepted: newSequenceSet(),
		stop:     make(chan struct{}),
		abort:    make(chan struct{}),
	}
	if l.roots, err = o.roots(); err != nil {
		return Generated{}, err
	}
	senders, err := l.connect(ctx)
	if err != nil {
		return Generated{}, err
	}
	endNow := sync.OnceFunc(func() { close(l.abort) })
	defer context.AfterFunc(ctx, func() {
		endNow()
		for _, s := range senders {
			s.interrupt()
		}
	})()
	began := now()
	pacing := l.openLoop(began)
	errs := make(chan error, len(senders))
	var running sync.WaitGroup
	for _, s := range senders {
		running.Go(func() { errs <- s.run() })
	}
	ended := make(chan struct{})
	go func() { // ends with the senders, and is waited for below
		running.Wait()
		close(ended)
	}()
	measured := l.keepTime(ctx, senders, tell, ended)
	<-ended
	endNow()
	pacing.Wait()
	close(errs)
	var failed error
	for err := range errs {
		failed = errors.Join(failed, err)
	}
	if failed == nil {
		failed = ctx.Err()
	}
	return l.result(senders, began, measured), failed
}

// openLoop starts the pacer, if there is to be one.
func (l *load) openLoop(began moment) *sync.WaitGroup {
	pacing := new(sync.WaitGroup)
	o := l.options
	if o.Rate.IsZero() {
		return pacing
	}
	l.due = make(chan moment, backlogRequests)
	l.measureFrom = began + moment(o.Warmup)
	l.giveUp = l.measureFrom + moment(o.Duration+answerWait)
	s := newSchedule(o.Rate, o.Warmup, o.Duration, l.each(), o.Poisson, o.Seed)
	pacing.Go(func() { l.pace(s, began) })
	return pacing
}

// connect opens every connection before the load begins, so that none of it
// meets a system still busy accepting.
func (l *load) connect(ctx context.Context) ([]*sender, error) {
	senders := make([]*sender, 0, l.options.Connections)
	for i := range l.options.Connections {
		s := newSender(l, i)
		if err := s.dial(ctx); err != nil {
			for _, s := range senders {
				s.close()
			}
			return nil, fmt.Errorf("bench: connect to %s: %w", s.url, err)
		}
		senders = append(senders, s)
	}
	return senders, nil
}

// keepTime runs the two phases, ends the load and returns how long was
// measured. It returns early when all senders have, and when ctx ends.
func (l *load) keepTime(ctx context.Context, senders []*sender, tell func(Generating), ended <-chan struct{}) time.Duration {
	defer func() {
		l.stopping.Store(true)
		close(l.stop)
	}()
	if tell == nil {
		tell = func(Generating) {}
	}
	phase := func(d time.Duration) bool { return l.phase(ctx, d, senders, tell, ended) }
	if !phase(l.options.Warmup) {
		return 0
	}
	start := now()
	l.measuring.Store(true)
	tell(l.progress(senders))
	phase(l.options.Duration)
	l.measuring.Store(false)
	took := now().sub(start)
	far := l.progress(senders)
	far.Measured = true
	tell(far)
	return took
}

// phase waits for d, and reports false if the load ended before.
func (l *load) phase(ctx context.Context, d time.Duration, senders []*sender, tell func(Generating), ended <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	ticker := time.NewTicker(progressEvery)
	defer ticker.Stop()
	for {
		select {
		case <-timer.C:
			return true
		case <-ticker.C:
			tell(l.progress(senders))
		case <-ended:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// take returns the moment at which the next request is due, when it has come;
// false at the end of the load. waited tells that the connection was there before
// the moment: if the request is late nevertheless, the generator is.
func (l *load) take() (due moment, waited, ok bool) {
	if l.due == nil {
		return now(), false, !l.stopping.Load()
	}
	for {
		select {
		case due, ok = <-l.due:
		default:
			due, ok = <-l.due
			waited = true
		}
		if !ok || now() < l.giveUp && !l.aborted() {
			return due, waited, ok
		}
		l.unsent.Add(uint64(l.each()))
	}
}

func (l *load) aborted() bool {
	select {
	case <-l.abort:
		return true
	default:
		return false
	}
}

// ending tells that a lost connection is not needed again.
func (l *load) ending() bool {
	return l.stopping.Load() && len(l.due) == 0
}

// measures tells whether a request that was due then is one of those measured.
// A closed loop goes by when the answer came.
func (l *load) measures(due moment) bool {
	if l.due == nil {
		return l.measuring.Load()
	}
	return due >= l.measureFrom
}

// each is how many sends one request has.
func (l *load) each() int { return max(l.options.Batch, 1) }

// digits keeps the histograms of many connections within 100 MB or so.
func (l *load) digits() int {
	if l.options.Connections > 512 {
		return 2
	}
	return 3
}

func (l *load) progress(senders []*sender) Generating {
	p := Generating{At: now(), Measuring: l.measuring.Load(), Attempted: min(l.next.Load(), maxSends)}
	for _, s := range senders {
		p.Accepted += s.accepted.Load()
		p.Refused += s.refused.Load()
		p.Failed += s.failed.Load()
	}
	return p
}

func (l *load) result(senders []*sender, began moment, measured time.Duration) Generated {
	p := l.progress(senders)
	g := Generated{
		Attempted: p.Attempted, Accepted: p.Accepted, Refused: p.Refused, Failed: p.Failed,
		Unsent:        l.unsent.Load(),
		MeasuredTime:  measured,
		Began:         began,
		AcceptedMarks: l.accepted.export(),
	}
	all := newHistogram(3)
	for _, s := range senders {
		g.MeasuredAccepted += s.measured
		g.PayloadBytes += s.payload
		g.Repeated += s.repeated
		g.Unadvised += s.unadvised
		g.LateMax = max(g.LateMax, s.lateMax)
		all.Merge(s.latency)
	}
	g.AnswerLatency = distributionOf(all)
	if l.firstFailed != nil {
		g.FirstFailure = l.firstFailed.Error()
	}
	return g
}
