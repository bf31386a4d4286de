package wal

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// testdata/v1 is a directory as the first release writes it: three segments, sealed, truncated and
// open, in part compressed. Every later version must read it. HAREPOST_GOLDEN=1 writes it anew, which is
// right only before a release.
func TestReadsTheFirstFormat(t *testing.T) {
	const dir = "testdata/v1"
	var want []Entry
	var m image
	synctest.Test(t, func(t *testing.T) { want, m = goldenLog(t) })
	if os.Getenv("HAREPOST_GOLDEN") != "" {
		for name, b := range m {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	kept := image{}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		kept[f.Name()] = b
	}
	got, err := recovered(kept.disk(t), Options{})
	if err == nil {
		err = prefixOf(got, want, len(want))
	}
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range kept {
		if !bytes.Equal(m[name], b) {
			t.Errorf("%s is written with other bytes than in %s: a change of the format needs a new version", name, dir)
		}
	}
	if len(kept) != len(m) {
		t.Errorf("%s has %d files, %d are written", dir, len(kept), len(m))
	}
}

// goldenLog writes the same bytes each time.
func goldenLog(t *testing.T) ([]Entry, image) {
	fs := vfs.NewMem()
	w := newWitness()
	o := w.watch(Options{FS: fs, SegmentBytes: MinSegmentBytes, Identity: [16]byte{0x11, 0x22, 0x33}, Rand: bytes.NewReader(make([]byte, 64)),
		Now: func() time.Time { return time.Unix(1_790_000_000, 0) }})
	l := mustOpen(t, o)
	l.Start()
	var want []Entry
	add := func(e Entry) {
		e.Index = Index(len(want) + 1)
		if err := l.Append(e); err != nil {
			t.Fatal(err)
		}
		want = append(want, e)
		time.Sleep(2 * defaultLater) // until it is committed, and the mark written
		synctest.Wait()
	}
	rng := rand.New(rand.NewPCG(5, 5))
	for i := range 24 {
		add(Entry{Term: uint64(1 + i/10), Type: EntryType(i), Ext: slices.Repeat([]byte{7}, i%4), Data: payload(1, Index(i), 40*i)})
	}
	add(Entry{Term: 4, Data: bytes.Repeat(sendEntry(rng), 3)}) // compresses
	if err := l.TruncateBack(Index(len(want) - 2)); err != nil {
		t.Fatal(err)
	}
	want = want[:len(want)-2]
	add(Entry{Term: 5, Data: bytes.Repeat(sendEntry(rng), 3)})
	if err := l.SetStable([]byte("term 5, vote for 2")); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	m := imageOf(t, fs)
	for name, b := range m {
		_, _, segment := parseSegmentName(name)
		switch {
		case segment: // the zeros behind the end say nothing
			m[name] = b[:max(headerBytes, (len(bytes.TrimRight(b, "\x00"))+headerBytes-1)&^(headerBytes-1))]
		case name != metaName:
			delete(m, name)
		}
	}
	return want, m
}
