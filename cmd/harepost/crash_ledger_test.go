package main

import (
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A ledger is what is known at both ends of a server that is killed again and
// again: what its senders were told, and what its targets got. It is kept in
// this process, so nothing in it is lost when the server dies.
//
// Every send carries a mark of its own. A life is the time between two starts
// of the server.
type ledger struct {
	life atomic.Int32

	mu       sync.Mutex
	marks    map[string]*markedSend
	unsteady map[int32]bool // lives in which attempts may be repeated, at a moment that is not known
}

// A markedSend is one send, as both ends saw it.
type markedSend struct {
	outcome  sendOutcome
	id       string    // of the 202
	began    time.Time // of the request that was answered last
	life     int32     // in which it began and was answered; 0: not in one
	arrivals []arrival
}

type sendOutcome int

const (
	sendUnknown sendOutcome = iota // no answer: it may or may not have been accepted
	sendAcknowledged
	sendRefused // answered, and not with a 202
)

// An arrival is one request at a target.
type arrival struct {
	life    int32
	attempt int
	id      string
	at      time.Time
}

func newLedger() *ledger {
	return &ledger{marks: map[string]*markedSend{}, unsteady: map[int32]bool{}}
}

// unsteadily does something during which attempts may be repeated that were made
// before, or meanwhile. It is a life of its own.
func (l *ledger) unsteadily(do func()) {
	life := l.life.Add(1)
	l.mu.Lock()
	l.unsteady[life] = true
	l.mu.Unlock()
	do()
	l.life.Add(1)
}

// send notes that a mark is on its way.
func (l *ledger) send(mark string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.marks[mark] == nil {
		l.marks[mark] = &markedSend{}
	}
}

// answered notes how it ended. life is 0 when it is not clear which one gave
// the answer.
func (l *ledger) answered(mark string, o sendOutcome, id string, began time.Time, life int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.marks[mark]
	m.outcome, m.id, m.began, m.life = o, id, began, life
}

// acknowledged is the ids that were answered with by now.
func (l *ledger) acknowledged() (ids []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.marks {
		if m.outcome == sendAcknowledged {
			ids = append(ids, m.id)
		}
	}
	return ids
}

// forget takes back a mark that never left this process.
func (l *ledger) forget(mark string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.marks, mark)
}

// arrived notes an arrival and returns how many there are of the mark. Zero
// means that nobody sent it.
func (l *ledger) arrived(mark string, a arrival) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.marks[mark]
	if m == nil {
		return 0
	}
	m.arrivals = append(m.arrivals, a)
	return len(m.arrivals)
}

// payloadOf is the body that goes with a mark. Its length varies, so that
// frames do.
func payloadOf(mark string) string {
	sum := crc32.ChecksumIEEE([]byte(mark))
	return mark + " " + strings.Repeat(strconv.FormatUint(uint64(sum), 36)+"-", int(sum%200))
}

// answerTime is how long the target of a mark takes, so that there are attempts
// in flight when the server is killed.
func answerTime(mark string) time.Duration {
	return time.Duration(crc32.ChecksumIEEE([]byte(mark))%16) * time.Millisecond
}

// failsFirst tells whether the target answers a mark's first arrival with 503.
func failsFirst(mark string) bool { return crc32.ChecksumIEEE([]byte(mark))%8 == 0 }

// A recorder is a target over http that writes what it gets into a ledger.
type recorder struct{ *countedTarget }

func startRecorder(t testing.TB, l *ledger) *recorder {
	t.Helper()
	r := new(recorder)
	r.countedTarget = startCountedTarget(t, func(rw http.ResponseWriter, req *http.Request) { r.take(l, rw, req) })
	return r
}

func (r *recorder) take(l *ledger, rw http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the server was killed while it wrote: nothing arrived
	}
	mark, _, _ := strings.Cut(string(body), " ")
	attempt, err := strconv.Atoi(req.Header.Get("X-Harepost-Attempt"))
	if err != nil || string(body) != payloadOf(mark) {
		r.t.Errorf("attempt %q arrived with a body that nobody sent: %.60q", req.Header.Get("X-Harepost-Attempt"), body)
	}
	n := l.arrived(mark, arrival{l.life.Load(), attempt, req.Header.Get("X-Harepost-Delivery"), time.Now()})
	<-time.After(answerTime(mark))
	switch {
	case n == 0:
		r.t.Errorf("mark %q arrived, which nobody sent", mark)
	case n == 1 && failsFirst(mark):
		rw.WriteHeader(http.StatusServiceUnavailable)
	}
}

// A balance is what the ledger adds up to.
type balance struct {
	sent, acknowledged, refused, unknown int

	lost          []string      // acknowledged and never arrived
	unexpected    []string      // refused, and arrived all the same
	twoIDs        []string      // one send, two deliveries
	steady        []string      // repeated although no crash lies between
	recordedTwice []string      // repeated although its record was proven durable
	unknownKept   int           // of the unknown ones, those that had been accepted
	repeats       map[int32]int // by the life that ended between the two
}

// syncGrace is how long after an arrival the server may take to hand the
// attempt's record to its log.
const syncGrace = 500 * time.Millisecond

// add up. A repeat is allowed only where a life ended between the two arrivals,
// and where the first one's record cannot have been synced: a send that began
// well after it and was acknowledged in the same life proves that it was, since
// one log carries both in order.
func (l *ledger) add() balance {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := balance{sent: len(l.marks), repeats: map[int32]int{}}
	proof := map[int32]time.Time{} // the last acknowledged send's beginning, by life
	for _, m := range l.marks {
		if m.outcome == sendAcknowledged && m.began.After(proof[m.life]) && !l.unsteady[m.life] {
			proof[m.life] = m.began
		}
	}
	for mark, m := range l.marks {
		switch m.outcome {
		case sendAcknowledged:
			b.acknowledged++
			if len(m.arrivals) == 0 {
				b.lost = append(b.lost, mark)
			}
		case sendRefused:
			b.refused++
			if len(m.arrivals) > 0 {
				b.unexpected = append(b.unexpected, mark)
			}
		case sendUnknown:
			b.unknown++
			if len(m.arrivals) > 0 {
				b.unknownKept++
			}
		}
		b.addArrivals(mark, m, proof, l.unsteady)
	}
	return b
}

func (b *balance) addArrivals(mark string, m *markedSend, proof map[int32]time.Time, unsteady map[int32]bool) {
	last := map[int]arrival{}
	for _, a := range m.arrivals {
		if a.id != m.arrivals[0].id || m.id != "" && a.id != m.id {
			b.twoIDs = append(b.twoIDs, mark)
		}
		before, repeated := last[a.attempt]
		last[a.attempt] = a
		if !repeated {
			continue
		}
		b.repeats[before.life]++
		what := fmt.Sprintf("%s attempt %d in lives %d and %d", mark, a.attempt, before.life, a.life)
		if before.life == a.life && !unsteady[a.life] {
			b.steady = append(b.steady, what)
		}
		if proof[before.life].After(before.at.Add(syncGrace)) {
			b.recordedTwice = append(b.recordedTwice, what)
		}
	}
}

// check reports every promise that the balance breaks.
func (b balance) check(t *testing.T) {
	t.Helper()
	f := func(promise string, broken []string) {
		t.Helper()
		if len(broken) > 0 {
			t.Errorf("%s: %d broke it, such as %q", promise, len(broken), broken[:min(len(broken), 5)])
		}
	}
	f("what was acknowledged is delivered", b.lost)
	f("what was refused is not delivered", b.unexpected)
	f("one send is one delivery", b.twoIDs)
	f("nothing is repeated without a crash", b.steady)
	f("nothing is repeated whose record was synced", b.recordedTwice)
	if b.acknowledged == 0 {
		t.Error("nothing was acknowledged, this proves nothing")
	}
}

// duplicates are the repeats after each of the lives, and all together.
func (b balance) duplicates(lives int32) (each []int, all int) {
	for life := int32(1); life <= lives; life++ {
		each = append(each, b.repeats[life])
		all += b.repeats[life]
	}
	return each, all
}
