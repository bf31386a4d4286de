package wal

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// What the writer's own work for a frame of 100 entries allocates, once its
// buffers have grown: nothing.
func TestFrameEncodingDoesNotAllocate(t *testing.T) {
	for _, c := range []Compression{CompressionS2, CompressionNone} {
		w, batch, _ := benchWriter(t, c)
		encode := func() {
			n, _ := w.gather(batch)
			frame, h := w.pack(batch[:n])
			if frame, _ = finishFrame(frame, &h, 1); len(frame) == 0 {
				t.Fatal("empty frame")
			}
		}
		encode()
		if n := testing.AllocsPerRun(100, encode); n != 0 {
			t.Errorf("%s: %.0f allocations for a frame of 100 entries, want none", c, n)
		}
	}
}

// What replay allocates for such a frame: nothing either.
func TestFrameDecodingDoesNotAllocate(t *testing.T) {
	for _, c := range []Compression{CompressionS2, CompressionNone} {
		r, _ := oneFrame(t, c)
		var d decoder
		decodeFrame(t, r, &d)
		if n := testing.AllocsPerRun(100, func() { decodeFrame(t, r, &d) }); n != 0 {
			t.Errorf("%s: %.0f allocations for a frame of 100 entries, want none", c, n)
		}
	}
}

// What a commit allocates, however many entries it has, with the mark after it.
func TestCommitAllocations(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates")
	}
	done := make(chan struct{}, 1)
	left := 0 // the writer's
	l := mustOpen(t, Options{FS: vfs.NewMem(), SegmentBytes: 32 << 20, Logger: quiet, Committed: func(e []Entry) {
		if left += len(e); left == 100 {
			left = 0
			done <- struct{}{}
		}
	}})
	l.Start()
	entries := sendEntries(100)
	commit := func() {
		for i := range entries {
			entries[i].Index = 0
		}
		if err := l.AppendBatch(entries); err != nil {
			t.Fatal(err)
		}
		<-done
	}
	commit()
	n := testing.AllocsPerRun(200, commit)
	mustClose(t, l)
	if n > 2 { // both are the mark's, where there is one
		t.Errorf("%.0f allocations for a commit of 100 entries, want at most 2", n)
	}
}
