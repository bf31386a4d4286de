package bench

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/harepost/harepost/bench/report"
)

// Counts are those of the arrivals that carried a mark of the run.
type Counts struct {
	Attempts   uint64 `json:"attempts"`   // all of them
	Arrived    uint64 `json:"arrived"`    // sends that were answered well, once each
	Duplicates uint64 `json:"duplicates"` // further arrivals of a send that had been
	Refused    uint64 `json:"refused"`    // failed with a status, as the behaviour says
	Broken     uint64 `json:"broken"`     // or by a reset
	Held       uint64 `json:"held"`       // or without any answer
	// Reordered arrivals came after one of their destination that was sent later.
	Reordered uint64 `json:"reordered"`
}

func (c *Counts) add(d Counts) {
	c.Attempts += d.Attempts
	c.Arrived += d.Arrived
	c.Duplicates += d.Duplicates
	c.Refused += d.Refused
	c.Broken += d.Broken
	c.Held += d.Held
	c.Reordered += d.Reordered
}

// GroupCounts are those of one group.
type GroupCounts struct {
	Group int `json:"group"`
	Counts
}

// A groupReport is everything a Receiver knows of one group.
type groupReport struct {
	GroupCounts
	Latency  report.Distribution `json:"latency"`
	Timeline timeline            `json:"timeline"`
}

// A timeline counts in steps of timelineStep since the receiver began.
type timeline struct {
	Began    moment   `json:"began"`
	Attempts []uint32 `json:"attempts"`
	Arrived  []uint32 `json:"arrived"` // as long as Attempts
}

const (
	timelineStep = 100 * time.Millisecond
	// timelineSteps bounds a timeline: 1.8 hours. What comes later is counted in
	// the last step.
	timelineSteps = 1 << 16
)

// A tally is what a Receiver knows of one group. One arrival takes one lock, of
// one shard; only what is asked for now and then adds the shards up.
type tally struct {
	began  moment
	shards [8]tallyShard
}

type tallyShard struct {
	mu      sync.Mutex
	counts  Counts
	last    moment // of the newest first arrival
	latency *hdrhistogram.Histogram
	recent  [recentReaders]*hdrhistogram.Histogram // since they were last taken; nil: nobody asks
	steps   []timelineCount
	_       [8]byte // keep the mutexes on cache lines of their own
}

type timelineCount struct{ attempts, arrived uint32 }

func newTally(began moment) *tally {
	t := &tally{began: began}
	for i := range t.shards {
		t.shards[i].latency = newHistogram(3)
	}
	return t
}

func (t *tally) shard(sequence uint32) *tallyShard {
	return &t.shards[sequence%uint32(len(t.shards))]
}

// arrived files the first arrival of a send that is answered well.
func (t *tally) arrived(m mark, at moment, reordered bool) {
	s := t.shard(m.Sequence)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Arrived++
	if reordered {
		s.counts.Reordered++
	}
	s.last = max(s.last, at)
	recordLatency(s.latency, at.sub(m.SentAt))
	for _, recent := range s.recent {
		if recent != nil {
			recordLatency(recent, at.sub(m.SentAt))
		}
	}
	s.attempt(t.began, at).arrived++
}

// again files an arrival of a send that had been answered well before.
func (t *tally) again(m mark, at moment) {
	s := t.shard(m.Sequence)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Duplicates++
	s.attempt(t.began, at)
}

// failed files an arrival that fails on purpose.
func (t *tally) failed(m mark, at moment, how manner) {
	s := t.shard(m.Sequence)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch how {
	case mannerHole:
		s.counts.Held++
	case mannerReset, mannerHalf:
		s.counts.Broken++
	default:
		s.counts.Refused++
	}
	s.attempt(t.began, at)
}

// attempt counts any arrival, in the step of its moment.
func (s *tallyShard) attempt(began, at moment) *timelineCount {
	s.counts.Attempts++
	step := min(max(int(at.sub(began)/timelineStep), 0), timelineSteps-1)
	if step >= len(s.steps) {
		s.steps = append(s.steps, make([]timelineCount, step+1-len(s.steps))...)
	}
	s.steps[step].attempts++
	return &s.steps[step]
}

func (t *tally) counts() (c Counts) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		c.add(s.counts)
		s.mu.Unlock()
	}
	return c
}

// measure forgets the latencies recorded so far.
func (t *tally) measure() {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		s.latency.Reset()
		s.mu.Unlock()
	}
}

// recentReaders is how many may ask for recent latencies, each for its own.
const recentReaders = 2

// takeRecent adds to a histogram the latencies since the reader's last call; none at
// its first, from which on they are kept.
func (t *tally) takeRecent(into *hdrhistogram.Histogram, reader int) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		if recent := s.recent[reader]; recent == nil {
			s.recent[reader] = newHistogram(3)
		} else {
			into.Merge(recent)
			recent.Reset()
		}
		s.mu.Unlock()
	}
}

// addTo adds the group's latencies to a histogram, and returns its timeline and
// the moment of its newest first arrival.
func (t *tally) addTo(latency *hdrhistogram.Histogram) (line timeline, last moment) {
	line.Began = t.began
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		latency.Merge(s.latency)
		last = max(last, s.last)
		line.add(s.steps)
		s.mu.Unlock()
	}
	return line, last
}

func (l *timeline) add(steps []timelineCount) {
	if more := len(steps) - len(l.Attempts); more > 0 {
		l.Attempts = append(l.Attempts, make([]uint32, more)...)
		l.Arrived = append(l.Arrived, make([]uint32, more)...)
	}
	for i, s := range steps {
		l.Attempts[i] += s.attempts
		l.Arrived[i] += s.arrived
	}
}
