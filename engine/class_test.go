package engine

import (
	"testing"

	"github.com/harepost/harepost/engine/state"
	"github.com/harepost/harepost/scheduler"
)

// A first attempt is one also if it had to wait for its turn by an ordering key: it
// does not share the small part of a lane that replays have.
func TestTurnsAreNoReplays(t *testing.T) {
	d := newDispatcher(&Engine{log: walLog{}, opts: Options{MaxInFlight: 4, LaneConcurrency: 4}}, 1)
	at := state.Lane{Account: 1, Destination: 2}
	for attempt, want := range map[uint32]scheduler.Class{1: scheduler.Fresh, 3: scheduler.Replay} {
		id := DeliveryID{byte(attempt)}
		d.controlled(&state.Effect{Requeued: []state.Requeued{{Lane: at, Position: state.Position{Due: 5, ID: id, Attempt: attempt}}}}, 10)
		next, ok := d.sched.Next(10)
		if !ok || DeliveryID(next.Item.ID) != id || next.Item.Class != want {
			t.Errorf("attempt %d: %+v, %t; want one of class %d", attempt, next.Item, ok, want)
		}
	}
}

// What a command has put into the disk queue can be read before the scheduler is
// told: by then a page may have brought it, and its attempt begun.
func TestReplayThatAPageHasBrought(t *testing.T) {
	for _, attempt := range []uint32{1, 3} {
		d := newDispatcher(&Engine{log: walLog{}, opts: Options{MaxInFlight: 4, LaneConcurrency: 4}}, 1)
		at := state.Lane{Account: 1, Destination: 2}
		p := state.Position{Due: 5, ID: DeliveryID{7}, Attempt: attempt}
		d.sched.Restore(laneKey(at), schedulerPosition(p), 10)
		if _, ok := d.sched.NextPage(); !ok {
			t.Fatal("no page is wanted")
		}
		d.sched.Paged(laneKey(at), []scheduler.Item{schedulerItem(p)}, false, 10)
		if _, ok := d.sched.Next(10); !ok {
			t.Fatal("the page brought nothing")
		}
		d.controlled(&state.Effect{Requeued: []state.Requeued{{Lane: at, Position: p}}}, 10)
		if next, ok := d.sched.Next(10); ok {
			t.Errorf("attempt %d is made twice: %+v", attempt, next)
		}
	}
}
