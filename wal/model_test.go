package wal

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"
)

// A modelLog runs the log beside what it ought to be: a slice of entries with an index for the first.
// Crashes may take what was not acknowledged, and bring back what was dropped from the front.
type modelLog struct {
	fs     *vfs.MemFS
	o      Options
	l      *Log
	w      *witness
	round  int
	next   Index           // of the next entry to append
	have   map[Index]Entry // all that may be read
	low    Index           // at most this is the first index; what is below may be dropped any time
	acked  Index           // all up to here must be there
	stable []byte
	rng    *rand.Rand
	seen   int // entries that the witness had when this life began
}

func (m *modelLog) open(t *rapid.T) {
	m.w = newWitness()
	o := m.w.watch(m.o)
	o.FS = m.fs
	l, err := Open(testDir, o)
	if err != nil {
		t.Fatal(err)
	}
	m.l = l
	if stable := l.Stable(); string(stable) != string(m.stable) {
		t.Fatalf("stable bytes are %q, were %q", stable, m.stable)
	}
	m.adopt(t)
	l.Start()
	m.seen = 0
}

// adopt takes over what the log holds after a restart, as far as the promises leave it open.
func (m *modelLog) adopt(t *rapid.T) {
	next := m.l.NextIndex()
	if next <= m.acked || next > m.next {
		t.Fatalf("next index is %d; acknowledged up to %d, appended up to %d", next, m.acked, m.next-1)
	}
	for i := next; i < m.next; i++ {
		delete(m.have, i)
	}
	m.next, m.acked = next, next-1
	m.check(t)
}

// check compares everything that can be read.
func (m *modelLog) check(t *rapid.T) {
	got, err := replayed(m.l)
	if err != nil {
		t.Fatal(err)
	}
	want := max(m.low, 1)
	for i, e := range got {
		if e.Index != got[0].Index+Index(i) || !sameEntry(e, m.have[e.Index]) {
			t.Fatalf("entry %d at place %d is not what was appended", e.Index, i)
		}
	}
	switch {
	case len(got) == 0 && m.acked >= want && m.acked > 0:
		t.Fatalf("the log is empty, entries %d to %d ought to be there", want, m.acked)
	case len(got) > 0 && (got[0].Index > want && want <= m.acked || got[len(got)-1].Index != m.acked):
		t.Fatalf("the log has %d to %d, ought to have at least %d to %d", got[0].Index, got[len(got)-1].Index, want, m.acked)
	case len(got) > 0 && (got[0].Index != m.l.FirstIndex() || m.acked != m.l.LastIndex()):
		t.Fatalf("FirstIndex, LastIndex are %d, %d; replayed %d to %d", m.l.FirstIndex(), m.l.LastIndex(), got[0].Index, m.acked)
	}
}

func (m *modelLog) append(t *rapid.T, n int) {
	for range n {
		m.round++
		e := Entry{Term: uint64(m.round), Type: EntryType(m.round), Index: m.next}
		e.Data = payload(m.round, m.next, m.rng.IntN(1500))
		if m.round%3 == 0 {
			e.Ext = payload(m.round, m.next, 9)
		}
		if err := m.l.AppendWait(e); err != nil {
			t.Fatal(err)
		}
		m.have[e.Index] = e
		m.next++
		m.seen++
	}
}

func (m *modelLog) sync(t *rapid.T) {
	if err := m.w.wait(m.seen); err != nil {
		t.Fatal(err)
	}
	m.acked = m.next - 1
}

// Append, truncate at both ends, reset, read, crash with any part of the unsynced lost, restart: in any
// order the log is what the model is.
func TestModel(t *testing.T) {
	set := func(name, value string) {
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	if os.Getenv("HAREPOST_CRASH_N") != "" {
		set("rapid.checks", strconv.Itoa(times(100)))
	}
	if seed := os.Getenv("HAREPOST_SEED"); seed != "" {
		set("rapid.seed", seed)
	}
	steps := 0
	rapid.Check(t, func(t *rapid.T) {
		m := &modelLog{fs: vfs.NewCrashableMem(), have: map[Index]Entry{}, next: 1, low: 1,
			o: Options{SegmentBytes: MinSegmentBytes, Identity: [16]byte{1}}}
		m.rng = rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		m.open(t)
		defer func() { _ = m.l.Close() }() // again, for a case that rapid gives up in the middle
		count := func(f func(*rapid.T)) func(*rapid.T) { return func(t *rapid.T) { steps++; f(t) } }
		t.Repeat(map[string]func(*rapid.T){
			"append": count(func(t *rapid.T) { m.append(t, rapid.IntRange(1, 12).Draw(t, "n")); m.sync(t) }),
			"appendNoWait": count(func(t *rapid.T) {
				m.append(t, rapid.IntRange(1, 6).Draw(t, "n"))
			}),
			"truncateFront": count(func(t *rapid.T) {
				keep := Index(rapid.Uint64Range(0, uint64(m.next)).Draw(t, "keep"))
				if err := m.l.TruncateFront(keep); err != nil {
					t.Fatal(err)
				}
				m.low = max(m.low, keep)
			}),
			"truncateBack": count(func(t *rapid.T) { m.truncateBack(t) }),
			"reset":        count(func(t *rapid.T) { m.reset(t) }),
			"read":         count(func(t *rapid.T) { m.sync(t); m.read(t) }),
			"replay":       count(func(t *rapid.T) { m.sync(t); m.check(t) }),
			"stable": count(func(t *rapid.T) {
				m.stable = rapid.SliceOfN(rapid.Byte(), 0, 30).Draw(t, "stable")
				if err := m.l.SetStable(m.stable); err != nil {
					t.Fatal(err)
				}
			}),
			"restart": count(func(t *rapid.T) {
				if err := m.l.Close(); err != nil {
					t.Fatal(err)
				}
				m.acked = m.next - 1 // Close commits what was appended
				m.open(t)
			}),
			"crash": count(func(t *rapid.T) { m.crash(t) }),
		})
		if err := m.l.Close(); err != nil {
			t.Fatal(err)
		}
		if r, err := Verify(m.fs, testDir); err != nil || len(r.Findings) > 0 {
			t.Fatalf("Verify: %v, %v", err, r.Findings)
		}
	})
	t.Logf("%d steps", steps)
}

func (m *modelLog) truncateBack(t *rapid.T) {
	m.sync(t)
	from := max(m.low, 1) - 1
	if from > m.acked {
		return
	}
	last := Index(rapid.Uint64Range(uint64(from), uint64(m.acked)).Draw(t, "last"))
	if err := m.l.TruncateBack(last); err != nil {
		t.Fatal(err)
	}
	for i := last + 1; i < m.next; i++ {
		delete(m.have, i)
	}
	m.next, m.acked = last+1, last
}

func (m *modelLog) reset(t *rapid.T) {
	m.sync(t)
	next := Index(rapid.Uint64Range(1, uint64(m.next)+20).Draw(t, "next"))
	if err := m.l.Reset(next); err != nil {
		t.Fatal(err)
	}
	clear(m.have)
	m.next, m.acked, m.low = next, next-1, next
	if m.l.FirstIndex() != 0 || m.l.LastIndex() != 0 || m.l.NextIndex() != next {
		t.Fatalf("after a reset to %d: %d, %d, %d", next, m.l.FirstIndex(), m.l.LastIndex(), m.l.NextIndex())
	}
}

func (m *modelLog) read(t *rapid.T) {
	i := Index(rapid.Uint64Range(0, uint64(m.next)+1).Draw(t, "index"))
	e, err := m.l.Read(i)
	first := m.l.FirstIndex()
	switch want, ok := m.have[i]; {
	case ok && i >= first && first > 0:
		if err != nil || !sameEntry(e, want) {
			t.Fatalf("Read(%d) gave %v, %v", i, e.Index, err)
		}
	case !errors.Is(err, ErrNotFound):
		t.Fatalf("Read(%d) of %d to %d gave %v, %v", i, first, m.l.LastIndex(), e.Index, err)
	}
}

// crash clones the disk as a power cut would leave it, with the old log still running, and goes on with
// the clone.
func (m *modelLog) crash(t *rapid.T) {
	percent := rapid.SampledFrom([]int{0, 20, 80, 100}).Draw(t, "unsynced")
	m.w.mu.Lock()
	// What is acknowledged in this life, as of the cut: the rest may be there or not.
	acked := m.next - 1 - Index(m.seen-len(m.w.acked))
	clone := m.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: m.rng})
	m.w.mu.Unlock()
	if err := m.l.Close(); err != nil {
		t.Fatal(err)
	}
	m.fs, m.acked = clone, max(m.acked, acked)
	m.open(t)
}

// The model of a short fixed story, as an example of what the promises are.
func TestTruncateBackThenAppendGivesTheNewEntries(t *testing.T) {
	fs := vfs.NewMem()
	w := newWitness()
	o := w.watch(Options{FS: fs, SegmentBytes: MinSegmentBytes})
	l := mustOpen(t, o)
	l.Start()
	add := func(term uint64, n int) {
		for range n {
			if err := l.AppendWait(Entry{Term: term, Data: fmt.Append(nil, term)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	add(1, 10)
	if err := l.TruncateBack(6); err != nil {
		t.Fatal(err)
	}
	add(2, 2)
	mustClose(t, l)
	got, err := recovered(fs, o)
	if err != nil {
		t.Fatal(err)
	}
	terms := ""
	for _, e := range got {
		terms += fmt.Sprint(e.Term)
	}
	if terms != "11111122" {
		t.Errorf("terms are %s, want 11111122", terms)
	}
}
