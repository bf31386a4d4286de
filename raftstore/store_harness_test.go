package raftstore

import (
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/hashicorp/raft"

	"github.com/harepost/harepost/wal"
)

const storeDir = "data/wal"

var quiet = slog.New(slog.DiscardHandler)

// times scales the quick size of a test, which is that of HAREPOST_CRASH_N=30, to HAREPOST_CRASH_N.
func times(quick int) int {
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

// content is what entry i of a term carries: anyone can tell whether it came back right.
func content(term, i uint64, n int) []byte {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d/%d", term, i)
	rng := rand.New(rand.NewPCG(h.Sum64(), 1))
	b := fmt.Appendf(nil, "%d/%d:", term, i)
	for len(b) < n {
		b = append(b, byte(rng.Uint32()))
	}
	return b
}

func entryOf(term, i uint64, n int) *raft.Log {
	l := &raft.Log{Index: i, Term: term, Type: raft.LogType(i % 6), Data: content(term, i, n)}
	if i%3 == 0 {
		l.Extensions = content(term+1, i, 7)
	}
	return l
}

func entriesOf(term, from, to uint64, n int) []*raft.Log {
	var logs []*raft.Log
	for i := from; i <= to; i++ {
		logs = append(logs, entryOf(term, i, n))
	}
	return logs
}

// failures counts the calls of Failed. The first one opens happened.
type failures struct {
	mu       sync.Mutex
	count    int
	happened chan struct{}
}

func newFailures() *failures { return &failures{happened: make(chan struct{})} }

func (f *failures) failed(error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count++
	if f.count == 1 {
		close(f.happened)
	}
}

func (f *failures) calls() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count
}

func smallOptions(fs vfs.FS) StoreOptions {
	return StoreOptions{WAL: wal.Options{FS: fs, SegmentBytes: wal.MinSegmentBytes, Identity: [16]byte{1}}, Logger: quiet}
}

func mustOpenStore(t testing.TB, o StoreOptions) *Store {
	t.Helper()
	return mustOpenStoreAt(t, storeDir, o)
}

func mustOpenStoreAt(t testing.TB, dir string, o StoreOptions) *Store {
	t.Helper()
	var s *Store
	if o.Failed == nil {
		o.Failed = func(err error) {
			t.Errorf("the store failed: %v", err)
			go s.Close() // or the test would hang
		}
	}
	s, err := OpenStore(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	return s
}

func mustCloseStore(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func bounds(t testing.TB, s raft.LogStore) (first, last uint64) {
	t.Helper()
	first, err := s.FirstIndex()
	must(t, err)
	last, err = s.LastIndex()
	must(t, err)
	return first, last
}

// onChange is a disk that calls hook before each operation that changes something.
func onChange(fs vfs.FS, hook func(errorfs.Op) error) vfs.FS {
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
			return nil
		}
		return hook(op)
	}))
}
