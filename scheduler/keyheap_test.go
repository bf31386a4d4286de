package scheduler

import (
	"testing"

	"pgregory.net/rapid"
)

func TestKeyHeapKnowsTheSmallestOfAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var h keyHeap
		var p places
		want := map[uint32]int64{}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			ref := uint32(rapid.IntRange(1, 60).Draw(t, "ref"))
			if rapid.IntRange(0, 2).Draw(t, "what") == 0 {
				h.remove(&p, ref)
				delete(want, ref)
			} else {
				key := int64(rapid.IntRange(0, 1000).Draw(t, "key"))
				h.set(&p, ref, key)
				want[ref] = key
			}
			compareKeyHeap(t, &h, &p, want)
		}
	})
}

func compareKeyHeap(t *rapid.T, h *keyHeap, p *places, want map[uint32]int64) {
	if len(h.entries) != len(want) {
		t.Fatalf("%d entries, want %d", len(h.entries), len(want))
	}
	for i, e := range h.entries {
		if e.key != want[e.ref] || *p.at(e.ref) != uint32(i+1) {
			t.Fatalf("entry %d is %+v at place %d, want %d", i, e, *p.at(e.ref), want[e.ref])
		}
		if parent := h.entries[max(i-1, 0)/4]; parent.key > e.key {
			t.Fatalf("entry %d with key %d is below one with %d", i, e.key, parent.key)
		}
	}
	first, ok := h.first()
	for _, key := range want {
		if !ok || key < first.key {
			t.Fatalf("first is %+v (%t), but one has key %d", first, ok, key)
		}
	}
}
