package raftstore

import (
	"bytes"
	"io"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// What a state costs to send and to receive, on the disk of the machine, by byte of
// the stream: reading and summing up on one side; summing up, writing, syncing and
// opening on the other.
func BenchmarkSnapshot(b *testing.B) {
	fs := vfs.Default
	dir := b.TempDir()
	st := newState(b, fs, dir+"/state")
	st.grow(100_000)
	o := snapshotOptions(b, fs)
	o.Dir = dir + "/sender"
	s := openSnapshotsWith(b, o)
	s.SetCheckpoint(st.checkpoint)
	publishOwn(b, s, st)
	m, stream := sent(b, s)
	b.Run("send", func(b *testing.B) {
		b.SetBytes(m.Size)
		for b.Loop() {
			_, r := opened(b, s)
			_, err := io.Copy(io.Discard, r)
			noError(b, err)
			noError(b, r.Close())
		}
	})
	b.Run("receive", func(b *testing.B) {
		o.Dir = dir + "/receiver"
		to := openSnapshotsWith(b, o)
		b.SetBytes(m.Size)
		for b.Loop() {
			noError(b, receive(to, m, bytes.NewReader(stream)))
		}
	})
	b.Run("look", func(b *testing.B) {
		o.Dir = dir + "/receiver"
		_, data, _ := openSnapshotsWith(b, o).Newest()
		for b.Loop() {
			_, _, err := peekState(fs, data)
			noError(b, err)
		}
	})
}
