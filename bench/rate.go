package bench

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// A Rate says how many sends a second an open loop makes, over its duration. The
// zero Rate is a closed loop.
type Rate struct {
	steps []float64
	ramp  bool // from the first to the second, evenly
}

// ConstantRate is the same rate all the time.
func ConstantRate(perSecond float64) Rate { return Rate{steps: []float64{perSecond}} }

// maxRate bounds a rate: at this one a round of a minute reaches maxSends.
const maxRate = 1_000_000

// ParseRate reads
//
//	2000              constant
//	100..10000        a ramp over the whole duration
//	1000,2000,4000    steps of equal length
func ParseRate(text string) (Rate, error) {
	var r Rate
	var err error
	words := strings.Split(text, ",")
	if from, to, ok := strings.Cut(text, ".."); ok {
		words, r.ramp = []string{from, to}, true
	}
	for _, word := range words {
		rate, parseErr := strconv.ParseFloat(word, 64)
		if parseErr != nil || !(rate >= 0.01 && rate <= maxRate) {
			err = errors.Join(err, fmt.Errorf("bench: rate %q: %q is not a number of sends a second from 0.01 to %d", text, word, maxRate))
		}
		r.steps = append(r.steps, rate)
	}
	if err != nil {
		return Rate{}, err
	}
	return r, nil
}

// IsZero tells a closed loop.
func (r Rate) IsZero() bool { return len(r.steps) == 0 }

// String is the text that ParseRate reads.
func (r Rate) String() string {
	words := make([]string, len(r.steps))
	for i, rate := range r.steps {
		words[i] = strconv.FormatFloat(rate, 'g', -1, 64)
	}
	if r.ramp {
		return strings.Join(words, "..")
	}
	return strings.Join(words, ",")
}

// MarshalText is String, for the way between processes.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is ParseRate; nothing is a closed loop.
func (r *Rate) UnmarshalText(text []byte) (err error) {
	if len(text) == 0 {
		*r = Rate{}
		return nil
	}
	*r, err = ParseRate(string(text))
	return err
}

// A slope is a piece of time in which the rate goes evenly from one to another.
type slope struct {
	seconds, from, to float64
}

// sends is how many are due in it.
func (s slope) sends() float64 { return s.seconds * (s.from + s.to) / 2 }

// when is the moment in it at which count are due: the root of
// from t + (to - from) t²/(2 seconds) = count, in a form that has no
// cancellation and holds for equal rates too.
func (s slope) when(count float64) float64 {
	if count <= 0 {
		return 0
	}
	k := 2 * (s.to - s.from) / s.seconds * count
	return 2 * count / (s.from + math.Sqrt(max(s.from*s.from+k, 0)))
}

// A schedule says when each request of an open loop is due: all at once would
// not be known for Poisson arrivals. It is not for several goroutines.
type schedule struct {
	slopes []slope
	passed float64 // seconds in slopes that are over
	count  float64 // sends due in the present slope so far
	each   float64 // sends a request
	random *rand.Rand
}

// newSchedule begins with warmup at the first rate. Poisson arrivals are those of
// seed.
func newSchedule(r Rate, warmup, duration time.Duration, each int, poisson bool, seed uint64) *schedule {
	s := &schedule{each: float64(each)}
	if warmup > 0 {
		s.slopes = append(s.slopes, slope{warmup.Seconds(), r.steps[0], r.steps[0]})
	}
	if r.ramp {
		s.slopes = append(s.slopes, slope{duration.Seconds(), r.steps[0], r.steps[1]})
	} else {
		for _, rate := range r.steps {
			s.slopes = append(s.slopes, slope{duration.Seconds() / float64(len(r.steps)), rate, rate})
		}
	}
	if poisson {
		s.random = rand.New(rand.NewPCG(seed, 0))
		s.count = s.random.ExpFloat64() * s.each
	}
	return s
}

// next returns when the next request is due, from the beginning; false after the
// end. A Poisson process of any rate is one of rate 1 in a time that runs as fast
// as sends become due.
func (s *schedule) next() (time.Duration, bool) {
	for len(s.slopes) > 0 && s.count >= s.slopes[0].sends() {
		s.count -= s.slopes[0].sends()
		s.passed += s.slopes[0].seconds
		s.slopes = s.slopes[1:]
	}
	if len(s.slopes) == 0 {
		return 0, false
	}
	at := s.passed + s.slopes[0].when(s.count)
	if s.random == nil {
		s.count += s.each
	} else {
		s.count += s.random.ExpFloat64() * s.each
	}
	return time.Duration(at * float64(time.Second)), true
}
