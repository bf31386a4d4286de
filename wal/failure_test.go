package wal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// The disk fails at operation number n of a log's life, once or from then on, for every n. From that
// moment nothing is acknowledged any more, Failed is called once, and what was acknowledged before is
// there at the next start, whether the page cache survived or not.
func TestDiskFailsAtEveryOperation(t *testing.T) {
	rng := seeded(t)
	seed := rng.Uint64()
	total := failAt(t, seed, -1, false) // how many operations there are
	if total < 300 {
		t.Fatalf("the trace has only %d operations", total)
	}
	step := max(1, total*2/times(800))
	n := 0
	for at := 0; at < total; at += step {
		failAt(t, seed, at, false)
		failAt(t, seed, at, true)
		n += 2
	}
	t.Logf("%d failures in a trace of %d operations", n, total)
}

func failAt(t *testing.T, seed uint64, at int, forEver bool) (operations int) {
	t.Helper()
	mem := vfs.NewCrashableMem()
	var count atomic.Int64
	var failed atomic.Value
	disk := onWrite(mem, func(op errorfs.Op) error {
		n := int(count.Add(1)) - 1
		if at >= 0 && (n == at || forEver && n > at) {
			failed.CompareAndSwap(nil, fmt.Sprintf("operation %d (%d on %s)", n, op.Kind, op.Path))
			return syscall.EIO
		}
		return nil
	})
	w := newWitness()
	o := w.watch(Options{FS: disk, SegmentBytes: MinSegmentBytes, Identity: [16]byte{1}})
	var appended []Entry
	var low Index
	err := liveAndCut(o, w, rand.New(rand.NewPCG(seed, 0)), &appended, &low)
	if failed.Load() == nil {
		if err != nil {
			t.Fatalf("nothing failed, and yet: %v", err)
		}
		return int(count.Load())
	}
	what := failed.Load()
	if err == nil {
		t.Fatalf("%v failed, and nobody was told", what)
	}
	w.mu.Lock()
	acked, late, told := len(w.acked), w.late, w.failed
	w.mu.Unlock()
	if late {
		t.Fatalf("%v failed: something was acknowledged afterwards", what)
	}
	if told != nil && !errors.Is(told, ErrFailed) || told != nil && !errors.Is(told, syscall.EIO) {
		t.Fatalf("%v failed: Failed was told %v", what, told)
	}
	for name, after := range map[string]*vfs.MemFS{"restart": mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))}),
		"power cut": mem.CrashClone(vfs.CrashCloneCfg{})} {
		got, err := recovered(after, Options{SegmentBytes: MinSegmentBytes, AppliedIndex: Index(acked)})
		if err == nil {
			err = window(got, appended, low, acked)
		}
		if err != nil {
			t.Fatalf("%v failed, then a %s: %v", what, name, err)
		}
	}
	return 0
}

// window is prefixOf for a log whose oldest entries may have been dropped, up to low.
func window(got, appended []Entry, low Index, acked int) error {
	if len(got) == 0 {
		if acked > 0 {
			return fmt.Errorf("%d entries were acknowledged, none came back", acked)
		}
		return nil
	}
	first := got[0].Index
	if first > max(low, 1) {
		return fmt.Errorf("log begins with %d, entries from %d were to be kept", first, low)
	}
	return prefixOf(got, appended[first-1:], acked-int(first-1))
}

// liveAndCut is two lives of a log with everything in them: appends, truncation at both ends (of what
// was appended anew at once), stable bytes, restarts.
func liveAndCut(o Options, w *witness, rng *rand.Rand, appended *[]Entry, low *Index) error {
	for range 2 {
		l, err := Open(testDir, o)
		if err != nil {
			return err
		}
		l.Start()
		err = cutAndGoOn(l, w, rng, appended, low)
		if err := errors.Join(err, l.Close()); err != nil {
			return err
		}
	}
	return nil
}

func cutAndGoOn(l *Log, w *witness, rng *rand.Rand, appended *[]Entry, low *Index) error {
	s := script{rounds: 10, perRound: 5, bytes: 2500}
	for range 2 {
		if err := s.play(l, w, rng, appended); err != nil {
			return err
		}
		if err := cutLast(l, w, *appended); err != nil {
			return err
		}
		w.mu.Lock()
		*low = l.LastIndex() - 3
		w.mu.Unlock()
		if err := l.TruncateFront(*low); err != nil {
			return err
		}
	}
	return s.play(l, w, rng, appended)
}

// cutLast truncates the last entry and appends the same again: whatever happens on the way, what comes
// back must be a prefix of what was appended.
func cutLast(l *Log, w *witness, appended []Entry) error {
	w.mu.Lock()
	w.acked = w.acked[:len(w.acked)-1]
	acked := len(w.acked)
	w.mu.Unlock()
	last := appended[len(appended)-1]
	if err := l.TruncateBack(last.Index - 1); err != nil {
		return err
	}
	if err := l.AppendWait(last); err != nil {
		return err
	}
	return w.wait(acked + 1)
}

// After a failed sync the kernel may say yes the next time and have lost the bytes: the page cache shows
// the frame, the disk does not have it. Recovery copies it, so that a later power cut cannot take back
// what a restart has shown.
func TestUnsyncedTailIsCopiedBeforeItIsTrusted(t *testing.T) {
	mem := vfs.NewCrashableMem()
	var failing atomic.Bool
	disk := onWrite(mem, func(op errorfs.Op) error {
		if failing.Load() && op.Kind == errorfs.OpFileSyncData && strings.HasSuffix(op.Path, ".spare") {
			return syscall.EIO
		}
		return nil
	})
	w := newWitness()
	l := mustOpen(t, w.watch(Options{FS: disk, SegmentBytes: MinSegmentBytes}))
	l.Start()
	append1 := func(i Index) {
		if err := l.AppendWait(Entry{Index: i, Term: 1, Data: payload(1, i, 30)}); err != nil {
			t.Fatal(err)
		}
	}
	append1(1)
	if err := w.wait(1); err != nil {
		t.Fatal(err)
	}
	l.waitPrepared() // or it is the spare whose sync fails
	failing.Store(true)
	append1(2)
	if err := w.wait(2); !errors.Is(err, syscall.EIO) {
		t.Fatalf("Failed was told %v", err)
	}
	if err := l.Append(Entry{}); !errors.Is(err, ErrFailed) {
		t.Errorf("Append on a failed log gave %v", err)
	}
	if err := l.AppendWait(Entry{}); !errors.Is(err, ErrFailed) {
		t.Errorf("AppendWait on a failed log gave %v", err)
	}
	if err := l.TruncateBack(1); !errors.Is(err, ErrFailed) {
		t.Errorf("TruncateBack on a failed log gave %v", err)
	}
	if err := l.Close(); !errors.Is(err, ErrFailed) {
		t.Errorf("Close of a failed log gave %v", err)
	}
	if w.count() != 1 {
		t.Errorf("%d entries were acknowledged, one was synced", w.count())
	}

	report, err := Verify(mem, testDir)
	if err != nil || len(report.Findings) > 0 || report.Unproven != 1 || !strings.Contains(report.Failure, "sync segment 1") {
		t.Fatalf("Verify: %v, %+v", err, report)
	}
	again, err := Open(testDir, Options{FS: mem, SegmentBytes: MinSegmentBytes, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if r := again.Recovery(); r.CopiedEntries != 1 || r.Failure == "" {
		t.Errorf("recovery: %+v", r)
	}
	shown, err := replayed(again)
	if err != nil || len(shown) != 2 {
		t.Fatalf("replayed %d entries, %v", len(shown), err)
	}
	cut := mem.CrashClone(vfs.CrashCloneCfg{}) // the power goes, the page cache with it
	mustClose(t, again)
	l, err = Open(testDir, Options{FS: cut, SegmentBytes: MinSegmentBytes, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if n := l.Recovery().CopiedEntries; n != 0 {
		t.Errorf("%d entries were copied again", n)
	}
	got, err := replayed(l)
	if err == nil {
		err = prefixOf(got, shown, 2)
	}
	mustClose(t, l)
	if err != nil {
		t.Errorf("after a power cut: %v", err)
	}
	if report, err := Verify(mem, testDir); err != nil || report.Failure != "" {
		t.Errorf("the note of the failure is still there: %q, %v", report.Failure, err)
	}
}

// A truncation that failed half-way, with its frame written and no segment behind it, has not happened.
func TestFailedTruncationHasNotHappened(t *testing.T) {
	mem := vfs.NewMem()
	var failing atomic.Bool
	disk := onWrite(mem, func(op errorfs.Op) error {
		if failing.Load() && op.Kind == errorfs.OpRename {
			return syscall.EIO
		}
		return nil
	})
	w := newWitness()
	l := mustOpen(t, w.watch(Options{FS: disk, SegmentBytes: MinSegmentBytes}))
	l.Start()
	var appended []Entry
	if err := (script{rounds: 4, perRound: 4, bytes: 100}).play(l, w, rand.New(rand.NewPCG(1, 1)), &appended); err != nil {
		t.Fatal(err)
	}
	failing.Store(true)
	if err := l.TruncateBack(2); !errors.Is(err, syscall.EIO) || !errors.Is(err, ErrFailed) {
		t.Errorf("TruncateBack gave %v", err)
	}
	if err := l.Close(); !errors.Is(err, ErrFailed) {
		t.Errorf("Close gave %v", err)
	}
	m := imageOf(t, mem)
	frames := m.frames(t, m.segments()[0])
	if frames[len(frames)-1].kind != kindTruncate {
		t.Fatal("the truncation's frame is not there: the test shows nothing")
	}
	for range 2 {
		got, err := recovered(mem, Options{SegmentBytes: MinSegmentBytes, AppliedIndex: Index(len(appended))})
		if err == nil {
			err = prefixOf(got, appended, len(appended))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := goesOn(mem, Options{SegmentBytes: MinSegmentBytes}, appended); err != nil {
		t.Error(err)
	}
}

// A failure elsewhere, here of meta, while a commit is with the disk: that commit is not acknowledged,
// although its sync succeeds.
func TestNothingIsAcknowledgedAfterAFailureElsewhere(t *testing.T) {
	var failing atomic.Bool
	entered, open := make(chan struct{}), make(chan struct{})
	disk := onWrite(vfs.NewMem(), func(op errorfs.Op) error {
		switch {
		case !failing.Load():
		case op.Kind == errorfs.OpFileWriteAt && strings.HasSuffix(op.Path, metaName):
			return syscall.EIO
		case op.Kind == errorfs.OpFileSyncData && strings.HasSuffix(op.Path, spareSuffix): // the segment, as it was called
			close(entered)
			<-open
		}
		return nil
	})
	w := newWitness()
	l := mustOpen(t, w.watch(Options{FS: disk, SegmentBytes: MinSegmentBytes}))
	l.Start()
	if err := l.Append(Entry{}); err != nil {
		t.Fatal(err)
	}
	if err := w.wait(1); err != nil {
		t.Fatal(err)
	}
	l.waitPrepared() // so that only the segment is synced from here on
	failing.Store(true)
	if err := l.Append(Entry{}); err != nil {
		t.Fatal(err)
	}
	<-entered
	if err := l.SetStable([]byte("vote")); !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
		t.Errorf("SetStable gave %v", err)
	}
	close(open)
	if err := w.wait(2); !errors.Is(err, syscall.EIO) {
		t.Errorf("Failed was told %v", err)
	}
	if err := l.Close(); !errors.Is(err, ErrFailed) {
		t.Errorf("Close gave %v", err)
	}
	if w.count() != 1 || w.late {
		t.Errorf("%d entries were acknowledged, want the one before the failure", w.count())
	}
	if l.LastIndex() != 1 {
		t.Errorf("LastIndex is %d", l.LastIndex())
	}
}

// A write that wrote less than it was given, without an error of its own.
func TestShortWriteIsAFailure(t *testing.T) {
	disk := &shortDisk{FS: vfs.NewMem()}
	w := newWitness()
	l := mustOpen(t, w.watch(Options{FS: disk, SegmentBytes: MinSegmentBytes}))
	l.Start()
	for i := range 3 {
		if err := l.Append(Entry{Data: []byte("x")}); err != nil {
			t.Fatal(err)
		}
		if err := w.wait(i + 1); err != nil {
			t.Fatal(err)
		}
	}
	disk.short.Store(true)
	if err := l.Append(Entry{Data: []byte("y")}); err != nil && !errors.Is(err, ErrFailed) {
		t.Fatal(err)
	}
	if err := w.wait(4); err == nil || !strings.Contains(err.Error(), "short write") {
		t.Errorf("Failed was told %v", err)
	}
	if err := l.Close(); !errors.Is(err, ErrFailed) {
		t.Errorf("Close gave %v", err)
	}
}

type shortDisk struct {
	vfs.FS
	short atomic.Bool
}

type shortFile struct {
	vfs.File
	disk *shortDisk
}

func (d *shortDisk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.Create(name, c)
	return &shortFile{f, d}, err
}

func (f *shortFile) WriteAt(b []byte, off int64) (int, error) {
	if f.disk.short.Load() {
		return f.File.WriteAt(b[:len(b)-1], off)
	}
	return f.File.WriteAt(b, off)
}

// A full disk is a warning while the active segment has room, and the end when the next one is needed.
func TestFullDiskWarnsBeforeItFails(t *testing.T) {
	mem := vfs.NewMem()
	var full atomic.Bool
	disk := onWrite(mem, func(op errorfs.Op) error {
		if full.Load() && (op.Kind == errorfs.OpCreate || op.Kind == errorfs.OpFilePreallocate) && strings.HasSuffix(op.Path, spareSuffix) {
			return syscall.ENOSPC
		}
		return nil
	})
	w := newWitness()
	o := w.watch(Options{FS: disk, SegmentBytes: MinSegmentBytes, Compression: CompressionNone})
	l := mustOpen(t, o)
	l.Start()
	n := 0
	add := func(bytes int) error {
		n++
		if err := l.AppendWait(Entry{Data: payload(1, Index(n), bytes)}); err != nil {
			return err
		}
		return w.wait(n)
	}
	if err := add(100); err != nil {
		t.Fatal(err)
	}
	l.waitPrepared()
	full.Store(true)
	// The prepared segment is taken, and there is none behind it.
	for l.waitPrepared(); l.NoSpace() == nil; l.waitPrepared() {
		if err := add(3000); err != nil {
			t.Fatalf("the log failed before it warned: %v", err)
		}
		if n > 100 {
			t.Fatal("no warning of a full disk")
		}
	}
	if !errors.Is(l.NoSpace(), syscall.ENOSPC) {
		t.Errorf("NoSpace gave %v", l.NoSpace())
	}
	if err := add(10); err != nil {
		t.Fatalf("the active segment has room, but: %v", err)
	}
	acked := n
	var err error
	for err == nil && n < acked+100 {
		err = add(3000)
	}
	if !errors.Is(err, syscall.ENOSPC) || !errors.Is(err, ErrFailed) {
		t.Errorf("without a segment to go to, the log gave %v", err)
	}
	if err := l.Close(); !errors.Is(err, ErrFailed) {
		t.Errorf("Close gave %v", err)
	}
	full.Store(false)
	got, err := recovered(mem, Options{SegmentBytes: MinSegmentBytes, AppliedIndex: Index(w.count())})
	if err != nil || len(got) < w.count() {
		t.Errorf("with space again, %d of %d entries came back: %v", len(got), w.count(), err)
	}
}

// What was truncated makes room: the warning goes away without a restart.
func TestTruncationEndsTheWarningOfAFullDisk(t *testing.T) {
	mem := vfs.NewMem()
	var full atomic.Bool
	disk := onWrite(mem, func(op errorfs.Op) error {
		if full.Load() && op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, spareSuffix) {
			return syscall.ENOSPC
		}
		return nil
	})
	w := newWitness()
	l := mustOpen(t, w.watch(Options{FS: disk, SegmentBytes: MinSegmentBytes, Compression: CompressionNone}))
	l.Start()
	n := 0
	add := func() {
		n++
		if err := l.AppendWait(Entry{Data: payload(1, Index(n), 3000)}); err != nil {
			t.Fatal(err)
		}
		if err := w.wait(n); err != nil {
			t.Fatal(err)
		}
	}
	for len(l.segmentNames()) < 4 {
		add()
	}
	l.waitPrepared()
	full.Store(true)
	for l.NoSpace() == nil {
		add()
		l.waitPrepared()
	}
	for range 20 { // several segments' worth, all from recycled files
		if err := l.TruncateFront(l.LastIndex()); err != nil {
			t.Fatal(err)
		}
		l.waitFor(func() bool { return l.spares.ready != nil })
		if err := l.NoSpace(); err != nil {
			t.Fatalf("a segment is ready, and yet: %v", err)
		}
		add()
	}
	full.Store(false)
	mustClose(t, l)
}

// waitPrepared returns when the preparer has a segment ready, or cannot have one.
func (l *Log) waitPrepared() {
	l.waitFor(func() bool { return l.spares.ready != nil || l.spares.noSpace != nil })
}

// waitFor returns when the preparer has brought something about, or the log has failed.
func (l *Log) waitFor(done func() bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for !done() && l.failed == nil {
		l.chores.Wait()
	}
}

func (l *Log) segmentNames() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var names []string
	for _, s := range l.segments {
		names = append(names, s.name)
	}
	return names
}
