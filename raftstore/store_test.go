package raftstore

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/harepost/harepost/wal"
)

// What raft-boltdb's own tests ask of a store, asked of this one.

func TestAnEmptyStoreHasNothing(t *testing.T) {
	s := mustOpenStore(t, smallOptions(vfs.NewMem()))
	defer mustCloseStore(t, s)
	if first, last := bounds(t, s); first != 0 || last != 0 {
		t.Errorf("bounds are %d, %d", first, last)
	}
	for _, i := range []uint64{0, 1, 7} {
		if err := s.GetLog(i, &raft.Log{}); err != raft.ErrLogNotFound {
			t.Errorf("GetLog(%d) gave %v, must be exactly raft.ErrLogNotFound", i, err)
		}
	}
	must(t, s.DeleteRange(1, 9))
	must(t, s.StoreLogs(nil))
}

func TestStoredEntriesComeBack(t *testing.T) {
	for _, cache := range []int64{1, 400, 0} { // from the disk, from both, from memory
		t.Run(fmt.Sprint("cache ", cache), func(t *testing.T) {
			fs := vfs.NewMem()
			o := smallOptions(fs)
			o.CacheBytes = cache
			s := mustOpenStore(t, o)
			var logs []*raft.Log
			for i := uint64(1); i <= 7; i++ { // of every type, with and without bytes
				l := &raft.Log{Index: i, Term: 2 + i/4, Type: raft.LogType(i - 1)}
				if i > 2 {
					l.Data, l.Extensions = content(1, i, 20), content(2, i, 3)
				}
				logs = append(logs, l)
			}
			must(t, s.StoreLog(logs[0]))
			must(t, s.StoreLogs(logs[1:]))
			check := func(s *Store) {
				t.Helper()
				if first, last := bounds(t, s); first != 1 || last != 7 {
					t.Errorf("bounds are %d, %d", first, last)
				}
				for _, want := range logs {
					got := raft.Log{Data: []byte("of before"), Extensions: []byte("too")}
					if err := s.GetLog(want.Index, &got); err != nil || !reflect.DeepEqual(&got, want) {
						t.Errorf("GetLog(%d) gave %+v, %v, want %+v", want.Index, got, err, want)
					}
				}
				if err := s.GetLog(8, &raft.Log{}); err != raft.ErrLogNotFound {
					t.Errorf("GetLog(8) gave %v", err)
				}
			}
			check(s)
			mustCloseStore(t, s)
			s = mustOpenStore(t, o)
			check(s)
			mustCloseStore(t, s)
		})
	}
}

// Prefixes go by whole segments: what is said to be there is there, and nothing that was to stay is gone.
func TestDeletedPrefix(t *testing.T) {
	s := mustOpenStore(t, smallOptions(vfs.NewMem()))
	defer mustCloseStore(t, s)
	const entries = 300
	must(t, s.StoreLogs(entriesOf(1, 1, entries, 500)))
	must(t, s.DeleteRange(1, 200))
	if first, _ := bounds(t, s); first != 1 {
		t.Fatalf("first is %d: a prefix was deleted before Hold said what the state needs", first)
	}
	previous := uint64(1)
	for _, step := range []struct{ hold, max uint64 }{{100, 200}, {250, 200}, {1000, 280}} {
		s.Hold(step.hold)
		first, _ := bounds(t, s)
		must(t, s.DeleteRange(first, step.max))
		first, last := bounds(t, s)
		if most := min(step.hold, step.max+1); first > most || last != entries {
			t.Errorf("hold %d, max %d: the log has %d to %d", step.hold, step.max, first, last)
		}
		if first <= previous {
			t.Errorf("hold %d, max %d: nothing was deleted, first is %d", step.hold, step.max, first)
		}
		previous = first
		for i := uint64(1); i <= entries; i++ {
			var l raft.Log
			err := s.GetLog(i, &l)
			if i < first && err != raft.ErrLogNotFound || i >= first && (err != nil || !reflect.DeepEqual(&l, entryOf(1, i, 500))) {
				t.Fatalf("first is %d, GetLog(%d) gave %d, %v", first, i, l.Index, err)
			}
		}
	}
}

// What raft does when a leader of a later term says otherwise: it reads, deletes from the first entry that
// differs, and stores the leader's.
func TestDeletedSuffixIsReplaced(t *testing.T) {
	for _, from := range []uint64{1, 2, 57, 100} { // from 1: all of it
		fs := vfs.NewMem()
		s := mustOpenStore(t, smallOptions(fs))
		must(t, s.StoreLogs(entriesOf(1, 1, 100, 300)))
		must(t, s.GetLog(from, &raft.Log{}))
		must(t, s.DeleteRange(from, 100))
		if _, last := bounds(t, s); last != from-1 {
			t.Fatalf("from %d: last is %d", from, last)
		}
		if err := s.GetLog(from, &raft.Log{}); err != raft.ErrLogNotFound {
			t.Fatalf("from %d: a deleted entry gave %v", from, err)
		}
		must(t, s.StoreLogs(entriesOf(2, from, 120, 200)))
		check := func() {
			t.Helper()
			for i := uint64(1); i <= 120; i++ {
				want := entryOf(1, i, 300)
				if i >= from {
					want = entryOf(2, i, 200)
				}
				var l raft.Log
				if err := s.GetLog(i, &l); err != nil || !reflect.DeepEqual(&l, want) {
					t.Fatalf("from %d: GetLog(%d) gave term %d, %v", from, i, l.Term, err)
				}
			}
		}
		check()
		mustCloseStore(t, s)
		s = mustOpenStore(t, smallOptions(fs))
		check()
		mustCloseStore(t, s)
	}
}

// After a snapshot has taken the log's place the log goes on behind it, wherever that is: above what was
// there, within, below.
func TestAfterAllIsDeletedTheLogBeginsAnywhere(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpenStore(t, smallOptions(fs))
	s.Hold(1) // does not count when all goes
	next := uint64(1)
	for round, begin := range []uint64{1, 5000, 5060, 5061, 40, 1, 1 << 40} {
		must(t, s.StoreLogs(entriesOf(uint64(round+1), begin, begin+99, 300)))
		first, last := bounds(t, s)
		if first != begin || last != begin+99 {
			t.Fatalf("round %d: the log has %d to %d, want %d to %d", round, first, last, begin, begin+99)
		}
		must(t, s.DeleteRange(first, last))
		if first, last := bounds(t, s); first != 0 || last != 0 {
			t.Fatalf("round %d: the log has %d to %d after all was deleted", round, first, last)
		}
		if round%2 == 1 {
			mustCloseStore(t, s)
			s = mustOpenStore(t, smallOptions(fs))
		}
		next = begin + 100
	}
	must(t, s.StoreLogs(entriesOf(9, next, next, 10)))
	if first, last := bounds(t, s); first != next || last != next {
		t.Errorf("the log has %d to %d, want %d", first, last, next)
	}
	mustCloseStore(t, s)
}

// raft says nothing to a log that is empty when a snapshot is installed (removeOldLogs leaves it alone), and
// then stores what follows the snapshot.
func TestAnEmptyLogBeginsAnywhere(t *testing.T) {
	s := mustOpenStore(t, smallOptions(vfs.NewMem()))
	defer mustCloseStore(t, s)
	must(t, s.StoreLogs(entriesOf(3, 1001, 1010, 50)))
	if first, last := bounds(t, s); first != 1001 || last != 1010 {
		t.Errorf("the log has %d to %d", first, last)
	}
}

func TestDeleteRangeOfTheMiddleIsRefused(t *testing.T) {
	s := mustOpenStore(t, smallOptions(vfs.NewMem()))
	defer mustCloseStore(t, s)
	s.Hold(1000)
	must(t, s.StoreLogs(entriesOf(1, 10, 30, 50)))
	if err := s.DeleteRange(11, 29); err == nil {
		t.Error("entries were deleted from the middle")
	}
	for _, none := range [][2]uint64{{20, 19}, {1, 9}, {31, 40}} {
		must(t, s.DeleteRange(none[0], none[1]))
	}
	if first, last := bounds(t, s); first != 10 || last != 30 {
		t.Errorf("the log has %d to %d", first, last)
	}
}

func TestStableValues(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpenStore(t, smallOptions(fs))
	if _, err := s.Get([]byte("CurrentTerm")); err != ErrKeyNotFound || err.Error() != "not found" {
		t.Errorf("a key that was never set gave %v", err)
	}
	if _, err := s.GetUint64([]byte("CurrentTerm")); err != ErrKeyNotFound {
		t.Errorf("a number that was never set gave %v", err)
	}
	value := []byte("node-1.example:7000")
	must(t, s.Set([]byte("LastVoteCand"), value))
	value[0] = 'X' // the store has its own
	must(t, s.SetUint64([]byte("CurrentTerm"), 1<<63+5))
	must(t, s.Set([]byte("empty"), nil))
	check := func() {
		t.Helper()
		if v, err := s.Get([]byte("LastVoteCand")); err != nil || string(v) != "node-1.example:7000" {
			t.Errorf("LastVoteCand is %q, %v", v, err)
		}
		if n, err := s.GetUint64([]byte("CurrentTerm")); err != nil || n != 1<<63+5 {
			t.Errorf("CurrentTerm is %d, %v", n, err)
		}
		if v, err := s.Get([]byte("empty")); err != nil || len(v) != 0 {
			t.Errorf("the empty value is %q, %v", v, err)
		}
		if _, err := s.GetUint64([]byte("LastVoteCand")); err == nil {
			t.Error("an address is a number")
		}
	}
	check()
	mustCloseStore(t, s)
	s = mustOpenStore(t, smallOptions(fs))
	check()
	for name, set := range map[string]func() error{
		"no key":       func() error { return s.Set(nil, []byte("x")) },
		"a long key":   func() error { return s.Set(make([]byte, MaxKeyBytes+1), nil) },
		"a long value": func() error { return s.Set([]byte("k"), make([]byte, MaxValueBytes+1)) },
		"too many": func() error {
			for i := range 10 {
				if err := s.Set(fmt.Append(nil, "k", i), make([]byte, MaxValueBytes)); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		if err := set(); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	check()
	mustCloseStore(t, s)
}

// Values of a later format are refused with a text that says so, and the log is left as it was.
func TestStableValuesOfALaterFormat(t *testing.T) {
	fs := vfs.NewMem()
	l, err := wal.Open(storeDir, wal.Options{FS: fs, Logger: quiet})
	must(t, err)
	must(t, l.SetStable([]byte{stableVersion + 1, 0}))
	must(t, l.Close())
	if _, err := OpenStore(storeDir, smallOptions(fs)); !errors.Is(err, wal.ErrIdentity) {
		t.Errorf("another identity gave %v", err)
	}
	if _, err := OpenStore(storeDir, StoreOptions{WAL: wal.Options{FS: fs}, Logger: quiet}); !errors.Is(err, wal.ErrVersion) || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("a later version gave %v", err)
	}
}

// What Set never wrote is refused, not guessed at.
func TestDamagedStableValues(t *testing.T) {
	whole := encodeStable(map[string][]byte{"a": {1, 2}, "b": {3}})
	if _, err := decodeStable(whole); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"no count":        {1},
		"a key missing":   {1, 1},
		"an empty key":    {1, 1, 0, 0},
		"the same twice":  {1, 2, 1, 'a', 0, 1, 'a', 0},
		"in other order":  {1, 2, 1, 'b', 0, 1, 'a', 0},
		"cut short":       whole[:len(whole)-1],
		"something added": append(whole[:len(whole):len(whole)], 0),
		"a huge count":    {1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
		"a huge key":      {1, 1, 0xff, 0x7f},
	} {
		if values, err := decodeStable(b); err == nil {
			t.Errorf("%s: decoded as %q", name, values)
		}
	}
}

func FuzzStableValues(f *testing.F) {
	f.Add([]byte{})
	f.Add(encodeStable(map[string][]byte{"CurrentTerm": {0, 0, 0, 0, 0, 0, 0, 9}, "LastVoteCand": []byte("a:1"), "e": {}}))
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0x0f, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		values, err := decodeStable(b)
		if err != nil {
			return
		}
		again, err := decodeStable(encodeStable(values))
		if err != nil || !reflect.DeepEqual(again, values) {
			t.Errorf("%q does not come back: %q, %v", values, again, err)
		}
	})
}

// A directory that a single node wrote is a raft log: term 1, type 0, no stable values.
func TestADirectoryOfASingleNode(t *testing.T) {
	fs := vfs.NewMem()
	l, err := wal.Open(storeDir, wal.Options{FS: fs, SegmentBytes: wal.MinSegmentBytes, Logger: quiet})
	must(t, err)
	l.Start()
	const entries = 200
	for i := range uint64(entries) {
		must(t, l.Append(wal.Entry{Term: 1, Data: content(1, i+1, 400)}))
	}
	must(t, l.Close())
	s := mustOpenStore(t, StoreOptions{WAL: wal.Options{FS: fs, SegmentBytes: wal.MinSegmentBytes}, Logger: quiet})
	defer mustCloseStore(t, s)
	if first, last := bounds(t, s); first != 1 || last != entries {
		t.Fatalf("the log has %d to %d", first, last)
	}
	must(t, s.SetUint64([]byte("CurrentTerm"), 2))
	must(t, s.StoreLogs([]*raft.Log{{Index: entries + 1, Term: 2, Type: raft.LogNoop}}))
	for i := uint64(1); i <= entries; i++ {
		var l raft.Log
		if err := s.GetLog(i, &l); err != nil || l.Term != 1 || l.Type != raft.LogCommand || !bytes.Equal(l.Data, content(1, i, 400)) {
			t.Fatalf("GetLog(%d) gave %+v, %v", i, l, err)
		}
	}
	want := uint64(5)
	must(t, s.Replay(5, func(e wal.Entry) error {
		if uint64(e.Index) != want {
			t.Fatalf("replayed %d, want %d", e.Index, want)
		}
		want++
		return nil
	}))
	if want != entries+2 {
		t.Errorf("replayed to %d", want-1)
	}
}

// A copy has no entry above the last one that was asked for: those raft may still take back.
func TestCopyToEndsAtTheCommittedEntry(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpenStore(t, smallOptions(fs))
	defer mustCloseStore(t, s)
	must(t, s.SetUint64([]byte("CurrentTerm"), 7))
	must(t, s.StoreLogs(entriesOf(7, 1, 90, 400)))
	copied, err := s.CopyTo("copy", 20, 55)
	if err != nil || copied != 55 {
		t.Fatalf("copied to %d, %v", copied, err)
	}
	c := mustOpenStoreAt(t, "copy", smallOptions(fs))
	defer mustCloseStore(t, c)
	if first, last := bounds(t, c); first != 20 || last != 55 {
		t.Errorf("the copy has %d to %d", first, last)
	}
	if term, err := c.GetUint64([]byte("CurrentTerm")); err != nil || term != 7 {
		t.Errorf("the copy's term is %d, %v", term, err)
	}
}

// The tail never holds more than it may, and gives the newest entries.
func TestTailIsBounded(t *testing.T) {
	o := smallOptions(vfs.NewMem())
	o.CacheBytes = 20 << 10
	s := mustOpenStore(t, o)
	defer mustCloseStore(t, s)
	for i := uint64(1); i <= 500; i += 5 {
		must(t, s.StoreLogs(entriesOf(1, i, i+4, int(i))))
		if s.tail.bytes > o.CacheBytes || int64(cap(s.tail.entries))*entryOverheadBytes > 8*o.CacheBytes {
			t.Fatalf("after entry %d the tail holds %d bytes, with room for %d entries", i+4, s.tail.bytes, cap(s.tail.entries))
		}
		var l raft.Log
		if !s.tail.get(i+4, &l) || l.Index != i+4 {
			t.Fatalf("entry %d is not in the tail", i+4)
		}
	}
	if s.tail.get(1, &raft.Log{}) {
		t.Error("the first entry is still in the tail")
	}
	must(t, s.StoreLogs([]*raft.Log{{Index: 501, Term: 1, Data: make([]byte, 10<<10)}, {Index: 502, Term: 1}}))
	if s.tail.bytes > o.CacheBytes {
		t.Errorf("the tail holds %d bytes", s.tail.bytes)
	}
}
