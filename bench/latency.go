package bench

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Latency summarises a distribution; all values are milliseconds. The histogram
// behind it has a resolution of three digits, and at worst a microsecond.
type Latency struct {
	Count  int64   `json:"count"`
	P50MS  float64 `json:"p50_ms"`
	P90MS  float64 `json:"p90_ms"`
	P99MS  float64 `json:"p99_ms"`
	P999MS float64 `json:"p999_ms"`
	MaxMS  float64 `json:"max_ms"`
}

// The range of the histograms. What is longer is counted as the longest: a
// round does not wait longer for anything.
const (
	shortestLatency = time.Microsecond
	longestLatency  = 10 * time.Minute
)

// A latencyRecorder is a histogram that many goroutines record into. It is
// sharded because one mutex would be the busiest word of the generator.
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
		r.shards[i].hist = newHistogram()
	}
	return r
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, int64(longestLatency/shortestLatency), 3)
}

// record adds one latency; key spreads the callers over the shards.
func (r *latencyRecorder) record(key uint32, d time.Duration) {
	d = min(max(d, shortestLatency), longestLatency)
	s := &r.shards[key%uint32(len(r.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	// The value is inside the histogram's range, which is the only error.
	_ = s.hist.RecordValue(int64(d / shortestLatency))
}

func (r *latencyRecorder) summary() Latency {
	all := newHistogram()
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		all.Merge(s.hist)
		s.mu.Unlock()
	}
	ms := func(quantile float64) float64 { return float64(all.ValueAtQuantile(quantile)) / 1000 }
	return Latency{
		Count:  all.TotalCount(),
		P50MS:  ms(50),
		P90MS:  ms(90),
		P99MS:  ms(99),
		P999MS: ms(99.9),
		MaxMS:  float64(all.Max()) / 1000,
	}
}
