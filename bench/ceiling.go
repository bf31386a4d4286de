package bench

import (
	"context"
	"errors"
	"time"

	"github.com/harepost/harepost/bench/report"
)

// measureCeiling takes the limit of the generator itself, with this load in a
// closed loop, and puts it into the report.
func (s *session) measureCeiling(ctx context.Context, o GeneratorOptions) (err error) {
	p, err := startPart(ctx, s.options.Child, roleTrivial, struct{}{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	var ready trivialReady
	if err := p.hear("start", &ready); err != nil {
		return err
	}
	s.progress.passing("the generator's own limit …")
	o.URL, o.Targets, o.Rate = "http://"+ready.Addr, []string{"http://127.0.0.1:1/"}, Rate{}
	o.Batch = 0 // the trivial server knows one answer
	o.Warmup = sized(&s.options, 100*time.Millisecond, 500*time.Millisecond)
	o.Duration = sized(&s.options, 500*time.Millisecond, 3*time.Second)
	g, err := startGenerator(ctx, s.options.Child, o)
	if err != nil {
		return err
	}
	done, err := g.wait()
	if err != nil {
		return err
	}
	c := &report.Ceiling{RequestsPerSecond: perSecond(done.MeasuredAccepted, done.MeasuredTime), Connections: o.Connections}
	if done.Attempted > 0 {
		c.CPUSecondsPerMillion = g.cpu.Seconds() / float64(done.Attempted) * 1e6
	}
	s.report.Ceiling = c
	s.progress.line("the generator reaches %.0f requests/s of its own, at %.1f µs CPU each", c.RequestsPerSecond, c.CPUSecondsPerMillion)
	return nil
}
