package wal

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

func TestEntriesComeBackAfterEveryRestart(t *testing.T) {
	fs := vfs.NewMem()
	acked := 0
	o := Options{FS: fs, SegmentBytes: 64 << 10, Logger: quiet, Committed: func(e []Entry) { acked += len(e) }}
	for life := range 4 {
		l := mustOpen(t, o)
		n := 0
		err := l.Replay(0, func(e Entry) error {
			n++
			if e.Index != Index(n) || string(e.Data) != fmt.Sprint("payload ", n) {
				return fmt.Errorf("entry %d came back as %d %q", n, e.Index, e.Data)
			}
			return nil
		})
		if err != nil || n != life*100 {
			t.Fatalf("life %d: replayed %d entries, %v", life, n, err)
		}
		l.Start()
		for i := range 100 {
			if err := l.Append(Entry{Term: 1, Data: fmt.Append(nil, "payload ", n+i+1)}); err != nil {
				t.Fatal(err)
			}
		}
		mustClose(t, l)
		if want := (life + 1) * 100; acked != want || l.LastIndex() != Index(want) {
			t.Fatalf("life %d: acknowledged %d, last %d, want %d", life, acked, l.LastIndex(), want)
		}
	}
}

// A gate holds the writer in Committed until it is opened.
type gate struct {
	entered chan []Entry
	open    chan struct{}
}

func newGate() *gate { return &gate{make(chan []Entry, 1000), make(chan struct{})} }

func (g *gate) committed(e []Entry) {
	g.entered <- append([]Entry(nil), e...)
	<-g.open
}

func TestQueueIsBoundedAndWaitersGoFirst(t *testing.T) {
	synctest.Test(t, queueIsBounded)
}

func queueIsBounded(t *testing.T) {
	g := newGate()
	entry := Entry{Data: make([]byte, 1000)}
	o := Options{FS: vfs.NewMem(), SegmentBytes: 64 << 10, MaxEntryBytes: 4000, QueueBytes: 5 * (1000 + entrySlotBytes), Logger: quiet, Committed: g.committed}
	l := mustOpen(t, o)
	l.Start()
	if err := l.Append(entry); err != nil {
		t.Fatal(err)
	}
	<-g.entered // the writer is held; what it holds still counts
	for i := range 4 {
		if err := l.Append(entry); err != nil {
			t.Fatalf("entry %d of 5: %v", i+2, err)
		}
	}
	if err := l.Append(entry); err != ErrQueueFull {
		t.Fatalf("the sixth of five entries gave %v", err)
	}
	waited := make(chan error)
	go func() { waited <- l.AppendWait(entry) }()
	synctest.Wait() // until it waits
	if err := l.Append(Entry{}); err != ErrQueueFull {
		t.Errorf("Append went before a waiter: %v", err)
	}
	select {
	case err := <-waited:
		t.Fatalf("AppendWait returned %v with the queue full", err)
	default:
	}
	close(g.open)
	if err := <-waited; err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	if l.LastIndex() != 6 {
		t.Errorf("%d entries are in the log, want 6", l.LastIndex())
	}
}

func TestAppendRefuses(t *testing.T) {
	fs := vfs.NewMem()
	l := mustOpen(t, Options{FS: fs, SegmentBytes: MinSegmentBytes, MaxEntryBytes: 100, Logger: quiet})
	for _, c := range []struct {
		e  Entry
		is error
	}{
		{Entry{Data: make([]byte, 101)}, ErrTooLarge},
		{Entry{Data: make([]byte, 60), Ext: make([]byte, 60)}, ErrTooLarge},
		{Entry{Index: 2}, ErrIndex},
		{Entry{Data: make([]byte, 100)}, nil},
		{Entry{Index: 1}, ErrIndex},
		{Entry{Index: 2}, nil},
	} {
		if err := l.Append(c.e); !errors.Is(err, c.is) {
			t.Errorf("Append of index %d, %d bytes gave %v, want %v", c.e.Index, c.e.bytes(), err, c.is)
		}
	}
	mustClose(t, l) // never started: Close writes what waits
	for name, err := range map[string]error{"Append": l.Append(Entry{}), "AppendWait": l.AppendWait(Entry{}), "TruncateFront": l.TruncateFront(1),
		"TruncateBack": l.TruncateBack(1), "Reset": l.Reset(1), "SetStable": l.SetStable(nil), "Replay": l.Replay(0, nil)} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s after Close gave %v", name, err)
		}
	}
	if got, err := recovered(fs, Options{SegmentBytes: MinSegmentBytes}); err != nil || len(got) != 2 {
		t.Errorf("%d entries came back, want the 2 that were taken: %v", len(got), err)
	}
}

func TestOptionsThatContradictEachOther(t *testing.T) {
	for _, o := range []Options{
		{SegmentBytes: 4096},
		{SegmentBytes: 8 << 30},
		{SegmentBytes: 64 << 10, MaxEntryBytes: 64 << 10},
		{SegmentBytes: 64 << 10, FrameBytes: 64 << 10},
		{MaxEntryBytes: 1 << 20, QueueBytes: 1 << 20},
		{Spares: -1},
		{Compression: 9},
	} {
		o.FS = vfs.NewMem()
		if l, err := Open(testDir, o); err == nil {
			t.Errorf("%+v was taken", o)
			mustClose(t, l)
		}
	}
}

// While the disk works the next batch forms: what comes during one commit is the next one, whole.
func TestOneFrameTakesAllThatWaits(t *testing.T) {
	g := newGate()
	var commits []Commit
	o := Options{FS: vfs.NewMem(), SegmentBytes: 1 << 20, Logger: quiet, Committed: g.committed, Observe: func(c Commit) { commits = append(commits, c) }}
	l := mustOpen(t, o)
	l.Start()
	if err := l.Append(Entry{}); err != nil {
		t.Fatal(err)
	}
	<-g.entered
	for i := range 500 {
		if err := l.Append(Entry{Term: 1, Data: payload(1, Index(i), 50), Cookie: i}); err != nil {
			t.Fatal(err)
		}
	}
	close(g.open)
	batch := <-g.entered
	mustClose(t, l)
	if len(batch) != 500 || batch[0].Index != 2 || batch[499].Index != 501 || batch[7].Cookie != 7 {
		t.Fatalf("the second commit has %d entries from %d", len(batch), batch[0].Index)
	}
	if len(commits) != 2 || commits[1].Entries != 500 || commits[1].RawBytes < 500*50 || commits[1].StoredBytes == 0 {
		t.Errorf("observed %+v", commits)
	}
}

// FrameBytes bounds a frame; an entry above it travels alone, also one that does not fit into the small
// first segment.
func TestLargeEntriesTravelAlone(t *testing.T) {
	g := newGate()
	close(g.open)
	fs := vfs.NewMem()
	o := Options{FS: fs, SegmentBytes: 4 << 20, FrameBytes: 10_000, Compression: CompressionNone, Logger: quiet, Committed: g.committed}
	l := mustOpen(t, o)
	want := []int{100, 3_000_000, 100, 4000, 4000, 4000, 11_000, 5}
	for i, n := range want {
		if err := l.Append(Entry{Data: payload(1, Index(i+1), n)}); err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, l)
	close(g.entered)
	var frames []int
	for e := range g.entered {
		frames = append(frames, len(e))
	}
	if fmt.Sprint(frames) != "[1 1 3 1 1 1]" {
		t.Errorf("entries per frame: %v", frames)
	}
	got, err := recovered(fs, Options{SegmentBytes: MinSegmentBytes}) // a smaller segment size reads it all the same
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range got {
		if !bytes.Equal(e.Data, payload(1, Index(i+1), want[i])) {
			t.Errorf("entry %d came back wrong", i+1)
		}
	}
}

// An append on an idle log costs one write and one sync; the mark comes afterwards, without a sync, and
// once.
func TestIdleLogIsMarkedWithoutASync(t *testing.T) {
	mem := vfs.NewMem()
	var counting atomic.Bool
	var writes, syncs atomic.Int64
	disk := onWrite(mem, func(op errorfs.Op) error {
		if counting.Load() && op.Kind == errorfs.OpFileWriteAt {
			writes.Add(1)
		}
		if counting.Load() && (op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSync) {
			syncs.Add(1)
		}
		return nil
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWitness()
		l := mustOpen(t, w.watch(Options{FS: disk, SegmentBytes: MinSegmentBytes}))
		l.Start()
		add := func(n int) {
			if err := l.Append(Entry{Data: []byte("x")}); err != nil {
				t.Error(err)
			}
			if err := w.wait(n); err != nil {
				t.Error(err)
			}
			time.Sleep(2 * defaultLater) // until the mark is due
			synctest.Wait()
		}
		add(1)
		counting.Store(true)
		for n := range 5 {
			add(n + 2)
		}
		counting.Store(false)
		if writes.Load() != 10 || syncs.Load() != 5 {
			t.Errorf("5 appends cost %d writes and %d syncs, want 5 frames with 5 syncs and 5 marks", writes.Load(), syncs.Load())
		}
		m := imageOf(t, mem)
		frames := m.frames(t, m.segments()[0])
		last := frames[len(frames)-1]
		if last.kind != kindMark || last.synced != last.off {
			t.Errorf("the last frame is of kind %d and says %d of %d synced", last.kind, last.synced, last.off)
		}
		mustClose(t, l)
	})
}

// What nobody waits for shares a frame with what comes next, waits for Later at most, and goes at once when
// there is no room for more, or when the log closes.
func TestAppendLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWitness()
		var mu sync.Mutex
		var frames []int // entries of each commit
		o := w.watch(Options{FS: vfs.NewMem(), SegmentBytes: MinSegmentBytes, MaxEntryBytes: 1000, QueueBytes: 4000})
		o.Observe = func(c Commit) {
			mu.Lock()
			defer mu.Unlock()
			frames = append(frames, c.Entries)
		}
		l := mustOpen(t, o)
		l.Start()
		began := time.Now()
		later := func() error { return l.AppendLater(Entry{Data: make([]byte, 900)}) }
		expect := func(when string, after time.Duration, entries ...int) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			got := frames
			if frames = nil; !slices.Equal(got, entries) || time.Since(began) != after {
				t.Errorf("%s: commits of %v entries after %s, want %v after %s", when, got, time.Since(began), entries, after)
			}
		}
		if err := errors.Join(later(), later()); err != nil {
			t.Fatal(err)
		}
		expect("nobody waits", 0)
		if err := l.Append(Entry{Data: []byte("waited for")}); err != nil {
			t.Fatal(err)
		}
		expect("somebody waits", 0, 3)
		if err := later(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(defaultLater - 1)
		expect("shortly before it is due", defaultLater-1)
		time.Sleep(time.Nanosecond)
		expect("due", defaultLater, 1)
		for range 5 { // four fit
			if err := later(); err != nil {
				t.Fatal(err)
			}
		}
		expect("the fifth found no room", defaultLater, 4)
		mustClose(t, l)
		expect("closed", defaultLater, 1)
	})
}

// An entry that found no room, or a truncation under way, is committed as soon as it has been taken: nothing
// that came between may leave the writer asleep.
func TestAppendWaitIsNotForgotten(t *testing.T) {
	t.Run("full queue", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			goOn, commits := make(chan struct{}), 0
			l := mustOpen(t, Options{FS: vfs.NewMem(), Later: time.Hour, MaxEntryBytes: 1000, QueueBytes: 1100, Committed: func([]Entry) {
				if commits++; commits == 1 {
					<-goOn
				}
			}})
			l.Start()
			if err := l.Append(Entry{Data: make([]byte, 1000)}); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- l.AppendWait(Entry{Data: make([]byte, 1000)}) }()
			synctest.Wait()
			close(goOn)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if commits != 2 {
				t.Errorf("%d commits", commits)
			}
			mustClose(t, l)
		})
	})
	t.Run("truncation", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var l *Log
			var got atomic.Int64
			inside := make(chan struct{})
			var hook atomic.Bool
			o := Options{FS: vfs.NewMem(), Committed: func(e []Entry) { got.Add(int64(len(e))) }}
			o.Now = func() time.Time { // asked for while the truncation makes its segment
				if hook.Swap(false) {
					close(inside)
					for waiting := 0; waiting == 0; { // until the entry waits, which synctest cannot see from here
						l.mu.Lock()
						waiting = l.waiting
						l.mu.Unlock()
					}
				}
				return time.Now()
			}
			l = mustOpen(t, o)
			l.Start()
			for range 2 {
				if err := l.Append(Entry{Data: []byte("x")}); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
			hook.Store(true)
			done := make(chan error, 1)
			go func() {
				<-inside
				done <- l.AppendWait(Entry{Data: []byte("y")})
			}()
			if err := l.TruncateBack(1); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if n := got.Load(); n != 3 {
				t.Errorf("%d entries are committed, not 3", n)
			}
			mustClose(t, l)
		})
	})
}

// Close with work in the queue, from many goroutines at once, twice: all of it is committed, everyone
// gets the same answer, and waiters are let go.
func TestCloseDrains(t *testing.T) {
	g := newGate()
	fs := vfs.NewMem()
	o := Options{FS: fs, SegmentBytes: 64 << 10, MaxEntryBytes: 1000, QueueBytes: 4000, Logger: quiet, Committed: g.committed}
	l := mustOpen(t, o)
	l.Start()
	n := 0
	for l.Append(Entry{Data: make([]byte, 100)}) == nil {
		n++
	}
	<-g.entered
	var late sync.WaitGroup
	for range 3 {
		late.Go(func() {
			if err := l.AppendWait(Entry{Data: make([]byte, 1000)}); err != nil && err != ErrClosed {
				t.Errorf("AppendWait gave %v", err)
			}
		})
	}
	var closers sync.WaitGroup
	for range 4 {
		closers.Go(func() {
			if err := l.Close(); err != nil {
				t.Errorf("Close gave %v", err)
			}
		})
	}
	close(g.open)
	closers.Wait()
	late.Wait()
	got, err := recovered(fs, o.withoutHooks())
	if err != nil || len(got) < n {
		t.Errorf("%d of %d entries came back: %v", len(got), n, err)
	}
}

func (o Options) withoutHooks() Options {
	o.Committed, o.Failed, o.Observe = nil, nil, nil
	return o
}

// Many producers: every entry is committed once, in index order, and lies where its index says.
func TestManyProducers(t *testing.T) {
	fs := vfs.NewMem()
	w := newWitness()
	l := mustOpen(t, w.watch(Options{FS: fs, SegmentBytes: 256 << 10}))
	l.Start()
	const producers, each = 8, 500
	var wg sync.WaitGroup
	for p := range producers {
		wg.Go(func() {
			for i := range each {
				if err := l.AppendWait(Entry{Term: uint64(p), Data: payload(p, Index(i), 100)}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := w.wait(producers * each); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	got, err := recovered(fs, Options{})
	if err == nil {
		err = prefixOf(got, w.acked, len(w.acked))
	}
	if err != nil {
		t.Fatal(err)
	}
	var next [producers]Index
	for i, e := range got {
		if e.Index != Index(i+1) || !bytes.Equal(e.Data, payload(int(e.Term), next[e.Term], 100)) {
			t.Fatalf("entry %d is out of its producer's order", e.Index)
		}
		next[e.Term]++
	}
}

// A replay reads what it began with, while the log goes on, drops that from the front and uses the files
// again.
func TestReplayWhileTheLogGoesOn(t *testing.T) {
	w := newWitness()
	l := mustOpen(t, w.watch(Options{FS: vfs.NewMem(), SegmentBytes: MinSegmentBytes, Compression: CompressionNone}))
	l.Start()
	rng := rand.New(rand.NewPCG(1, 1))
	var appended []Entry
	s := script{rounds: 20, perRound: 5, bytes: 2000}
	if err := s.play(l, w, rng, &appended); err != nil {
		t.Fatal(err)
	}
	had := len(appended)
	seen := 0
	err := l.Replay(1, func(e Entry) error {
		if !sameEntry(e, appended[seen]) {
			return fmt.Errorf("entry %d came as %d", seen+1, e.Index)
		}
		seen++
		if seen%10 == 0 {
			s := script{rounds: 2, perRound: 5, bytes: 2000}
			if err := s.play(l, w, rng, &appended); err != nil {
				return err
			}
			return l.TruncateFront(l.LastIndex() - 2)
		}
		return nil
	})
	if err != nil || seen != had {
		t.Errorf("replayed %d of %d entries: %v", seen, had, err)
	}
	if err := l.Replay(1, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("Replay from an entry that was dropped gave %v", err)
	}
	if err := l.Replay(l.NextIndex(), nil); err != nil {
		t.Errorf("Replay from the next entry gave %v", err)
	}
	if err := l.Replay(l.NextIndex()+1, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("Replay from behind the next entry gave %v", err)
	}
	mustClose(t, l)
}

// TruncateFront gives the disk back: files are used again, and their number stays small.
func TestTruncatedSegmentsAreRecycled(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "wal")
	w := newWitness()
	var made, named atomic.Int64
	disk := onWrite(vfs.Default, func(op errorfs.Op) error {
		switch {
		case op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, spareSuffix):
			made.Add(1)
		case op.Kind == errorfs.OpRename && strings.HasSuffix(op.Path, spareSuffix):
			named.Add(1)
		}
		return nil
	})
	o := w.watch(Options{FS: disk, SegmentBytes: 64 << 10, Compression: CompressionNone})
	l, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	l.Start()
	for i := range 400 {
		if err := l.AppendWait(Entry{Data: payload(1, Index(i), 3000)}); err != nil {
			t.Fatal(err)
		}
		if err := w.wait(i + 1); err != nil {
			t.Fatal(err)
		}
		if err := l.TruncateFront(l.LastIndex() - 1); err != nil {
			t.Fatal(err)
		}
	}
	if l.FirstIndex() < 350 || l.SizeBytes() > 3*64<<10 {
		t.Errorf("the log begins with %d and has %d bytes", l.FirstIndex(), l.SizeBytes())
	}
	mustClose(t, l)
	if made.Load() > named.Load()/2 {
		t.Errorf("%d segments were begun, %d files made for them", named.Load(), made.Load())
	}
	again, err := Open(dir, o) // which removes what Close left
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, again)
	names, err := vfs.Default.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(names) > 2+3 {
		t.Errorf("%d files are left, more than LOCK, meta and three segments: %s", len(names), strings.Join(names, " "))
	}
}

// The writer's work per entry does not allocate, once its buffers have grown.
func TestCommitDoesNotAllocatePerEntry(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates")
	}
	var acked atomic.Int64
	done := make(chan struct{}, 1)
	o := Options{FS: vfs.NewMem(), SegmentBytes: 32 << 20, Logger: quiet, Committed: func(e []Entry) {
		if acked.Add(int64(len(e)))%1000 == 0 {
			done <- struct{}{}
		}
	}}
	l := mustOpen(t, o)
	l.Start()
	e := Entry{Term: 1, Data: payload(1, 1, 400)}
	perBatch := testing.AllocsPerRun(20, func() {
		for range 1000 {
			if err := l.Append(e); err != nil {
				t.Fatal(err)
			}
		}
		<-done
	})
	mustClose(t, l)
	if perBatch > 100 {
		t.Errorf("1,000 entries cost %.0f allocations", perBatch)
	}
}

// A panic of the log's user on the writer's goroutine ends the process; it is not swallowed. So the test
// looks at it from a goroutine of its own.
func TestPanicInCommittedIsNotSwallowed(t *testing.T) {
	l := mustOpen(t, Options{FS: vfs.NewMem(), SegmentBytes: MinSegmentBytes, Logger: quiet, Committed: func([]Entry) { panic("apply is broken") }})
	if err := l.Append(Entry{}); err != nil {
		t.Fatal(err)
	}
	var preparer sync.WaitGroup
	preparer.Go(l.prepare)
	defer func() {
		if r := recover(); r != "apply is broken" {
			t.Errorf("recovered %v", r)
		}
		l.mu.Lock()
		l.idle = true
		l.wakeLocked()
		l.mu.Unlock()
		preparer.Wait()
	}()
	l.w.run()
}

// An entry that comes while the tail is being truncated would get an index that nobody can know.
func TestAppendDuringTruncationIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		l := mustOpen(t, Options{FS: vfs.NewMem(), SegmentBytes: MinSegmentBytes, Logger: quiet, Committed: g.committed})
		l.Start()
		for range 3 {
			if err := l.Append(Entry{}); err != nil {
				t.Fatal(err)
			}
		}
		truncated, waited := make(chan error, 1), make(chan error, 1)
		go func() { truncated <- l.TruncateBack(1) }()
		synctest.Wait()
		if err := l.Append(Entry{}); err != ErrTruncating {
			t.Errorf("Append gave %v", err)
		}
		go func() { waited <- l.AppendWait(Entry{}) }()
		synctest.Wait()
		close(g.open)
		if err := errors.Join(<-truncated, <-waited); err != nil {
			t.Fatal(err)
		}
		mustClose(t, l)
		if l.LastIndex() != 2 {
			t.Errorf("the log ends with %d, want the one kept and the one after", l.LastIndex())
		}
	})
}

// How much the entries from an index on take is known to within what lies between two points of the offset table.
func TestBytesFromAnIndex(t *testing.T) {
	w := newWitness()
	l := mustOpen(t, w.watch(Options{FS: vfs.NewMem(), SegmentBytes: 1 << 20, Compression: CompressionNone}))
	defer mustClose(t, l)
	l.Start()
	if n := l.BytesFrom(1); n != 0 {
		t.Errorf("an empty log has %d bytes from 1", n)
	}
	const entries, size, together = 3000, 1000, 10
	for n := together; n <= entries; n += together {
		batch := make([]Entry, together)
		for i := range batch {
			batch[i].Data = make([]byte, size)
		}
		if err := l.AppendBatch(batch); err != nil {
			t.Fatal(err)
		}
		if err := w.wait(n); err != nil {
			t.Fatal(err)
		}
	}
	for i := Index(1); i <= entries+1; i++ {
		least := int64(entries+1-i) * size
		// A frame and the entries in it have heads; and a segment's last frame may be begun before the point.
		most := least + least/50 + pointBytes + (together+1)*size
		if i > entries {
			most = 0
		}
		if n := l.BytesFrom(i); n < least || n > most {
			t.Fatalf("%d bytes from %d, want %d to %d", n, i, least, most)
		}
	}
	if err := l.TruncateFront(entries); err != nil {
		t.Fatal(err)
	}
	if n := l.BytesFrom(1); n < size || n > l.SizeBytes() {
		t.Errorf("%d bytes from 1, where the log begins with %d and has %d", n, l.FirstIndex(), l.SizeBytes())
	}
}

// What comes while the log is being closed is kept or refused as by a closed log, and is no failure of it.
func TestSetStableWhileTheLogIsClosed(t *testing.T) {
	for range 300 {
		l := mustOpen(t, Options{FS: vfs.NewMem(), SegmentBytes: MinSegmentBytes, Failed: func(err error) { t.Error(err) }})
		l.Start()
		ended := make(chan error)
		begun := make(chan struct{})
		go func() {
			err := l.SetStable([]byte("a"))
			close(begun)
			for err == nil {
				err = l.SetStable([]byte("b"))
			}
			ended <- err
		}()
		<-begun
		mustClose(t, l)
		if err := <-ended; !errors.Is(err, ErrClosed) {
			t.Errorf("the last one: %v", err)
		}
	}
}
