package wal

// A segment is what the log knows of one file that is part of it. The writer changes the newest one
// under Log.mu; the others change only by truncation, also under it.
type segment struct {
	number uint32
	name   string
	start  Index // first index by header and name
	last   Index // last live entry; start-1 when there is none
	end    int64 // frames end here, durably
	crc    uint32
	bytes  int64 // file size
	points []point
	pins   int // readers; a pinned file is not recycled

	dropped  bool // given up; the file is another's as soon as nobody has it pinned
	cutShort bool // the writer ended it with a truncation
}

func (s *segment) empty() bool { return s.last < s.start }

// cut lets entries from next on disappear, or all of them.
func (s *segment) cut(next Index, reset bool) {
	switch {
	case reset || next <= s.start:
		s.last = s.start - 1
	case s.last >= next:
		s.last = next - 1
	}
}

// from is where to begin reading for an index.
func (s *segment) from(i Index) int64 {
	off := int64(headerBytes)
	for lo, hi := 0, len(s.points); lo < hi; {
		mid := (lo + hi) / 2
		if s.points[mid].first <= i {
			off, lo = s.points[mid].off, mid+1
		} else {
			hi = mid
		}
	}
	return off
}

func cutAll(segments []*segment, next Index, reset bool) {
	for _, s := range segments {
		s.cut(next, reset)
	}
}
