package wal

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// A copy has exactly the entries from the index on, wherever in a frame or a segment that is, opens
// without anything to repair, and can be written to.
func TestCopyFromEveryIndex(t *testing.T) {
	fs := vfs.NewMem()
	const entries = 160
	data := func(i Index) []byte { // does not compress
		b := make([]byte, 9*(i%97))
		rand.NewChaCha8([32]byte{byte(i), byte(i >> 8)}).Read(b)
		return b
	}
	g := newGate()
	close(g.open)
	l := mustOpen(t, Options{FS: fs, SegmentBytes: MinSegmentBytes, Logger: quiet, Identity: [16]byte{7}, Committed: g.committed})
	l.Start()
	if err := l.SetStable([]byte("term 3")); err != nil {
		t.Fatal(err)
	}
	for i := Index(1); i <= entries; i++ {
		if err := l.Append(Entry{Term: uint64(i) / 50, Type: 3, Ext: []byte{byte(i)}, Data: data(i)}); err != nil {
			t.Fatal(err)
		}
		if i%7 == 0 { // let the writer make a frame of what there is
			for got := Index(0); got < i; {
				e := <-g.entered
				got = e[len(e)-1].Index
			}
		}
	}
	mustClose(t, l)
	l = mustOpen(t, Options{FS: fs, SegmentBytes: MinSegmentBytes, Logger: quiet})
	defer mustClose(t, l)
	if n := len(l.segments); n < 4 {
		t.Fatalf("only %d segments: nothing is tested", n)
	}
	for from := Index(1); from <= entries+1; from += 1 + from%3 {
		dir := fmt.Sprint("copy-", from)
		last, err := l.CopyTo(dir, from)
		if err != nil || last != entries {
			t.Fatalf("from %d: last %d, %v", from, last, err)
		}
		report, err := Verify(fs, dir)
		if err != nil || len(report.Findings) > 0 || report.TornTail || report.Unproven > 0 || len(report.Leftovers) > 0 {
			t.Fatalf("from %d: %+v, %v", from, report, err)
		}
		c, err := Open(dir, Options{FS: fs, Logger: quiet, Identity: [16]byte{7}, AppliedIndex: entries})
		if err != nil {
			t.Fatalf("from %d: %v", from, err)
		}
		want := from
		err = c.Replay(0, func(e Entry) error {
			if e.Index != want || e.Term != uint64(want)/50 || e.Type != 3 || e.Ext[0] != byte(want) || !bytes.Equal(e.Data, data(want)) {
				return fmt.Errorf("entry %d came back as %+v", want, e)
			}
			want++
			return nil
		})
		if err != nil || want != entries+1 || string(c.Stable()) != "term 3" {
			t.Fatalf("from %d: replayed to %d, stable %q, %v", from, want-1, c.Stable(), err)
		}
		c.Start()
		if err := c.Append(Entry{Data: []byte("more")}); err != nil {
			t.Fatal(err)
		}
		mustClose(t, c)
		if c.LastIndex() != entries+1 {
			t.Fatalf("from %d: what was appended to the copy got index %d", from, c.LastIndex())
		}
	}
	if _, err := l.CopyTo("copy-beyond", entries+2); !errors.Is(err, ErrNotFound) {
		t.Errorf("from beyond the end: %v", err)
	}
	if _, err := l.CopyTo("copy-1", 1); err == nil {
		t.Error("a copy went into a directory that was there")
	}
}

// A copy leaves out what a truncation took back.
func TestCopyAfterTruncation(t *testing.T) {
	fs := vfs.NewMem()
	l := mustOpen(t, Options{FS: fs, SegmentBytes: MinSegmentBytes, Logger: quiet})
	l.Start()
	defer mustClose(t, l)
	for i := range 100 {
		if err := l.Append(Entry{Data: fmt.Append(nil, "first ", i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.TruncateBack(60); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if err := l.Append(Entry{Data: fmt.Append(nil, "second ", i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.TruncateBack(75); err != nil { // and a barrier: everything before is committed
		t.Fatal(err)
	}
	if last, err := l.CopyTo("copy", 31); err != nil || last != 75 {
		t.Fatalf("last %d, %v", last, err)
	}
	c, err := Open("copy", Options{FS: fs, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, c)
	next := Index(31)
	err = c.Replay(0, func(e Entry) error {
		want := fmt.Sprint("first ", next-1)
		if next > 60 {
			want = fmt.Sprint("second ", next-61)
		}
		if e.Index != next || string(e.Data) != want {
			return fmt.Errorf("entry %d: %d %q, want %q", next, e.Index, e.Data, want)
		}
		next++
		return nil
	})
	if err != nil || next != 76 {
		t.Errorf("replayed to %d, %v", next-1, err)
	}
}

// A full disk ends a copy at once, and not the log that is copied.
func TestCopyOntoAFullDisk(t *testing.T) {
	full := false
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if full && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return syscall.ENOSPC
		}
		return nil
	}))
	l := mustOpen(t, Options{FS: fs, SegmentBytes: MinSegmentBytes, Logger: quiet})
	for i := range 50 {
		if err := l.Append(Entry{Data: fmt.Append(nil, "entry ", i)}); err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, l)
	l = mustOpen(t, Options{FS: fs, SegmentBytes: MinSegmentBytes, Logger: quiet})
	defer mustClose(t, l)
	full = true
	if _, err := l.CopyTo("copy", 1); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("copy: %v", err)
	}
	full = false
	if err := l.Err(); err != nil {
		t.Errorf("the log that was copied: %v", err)
	}
	if last, err := l.CopyTo("copy-again", 1); err != nil || last != 50 {
		t.Errorf("with room: last %d, %v", last, err)
	}
}

// A copy that is to end before the log does ends exactly there, and goes on with the next index.
func TestCopyRangeEndsWhereItIsTold(t *testing.T) {
	fs := vfs.NewMem()
	w := newWitness()
	l := mustOpen(t, w.watch(Options{FS: fs, SegmentBytes: MinSegmentBytes, Compression: CompressionNone}))
	defer mustClose(t, l)
	l.Start()
	const entries = 60
	batch := make([]Entry, entries)
	for i := range batch {
		batch[i] = Entry{Term: 2, Data: payload(1, Index(i+1), 700)}
	}
	if err := l.AppendBatch(batch); err != nil {
		t.Fatal(err)
	}
	if err := w.wait(entries); err != nil {
		t.Fatal(err)
	}
	if len(l.segments) < 3 {
		t.Fatalf("only %d segments: nothing is tested", len(l.segments))
	}
	for last := Index(4); last <= entries+3; last++ {
		dir := fmt.Sprint("range-", last)
		copied, err := l.CopyRange(dir, 5, last)
		if want := min(last, entries); err != nil || copied != want {
			t.Fatalf("to %d: copied to %d, %v", last, copied, err)
		}
		if report, err := Verify(fs, dir); err != nil || len(report.Findings) > 0 || report.TornTail || report.Unproven > 0 {
			t.Fatalf("to %d: %+v, %v", last, report, err)
		}
		c, err := Open(dir, Options{FS: fs, Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		got, err := replayed(c)
		if err != nil || Index(len(got)) != copied-4 || c.NextIndex() != copied+1 {
			t.Fatalf("to %d: %d entries, next is %d, %v", last, len(got), c.NextIndex(), err)
		}
		for i, e := range got {
			if e.Index != Index(5+i) || !bytes.Equal(e.Data, payload(1, e.Index, 700)) {
				t.Fatalf("to %d: entry %d came back as %d", last, 5+i, e.Index)
			}
		}
		mustClose(t, c)
	}
}
