package wal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Whatever is appended, cut at either end or reset between two calls, a cursor gives what the log holds
// at that moment, wherever it read before, and never what was there earlier at the same index.
func TestCursorReadsWhatIsThere(t *testing.T) {
	rng := seeded(t)
	for range times(20) {
		cursorStory(t, rng)
	}
}

func cursorStory(t *testing.T, rng *rand.Rand) {
	w := newWitness()
	l := mustOpen(t, w.watch(Options{FS: vfs.NewMem(), SegmentBytes: MinSegmentBytes, Compression: Compression(1 + rng.IntN(2))}))
	defer mustClose(t, l)
	l.Start()
	cursors := []*Cursor{l.Cursor(), l.Cursor(), l.Cursor()}
	have := map[Index]Entry{}
	next, acked, reads := Index(1), 0, 0
	for round := range 60 {
		switch rng.IntN(8) {
		case 0:
			if err := l.TruncateFront(Index(rng.Uint64N(uint64(next) + 1))); err != nil {
				t.Fatal(err)
			}
		case 1:
			last := next - 1 - min(next-1, Index(rng.IntN(40)))
			if err := l.TruncateBack(last); err != nil {
				t.Fatal(err)
			}
			for ; next > last+1; next-- {
				delete(have, next-1)
			}
		case 2:
			if rng.IntN(4) == 0 {
				next = 1 + Index(rng.IntN(500))
				clear(have)
				if err := l.Reset(next); err != nil {
					t.Fatal(err)
				}
			}
		default:
			batch := make([]Entry, 1+rng.IntN(200))
			for i := range batch {
				batch[i] = Entry{Term: uint64(round + 1), Type: EntryType(i), Ext: payload(round, next, rng.IntN(3)), Data: payload(round, next+Index(i), rng.IntN(60))}
			}
			if err := l.AppendBatch(batch); err != nil {
				t.Fatal(err)
			}
			for _, e := range batch {
				e.Index = next
				have[next] = e
				next++
			}
			acked += len(batch)
			if err := w.wait(acked); err != nil {
				t.Fatal(err)
			}
		}
		c := cursors[rng.IntN(len(cursors))]
		if rng.IntN(20) == 0 {
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
		}
		at := Index(rng.Uint64N(uint64(next) + 2))
		for range 40 {
			first := l.FirstIndex()
			e, err := c.Read(at)
			want, ok := have[at]
			switch {
			case ok && first > 0 && at >= first:
				if err != nil || !sameEntry(e, want) {
					t.Fatalf("Read(%d) gave entry %d of term %d (%v), want term %d", at, e.Index, e.Term, err, want.Term)
				}
				reads++
			case !errors.Is(err, ErrNotFound):
				t.Fatalf("Read(%d) of %d to %d gave %v, %v", at, first, next-1, e.Index, err)
			}
			switch rng.IntN(6) {
			case 0:
				at -= min(at, Index(rng.IntN(100)))
			case 1:
				at = Index(rng.Uint64N(uint64(next) + 2))
			default:
				at++
			}
		}
	}
	for _, c := range cursors {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if reads == 0 {
		t.Error("nothing was read")
	}
}

// A cursor keeps nothing of the log in place: segments that it read are recycled when they were dropped,
// while it stands in them.
func TestCursorHoldsNoSegment(t *testing.T) {
	fs := vfs.NewMem()
	w := newWitness()
	l := mustOpen(t, w.watch(Options{FS: fs, SegmentBytes: MinSegmentBytes, Compression: CompressionNone}))
	l.Start()
	appendAll := func(n int) {
		t.Helper()
		for range n {
			if err := l.AppendWait(Entry{Term: 1, Data: payload(1, 1, 4000)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	appendAll(20)
	if err := w.wait(20); err != nil {
		t.Fatal(err)
	}
	c := l.Cursor()
	if _, err := c.Read(1); err != nil {
		t.Fatal(err)
	}
	name := l.segments[0].name
	if err := l.TruncateFront(20); err != nil {
		t.Fatal(err)
	}
	appendAll(20)
	if err := w.wait(40); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(1); !errors.Is(err, ErrNotFound) {
		t.Errorf("a dropped entry gave %v", err)
	}
	if e, err := c.Read(40); err != nil || e.Index != 40 {
		t.Errorf("the last entry gave %d, %v", e.Index, err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	if exists(fs, fs.PathJoin(testDir, name)) {
		t.Errorf("%s is still there", name)
	}
}

// An index that was dropped, and after a reset is given again, is not read where it was.
func TestCursorAfterDropAndReset(t *testing.T) {
	w := newWitness()
	l := mustOpen(t, w.watch(Options{FS: vfs.NewMem(), SegmentBytes: MinSegmentBytes, Compression: CompressionNone}))
	defer mustClose(t, l)
	l.Start()
	fill := func(term uint64, acked int) {
		t.Helper()
		for range 20 {
			if err := l.AppendWait(Entry{Term: term, Data: payload(int(term), 1, 4000)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.wait(acked); err != nil {
			t.Fatal(err)
		}
	}
	fill(1, 20)
	c := l.Cursor()
	if _, err := c.Read(1); err != nil {
		t.Fatal(err)
	}
	if err := l.TruncateFront(20); err != nil {
		t.Fatal(err)
	}
	if err := l.Reset(1); err != nil {
		t.Fatal(err)
	}
	fill(2, 40)
	if e, err := c.Read(1); err != nil || e.Term != 2 {
		t.Errorf("Read(1) gave term %d, %v", e.Term, err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// Cursors read while the log is appended to, cut at the end and dropped at the front: each entry is one
// that was appended at that index, and after a cut never one from before an entry that the reader has
// already seen there.
func TestCursorBesideAppendAndTruncate(t *testing.T) {
	seed := seeded(t).Uint64()
	w := newWitness()
	l := mustOpen(t, w.watch(Options{FS: vfs.NewMem(), SegmentBytes: MinSegmentBytes}))
	defer mustClose(t, l)
	l.Start()
	done := make(chan struct{})
	var readers sync.WaitGroup
	for r := range 3 {
		readers.Go(func() {
			if err := readAlong(l, done, rand.New(rand.NewPCG(seed, uint64(r)))); err != nil {
				t.Error(err)
			}
		})
	}
	rng := rand.New(rand.NewPCG(seed, 99))
	acked := 0
	for round := range times(150) {
		n := 1 + rng.IntN(30)
		for range n {
			e := Entry{Term: uint64(round + 1), Data: payload(round+1, 1, 40+rng.IntN(300))}
			if err := l.AppendWait(e); err != nil {
				t.Fatal(err)
			}
		}
		acked += n
		if err := w.wait(acked); err != nil {
			t.Fatal(err)
		}
		if rng.IntN(3) == 0 {
			if err := l.TruncateBack(l.LastIndex() - Index(rng.IntN(n))); err != nil {
				t.Fatal(err)
			}
		}
		if rng.IntN(10) == 0 {
			if err := l.TruncateFront(l.LastIndex() - min(l.LastIndex(), 100)); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(done)
	readers.Wait()
}

func readAlong(l *Log, done chan struct{}, rng *rand.Rand) error {
	c := l.Cursor()
	seen := map[Index]uint64{}
	for at := Index(1); ; at++ {
		select {
		case <-done:
			return c.Close()
		default:
		}
		if next := l.NextIndex(); at >= next || rng.IntN(50) == 0 {
			at = next - min(next-1, Index(1+rng.IntN(60)))
		}
		e, err := c.Read(at)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		want := payload(int(e.Term), 1, len(e.Data))
		if e.Index != at || string(want) != string(e.Data) {
			return fmt.Errorf("Read(%d) gave entry %d of term %d with other bytes", at, e.Index, e.Term)
		}
		if e.Term < seen[at] {
			return fmt.Errorf("Read(%d) gave term %d after term %d", at, e.Term, seen[at])
		}
		seen[at] = e.Term
	}
}

// Damage that comes after the log was opened is found by the read that meets it.
func TestCursorFindsDamage(t *testing.T) {
	fs := vfs.NewMem()
	w := newWitness()
	l := mustOpen(t, w.watch(Options{FS: fs, SegmentBytes: MinSegmentBytes, Compression: CompressionNone}))
	defer mustClose(t, l)
	l.Start()
	for range 3 {
		if err := l.AppendWait(Entry{Term: 1, Data: payload(1, 1, 500)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.wait(3); err != nil {
		t.Fatal(err)
	}
	f, err := fs.OpenReadWrite(fs.PathJoin(testDir, l.segments[0].name), vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("x"), headerBytes+200); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	var damage *CorruptionError
	if _, err := l.Cursor().Read(1); !errors.As(err, &damage) || damage.Segment != 1 || damage.First != 1 {
		t.Errorf("Read gave %v", err)
	}
}
