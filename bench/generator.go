package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// GeneratorOptions say what load to make.
type GeneratorOptions struct {
	Addr          string        // host:port of the system under load
	Authorization string        // value of the header, empty: none
	Targets       []string      // URLs to send to; connections take turns
	Connections   int           // one request in flight on each
	Warmup        time.Duration // load before the measuring begins
	Duration      time.Duration // of the measuring
	PayloadBytes  int           // of each delivery, at least minPayloadBytes
	Run           uint32        // written into every mark
}

const (
	// answerWait bounds how long the generator waits for one answer. The
	// engine answers or refuses earlier.
	answerWait = 30 * time.Second
	// refusedPause is what a connection waits after 429 or 503: less than the
	// Retry-After of whole seconds, so that the load comes back quickly, and
	// long enough that refusals do not become the load.
	refusedPause = 50 * time.Millisecond
	// failuresInRow is how many failed requests end a connection's work.
	failuresInRow = 10
)

// Generated says what a load did.
type Generated struct {
	// Attempted sends had the sequence numbers below it.
	Attempted uint64 `json:"attempted"`
	Accepted  uint64 `json:"accepted"` // answered 202
	Refused   uint64 `json:"refused"`  // answered 429 or 503
	Failed    uint64 `json:"failed"`   // any other answer, or none
	// FirstFailure is the first reason, for the report.
	FirstFailure string `json:"first_failure,omitempty"`

	MeasuredAccepted uint64        `json:"measured_accepted"` // of those, after the warm-up
	MeasuredTime     time.Duration `json:"measured_ns"`
	Began            moment        `json:"began"`
	AnswerLatency    Latency       `json:"answer_latency"` // of measured, accepted sends
	AcceptedMarks    sequences     `json:"accepted_marks"`
}

// A load is one run of the generator.
type load struct {
	options  GeneratorOptions
	next     atomic.Uint64 // sequence number of the next send
	accepted *sequenceSet
	latency  *latencyRecorder

	measuring atomic.Bool
	stopping  atomic.Bool
	stop      chan struct{} // closed with stopping, for those who pause

	counts struct {
		accepted, measured, refused, failed atomic.Uint64
	}
	failure     sync.Once
	firstFailed error
}

// Generate opens the connections, loads the system for Warmup and Duration,
// waits for the answers under way and returns. It calls measuring between the
// two phases, from its own goroutine. The error is of the load itself: refusals
// and failed requests are counts.
func Generate(ctx context.Context, o GeneratorOptions, measuring func()) (Generated, error) {
	if len(o.Targets) == 0 || o.Connections < 1 || o.PayloadBytes < minPayloadBytes {
		return Generated{}, fmt.Errorf("bench: generator: %d targets, %d connections, %d payload bytes (at least 1, 1 and %d)",
			len(o.Targets), o.Connections, o.PayloadBytes, minPayloadBytes)
	}
	l := &load{
		options:  o,
		accepted: newSequenceSet(),
		latency:  newLatencyRecorder(),
		stop:     make(chan struct{}),
	}
	senders, err := l.connect(ctx)
	if err != nil {
		return Generated{}, err
	}
	began := now()
	errs := make(chan error, len(senders))
	var running sync.WaitGroup
	for _, s := range senders {
		running.Go(func() { errs <- s.run() })
	}
	measured := l.keepTime(ctx, senders, measuring)
	running.Wait()
	close(errs)
	var failed error
	for err := range errs {
		failed = errors.Join(failed, err)
	}
	if failed == nil {
		failed = ctx.Err()
	}
	return l.result(began, measured), failed
}

// connect opens every connection before the load begins, so that none of it
// meets a system still busy accepting.
func (l *load) connect(ctx context.Context) ([]*sender, error) {
	senders := make([]*sender, 0, l.options.Connections)
	for i := range l.options.Connections {
		s := newSender(l, l.options.Targets[i%len(l.options.Targets)])
		if err := s.dial(ctx); err != nil {
			for _, s := range senders {
				s.close()
			}
			return nil, fmt.Errorf("bench: connect to %s: %w", l.options.Addr, err)
		}
		senders = append(senders, s)
	}
	return senders, nil
}

// keepTime runs the two phases, ends the load and returns how long was
// measured. When ctx ends it also cuts the requests under way.
func (l *load) keepTime(ctx context.Context, senders []*sender, measuring func()) time.Duration {
	defer func() {
		l.stopping.Store(true)
		close(l.stop)
	}()
	phase := func(d time.Duration) bool {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return true
		case <-ctx.Done():
			for _, s := range senders {
				s.interrupt()
			}
			return false
		}
	}
	if !phase(l.options.Warmup) {
		return 0
	}
	if measuring != nil {
		measuring()
	}
	start := now()
	l.measuring.Store(true)
	phase(l.options.Duration)
	l.measuring.Store(false)
	return now().sub(start)
}

func (l *load) result(began moment, measured time.Duration) Generated {
	g := Generated{
		Attempted:        min(l.next.Load(), maxSends),
		Accepted:         l.counts.accepted.Load(),
		Refused:          l.counts.refused.Load(),
		Failed:           l.counts.failed.Load(),
		MeasuredAccepted: l.counts.measured.Load(),
		MeasuredTime:     measured,
		Began:            began,
		AnswerLatency:    l.latency.summary(),
		AcceptedMarks:    l.accepted.export(),
	}
	if l.firstFailed != nil {
		g.FirstFailure = l.firstFailed.Error()
	}
	return g
}

// count files one answer; err is what went wrong instead of one.
func (l *load) count(sequence uint32, status int, took time.Duration, err error) {
	switch {
	case err == nil && status == http.StatusAccepted:
		l.counts.accepted.Add(1)
		l.accepted.add(sequence)
		if l.measuring.Load() {
			l.counts.measured.Add(1)
			l.latency.record(sequence, took)
		}
	case err == nil && (status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable):
		l.counts.refused.Add(1)
	default:
		l.counts.failed.Add(1)
		l.failure.Do(func() {
			if err == nil {
				err = fmt.Errorf("answered %d", status)
			}
			l.firstFailed = err
		})
	}
}
