package state

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/harepost/harepost/engine/command"
)

// Dropping finished deliveries writes next to nothing: a command to the log and
// some range tombstones, and no row is copied to be rid of its neighbours.
// HAREPOST_RETAIN_N is how many (quick: 50,000); it prints what they took, what
// their end wrote until Pebble had come to rest, and how long that was.
func TestRetentionWritesNextToNothing(t *testing.T) {
	n := 50_000
	if v := os.Getenv("HAREPOST_RETAIN_N"); v != "" {
		var err error
		if n, err = strconv.Atoi(v); err != nil || n < 1000 {
			t.Fatalf("HAREPOST_RETAIN_N=%q is not a number from 1,000", v)
		}
	}
	t.Chdir(t.TempDir())
	s := openState(t, vfs.Default, Options{CacheBytes: 64 << 20, MemTableBytes: 8 << 20})
	fillFinished(t, s, n)
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	written := func() int64 { // to tables, by flushes and compactions
		s.waitQuiet(t)
		m := s.Metrics()
		total := int64(0)
		for i := range m.Levels {
			total += int64(m.Levels[i].TableBytesFlushed + m.Levels[i].TableBytesCompacted)
		}
		return total
	}
	before, held := written(), s.DiskBytes()
	begin := time.Now()
	bound := epoch.Add(48 * time.Hour).UnixMilli()
	cmd := command.AppendRetain(nil, &command.Retain{Last: 1<<64 - 1, Finished: bound, Dead: bound, Idempotency: bound})
	if err := s.Apply([]Entry{{Index: s.Applied() + 1, Command: cmd}}, nil); err != nil {
		t.Fatal(err)
	}
	applied := time.Since(begin)
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	extra := written() - before + int64(len(cmd))
	left := s.DiskBytes() // Pebble removes files some moments after it has let go of them
	// A table that begins or ends with what stays keeps its file until it is
	// rewritten: some MiB, however much was dropped.
	most := held/4 + 8<<20
	for give := time.Now().Add(30 * time.Second); left > most && time.Now().Before(give); left = s.DiskBytes() {
		<-time.After(2 * time.Millisecond)
	}
	t.Logf("%d finished deliveries, %d bytes on disk: dropped in %s (%s until at rest), %d bytes written (%.4f %%), %d bytes left on disk",
		n, held, applied, time.Since(begin), extra, 100*float64(extra)/float64(held), left)
	if extra > held/100 {
		t.Errorf("%d bytes written to drop %d: more than 1 %%", extra, held)
	}
	if left > most {
		t.Errorf("%d of %d bytes are still on disk", left, held)
	}
	if names, err := filepath.Glob("state/*.sst"); err != nil || len(names) > 20 {
		t.Errorf("%d tables are left, %v", len(names), err)
	}
}

// waitQuiet waits until Pebble has found nothing to compact for a while. A part
// of level 0 that is not worth it yet stays as it is.
func (s *State) waitQuiet(t *testing.T) {
	t.Helper()
	quiet := 0
	for range 10_000 {
		m := s.Metrics()
		if quiet++; m.Compact.NumInProgress > 0 || m.Flush.NumInProgress > 0 || m.Table.ZombieCount > 0 {
			quiet = 0
		}
		if quiet == 100 {
			return
		}
		<-time.After(2 * time.Millisecond) // Pebble's compactions tell nobody who asks
	}
	t.Fatal("Pebble does not come to rest")
}
