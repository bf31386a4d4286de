package bench

import (
	"context"
	"time"

	"github.com/harepost/harepost/bench/report"
)

const (
	// sampleEvery is the distance of the points of a timeline, sampleMost their
	// number: a longer load has them further apart.
	sampleEvery = 500 * time.Millisecond
	sampleMost  = 600
)

// A sampler makes a timeline of a stage under load.
type sampler struct {
	stage *stage
	far   func() Generating // how far the load is
	tell  func(report.Sample)
	stop  context.CancelFunc
	ended chan struct{}

	samples []report.Sample
	began   moment
	last    look
	lastFar Generating
}

// startSampler samples until finish, of a load that takes about length. tell is
// told of every sample, from the sampler's goroutine.
func startSampler(ctx context.Context, s *stage, length time.Duration, far func() Generating, tell func(report.Sample)) *sampler {
	ctx, cancel := context.WithCancel(ctx)
	r := &sampler{stage: s, far: far, tell: tell, stop: cancel, ended: make(chan struct{}), began: now()}
	go func() { // ends with finish or ctx, and finish waits for it
		defer close(r.ended)
		r.run(ctx, max(sampleEvery, length/sampleMost))
	}()
	return r
}

// finish ends the sampling and returns the timeline.
func (r *sampler) finish() []report.Sample {
	r.stop()
	<-r.ended
	return r.samples
}

func (r *sampler) run(ctx context.Context, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	r.last.counts.At = r.began
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if len(r.samples) == 4*sampleMost {
			continue // a load that takes far longer than it should
		}
		// A system that does not answer leaves a gap in its timeline, which says
		// enough; what the round's numbers need is asked for apart from this.
		l, err := r.stage.look(ctx, doCounts)
		if err != nil {
			continue
		}
		sample := r.sample(l, r.far())
		r.samples = append(r.samples, sample)
		if r.tell != nil {
			r.tell(sample)
		}
	}
}

func (r *sampler) sample(l look, far Generating) report.Sample {
	seconds := l.counts.At.sub(r.last.counts.At).Seconds()
	delivered := float64(l.counts.Arrived - r.last.counts.Arrived)
	s := report.Sample{
		AtMS: l.counts.At.sub(r.began).Milliseconds(),
		Values: map[string]float64{
			report.DeliveredRate: delivered / seconds,
			report.AttemptRate:   float64(l.counts.Attempts-r.last.counts.Attempts) / seconds,
			report.RefusedRate:   float64(l.counts.Refused-r.last.counts.Refused) / seconds,
			report.Open:          float64(l.counts.Open),
			report.Refused:       float64(far.Refused - r.lastFar.Refused),
			report.Failed:        float64(far.Failed - r.lastFar.Failed),
		},
	}
	if r.stage.manyHosts {
		if open, err := openDescriptors(r.stage.system.pid); err == nil {
			s.Values[report.Descriptors] = float64(open)
		}
	}
	if l.counts.Lookups > 0 {
		s.Values[report.LookupRate] = float64(l.counts.Lookups-r.last.counts.Lookups) / seconds
	}
	// The generator speaks at moments of its own.
	if took := far.At.sub(r.lastFar.At).Seconds(); took > 0 && r.lastFar.At > 0 {
		s.Values[report.AcceptedRate] = float64(far.Accepted-r.lastFar.Accepted) / took
	}
	if l.usage.RSSBytes > 0 {
		s.Values[report.RSS] = float64(l.usage.RSSBytes)
		if delivered > 0 && r.last.usage.RSSBytes > 0 {
			s.Values[report.CPU] = float64((l.usage.CPU - r.last.usage.CPU).Microseconds()) / delivered
		}
	}
	fillFromPage(s.Values, l.page)
	r.last, r.lastFar = l, far
	return s
}

// fillFromPage sets what a metrics page says of a moment.
func fillFromPage(values map[string]float64, p page) {
	for series, metric := range map[string]string{
		seriesPending: report.Pending, seriesHeap: report.HeapBytes,
		seriesGoroutines: report.Goroutines,
	} {
		if v, ok := p[series]; ok {
			values[metric] = v
		}
	}
}
