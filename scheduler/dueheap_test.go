package scheduler

import (
	"testing"

	"pgregory.net/rapid"
)

func TestDueHeapKnowsTheEarliestOfAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var h dueHeap
		want := map[laneRef]Time{}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			r := laneRef(rapid.IntRange(1, 60).Draw(t, "lane"))
			if rapid.IntRange(0, 2).Draw(t, "what") == 0 {
				h.remove(r)
				delete(want, r)
			} else {
				due := Time(rapid.IntRange(0, 1000).Draw(t, "due"))
				h.set(r, due)
				want[r] = due
			}
			compareDueHeap(t, &h, want)
		}
	})
}

func compareDueHeap(t *rapid.T, h *dueHeap, want map[laneRef]Time) {
	if len(h.entries) != len(want) {
		t.Fatalf("%d lanes, want %d", len(h.entries), len(want))
	}
	for i, e := range h.entries {
		if e.due != want[e.lane] || *h.places.at(uint32(e.lane)) != uint32(i+1) {
			t.Fatalf("entry %d is %+v at place %d, want %d", i, e, *h.places.at(uint32(e.lane)), want[e.lane])
		}
		if parent := h.entries[max(i-1, 0)/4]; parent.due > e.due {
			t.Fatalf("entry %d, due at %d, is below one due at %d", i, e.due, parent.due)
		}
	}
	first, ok := h.first()
	for _, due := range want {
		if !ok || due < first {
			t.Fatalf("first is %d (%t), but one is due at %d", first, ok, due)
		}
	}
}
