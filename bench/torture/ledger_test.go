package torture

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// sendOne has a send begin now and be acknowledged as id.
func sendOne(l *ledger, id string) (number int) {
	number, _ = l.send()
	l.acknowledge(number, id, 0, l.asking(false))
	return number
}

// arriveOne has an attempt arrive from a node and be answered with 200.
func arriveOne(l *ledger, number int, id string, attempt, node int) {
	_, over := l.arrive(number, id, attempt, node)
	over(true)
}

// Every promise that can be broken is seen to be broken, and nothing else is.
func TestLedgerSeesWhatMustNotBe(t *testing.T) {
	f := func(name, fault string, story func(l *ledger)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := openLedger()
				l.lead(0)
				time.Sleep(time.Minute)
				story(l)
				time.Sleep(time.Millisecond)
				_, faults := l.faulty()
				_, _, examples := l.balance()
				got := strings.Join(append(faults, examples...), "\n")
				if (fault == "") != (got == "") || !strings.Contains(got, fault) {
					t.Errorf("found %q, want %q", got, fault)
				}
			})
		})
	}
	// electing makes an event in which node 1 comes to lead.
	electing := func(l *ledger) {
		l.open()
		time.Sleep(time.Second)
		l.lead(1)
	}
	f("all is well", "", func(l *ledger) {
		arriveOne(l, sendOne(l, "a"), "a", 1, 0)
		number := sendOne(l, "b")
		_, over := l.arrive(number, "b", 1, 0)
		over(false)
		arriveOne(l, number, "b", 2, 0)
		number, _ = l.send()
		arriveOne(l, number, "c", 1, 0) // before the answer
		l.acknowledge(number, "c", 1, l.asking(false))
	})
	f("lost", "never arrived", func(l *ledger) { sendOne(l, "a") })
	f("refused and received", "was refused and arrived", func(l *ledger) {
		number, _ := l.send()
		l.end(number, refused)
		arriveOne(l, number, "a", 1, 0)
	})
	f("unknown and received", "", func(l *ledger) {
		number, _ := l.send()
		l.end(number, unknown)
		arriveOne(l, number, "a", 1, 0)
	})
	f("never sent", "nobody sent", func(l *ledger) { arriveOne(l, 7, "a", 1, 0) })
	f("two ids in answers", "acknowledged under two ids", func(l *ledger) {
		number := sendOne(l, "a")
		arriveOne(l, number, "a", 1, 0)
		l.acknowledge(number, "b", 1, l.asking(true))
	})
	f("two ids at the receiver", "arrived under two ids", func(l *ledger) {
		number := sendOne(l, "a")
		arriveOne(l, number, "a", 1, 0)
		arriveOne(l, number, "b", 1, 0)
	})
	f("another id at the receiver", "acknowledged under another id", func(l *ledger) {
		arriveOne(l, sendOne(l, "a"), "b", 1, 0)
	})
	f("repeated between events", "between events", func(l *ledger) {
		number := sendOne(l, "a")
		arriveOne(l, number, "a", 1, 0)
		arriveOne(l, number, "a", 1, 0)
	})
	f("repeated by a new leader", "", func(l *ledger) {
		number := sendOne(l, "a")
		arriveOne(l, number, "a", 1, 0)
		electing(l)
		arriveOne(l, number, "a", 1, 1)
		if w := l.close(); w.repeats != 1 || w.exposed != 1 {
			t.Errorf("%d repeated of %d", w.repeats, w.exposed)
		}
	})
	f("repeated after a change of leadership that nobody made", "", func(l *ledger) {
		number := sendOne(l, "a")
		arriveOne(l, number, "a", 1, 0)
		l.lead(1)
		time.Sleep(time.Second)
		arriveOne(l, number, "a", 1, 1)
	})
	f("repeated before the change of leadership is seen", "", func(l *ledger) {
		number := sendOne(l, "a")
		arriveOne(l, number, "a", 1, 0)
		arriveOne(l, number, "a", 1, 1)
		time.Sleep(seenWithin)
		l.lead(1)
	})
	f("repeated long before a change of leadership", "between events", func(l *ledger) {
		number := sendOne(l, "a")
		arriveOne(l, number, "a", 1, 0)
		arriveOne(l, number, "a", 1, 1)
		time.Sleep(seenWithin + time.Millisecond)
		l.lead(1)
	})
	f("repeated although on record", "on record by", func(l *ledger) {
		number := sendOne(l, "a")
		arriveOne(l, number, "a", 1, 0)
		time.Sleep(grace + time.Millisecond)
		arriveOne(l, sendOne(l, "b"), "b", 1, 0) // the proof
		electing(l)
		arriveOne(l, number, "a", 1, 1)
		l.close()
	})
}

// The bound of an event is what arrived from a grace before the last proof until
// another node leads, and what came late; without an election it is nothing.
func TestBoundIsWhatMayHaveNoRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openLedger()
		time.Sleep(time.Minute)
		l.lead(0)
		arriveOne(l, sendOne(l, "a"), "a", 1, 0)
		time.Sleep(grace)
		sendOne(l, "proof")
		time.Sleep(100 * time.Millisecond)
		arriveOne(l, sendOne(l, "b"), "b", 1, 0)
		l.open()
		arriveOne(l, sendOne(l, "c"), "c", 1, 0)
		if w := l.close(); w.exposed != 0 || w.elected != 0 {
			t.Errorf("without an election %d are exposed, %d elections", w.exposed, w.elected)
		}
		l.open()
		arriveOne(l, sendOne(l, "d"), "d", 1, 0)
		time.Sleep(time.Second)
		l.lead(1)
		time.Sleep(time.Millisecond)
		arriveOne(l, sendOne(l, "e"), "e", 1, 1)
		time.Sleep(lateAfter - time.Millisecond)
		arriveOne(l, sendOne(l, "f"), "f", 1, 1)
		arriveOne(l, sendOne(l, "g"), "g", 1, 0)
		time.Sleep(time.Millisecond)
		arriveOne(l, sendOne(l, "h"), "h", 1, 0)
		// b, c, d are from before the election, h is the old leader's from after it.
		w := l.close()
		if w.exposed != 4 || w.late != 1 || w.elected != 1 {
			t.Errorf("%d exposed, %d late, %d elections", w.exposed, w.late, w.elected)
		}
		if w.firstAck != 1 || w.gap < time.Second || w.ackGap < time.Second {
			t.Errorf("accepted after %s, gaps %s and %s", w.firstAck, w.gap, w.ackGap)
		}
	})
}

// A node that led before is late while another leads, and not while it is about to be seen to lead again.
func TestWhoLeadsAgainIsNotLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openLedger()
		time.Sleep(time.Minute)
		l.lead(0)
		l.open()
		l.lead(1)
		time.Sleep(time.Second)
		arriveOne(l, sendOne(l, "late"), "late", 1, 0)
		time.Sleep(time.Second)
		arriveOne(l, sendOne(l, "again"), "again", 1, 0)
		time.Sleep(lateAfter - time.Millisecond)
		l.lead(0)
		if w := l.close(); w.late != 1 {
			t.Errorf("%d are late", w.late)
		}
	})
}

// How long a send failed is known as soon as it is acknowledged, or while it fails still.
func TestLedgerKnowsHowLongSendsFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openLedger()
		number, _ := l.send()
		l.failed(number)
		time.Sleep(time.Minute)
		l.open()
		time.Sleep(time.Second)
		l.failed(number)
		l.acknowledge(number, "a", 0, l.asking(true))
		sendOne(l, "b")
		if w := l.close(); w.retry != time.Second {
			t.Errorf("a send that failed before and in the event: %s", w.retry)
		}
		number, _ = l.send()
		l.open()
		l.failed(number)
		time.Sleep(2 * time.Second)
		if w := l.close(); w.retry != 2*time.Second {
			t.Errorf("a send that fails still: %s", w.retry)
		}
		l.end(number, unknown)
		l.open()
		time.Sleep(time.Second)
		if w := l.close(); w.retry != 0 {
			t.Errorf("no send fails: %s", w.retry)
		}
	})
}

// The arrivals that are kept for bounds do not grow between events.
func TestLedgerForgetsArrivals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openLedger()
		for range 20_000 {
			time.Sleep(2 * time.Millisecond)
			arriveOne(l, sendOne(l, "a"), "a", 1, 0)
		}
		if most := int(keptArrivals/(2*time.Millisecond)) + 512; len(l.recent) > most {
			t.Errorf("%d arrivals are kept, want %d at most", len(l.recent), most)
		}
	})
}

// What a node has logged last is there, however much it logs.
func TestKeptLog(t *testing.T) {
	var k keptLog
	for i := range 100_000 {
		k.Write([]byte(strings.Repeat("x", i%50) + "\n"))
	}
	k.Write([]byte("one\ntwo\nthree\n"))
	if len(k.buf) > 2*keptLogBytes || k.tail(2) != "two\nthree\n" {
		t.Errorf("%d bytes are kept, the last lines are %q", len(k.buf), k.tail(2))
	}
	var short keptLog
	short.Write([]byte("one\n"))
	if short.tail(5) != "one\n" {
		t.Errorf("the last lines are %q", short.tail(5))
	}
}

// What a node sends is itself again at the receiver, and nothing else is.
func TestBodies(t *testing.T) {
	for number := range 100 {
		if large := largeBody(number, 4000+number); !isLarge(large) || isLarge(large+"x") || isLarge(bodyOf(number)) {
			t.Errorf("the large body of %d is not told from others", number)
		}
	}
}

// A turn of events is what the place allows.
func TestPossibleKinds(t *testing.T) {
	f := func(nodes int, isolated bool, want int) {
		t.Helper()
		o := Options{Binary: "x", Dir: "y", Nodes: nodes, Isolated: isolated}
		if err := o.complete(); err != nil || len(o.Kinds) != want {
			t.Errorf("%d nodes, isolated %v: %q, %v", nodes, isolated, o.Kinds, err)
		}
	}
	f(3, true, 14)
	f(3, false, 8)
	f(1, true, 7)
	f(1, false, 4)
	if o := (Options{Binary: "x", Other: "z", Dir: "y"}); o.complete() != nil || !slices.Contains(o.Kinds, UpgradeAll) {
		t.Errorf("with another program: %q", o.Kinds)
	}
}
