package torture

import (
	"fmt"
	"hash/fnv"
	"sync"
	"time"
)

// A ledger is what is known at both ends of the cluster: what senders were told and
// what the receiver got, by the number that every send carries in its body. Times
// are since it was opened.
type ledger struct {
	opened time.Time

	mu     sync.Mutex
	blocks []*[blockSends]sent
	n      int // sends so far
	under  int // attempts that the receiver has not answered yet

	failing map[int]time.Duration // sends that are to be tried again, and when they failed first

	window   *window   // of the event that is going on, nil between two
	recent   []arrival // in order, as far back as a bound may reach
	elected  time.Duration
	unmade   int // changes of leadership between events
	suspects []suspect
	leads    int
	proven   time.Duration // the last proof between events, see bound.go

	counts  Counts
	broken  []string                 // what else must not be, in words
	faults  int                      // how many these were, of which the first are kept
	reached [mostNodes]time.Duration // when the last send that a node took began
	ids     [keptIDs]string          // of the last acknowledged, in a ring
}

const (
	blockSends = 4096
	mostSends  = 8 << 20
	mostNodes  = 3
	keptFaults = 20
	keptIDs    = 256
)

// Counts are sums over a run.
type Counts struct {
	Sent         int `json:"sent"`
	Acknowledged int `json:"acknowledged"`
	Refused      int `json:"refused"`  // answered, without a key, and not with a 202
	Unknown      int `json:"unknown"`  // not answered, or with "outcome unknown", without a key
	Asked        int `json:"asked"`    // requests in all
	Retried      int `json:"retried"`  // of which with a key that had been sent before
	Repeated     int `json:"repeated"` // attempts that arrived twice
	Again        int `json:"again"`    // attempts after one that the receiver had answered with 200, whose answer got lost
	Held         int `json:"held"`     // sends that were due while too many were under way
	Rechecked    int `json:"rechecked"`
}

// A sent is one send, as both ends saw it.
type sent struct {
	outcome  outcome
	done     bool          // the receiver has answered 200
	id       uint64        // of the 202, hashed; 0: none
	arrived  uint64        // of what arrived; 0: nothing
	began    time.Duration // of the request that was answered
	arrivals []try
}

type outcome uint8

const (
	underWay outcome = iota
	unknown          // no answer: it may or may not have been accepted
	acknowledged
	refused // answered, and not with a 202
)

// A try is one attempt as it arrived last.
type try struct {
	attempt int32
	at      time.Duration
	over    time.Duration // when it was answered; 0: not yet
}

// An arrival is a try by its source, in the order of time.
type arrival struct {
	at   time.Duration
	node int8
}

// A window is an event, from before its harm until everything is well again.
type window struct {
	began time.Duration
	first int // number of the first send after it
	proof time.Duration

	under    int // attempts under way as it began
	acked    time.Duration
	arrived  time.Duration
	ackGap   time.Duration
	retry    time.Duration // the longest that a send failed
	gap      time.Duration
	firstAck time.Duration // since began; 0: not yet
	firstNew time.Duration
	repeats  int
	exposed  int
	late     int
	elected  int
	led      [mostNodes]bool // who led, but for who does now
	counts   Counts          // as it began
}

func openLedger() *ledger {
	return &ledger{opened: time.Now(), leads: nobody, failing: map[int]time.Duration{}}
}

func (l *ledger) now() time.Duration { return time.Since(l.opened) }

func (l *ledger) of(number int) *sent { return &l.blocks[number/blockSends][number%blockSends] }

// fault notes what must not be.
func (l *ledger) fault(format string, args ...any) {
	if l.faults++; l.faults <= keptFaults {
		l.broken = append(l.broken, fmt.Sprintf(format, args...))
	}
}

// send notes a send that is about to be made and gives it its number.
func (l *ledger) send() (number int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n == mostSends {
		return 0, false
	}
	if l.n%blockSends == 0 {
		l.blocks = append(l.blocks, new([blockSends]sent))
	}
	number = l.n
	l.n++
	l.counts.Sent++
	return number, true
}

// asking notes a request and returns when it began.
func (l *ledger) asking(again bool) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.Asked++
	if again {
		l.counts.Retried++
	}
	return l.now()
}

// acknowledge notes a 202 through a node, for a request that began then.
func (l *ledger) acknowledge(number int, id string, node int, began time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, now, hash := l.of(number), l.now(), hashOf(id)
	l.reached[node] = max(l.reached[node], began)
	if s.outcome == acknowledged { // asked on purpose
		l.counts.Rechecked++
		if s.id != hash {
			l.fault("send %d was acknowledged under two ids, the second is %s", number, id)
		}
		return
	}
	s.outcome, s.id, s.began = acknowledged, hash, began
	l.tried(number)
	l.ids[l.counts.Acknowledged%keptIDs] = id
	l.counts.Acknowledged++
	if s.arrived != 0 && s.arrived != hash {
		l.fault("send %d was acknowledged as %s and had arrived under another id", number, id)
	}
	if w := l.window; w != nil {
		w.ackGap = max(w.ackGap, now-w.acked)
		w.acked = now
		if w.firstAck == 0 && began >= w.began {
			w.firstAck = max(now-w.began, 1)
		}
	} else {
		l.proof(began)
	}
}

// end notes how a send without an acknowledgement ended.
func (l *ledger) end(number int, o outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.of(number).outcome = o
	delete(l.failing, number)
	switch o {
	case refused:
		l.counts.Refused++
	case unknown:
		l.counts.Unknown++
	}
}

// failed notes that a send failed that will be tried again.
func (l *ledger) failed(number int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, again := l.failing[number]; !again {
		l.failing[number] = l.now()
	}
}

// tried has the window know for how long a send has failed, if it has.
func (l *ledger) tried(number int) {
	if since, ok := l.failing[number]; ok && l.window != nil {
		l.window.retry = max(l.window.retry, l.now()-max(since, l.window.began))
	}
	delete(l.failing, number)
}

func (l *ledger) hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.Held++
}

// arrive notes an attempt and reports whether it is the first of its send. over is
// called when it is answered, with whether that was a 200.
func (l *ledger) arrive(number int, id string, attempt, node int) (first bool, over func(ok bool)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if number < 0 || number >= l.n {
		l.fault("delivery %s has the number %d, which nobody sent", id, number)
		return false, func(bool) {}
	}
	l.under++
	s, now, hash := l.of(number), l.now(), hashOf(id)
	first = len(s.arrivals) == 0
	switch {
	case first:
		s.arrived = hash
		if s.outcome == acknowledged && s.id != hash {
			l.fault("send %d arrived as %s and was acknowledged under another id", number, id)
		}
	case s.arrived != hash:
		l.fault("send %d arrived under two ids, the second is %s", number, id)
	}
	l.see(number, first, now)
	if l.note(s, number, int32(attempt), now) {
		l.expose(now, node)
	}
	if s.done {
		l.counts.Again++
	}
	return first, func(ok bool) { l.answered(number, int32(attempt), ok) }
}

// see has the window know that something arrived.
func (l *ledger) see(number int, first bool, now time.Duration) {
	w := l.window
	if w == nil {
		return
	}
	w.gap = max(w.gap, now-w.arrived)
	w.arrived = now
	if first && w.firstNew == 0 && number >= w.first {
		w.firstNew = max(now-w.began, 1)
	}
}

// note keeps an attempt, and reports whether it is not a repetition.
func (l *ledger) note(s *sent, number int, attempt int32, now time.Duration) bool {
	for i := range s.arrivals {
		if before := &s.arrivals[i]; before.attempt == attempt {
			l.counts.Repeated++
			l.repeat(number, *before, now)
			*before = try{attempt: attempt, at: now}
			return false
		}
	}
	s.arrivals = append(s.arrivals, try{attempt: attempt, at: now})
	return true
}

func (l *ledger) answered(number int, attempt int32, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.under--
	s := l.of(number)
	s.done = s.done || ok
	for i := range s.arrivals {
		if s.arrivals[i].attempt == attempt {
			s.arrivals[i].over = l.now()
		}
	}
}

func hashOf(id string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(id))
	return max(h.Sum64(), 1)
}

// missing is how many acknowledged sends of those that began before then have not
// been received.
func (l *ledger) missing(before time.Duration) (n int, one int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for number := range l.n {
		if s := l.of(number); s.outcome == acknowledged && s.began < before && !s.done {
			n, one = n+1, number
		}
	}
	return n, one
}

// reachedAll reports whether every node has taken a send that began after then.
func (l *ledger) reachedAll(nodes int, after time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, began := range l.reached[:nodes] {
		if began < after {
			return false
		}
	}
	return true
}

// lost is the acknowledged sends that never arrived, and unexpected those that
// arrived although they were refused.
func (l *ledger) balance() (lost, unexpected int, examples []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	example := func(format string, number int, s *sent) {
		if len(examples) < keptFaults {
			examples = append(examples, fmt.Sprintf(format, number, s.began.Seconds()))
		}
	}
	for number := range l.n {
		switch s := l.of(number); {
		case s.outcome == acknowledged && len(s.arrivals) == 0:
			lost++
			example("send %d, acknowledged, its request began at %.3f s, never arrived", number, s)
		case s.outcome == refused && len(s.arrivals) > 0:
			unexpected++
			example("send %d was refused and arrived (%.0f)", number, s)
		}
	}
	return lost, unexpected, examples
}

// newest is the ids of the last sends that were acknowledged.
func (l *ledger) newest() (ids []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range l.ids {
		if id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

func (l *ledger) sums() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts
}

// faulty is everything else that must not be, in number and in words, at the end.
func (l *ledger) faulty() (n int, examples []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acquit(0, false)
	return l.faults, l.broken
}
