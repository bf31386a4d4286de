package raftstore

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	raftbench "github.com/hashicorp/raft/bench"

	"github.com/harepost/harepost/wal"
)

func benchStore(b *testing.B, o StoreOptions) *Store {
	b.Helper()
	o.Logger, o.WAL.FS = quiet, vfs.Default
	s := mustOpenStoreAt(b, b.TempDir()+"/wal", o)
	b.Cleanup(func() { mustCloseStore(b, s) })
	return s
}

// raft's own benchmarks, but for DeleteRange, which stores entries with gaps between them.
func BenchmarkRaft(b *testing.B) {
	for name, run := range map[string]func(*testing.B, *Store){
		"FirstIndex": func(b *testing.B, s *Store) { raftbench.FirstIndex(b, s) },
		"LastIndex":  func(b *testing.B, s *Store) { raftbench.LastIndex(b, s) },
		"GetLog":     func(b *testing.B, s *Store) { raftbench.GetLog(b, s) },
		"StoreLog":   func(b *testing.B, s *Store) { raftbench.StoreLog(b, fromOne{s}) },
		"StoreLogs":  func(b *testing.B, s *Store) { raftbench.StoreLogs(b, s) },
		"Set":        func(b *testing.B, s *Store) { raftbench.Set(b, s) },
		"Get":        func(b *testing.B, s *Store) { raftbench.Get(b, s) },
		"SetUint64":  func(b *testing.B, s *Store) { raftbench.SetUint64(b, s) },
		"GetUint64":  func(b *testing.B, s *Store) { raftbench.GetUint64(b, s) },
	} {
		b.Run(name, func(b *testing.B) { run(b, benchStore(b, StoreOptions{})) })
	}
}

// fromOne is for a benchmark that counts entries from 0, an index that raft never gives.
type fromOne struct{ *Store }

func (f fromOne) StoreLog(l *raft.Log) error {
	l.Index++
	return f.Store.StoreLog(l)
}

// BenchmarkGetLogSequential reads a log as raft does for a follower that catches up, one entry after the other
// and the last one of each sixteen twice, with nothing in the tail. The data does not compress. "read" is the
// same with wal.Log.Read, which begins at the offset table each time.
func BenchmarkGetLogSequential(b *testing.B) {
	for _, bytes := range []int{512, 64 << 10} {
		for _, frame := range []int{1, 64} { // entries
			s := benchStore(b, StoreOptions{CacheBytes: 1})
			const total = 128 << 20
			entries := uint64(total / bytes)
			data := make([]byte, bytes)
			for i := uint64(1); i <= entries; {
				var logs []*raft.Log
				for range frame {
					rand.NewChaCha8([32]byte{byte(i), byte(i >> 8), byte(i >> 16)}).Read(data)
					logs = append(logs, &raft.Log{Index: i, Term: 1, Data: append([]byte(nil), data...)})
					i++
				}
				must(b, s.StoreLogs(logs))
				if frame == 1 && i > 20_000 {
					entries = i - 1
				}
			}
			b.Run(fmt.Sprintf("bytes=%d/frame=%d/cursor", bytes, frame), func(b *testing.B) {
				sequential(b, entries, bytes, func(i uint64) error { return s.GetLog(i, &raft.Log{}) })
			})
			b.Run(fmt.Sprintf("bytes=%d/frame=%d/read", bytes, frame), func(b *testing.B) {
				sequential(b, entries, bytes, func(i uint64) error { _, err := s.log.Read(wal.Index(i)); return err })
			})
		}
	}
}

func sequential(b *testing.B, entries uint64, bytes int, get func(uint64) error) {
	b.SetBytes(int64(bytes))
	b.ReportAllocs()
	i := uint64(0)
	for b.Loop() {
		i = i%entries + 1
		must(b, get(i))
		if i%16 == 0 {
			must(b, get(i))
		}
	}
}
