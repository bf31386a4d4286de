package scheduler

// A dueHeap orders lanes by the moment their oldest waiting item was due: an
// indexed heap with four children per node, whose keys fill one cache line.
// Every change is O(log n); a change to the moment a lane has is free.
type dueHeap struct {
	entries []dueEntry
	places  table[uint32] // by lane: its index in entries plus one, 0: not in the heap
}

type dueEntry struct {
	due  Time
	lane laneRef
}

// set adds the lane or moves it to another moment.
func (h *dueHeap) set(r laneRef, due Time) {
	h.places.grow(uint32(r))
	place := *h.places.at(uint32(r))
	if place == 0 {
		h.entries = append(h.entries, dueEntry{due, r})
		h.up(len(h.entries) - 1)
		return
	}
	i := int(place - 1)
	old := h.entries[i].due
	h.entries[i].due = due
	switch {
	case due < old:
		h.up(i)
	case due > old:
		h.down(i)
	}
}

// remove takes the lane out, if it is in.
func (h *dueHeap) remove(r laneRef) {
	h.places.grow(uint32(r))
	place := h.places.at(uint32(r))
	if *place == 0 {
		return
	}
	i := int(*place - 1)
	*place = 0
	n := len(h.entries) - 1
	moved := h.entries[n]
	h.entries = h.entries[:n]
	if i == n {
		return
	}
	h.entries[i] = moved
	if i > 0 && moved.due < h.entries[(i-1)/4].due {
		h.up(i)
	} else {
		h.down(i)
	}
}

// first returns the earliest moment.
func (h *dueHeap) first() (Time, bool) {
	if len(h.entries) == 0 {
		return 0, false
	}
	return h.entries[0].due, true
}

func (h *dueHeap) up(i int) {
	e := h.entries[i]
	for i > 0 {
		parent := (i - 1) / 4
		if h.entries[parent].due <= e.due {
			break
		}
		h.settle(i, h.entries[parent])
		i = parent
	}
	h.settle(i, e)
}

func (h *dueHeap) down(i int) {
	e := h.entries[i]
	for {
		child := 4*i + 1
		if child >= len(h.entries) {
			break
		}
		for c := child + 1; c < min(4*i+5, len(h.entries)); c++ {
			if h.entries[c].due < h.entries[child].due {
				child = c
			}
		}
		if h.entries[child].due >= e.due {
			break
		}
		h.settle(i, h.entries[child])
		i = child
	}
	h.settle(i, e)
}

// settle writes an entry into a place and remembers where it is.
func (h *dueHeap) settle(i int, e dueEntry) {
	h.entries[i] = e
	*h.places.at(uint32(e.lane)) = uint32(i + 1)
}
