package scheduler

// A keyHeap orders lanes or accounts by a number: an indexed heap with four
// children per node, whose keys fill one cache line. Every change is O(log n);
// a change to the number that an entry has is free.
type keyHeap struct {
	entries []keyEntry
}

type keyEntry struct {
	key int64
	ref uint32
}

// places says where in its heap an entry stands: its index plus one, 0: in none.
// Heaps whose entries are never in two of them at once share one.
type places = table[uint32]

// set adds the entry or moves it to another key.
func (h *keyHeap) set(p *places, ref uint32, key int64) {
	p.grow(ref)
	place := *p.at(ref)
	if place == 0 {
		h.entries = append(h.entries, keyEntry{key, ref})
		h.up(p, len(h.entries)-1)
		return
	}
	i := int(place - 1)
	old := h.entries[i].key
	h.entries[i].key = key
	switch {
	case key < old:
		h.up(p, i)
	case key > old:
		h.down(p, i)
	}
}

// remove takes the entry out, if it is in.
func (h *keyHeap) remove(p *places, ref uint32) {
	p.grow(ref)
	place := p.at(ref)
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
	if i > 0 && moved.key < h.entries[(i-1)/4].key {
		h.up(p, i)
	} else {
		h.down(p, i)
	}
}

// first returns the entry with the smallest key.
func (h *keyHeap) first() (keyEntry, bool) {
	if len(h.entries) == 0 {
		return keyEntry{}, false
	}
	return h.entries[0], true
}

func (h *keyHeap) up(p *places, i int) {
	e := h.entries[i]
	for i > 0 {
		parent := (i - 1) / 4
		if h.entries[parent].key <= e.key {
			break
		}
		h.settle(p, i, h.entries[parent])
		i = parent
	}
	h.settle(p, i, e)
}

func (h *keyHeap) down(p *places, i int) {
	e := h.entries[i]
	for {
		child := 4*i + 1
		if child >= len(h.entries) {
			break
		}
		for c := child + 1; c < min(4*i+5, len(h.entries)); c++ {
			if h.entries[c].key < h.entries[child].key {
				child = c
			}
		}
		if h.entries[child].key >= e.key {
			break
		}
		h.settle(p, i, h.entries[child])
		i = child
	}
	h.settle(p, i, e)
}

// settle writes an entry into a place and remembers where it is.
func (h *keyHeap) settle(p *places, i int, e keyEntry) {
	h.entries[i] = e
	*p.at(e.ref) = uint32(i + 1)
}
