package wal

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func TestEntriesComeBackAfterEveryRestart(t *testing.T) {
	fs := vfs.NewMem()
	acked := 0
	o := Options{FS: fs, SegmentBytes: 64 << 10, Logger: quiet, Committed: func(e []Entry) { acked += len(e) }}
	for life := range 4 {
		l, err := Open("data/wal", o)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		err = l.Replay(0, func(e Entry) error {
			n++
			if e.Index != Index(n) || string(e.Data) != fmt.Sprint("payload ", n) {
				return fmt.Errorf("entry %d came back as %d %q", n, e.Index, e.Data)
			}
			return nil
		})
		if err != nil || n != life*100 {
			t.Fatalf("life %d: replayed %d entries, %v", life, n, err)
		}
		l.Start()
		for i := range 100 {
			if err := l.Append(Entry{Term: 1, Data: fmt.Append(nil, "payload ", n+i+1)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if want := (life + 1) * 100; acked != want || l.LastIndex() != Index(want) {
			t.Fatalf("life %d: acknowledged %d, last %d, want %d", life, acked, l.LastIndex(), want)
		}
	}
}
