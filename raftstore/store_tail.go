package raftstore

import (
	"sync"

	"github.com/hashicorp/raft"
)

// entryOverheadBytes is what an entry of the tail is charged beyond its bytes; about the size of a raft.Log.
const entryOverheadBytes = 128

// A tail keeps the newest entries of the log in memory, as many as fit into so many bytes. It is changed by
// whoever has the store's turn, after the log was when entries come, before it is when they go: so that it
// never has one that the log has not.
type tail struct {
	most int64 // set once

	mu      sync.RWMutex
	entries []raft.Log // consecutive; those before begin are given up
	begin   int
	bytes   int64
}

func logBytes(l *raft.Log) int64 {
	return int64(len(l.Data)) + int64(len(l.Extensions)) + entryOverheadBytes
}

// get fills in an entry that is here.
func (t *tail) get(index uint64, log *raft.Log) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	live := t.entries[t.begin:]
	if len(live) == 0 || index < live[0].Index || index-live[0].Index >= uint64(len(live)) {
		return false
	}
	*log = live[index-live[0].Index]
	return true
}

// add takes the entries that follow on from the last one.
func (t *tail) add(logs []*raft.Log) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range logs {
		kept := raft.Log{Index: l.Index, Term: l.Term, Type: l.Type}
		// As they come back from the disk: nil when empty.
		if len(l.Data) > 0 {
			kept.Data = l.Data
		}
		if len(l.Extensions) > 0 {
			kept.Extensions = l.Extensions
		}
		t.entries = append(t.entries, kept)
		t.bytes += logBytes(&kept)
	}
	for t.bytes > t.most {
		t.shiftLocked()
	}
	t.tidyLocked()
}

// shiftLocked gives up the oldest entry.
func (t *tail) shiftLocked() {
	t.bytes -= logBytes(&t.entries[t.begin])
	t.entries[t.begin] = raft.Log{}
	t.begin++
}

// tidyLocked moves the live entries to the front when they are the lesser part, so that each is moved once
// at most for each that was given up.
func (t *tail) tidyLocked() {
	if t.begin <= len(t.entries)/2 {
		return
	}
	n := copy(t.entries, t.entries[t.begin:])
	clear(t.entries[n:])
	t.entries, t.begin = t.entries[:n], 0
}

// drop gives up what is below an index.
func (t *tail) drop(below uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.begin < len(t.entries) && t.entries[t.begin].Index < below {
		t.shiftLocked()
	}
	t.tidyLocked()
}

// cut gives up what has that index or a higher one.
func (t *tail) cut(from uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(t.entries)
	for n > t.begin && t.entries[n-1].Index >= from {
		n--
		t.bytes -= logBytes(&t.entries[n])
	}
	clear(t.entries[n:])
	t.entries = t.entries[:n]
}

// reset gives up everything.
func (t *tail) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.entries, t.begin, t.bytes = nil, 0, 0
}
