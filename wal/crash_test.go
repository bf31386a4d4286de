package wal

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// A write that a crash cut off at any byte costs the entries of that write at most, and all of them or
// none; everything acknowledged before is there, and what is appended afterwards never meets the rest
// of it.
func TestTornTailAtEveryByte(t *testing.T) {
	rng := seeded(t)
	for range times(50) {
		tornTail(t, rng)
	}
}

func tornTail(t *testing.T, rng *rand.Rand) {
	fs := vfs.NewMem()
	w := newWitness()
	o := w.watch(Options{FS: fs, SegmentBytes: MinSegmentBytes, Compression: Compression(1 + rng.IntN(2))})
	l := mustOpen(t, o)
	l.Start()
	var appended []Entry
	s := script{rounds: 1 + rng.IntN(6), perRound: 3, bytes: 60}
	if err := s.play(l, w, rng, &appended); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	whole := imageOf(t, fs)
	name := whole.segments()[0]
	frames := whole.frames(t, name)
	last := frames[len(frames)-1]
	if last.kind == kindMark { // what comes after the last commit is not of interest here
		last = frames[len(frames)-2]
	}
	acked := int(last.first) - 1
	stale := make([]byte, len(whole[name])) // what was in the file before: zeros, or an old life
	if rng.IntN(2) == 0 {
		for i := range stale {
			stale[i] = byte(rng.Uint32())
		}
	}
	for cut := last.off; cut <= last.end(); cut++ {
		m := whole.clone()
		copy(m[name][cut:], stale[cut:])
		must := acked
		if cut >= last.off+frameHeaderBytes+int64(last.storedBytes) {
			must = len(appended)
		}
		disk := m.disk(t)
		got, err := recovered(disk, o)
		if err == nil {
			err = prefixOf(got, appended, must)
		}
		if err == nil && len(got) != acked && len(got) != len(appended) {
			err = fmt.Errorf("half a commit came back: %d entries of %d or %d", len(got), acked, len(appended))
		}
		if err == nil && cut%5 == 0 {
			err = goesOn(disk, o, got)
		}
		if err != nil {
			t.Fatalf("frame at %d to %d cut at %d: %v", last.off, last.end(), cut, err)
		}
	}
}

// goesOn appends an entry to a recovered log and looks whether, after two more restarts, exactly that
// was added.
func goesOn(fs vfs.FS, o Options, have []Entry) error {
	o.FS = fs
	w := newWitness()
	l, err := Open(testDir, w.watch(o))
	if err != nil {
		return err
	}
	l.Start()
	e := Entry{Term: 9, Index: Index(len(have) + 1), Data: []byte("afterwards")}
	if err := l.Append(e); err != nil {
		return err
	}
	if err := w.wait(1); err != nil {
		return err
	}
	if err := l.Close(); err != nil {
		return err
	}
	for range 2 {
		got, err := recovered(fs, o)
		if err != nil {
			return err
		}
		want := append(slices.Clone(have), e)
		if err := prefixOf(got, want, len(want)); err != nil {
			return fmt.Errorf("after one more entry: %w", err)
		}
	}
	return nil
}

// A power cut before any operation on the disk, with any part of the unsynced blocks and names lost,
// leaves a log that opens, holds all that was acknowledged, and nothing that was not appended.
func TestPowerCutBeforeEveryOperation(t *testing.T) {
	rng := seeded(t)
	cuts := 0
	for range times(8) {
		cuts += powerCuts(t, rng)
	}
	t.Logf("%d power cuts", cuts)
	if cuts < 400 {
		t.Errorf("only %d power cuts: the test no longer tests much", cuts)
	}
}

type cutDisk struct {
	fs    *vfs.MemFS
	op    string
	acked int
	low   Index // what is below may have been dropped
	have  int   // appended so far
}

func powerCuts(t *testing.T, rng *rand.Rand) int {
	mem := vfs.NewCrashableMem()
	w := newWitness()
	var cuts []cutDisk
	var appended []Entry
	var low Index
	choice := rand.New(rand.NewPCG(rng.Uint64(), 0)) // the writer's and the preparer's hook share it, under w.mu
	hook := func(op errorfs.Op) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		percent := []int{0, 30, 70, 100}[choice.IntN(4)]
		clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: choice})
		cuts = append(cuts, cutDisk{clone, fmt.Sprintf("%d %s@%d keeping %d%%", op.Kind, op.Path, op.Offset, percent), len(w.acked), low, len(appended)})
		return nil
	}
	o := w.watch(Options{FS: onWrite(mem, hook), SegmentBytes: MinSegmentBytes, Compression: CompressionNone, Identity: [16]byte{1}})
	if err := liveAndCut(o, w, rng, &appended, &low); err != nil {
		t.Fatal(err)
	}
	for i, c := range cuts {
		got, err := recovered(c.fs, Options{SegmentBytes: MinSegmentBytes, AppliedIndex: Index(c.acked)})
		if err == nil {
			err = window(got, appended[:c.have], c.low, c.acked)
		}
		if err == nil && i%8 == 0 && (len(got) == 0 || got[0].Index == 1) {
			err = goesOn(c.fs, Options{SegmentBytes: MinSegmentBytes}, got)
		}
		if err != nil {
			t.Fatalf("power cut %d, before %s: %v", i, c.op, err)
		}
	}
	return len(cuts)
}

// Recovery may itself be cut off, anywhere, and again: the next one comes to the same state.
func TestCrashDuringRecoveryAtEveryOperation(t *testing.T) {
	rng := seeded(t)
	cuts := 0
	for range times(20) {
		for _, disk := range tornDisks(t, rng) {
			cuts += recoverOften(t, rng, disk, 2)
		}
	}
	t.Logf("%d crashes during recovery", cuts)
	if cuts < 20 {
		t.Errorf("only %d crashes during recovery: the test no longer tests much", cuts)
	}
}

// tornDisks are disks as power cuts within a commit, a rotation and a truncation leave them.
func tornDisks(t *testing.T, rng *rand.Rand) []*vfs.MemFS {
	mem := vfs.NewCrashableMem()
	w := newWitness()
	var disks []*vfs.MemFS
	choice := rand.New(rand.NewPCG(rng.Uint64(), 0))
	keep := func(op errorfs.Op) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.acked) > 0 && choice.IntN(12) == 0 && !strings.HasSuffix(op.Path, spareSuffix) {
			disks = append(disks, mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50 * choice.IntN(3), RNG: choice}))
		}
		return nil
	}
	l := mustOpen(t, w.watch(Options{FS: onWrite(mem, keep), SegmentBytes: MinSegmentBytes, Compression: CompressionNone}))
	l.Start()
	var appended []Entry
	s := script{rounds: 8, perRound: 6, bytes: 2500}
	if err := s.play(l, w, rng, &appended); err != nil {
		t.Fatal(err)
	}
	if err := l.TruncateFront(l.LastIndex() / 2); err != nil {
		t.Fatal(err)
	}
	if err := l.TruncateBack(l.LastIndex() - 2); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	return disks[:min(len(disks), 8)]
}

func recoverOften(t *testing.T, rng *rand.Rand, disk *vfs.MemFS, depth int) int {
	all := vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rng}
	want, err := recovered(disk.CrashClone(all), Options{SegmentBytes: MinSegmentBytes})
	if err != nil {
		t.Fatal(err)
	}
	var clones []*vfs.MemFS
	work := disk.CrashClone(all)
	hooked := onWrite(work, func(errorfs.Op) error {
		clones = append(clones, work.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50 * rng.IntN(3), RNG: rng}))
		return nil
	})
	if _, err := recovered(hooked, Options{SegmentBytes: MinSegmentBytes}); err != nil {
		t.Fatal(err)
	}
	cuts := len(clones)
	for i, c := range clones {
		got, err := recovered(c.CrashClone(all), Options{SegmentBytes: MinSegmentBytes})
		if err == nil {
			err = prefixOf(got, want, len(want))
		}
		if err != nil {
			t.Fatalf("recovery cut off before its operation %d: %v", i, err)
		}
		if depth > 1 && i%5 == 0 {
			cuts += recoverOften(t, rng, c, depth-1)
		}
	}
	return cuts
}
