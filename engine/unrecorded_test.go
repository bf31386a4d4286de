package engine

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/harepost/harepost/scheduler"
)

// However many attempts could be made, no more are than may wait for their records;
// each record lets one more begin.
func TestAttemptsWaitForTheirRecords(t *testing.T) {
	now := time.Now()
	d := newDispatcher(&Engine{log: walLog{}, opts: Options{LaneConcurrency: 10}}, 1)
	lane := scheduler.LaneKey{Account: 1, Destination: 1}
	for n := range 2 * mostUnrecorded {
		var id scheduler.ID
		binary.BigEndian.PutUint64(id[:], uint64(n+1))
		d.sched.Add(lane, scheduler.Item{ID: id, Due: schedulerTime(now), Attempt: 1}, 1, schedulerTime(now))
	}
	var made []scheduler.ID
	attempt := func() bool {
		next, ok := d.next(now)
		if ok {
			d.sched.Done(next.Lane, next.Item.ID, scheduler.Ended{Took: time.Millisecond}, schedulerTime(now))
			made = append(made, next.Item.ID)
		}
		return ok
	}
	for attempt() {
	}
	if len(made) != mostUnrecorded || !d.behind {
		t.Fatalf("%d attempts without a record, want %d; behind: %t", len(made), mostUnrecorded, d.behind)
	}
	for n := range 10 {
		d.sched.Recorded(lane, made[n])
		if !attempt() || attempt() {
			t.Fatalf("record %d did not let one attempt begin", n)
		}
	}
}
