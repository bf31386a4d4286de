package transport

// lru is a map bounded by evicting what was used longest ago. It has no lock;
// its owner's lock guards it.
type lru[K comparable, V any] struct {
	max   int
	items map[K]*lruItem[K, V]
	root  lruItem[K, V] // ring: root.next is the newest, root.prev the oldest
}

type lruItem[K comparable, V any] struct {
	prev, next *lruItem[K, V]
	key        K
	value      V
}

func newLRU[K comparable, V any](max int) *lru[K, V] {
	l := &lru[K, V]{max: max, items: make(map[K]*lruItem[K, V])}
	l.root.prev, l.root.next = &l.root, &l.root
	return l
}

func (l *lru[K, V]) len() int { return len(l.items) }

// get returns the value of key and makes it the newest.
func (l *lru[K, V]) get(key K) (value V, ok bool) {
	it, ok := l.items[key]
	if !ok {
		return value, false
	}
	if l.root.next != it {
		it.unlink()
		l.pushFront(it)
	}
	return it.value, true
}

// set stores value under key as the newest. When that put the map over its
// bound, evicted is the oldest value, now gone, and full is true.
func (l *lru[K, V]) set(key K, value V) (evicted V, full bool) {
	if it, ok := l.items[key]; ok {
		it.value = value
		it.unlink()
		l.pushFront(it)
		return evicted, false
	}
	it := &lruItem[K, V]{key: key, value: value}
	l.items[key] = it
	l.pushFront(it)
	if len(l.items) <= l.max {
		return evicted, false
	}
	oldest := l.root.prev
	l.remove(oldest)
	return oldest.value, true
}

// each calls f for every item, oldest first, until f returns false. f may
// remove the item it was called with.
func (l *lru[K, V]) each(f func(it *lruItem[K, V]) bool) {
	for it := l.root.prev; it != &l.root; {
		older := it.prev
		if !f(it) {
			return
		}
		it = older
	}
}

func (l *lru[K, V]) remove(it *lruItem[K, V]) {
	it.unlink()
	delete(l.items, it.key)
}

func (it *lruItem[K, V]) unlink() {
	it.prev.next, it.next.prev = it.next, it.prev
}

func (l *lru[K, V]) pushFront(it *lruItem[K, V]) {
	it.prev, it.next = &l.root, l.root.next
	it.prev.next, it.next.prev = it, it
}
