package scheduler

import (
	"cmp"
	"math/bits"
	"slices"
)

// tickMs is the resolution of the wheel.
const tickMs = 10

// tick is a moment in units of tickMs since the Unix epoch.
type tick int64

// The levels. A level-0 slot is one tick; a slot of a higher level is one
// whole turn of the level below.
const (
	bits0 = 8 // 256 slots of 10 ms: 2.56 s
	bits1 = 6 // 64 slots of 2.56 s: 2.7 min
	bits2 = 6 // 64 slots of 2.7 min: 2.9 h

	shift1 = bits0
	shift2 = bits0 + bits1
	shift3 = bits0 + bits1 + bits2 // ticks that differ from here on are far
)

// The lists an entry can be in. Each level's slots follow one another.
const (
	listNone    = 0
	listLevel0  = 1
	listLevel1  = listLevel0 + 1<<bits0
	listLevel2  = listLevel1 + 1<<bits1
	listFar     = listLevel2 + 1<<bits2
	listExpired = listFar + 1
	listCount   = listExpired + 1
)

// rebaseTicks is how far the clock must step back for the wheel to follow it:
// one second. For a smaller step the wheel stands still and waits.
const rebaseTicks = 100

// A wheel is a hierarchical timing wheel (Varghese and Lauck, "Hashed and
// Hierarchical Timing Wheels", 1987, scheme 7). It times small integer keys,
// one moment each. It has no clock: advance is told the time.
//
// An entry stands in the level of the highest bit group in which its tick
// differs from the wheel's: level 0 holds the rest of the present 256-tick
// block, level 1 the rest of the present block of 64 such blocks, level 2
// likewise. When the wheel enters a block, the slot that stands for the block
// is taken apart and its entries placed anew (they cascade). So every entry
// of a level is due before every entry of the next one, and a level-0 slot is
// never filled from above while it holds something: entries of one tick expire
// in the order they were set.
//
// What is due past the present 2.9-hour block is far, in one unordered list
// that is searched when the wheel enters the next block in which one of its
// entries is due: once in 2.9 hours, 100,000 entries in a millisecond or two.
//
//	set, cancel  O(1)
//	next         O(1), by a bitmap per level
//	advance      O(entries that expire or cascade), however far the jump
//	memory       24 bytes for every key up to the highest ever set
//
// An entry expires at the first tick that begins at or after its moment:
// never early, at most 10 ms late.
type wheel struct {
	now     tick // everything due at or before it has expired
	count   int  // entries in any list
	lists   [listCount]wheelList
	level0  [1 << bits0 / 64]uint64 // bit set: the slot is not empty
	level1  uint64
	level2  uint64
	farMin  tick // no far entry is due before it; may be too small after a cancel
	entries table[wheelEntry]
	scratch []uint32
}

type wheelEntry struct {
	due        tick
	prev, next uint32 // keys, 0: none
	list       uint16
}

type wheelList struct{ head, tail uint32 }

// newWheel returns an empty wheel that stands at now.
func newWheel(now Time) *wheel {
	w := &wheel{now: tickAt(now)}
	w.entries.grow(0)
	return w
}

// tickAt returns the tick that contains t.
func tickAt(t Time) tick { return tick(max(t, 0) / tickMs) }

// tickFrom returns the first tick that begins at or after t.
func tickFrom(t Time) tick {
	n := tickAt(t)
	if t > 0 && t%tickMs != 0 {
		n++
	}
	return n
}

func (n tick) start() Time { return Time(n) * tickMs }

// set makes key, which is not 0, expire at the given moment instead of any
// earlier one. A moment that has passed already expires with the next tick:
// the wheel cannot tell it from one that is still to come on a clock that
// was set back.
func (w *wheel) set(key uint32, at Time) {
	w.entries.grow(key)
	due := max(tickFrom(at), w.now+1)
	e := w.entries.at(key)
	if e.list != listNone {
		if e.due == due && e.list != listExpired {
			return
		}
		w.unlink(key, e)
	}
	e.due = due
	w.place(key, e)
}

// cancel removes key, also if it has expired and was not taken yet.
func (w *wheel) cancel(key uint32) {
	if int(key>>chunkBits) >= len(w.entries.chunks) {
		return
	}
	if e := w.entries.at(key); e.list != listNone {
		w.unlink(key, e)
	}
}

// takeExpired removes and returns the key that expired first.
func (w *wheel) takeExpired() (key uint32, ok bool) {
	key = w.lists[listExpired].head
	if key == 0 {
		return 0, false
	}
	w.unlink(key, w.entries.at(key))
	return key, true
}

// next returns when advance has something to do, an expiry or a cascade;
// false if the wheel is empty.
func (w *wheel) next() (Time, bool) {
	if w.lists[listExpired].head != 0 {
		return w.now.start(), true
	}
	n, _, ok := w.nextList()
	return n.start(), ok
}

// nextList returns the list that is to be taken apart next, and at which tick.
func (w *wheel) nextList() (at tick, list uint16, ok bool) {
	if i, ok := w.firstOfLevel0(); ok {
		return w.now>>bits0<<bits0 | tick(i), listLevel0 + uint16(i), true
	}
	if w.level1 != 0 {
		i := bits.TrailingZeros64(w.level1)
		return w.now>>shift2<<shift2 | tick(i)<<shift1, listLevel1 + uint16(i), true
	}
	if w.level2 != 0 {
		i := bits.TrailingZeros64(w.level2)
		return w.now>>shift3<<shift3 | tick(i)<<shift2, listLevel2 + uint16(i), true
	}
	if w.lists[listFar].head != 0 {
		return w.farMin >> shift3 << shift3, listFar, true
	}
	return 0, listNone, false
}

func (w *wheel) firstOfLevel0() (int, bool) {
	for i, word := range w.level0 {
		if word != 0 {
			return i*64 + bits.TrailingZeros64(word), true
		}
	}
	return 0, false
}

// advance moves the wheel to now and expires what has become due, in order.
// A clock that went back expires nothing; if it went back by more than a
// second, the wheel is set back too, in O(entries).
func (w *wheel) advance(now Time) {
	target := tickAt(now)
	if w.wentBack(now) {
		w.rebase(target)
		return
	}
	for w.now < target {
		at, list, ok := w.nextList()
		switch {
		case !ok || at > target:
			w.now = target // crosses no slot that holds anything
		case list == listFar:
			w.takeFar(target)
		default:
			w.now = at
			w.replace(list)
		}
	}
}

// wentBack reports whether the clock has gone back so far that the wheel follows.
func (w *wheel) wentBack(now Time) bool { return tickAt(now) < w.now-rebaseTicks }

// expireAll expires everything, due or not, in O(entries).
func (w *wheel) expireAll() {
	for list := range uint16(listExpired) {
		for key := w.lists[list].head; key != 0; key = w.lists[list].head {
			e := w.entries.at(key)
			w.unlink(key, e)
			e.due = w.now
			w.place(key, e)
		}
	}
}

// replace places the entries of a list anew, in their order, after the wheel
// has moved. Those whose tick has come expire.
func (w *wheel) replace(list uint16) {
	key := w.lists[list].head
	w.lists[list] = wheelList{}
	w.mark(list, false)
	for key != 0 {
		e := w.entries.at(key)
		next := e.next
		w.count--
		w.place(key, e)
		key = next
	}
}

// takeFar moves the wheel to target and takes out the far entries that are
// due up to the end of target's block. Everything nearer has expired. The
// sort keeps expiry in order over a jump of many blocks.
func (w *wheel) takeFar(target tick) {
	due := w.scratch[:0]
	w.farMin = 1<<63 - 1
	for key := w.lists[listFar].head; key != 0; {
		e := w.entries.at(key)
		next := e.next
		if e.due>>shift3 <= target>>shift3 {
			w.unlink(key, e)
			due = append(due, key)
		} else {
			w.farMin = min(w.farMin, e.due)
		}
		key = next
	}
	slices.SortStableFunc(due, func(a, b uint32) int {
		return cmp.Compare(w.entries.at(a).due, w.entries.at(b).due)
	})
	w.now = max(w.now, target)
	for _, key := range due {
		w.place(key, w.entries.at(key))
	}
	w.scratch = due[:0]
}

// rebase moves the wheel back to an earlier tick.
func (w *wheel) rebase(target tick) {
	keys := w.scratch[:0]
	for list := range uint16(listExpired) {
		for key := w.lists[list].head; key != 0; key = w.lists[list].head {
			w.unlink(key, w.entries.at(key))
			keys = append(keys, key)
		}
	}
	w.now = target
	for _, key := range keys {
		w.place(key, w.entries.at(key))
	}
	w.scratch = keys[:0]
}

// place appends an entry that is in no list to the list it belongs to.
func (w *wheel) place(key uint32, e *wheelEntry) {
	list := w.listFor(e.due)
	if list == listFar {
		if w.lists[listFar].head == 0 {
			w.farMin = e.due
		}
		w.farMin = min(w.farMin, e.due)
	}
	l := &w.lists[list]
	e.list, e.prev, e.next = list, l.tail, 0
	if l.tail == 0 {
		l.head = key
		w.mark(list, true)
	} else {
		w.entries.at(l.tail).next = key
	}
	l.tail = key
	w.count++
}

func (w *wheel) listFor(due tick) uint16 {
	differ := due ^ w.now
	switch {
	case due <= w.now:
		return listExpired
	case differ < 1<<shift1:
		return listLevel0 + uint16(due&(1<<bits0-1))
	case differ < 1<<shift2:
		return listLevel1 + uint16(due>>shift1&(1<<bits1-1))
	case differ < 1<<shift3:
		return listLevel2 + uint16(due>>shift2&(1<<bits2-1))
	}
	return listFar
}

func (w *wheel) unlink(key uint32, e *wheelEntry) {
	l := &w.lists[e.list]
	if e.prev == 0 {
		l.head = e.next
	} else {
		w.entries.at(e.prev).next = e.next
	}
	if e.next == 0 {
		l.tail = e.prev
	} else {
		w.entries.at(e.next).prev = e.prev
	}
	if l.head == 0 {
		w.mark(e.list, false)
	}
	e.list, e.prev, e.next = listNone, 0, 0
	w.count--
}

// mark keeps the bitmaps: whether a list holds anything.
func (w *wheel) mark(list uint16, filled bool) {
	var word *uint64
	var bit uint16
	switch {
	case list >= listFar:
		return
	case list >= listLevel2:
		word, bit = &w.level2, list-listLevel2
	case list >= listLevel1:
		word, bit = &w.level1, list-listLevel1
	default:
		bit = list - listLevel0
		word = &w.level0[bit/64]
		bit %= 64
	}
	if filled {
		*word |= 1 << bit
	} else {
		*word &^= 1 << bit
	}
}
