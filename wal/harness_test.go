package wal

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testDir = "data/wal"

var quiet = slog.New(slog.DiscardHandler)

// times scales the quick size of a test, which is that of HAREPOST_CRASH_N=30, to HAREPOST_CRASH_N. Under
// the race detector, where each step costs ten times as much and races show early, a quick run is shorter.
func times(quick int) int {
	if raceDetector {
		quick = (quick + 4) / 5
	}
	if n, err := strconv.Atoi(os.Getenv("HAREPOST_CRASH_N")); err == nil && n > 0 {
		return quick * max(1, n/30)
	}
	return quick
}

// seeded gives the test's source of chance. HAREPOST_SEED repeats a run; the seed is printed on failure.
func seeded(t testing.TB) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("HAREPOST_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("repeat with HAREPOST_SEED=%d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 0))
}

// payload is what entry i carries in round r: anyone can tell whether it came back right.
func payload(r int, i Index, n int) []byte {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d/%d", r, i)
	rng := rand.New(rand.NewPCG(h.Sum64(), 1))
	b := fmt.Appendf(nil, "%d/%d:", r, i)
	for len(b) < n {
		b = append(b, byte(rng.Uint32()))
	}
	return b
}

// A witness stands where the engine would: it is told what was committed and whether the log failed.
type witness struct {
	mu      sync.Mutex
	changed sync.Cond
	acked   []Entry // copies
	failed  error
	late    bool // committed after failed
}

func newWitness() *witness {
	w := &witness{}
	w.changed.L = &w.mu
	return w
}

func (w *witness) watch(o Options) Options {
	o.Logger = quiet
	o.Committed = func(entries []Entry) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.late = w.late || w.failed != nil
		for _, e := range entries {
			e.Data, e.Ext = bytes.Clone(e.Data), bytes.Clone(e.Ext)
			w.acked = append(w.acked, e)
		}
		w.changed.Broadcast()
	}
	o.Failed = func(err error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.failed != nil {
			panic("Failed was called twice")
		}
		w.failed = err
		w.changed.Broadcast()
	}
	return o
}

// wait returns when n entries are acknowledged, or the log has failed.
func (w *witness) wait(n int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.acked) < n && w.failed == nil {
		w.changed.Wait()
	}
	return w.failed
}

func (w *witness) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

func mustOpen(t testing.TB, o Options) *Log {
	t.Helper()
	l, err := Open(testDir, o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustClose(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// replayed gives copies of everything in the log.
func replayed(l *Log) ([]Entry, error) {
	var all []Entry
	err := l.Replay(0, func(e Entry) error {
		e.Data, e.Ext = bytes.Clone(e.Data), bytes.Clone(e.Ext)
		all = append(all, e)
		return nil
	})
	return all, err
}

// recovered opens what lies on a disk, gives its entries, and closes it again.
func recovered(fs vfs.FS, o Options) ([]Entry, error) {
	o.FS, o.Logger = fs, quiet
	l, err := Open(testDir, o)
	if err != nil {
		return nil, err
	}
	all, err := replayed(l)
	return all, errors.Join(err, l.Close())
}

func sameEntry(a, b Entry) bool {
	return a.Index == b.Index && a.Term == b.Term && a.Type == b.Type && bytes.Equal(a.Ext, b.Ext) && bytes.Equal(a.Data, b.Data)
}

// prefixOf says what is wrong when got is not appended[:n] for some n from acked to all.
func prefixOf(got, appended []Entry, acked int) error {
	if len(got) < acked {
		return fmt.Errorf("%d entries were acknowledged, %d came back", acked, len(got))
	}
	if len(got) > len(appended) {
		return fmt.Errorf("%d entries were appended, %d came back", len(appended), len(got))
	}
	for i := range got {
		if !sameEntry(got[i], appended[i]) {
			return fmt.Errorf("entry %d came back as %d (%d bytes)", appended[i].Index, got[i].Index, len(got[i].Data))
		}
	}
	return nil
}

// An image is a directory's files by name, to be damaged at will.
type image map[string][]byte

func imageOf(t testing.TB, fs vfs.FS) image {
	t.Helper()
	names, err := fs.List(testDir)
	if err != nil {
		t.Fatal(err)
	}
	m := image{}
	for _, name := range names {
		m[name] = readFile(t, fs, fs.PathJoin(testDir, name))
	}
	return m
}

func readFile(t testing.TB, fs vfs.FS, path string) []byte {
	t.Helper()
	f, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return b
}

func (m image) clone() image {
	c := image{}
	for name, b := range m {
		c[name] = bytes.Clone(b)
	}
	return c
}

// disk puts the files on a new memory disk.
func (m image) disk(t testing.TB) *vfs.MemFS {
	t.Helper()
	fs := vfs.NewMem()
	if err := fs.MkdirAll(testDir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, b := range m {
		f, err := fs.Create(fs.PathJoin(testDir, name), vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.Write(bytes.Clone(b)) // under the race detector, this disk scrambles what it was given
		if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{testDir, "data", "/"} {
		if err := SyncDir(fs, dir); err != nil {
			t.Fatal(err)
		}
	}
	return fs
}

// segments are the names of the image's segments in order of their numbers.
func (m image) segments() []string {
	names := map[uint32]string{}
	for name := range m {
		if _, number, ok := parseSegmentName(name); ok {
			names[number] = name
		}
	}
	var sorted []string
	for n := uint32(1); len(names) > 0; n++ {
		if name, ok := names[n]; ok {
			sorted = append(sorted, name)
			delete(names, n)
		}
	}
	return sorted
}

// frames lists the frames of a segment as they lie there, valid ones only.
func (m image) frames(t testing.TB, name string) []frame {
	t.Helper()
	r := &frameReader{file: vfs.NewMemFile(m[name]), size: int64(len(m[name]))}
	if _, err := r.header(); err != nil {
		t.Fatal(err)
	}
	var all []frame
	for off := int64(headerBytes); ; {
		f, bad, err := r.frameAt(off)
		if err != nil {
			t.Fatal(err)
		}
		if bad != "" {
			return all
		}
		f.payload = bytes.Clone(f.payload)
		all = append(all, f)
		off = f.end()
	}
}

// onWrite is a disk that calls hook before each operation that changes something.
func onWrite(fs vfs.FS, hook func(errorfs.Op) error) vfs.FS {
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
			return nil
		}
		return hook(op)
	}))
}

// A script is a life of a log: what to append, cut and drop, the same for the same seed.
type script struct {
	rounds   int
	perRound int
	bytes    int // largest payload
}

// play runs the script on an open log until it ends or the log fails. appended has, at any time, what
// the log may hold; what the witness has seen is what it must hold.
func (s script) play(l *Log, w *witness, rng *rand.Rand, appended *[]Entry) error {
	for range s.rounds {
		n := 1 + rng.IntN(s.perRound)
		for range n {
			e := Entry{Term: uint64(1 + rng.IntN(3)), Type: EntryType(rng.IntN(4)), Index: Index(len(*appended) + 1)}
			e.Data = payload(int(e.Term), e.Index, rng.IntN(s.bytes))
			if rng.IntN(3) == 0 {
				e.Ext = payload(7, e.Index, rng.IntN(12))
			}
			w.mu.Lock()
			*appended = append(*appended, e)
			w.mu.Unlock()
			if err := l.AppendWait(e); err != nil {
				return err
			}
		}
		if err := w.wait(len(*appended)); err != nil {
			return err
		}
		if rng.IntN(8) == 0 {
			if err := l.SetStable(payload(1, l.NextIndex(), 40)); err != nil {
				return err
			}
		}
	}
	return nil
}
