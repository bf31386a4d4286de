package state

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// What an account's deliveries leave, one after the other, is written to tables
// once: their rows lie behind each other, and what is written with every batch
// does not lie between them.
func TestFinishedRowsAreWrittenOnce(t *testing.T) {
	s := openState(t, vfs.NewMem(), Options{MemTableBytes: 1 << 20, CacheBytes: 16 << 20})
	fillEnded(t, s, 40_000, 1<<30)
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	s.waitQuiet(t)
	m := s.Metrics()
	var flushed, compacted, flushes uint64
	for i := range m.Levels {
		flushed += m.Levels[i].TableBytesFlushed
		compacted += m.Levels[i].TableBytesCompacted
	}
	flushes = uint64(m.Flush.Count)
	t.Logf("%d bytes in %d flushes, %d compacted", flushed, flushes, compacted)
	if flushes < 10 || compacted > flushed/4 {
		t.Errorf("of %d bytes that %d flushes wrote, compactions wrote %d again", flushed, flushes, compacted)
	}
}
