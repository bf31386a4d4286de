package bench

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/harepost/harepost/bench/report"
)

// The range of the histograms. What is longer is counted as the longest: a
// round does not wait longer for anything.
const (
	shortestLatency = time.Microsecond
	longestLatency  = 10 * time.Minute
)

// percents are the quantiles that a report has of a histogram.
var percents = []float64{10, 25, 50, 75, 90, 95, 99, 99.9, 99.99}

// newHistogram has a resolution of so many significant digits, and at worst a
// microsecond. Three digits take 160 KiB, two 24 KiB.
func newHistogram(digits int) *hdrhistogram.Histogram {
	return hdrhistogram.New(1, int64(longestLatency/shortestLatency), digits)
}

func recordLatency(h *hdrhistogram.Histogram, d time.Duration) {
	d = min(max(d, shortestLatency), longestLatency)
	// The value is inside the histogram's range, which is the only error.
	_ = h.RecordValue(int64(d / shortestLatency))
}

// distributionOf summarises a histogram for a report.
func distributionOf(h *hdrhistogram.Histogram) report.Distribution {
	const unit = float64(time.Millisecond / shortestLatency)
	d := report.Distribution{
		Count:  h.TotalCount(),
		MeanMS: h.Mean() / unit,
		MaxMS:  float64(h.Max()) / unit,
	}
	for _, p := range percents {
		d.Quantiles = append(d.Quantiles, report.Quantile{Percent: p, MS: float64(h.ValueAtQuantile(p)) / unit})
	}
	return d
}

// quantile is the value that percent of a distribution do not exceed; percent
// is one of percents.
func quantile(d report.Distribution, percent float64) float64 {
	for _, q := range d.Quantiles {
		if q.Percent == percent {
			return q.MS
		}
	}
	return 0
}

// A latencyRecorder is a histogram that many goroutines record into. It is
// sharded because one mutex would be the busiest word of the receiver.
type latencyRecorder struct {
	shards [16]struct {
		mu   sync.Mutex
		hist *hdrhistogram.Histogram
		_    [48]byte // keep the mutexes on cache lines of their own
	}
}

func newLatencyRecorder() *latencyRecorder {
	r := new(latencyRecorder)
	for i := range r.shards {
		r.shards[i].hist = newHistogram(3)
	}
	return r
}

// record adds one latency; key spreads the callers over the shards.
func (r *latencyRecorder) record(key uint32, d time.Duration) {
	s := &r.shards[key%uint32(len(r.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	recordLatency(s.hist, d)
}

func (r *latencyRecorder) distribution() report.Distribution {
	all := newHistogram(3)
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		all.Merge(s.hist)
		s.mu.Unlock()
	}
	return distributionOf(all)
}
