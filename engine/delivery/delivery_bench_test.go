package delivery

import (
	"testing"
	"time"
)

var benchID = MakeID(Sequence(time.Date(2026, 6, 10, 14, 22, 10, 0, time.UTC)), 0x9e3779b97f4a7c15)

// BenchmarkID writes the public form of an id, as every answer and every attempt
// does, and reads it, as every lookup does.
func BenchmarkID(b *testing.B) {
	b.Run("append", func(b *testing.B) {
		buf := make([]byte, 0, 64)
		b.ReportAllocs()
		for b.Loop() {
			buf = benchID.Append(buf[:0])
		}
	})
	b.Run("string", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if s := benchID.String(); s == "" {
				b.Fatal("no text")
			}
		}
	})
	b.Run("parse", func(b *testing.B) {
		text := benchID.String()
		b.ReportAllocs()
		for b.Loop() {
			if id, err := ParseID(text); err != nil || id != benchID {
				b.Fatal(id, err)
			}
		}
	})
}

// An id is written into room that the caller has.
func TestAppendingAnIDDoesNotAllocate(t *testing.T) {
	buf := make([]byte, 0, 64)
	if n := testing.AllocsPerRun(100, func() { buf = benchID.Append(buf[:0]) }); n != 0 {
		t.Errorf("%.0f allocations, want none", n)
	}
}
