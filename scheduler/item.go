package scheduler

// itemRef is the index of an item in Scheduler.items; 0 is none.
type itemRef uint32

// itemState says where an item stands. A waiting item is in its lane's heap
// and in one list: the young ones in log order, or its lane's stored ones.
type itemState uint8

const (
	itemYoung      itemState = 1 + iota // waits; not known to be on disk
	itemStored                          // waits; on disk
	itemInFlight                        // busy: its attempt has not ended
	itemUnrecorded                      // busy: ended, the result is not recorded
)

// item is 64 bytes: one cache line, no pointer. While it is in flight the
// links of the heap hold other things, see start.
type item struct {
	id       ID
	due      Time
	logIndex uint64 // of the log entry that brought it; 0: it was on disk from the start
	attempt  uint32
	lane     laneRef

	left, right, parent itemRef // in the lane's heap of waiting items
	prev, next          itemRef // in the young list, the lane's stored list, or that of flights
	rank                uint8   // leftist heap: steps to the nearest missing child, plus one
	state               itemState
	class               Class
	late                bool // in flight for long, and not in the list of flights
}

func (n *item) item() Item { return Item{ID: n.id, Due: n.due, Attempt: n.attempt, Class: n.class} }

// start puts an item that is in no heap in flight. The low half of the moment
// is enough: no attempt takes seven weeks. cost is in microseconds.
func (n *item) start(now Time, cost int64) {
	n.state = itemInFlight
	n.left, n.right = itemRef(uint32(now)), itemRef(uint32(min(cost, mostCost)))
}

// begun returns when an item in flight was started, and at what cost.
func (n *item) begun(now Time) (Time, int64) {
	return now - Time(int32(uint32(now)-uint32(n.left))), int64(n.right)
}

func (n *item) land() { n.state, n.left, n.right, n.late = itemUnrecorded, 0, 0, false }

func (n *item) position() Position { return Position{Due: n.due, ID: n.id, Attempt: n.attempt} }

func (n *item) waiting() bool { return n.state == itemYoung || n.state == itemStored }

func (n *item) before(m *item) bool {
	if n.due != m.due {
		return n.due < m.due
	}
	if c := n.id.compare(m.id); c != 0 {
		return c < 0
	}
	return n.attempt < m.attempt
}

// itemHeap keeps the waiting items of every lane in one slab, as one leftist
// heap per lane (Crane 1972; Knuth, The Art of Computer Programming 5.2.3).
// A lane owns nothing but the index of its root, so that 100,000 lanes
// allocate no 100,000 arrays, and push, pop and removal from the middle are
// O(log n) at worst, also when one lane holds a hundred thousand young items.
type itemHeap struct {
	slab[itemRef, item]
}

// meld merges two heaps and returns the root, whose parent is left as it was.
func (h *itemHeap) meld(a, b itemRef) itemRef {
	switch {
	case a == 0:
		return b
	case b == 0:
		return a
	}
	if h.at(b).before(h.at(a)) {
		a, b = b, a
	}
	// Down the right spines, always on into the smaller root; they are
	// O(log n) long. Then up again to restore the ranks.
	root := a
	for {
		n := h.at(a)
		small, big := n.right, b
		if small == 0 || h.at(big).before(h.at(small)) {
			small, big = big, small
		}
		n.right = small
		h.at(small).parent = a
		if big == 0 {
			break
		}
		a, b = small, big
	}
	for {
		n := h.at(a)
		h.lean(n)
		if a == root {
			return root
		}
		a = n.parent
	}
}

// lean restores the leftist rule in one node: the nearest gap is on the right.
func (h *itemHeap) lean(n *item) {
	if h.at(n.left).rank < h.at(n.right).rank {
		n.left, n.right = n.right, n.left
	}
	n.rank = h.at(n.right).rank + 1
}

// push adds an item with empty links and returns the new root.
func (h *itemHeap) push(root, i itemRef) itemRef {
	h.at(i).rank = 1
	root = h.meld(root, i)
	h.at(root).parent = 0
	return root
}

// remove takes an item out of the heap and returns the new root.
func (h *itemHeap) remove(root, i itemRef) itemRef {
	n := h.at(i)
	parent := n.parent
	sub := h.meld(n.left, n.right)
	n.left, n.right, n.parent, n.rank = 0, 0, 0, 0
	if sub != 0 {
		h.at(sub).parent = parent
	}
	if parent == 0 {
		return sub
	}
	if p := h.at(parent); p.left == i {
		p.left = sub
	} else {
		p.right = sub
	}
	// Ranks change only along a right spine of the ancestors: O(log n).
	for parent != 0 {
		p := h.at(parent)
		old := p.rank
		h.lean(p)
		if p.rank == old {
			break
		}
		parent = p.parent
	}
	return root
}

// An itemList is a list of items through their prev and next links. The
// zero list is empty.
type itemList struct {
	head, tail itemRef
	count      int32
}

func (h *itemHeap) append(l *itemList, i itemRef) {
	n := h.at(i)
	n.prev, n.next = l.tail, 0
	if l.tail == 0 {
		l.head = i
	} else {
		h.at(l.tail).next = i
	}
	l.tail = i
	l.count++
}

func (h *itemHeap) unlink(l *itemList, i itemRef) {
	n := h.at(i)
	if n.prev == 0 {
		l.head = n.next
	} else {
		h.at(n.prev).next = n.next
	}
	if n.next == 0 {
		l.tail = n.prev
	} else {
		h.at(n.next).prev = n.prev
	}
	n.prev, n.next = 0, 0
	l.count--
}
