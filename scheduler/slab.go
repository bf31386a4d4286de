package scheduler

// chunkItems is the number of values that are allocated together.
const (
	chunkBits  = 10
	chunkItems = 1 << chunkBits
)

// A table is an array that grows by whole chunks. Growing copies nothing but
// the list of chunks, so that no insert pays for a million earlier ones, and a
// value never moves: pointers into a table stay good. Values without pointers
// cost the collector nothing.
type table[T any] struct {
	chunks []*[chunkItems]T
}

func (t *table[T]) at(i uint32) *T {
	return &t.chunks[i>>chunkBits][i%chunkItems]
}

// grow makes i a valid index.
func (t *table[T]) grow(i uint32) {
	for i>>chunkBits >= uint32(len(t.chunks)) {
		t.chunks = append(t.chunks, new([chunkItems]T))
	}
}

// A slab hands out places in a table by index. Index 0 is never handed out:
// it means none, so that a zeroed value has empty links, and its value stays
// zero, so that reading through an empty link is harmless. What was freed is
// handed out again first; memory is kept for the next peak.
type slab[R ~uint32, T any] struct {
	values table[T]
	free   []R
	last   R // the highest index ever handed out
}

func (s *slab[R, T]) at(r R) *T { return s.values.at(uint32(r)) }

// take returns a place; its value is zero.
func (s *slab[R, T]) take() R {
	if n := len(s.free); n > 0 {
		r := s.free[n-1]
		s.free = s.free[:n-1]
		return r
	}
	s.last++
	s.values.grow(uint32(s.last))
	return s.last
}

// put frees a place and zeroes its value.
func (s *slab[R, T]) put(r R) {
	var zero T
	*s.at(r) = zero
	s.free = append(s.free, r)
}

func newSlab[R ~uint32, T any]() slab[R, T] {
	var s slab[R, T]
	s.values.grow(0)
	return s
}
