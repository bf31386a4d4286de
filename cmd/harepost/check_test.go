package main

import (
	"testing"

	"github.com/harepost/harepost/wal"
)

func TestALogWithoutEntriesHasAPlace(t *testing.T) {
	f := func(name string, v wal.Report, wantFirst, wantNext uint64) {
		t.Helper()
		if first, next := logBounds(v); first != wantFirst || next != wantNext {
			t.Errorf("%s: from %d, next is %d; want %d and %d", name, first, next, wantFirst, wantNext)
		}
	}
	segment := func(first, last wal.Index) wal.SegmentReport { return wal.SegmentReport{First: first, Last: last} }
	f("never written", wal.Report{}, 1, 1)
	f("entries", wal.Report{First: 5, Last: 9, Segments: []wal.SegmentReport{segment(5, 9)}}, 5, 10)
	f("cut at the front, then a new segment", wal.Report{Segments: []wal.SegmentReport{segment(10, 9)}}, 10, 10)
	f("an unproven tail", wal.Report{First: 5, Last: 12, Segments: []wal.SegmentReport{segment(5, 9)}}, 5, 13)
}
