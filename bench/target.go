package bench

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// A behaviour is what a Receiver does to the requests of a path. It is written
// into the path itself, so that a hundred thousand targets with behaviours of
// their own cost the receiver nothing:
//
//	/b/group=1,delay=exp:50ms,fail=0.1:503,retry-after=2/orders
//
// A path that does not begin with /b/ behaves well: 200 at once, in group 0. The
// words, each at most once, separated by commas; what follows them after a slash
// is only for the eye:
//
//	group=N              0 to 15: its counts and latencies are told apart
//	delay=50ms           before the answer; or
//	  uniform:10ms:90ms    between the two
//	  exp:50ms             exponential, with that mean
//	  lognormal:50ms:0.8   with that median and that sigma
//	fail=RATIO:HOW       that share of the arrivals fails, each on its own
//	fail-first=N:HOW     the first N arrivals of every send fail; or
//	  N:HOW:RATIO          of that share of the sends
//	retry-after=N        seconds, the header of answers with a failing status
//	drip=N:20ms          the answer has N bytes and a pause before each
//	capacity=500:HOW     a second, evenly but for a tenth of it; HOW more fails: a
//	                     status from 400 to 599, or slow: it waits for its turn
//
// HOW an arrival fails:
//
//	400 to 599           that status
//	hole                 the request is taken and never answered
//	reset                the connection is reset before the answer
//	half                 the same, in the middle of it
//
// What fails is decided by the seed of the receiver, the sequence number of the
// send and the number of its arrival, and by nothing else: a run with the same
// seed meets the same failures.
type behaviour struct {
	group      int
	delay      delay
	fail       failure
	first      firstFailures
	retryAfter int // seconds; 0: no such header
	drip       drip
	capacity   *capacity // nil: no bound
}

// A failure befalls a share of the arrivals.
type failure struct {
	ratio float64
	how   manner
}

// firstFailures befall the first arrivals of a share of the sends.
type firstFailures struct {
	arrivals uint32 // 0: none
	failure
}

// A drip is an answer that comes byte by byte. The zero drip is none.
type drip struct {
	bytes int
	pause time.Duration
}

// A manner is how an arrival is answered: by a failing status, or as below.
type manner int

const (
	mannerWell  manner = 0
	mannerHole  manner = 1
	mannerReset manner = 2
	mannerHalf  manner = 3
)

// Bounds of what a path may ask for.
const (
	maxGroups     = 16
	maxDripBytes  = 64 << 10
	maxRetryAfter = 24 * 60 * 60
	// maxFirstFailures is below 255, where arrivals are not counted any further.
	maxFirstFailures = 200
)

// behavesWell reports that nothing has to be decided or waited for.
func (b *behaviour) behavesWell() bool {
	return b.delay.middle == 0 && b.fail.ratio == 0 && b.first.arrivals == 0 && b.drip.bytes == 0 && b.capacity == nil
}

// fails reports that arrivals have to be numbered.
func (b *behaviour) fails() bool { return b.fail.ratio > 0 || b.first.arrivals > 0 }

// manner decides about one arrival.
func (b *behaviour) manner(d dice) manner {
	if d.arrival <= b.first.arrivals && d.ofSend() < b.first.ratio {
		return b.first.how
	}
	if b.fail.ratio > 0 && d.ofArrival(rollFailure) < b.fail.ratio {
		return b.fail.how
	}
	return mannerWell
}

const behaviourPrefix = "/b/"

// parseBehaviour reads the behaviour of a path.
func parseBehaviour(path string) (*behaviour, error) {
	b := new(behaviour)
	words, ok := strings.CutPrefix(path, behaviourPrefix)
	if !ok {
		return b, nil
	}
	words, _, _ = strings.Cut(words, "/")
	seen := make(map[string]bool)
	for word := range strings.SplitSeq(words, ",") {
		name, value, _ := strings.Cut(word, "=")
		if seen[name] {
			return nil, fmt.Errorf("behaviour %.80q: %q is there twice", path, name)
		}
		seen[name] = true
		if err := b.set(name, value); err != nil {
			return nil, fmt.Errorf("behaviour %.80q: %s: %w", path, name, err)
		}
	}
	return b, nil
}

func (b *behaviour) set(name, value string) (err error) {
	switch name {
	case "group":
		b.group, err = wholeWithin(value, 0, maxGroups-1)
	case "delay":
		b.delay, err = parseDelay(value)
	case "fail":
		ratio, how, _ := strings.Cut(value, ":")
		b.fail, err = parseFailure(ratio, how)
	case "fail-first":
		b.first, err = parseFirstFailures(value)
	case "retry-after":
		b.retryAfter, err = wholeWithin(value, 1, maxRetryAfter)
	case "drip":
		n, pause, _ := strings.Cut(value, ":")
		if b.drip.bytes, err = wholeWithin(n, 1, maxDripBytes); err == nil {
			b.drip.pause, err = durationWithin(pause)
		}
	case "capacity":
		b.capacity, err = parseCapacity(value)
	default:
		err = fmt.Errorf("no such word")
	}
	return err
}

func parseFirstFailures(value string) (firstFailures, error) {
	n, rest, _ := strings.Cut(value, ":")
	how, ratio, ok := strings.Cut(rest, ":")
	if !ok {
		ratio = "1"
	}
	arrivals, err := wholeWithin(n, 1, maxFirstFailures)
	if err != nil {
		return firstFailures{}, err
	}
	f, err := parseFailure(ratio, how)
	return firstFailures{uint32(arrivals), f}, err
}

func parseFailure(ratio, how string) (f failure, err error) {
	if f.ratio, err = strconv.ParseFloat(ratio, 64); err != nil || !(f.ratio > 0 && f.ratio <= 1) {
		return f, fmt.Errorf("%q is no ratio above 0 and up to 1", ratio)
	}
	switch how {
	case "hole":
		f.how = mannerHole
	case "reset":
		f.how = mannerReset
	case "half":
		f.how = mannerHalf
	default:
		status, err := wholeWithin(how, 400, 599)
		if err != nil {
			return f, fmt.Errorf("%q is no way to fail: hole, reset, half, or a status from 400 to 599", how)
		}
		f.how = manner(status)
	}
	return f, nil
}

func wholeWithin(text string, least, most int) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%q is no number from %d to %d", text, least, most)
	}
	return n, nil
}

// behaviours are those of the paths seen so far. A scenario has a handful; what
// is beyond the bound is parsed again each time.
type behaviours struct {
	known atomic.Pointer[map[string]*behaviour] // copied when one is added
}

const maxKnownBehaviours = 1024

// well is the behaviour of most arrivals.
var well = new(behaviour)

// of returns the behaviour of a request's path, which it does not keep.
func (s *behaviours) of(path []byte) (*behaviour, error) {
	if !bytes.HasPrefix(path, []byte(behaviourPrefix)) {
		return well, nil
	}
	known := s.known.Load()
	if known != nil {
		if b := (*known)[string(path)]; b != nil {
			return b, nil
		}
	}
	b, err := parseBehaviour(string(path))
	if err != nil {
		return nil, err
	}
	s.remember(known, string(path), b)
	return b, nil
}

// remember adds a behaviour, unless another was added meanwhile: then it is
// parsed once more, and added then.
func (s *behaviours) remember(known *map[string]*behaviour, path string, b *behaviour) {
	next := map[string]*behaviour{path: b}
	if known != nil {
		if len(*known) >= maxKnownBehaviours {
			return
		}
		for p, k := range *known {
			next[p] = k
		}
	}
	s.known.CompareAndSwap(known, &next)
}
