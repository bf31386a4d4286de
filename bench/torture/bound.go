package torture

import (
	"slices"
	"time"
)

// What may be repeated, and how that is held against what is:
//
//	   a send that began here, and was     the event       the new leader is seen
//	   acknowledged before the event: the      │                   │
//	   last proof                              │                   │
//	─────┬────────────────┬───────────────────┬┴──────────────────┬┴───────────▶
//	     │   grace        │                   │                   │
//	  attempts answered   │ these may have no record that a        │ from here on
//	  before this moment  │ majority has, or be under way still:   │ nothing is
//	  are on record       │ the bound is how many they are         │ repeated
//
// One log carries sends and records in order, so that an acknowledged send proves
// every record that was handed to the log before it. An attempt repeated that was
// answered a grace before the last proof is a fault, and so is one repeated where
// no change of leadership explains it.
const grace = 500 * time.Millisecond

// explains is how long after a change of leadership an attempt may be repeated that
// was made before it.
const explains = 10 * time.Second

// keptArrivals is how far back arrivals are kept between events.
const keptArrivals = 5 * time.Second

// proof notes that a send that began then was acknowledged, between events.
func (l *ledger) proof(began time.Duration) {
	l.proven = max(l.proven, began)
}

// expose keeps an arrival for the bound.
func (l *ledger) expose(now time.Duration, node int) {
	if l.window == nil && len(l.recent) > 0 && len(l.recent)%256 == 0 {
		old, _ := slices.BinarySearchFunc(l.recent, now-keptArrivals, func(a arrival, t time.Duration) int { return int(a.at - t) })
		l.recent = slices.Delete(l.recent, 0, old)
	}
	l.recent = append(l.recent, arrival{now, int8(node)})
	if w := l.window; w != nil && node != nobody && w.led[node] && node != l.leads && now > l.elected+lateAfter {
		w.late++
	}
}

// lateAfter is how long a change of leadership may be known here before an attempt
// of the old leader counts as late: the watch looks that often, and the attempt
// was on its way.
const lateAfter = 300 * time.Millisecond

// repeat judges an attempt that has arrived before.
func (l *ledger) repeat(number int, before try, now time.Duration) {
	w := l.window
	switch {
	case w == nil && now-l.elected > explains:
		l.suspects = append(l.suspects, suspect{number, before, now})
	case w == nil:
	case before.at < w.began && before.over != 0 && before.over+grace < w.proof:
		w.repeats++
		l.fault("send %d, attempt %d: answered at %.3f s, on record by %.3f s, and again at %.3f s", number, before.attempt, before.over.Seconds(), w.proof.Seconds(), now.Seconds())
	default:
		w.repeats++
	}
}

// A suspect is an attempt that was repeated between events. A change of leadership
// that nobody made explains it, of which it may be the first sign.
type suspect struct {
	number int
	before try
	again  time.Duration
}

// seenWithin is how soon the watch sees a change of leadership, on a machine that
// is busy.
const seenWithin = 5 * time.Second

// acquit drops the suspects that a change of leadership explains if it is seen now.
// Those that are older than within are faults: none explains them.
func (l *ledger) acquit(within time.Duration, elected bool) {
	now := l.now()
	l.suspects = slices.DeleteFunc(l.suspects, func(s suspect) bool {
		late := now-s.again > within
		if late {
			l.fault("send %d, attempt %d: arrived at %.3f s and again at %.3f s, between events", s.number, s.before.attempt, s.before.at.Seconds(), s.again.Seconds())
		}
		return late || elected
	})
}

// lead notes that a node was seen to lead in another term than before.
func (l *ledger) lead(node int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acquit(seenWithin, true)
	if w := l.window; w != nil {
		w.elected++
		if node != l.leads {
			w.late -= l.early(node)
		}
		w.leads(l.leads)
	} else {
		l.unmade++
	}
	l.elected, l.leads = l.now(), node
}

// early is how many attempts counted as late of a node that led before, because it
// was not seen yet that it leads again.
func (l *ledger) early(node int) (n int) {
	since := max(l.elected+lateAfter, l.now()-lateAfter)
	for _, a := range l.recent {
		if l.window.led[node] && int(a.node) == node && a.at > since {
			n++
		}
	}
	return n
}

// leads notes who led in the event or before it, and may have attempts without a record.
func (w *window) leads(node int) {
	if node != nobody {
		w.led[node] = true
	}
}

// open begins a window, at the moment of the harm.
func (l *ledger) open() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	l.window = &window{began: now, first: l.n, proof: l.proven, under: l.under, acked: now, arrived: now, counts: l.counts}
	l.window.leads(l.leads)
}

// close ends the window, if there is one, and returns it with what is known now.
func (l *ledger) close() window {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.window
	if w == nil {
		return window{}
	}
	for number := range l.failing {
		w.retry = max(w.retry, l.now()-max(l.failing[number], w.began))
	}
	l.window = nil
	if w.elected > 0 {
		for _, a := range l.recent {
			if a.at > w.proof-grace && a.at <= l.elected && (a.node == nobody || w.led[a.node]) {
				w.exposed++
			}
		}
		w.exposed += w.late
	}
	w.counts = l.counts.since(w.counts)
	return *w
}

func (c Counts) since(before Counts) Counts {
	c.Sent -= before.Sent
	c.Acknowledged -= before.Acknowledged
	c.Refused -= before.Refused
	c.Unknown -= before.Unknown
	c.Asked -= before.Asked
	c.Retried -= before.Retried
	c.Repeated -= before.Repeated
	c.Again -= before.Again
	c.Held -= before.Held
	c.Rechecked -= before.Rechecked
	return c
}
