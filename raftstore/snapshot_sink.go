package raftstore

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/harepost/harepost/engine/backup"
	"github.com/harepost/harepost/engine/state"
	"github.com/harepost/harepost/wal"
)

// A SnapshotSink is a snapshot that is being made: of what another node sends, which
// is written to it, or of this node's own, about which Own is called. It becomes the
// newest with Close, whole, or with an error not at all.
//
// One goroutine uses it.
type SnapshotSink struct {
	store *SnapshotStore
	id    snapshotID
	meta  SnapshotMeta
	began time.Time

	// Of one that is received.
	into    *io.PipeWriter // nil before the first byte
	written int64
	unpack  chan unpacked // its one result

	end sync.Once
	err error
}

// unpacked is what came of a stream.
type unpacked struct {
	seen backup.Summary
	err  error
}

var (
	_ raft.SnapshotStore = (*SnapshotStore)(nil)
	_ raft.SnapshotSink  = (*SnapshotSink)(nil)
)

// Create implements raft.SnapshotStore. Nothing is on disk of it yet.
func (s *SnapshotStore) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration, configurationIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	if version != raft.SnapshotVersionMax {
		return nil, fmt.Errorf("raftstore: a snapshot of version %d, not %d", version, raft.SnapshotVersionMax)
	}
	return s.create(index, term, configuration, configurationIndex)
}

func (s *SnapshotStore) create(index, term uint64, configuration raft.Configuration, configurationIndex uint64) (*SnapshotSink, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrSnapshotsClosed
	}
	s.number++
	k := &SnapshotSink{store: s, id: snapshotID{index, term, s.number}, began: s.opts.Now()}
	k.meta.SnapshotMeta = raft.SnapshotMeta{
		Version: raft.SnapshotVersionMax, ID: k.id.String(), Index: index, Term: term,
		Configuration: configuration.Clone(), ConfigurationIndex: configurationIndex,
	}
	k.meta.Received = true // unless Own says otherwise: an empty stream must not pass for one of our own
	return k, nil
}

// ID implements raft.SnapshotSink.
func (k *SnapshotSink) ID() string { return k.meta.ID }

// Own says that the snapshot is of this node's own state, which is durable up to
// applied with all that the snapshot stands for, and needs no entry of the log up to
// the snapshot's index. Nothing is written to it then.
func (k *SnapshotSink) Own(applied uint64) { k.meta.Received, k.meta.Applied = false, applied }

// Write implements raft.SnapshotSink. An error may be about what was written before.
func (k *SnapshotSink) Write(p []byte) (int, error) {
	if k.into == nil {
		if err := k.receive(); err != nil {
			return 0, err
		}
	}
	n, err := k.into.Write(p)
	k.written += int64(n)
	return n, err
}

// receive begins to unpack.
func (k *SnapshotSink) receive() error {
	s := k.store
	if !k.meta.Received {
		return fmt.Errorf("raftstore: snapshot %s is this node's own, nothing is to be written to it", k.id)
	}
	if err := s.wanted(k.id, true); err != nil {
		return err
	}
	if err := s.opts.FS.MkdirAll(k.path(snapshotDataName), 0o700); err != nil {
		return fmt.Errorf("raftstore: receive snapshot %s: %w", k.id, err)
	}
	from, into := io.Pipe()
	result := make(chan unpacked, 1)
	err := s.begin(func() {
		defer closeWith(s.ctx, from)()
		seen, err := backup.Read(from, k.createFile)
		from.CloseWithError(err) // or who writes waits for ever
		result <- unpacked{seen, err}
	})
	if err != nil {
		return err
	}
	k.into, k.unpack = into, result
	s.opts.Logger.Info("a snapshot of the cluster is being received", "id", k.meta.ID)
	return nil
}

func (k *SnapshotSink) path(elem ...string) string {
	return k.store.path(append([]string{incomingPrefix + k.meta.ID}, elem...)...)
}

// createFile makes a file of the state.
func (k *SnapshotSink) createFile(name string) (io.WriteCloser, error) {
	file, ok := strings.CutPrefix(name, backup.StateDir+"/")
	if !ok { // it is a plain name: backup.Read lets no other pass
		return nil, fmt.Errorf("raftstore: %q is not a file that a snapshot has", name)
	}
	f, err := k.store.opts.FS.Create(k.path(snapshotDataName, file), vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, err
	}
	// Written back as it comes, so that the sync at its end does not hold up the log's.
	return syncOnClose{vfs.NewSyncingFile(f, vfs.SyncingFileOptions{BytesPerSync: 1 << 20})}, nil
}

type syncOnClose struct{ vfs.File }

func (f syncOnClose) Close() error { return errors.Join(f.Sync(), f.File.Close()) }

// Cancel implements raft.SnapshotSink: nothing stays of it. After Close it does nothing.
func (k *SnapshotSink) Cancel() error {
	var err error
	k.end.Do(func() {
		k.err = fmt.Errorf("raftstore: snapshot %s was given up", k.id)
		if k.into != nil {
			k.into.CloseWithError(k.err)
			<-k.unpack
		}
		err = k.remove()
	})
	return err
}

func (k *SnapshotSink) remove() error {
	if err := k.store.opts.FS.RemoveAll(k.path()); err != nil {
		return fmt.Errorf("raftstore: remove what is left of snapshot %s: %w", k.id, err)
	}
	return nil
}

// Close implements raft.SnapshotSink. A second call returns what the first did.
func (k *SnapshotSink) Close() error {
	k.end.Do(func() {
		if k.err = k.finish(); k.err != nil {
			k.err = errors.Join(fmt.Errorf("raftstore: snapshot %s: %w", k.id, k.err), k.remove())
		}
	})
	return k.err
}

func (k *SnapshotSink) finish() error {
	s := k.store
	k.meta.Created = s.opts.Now()
	if k.meta.Received {
		if err := k.check(); err != nil {
			return err
		}
	}
	if err := s.opts.FS.MkdirAll(k.path(), 0o700); err != nil {
		return err
	}
	b, err := k.meta.encode()
	if err != nil {
		return err
	}
	if err := writeFile(s.opts.FS, k.path(snapshotMetaName), b); err != nil {
		return err
	}
	if err := wal.SyncDir(s.opts.FS, k.path()); err != nil {
		return err
	}
	if err := s.publish(&k.meta, k.id); err != nil {
		return err
	}
	if k.meta.Received {
		s.opts.Received(k.written, k.meta.Created.Sub(k.began))
	}
	s.opts.Logger.Info("snapshot", "id", k.meta.ID, "applied", k.meta.Applied,
		"received", k.meta.Received, "bytes", k.meta.Bytes, "took", k.meta.Created.Sub(k.began))
	return nil
}

// check waits for the end of the stream, and looks whether what it brought is a state
// that can take the place of this node's.
func (k *SnapshotSink) check() error {
	if k.into == nil {
		return errors.New("nothing was received")
	}
	if err := k.into.Close(); err != nil {
		return err
	}
	u := <-k.unpack
	if u.err != nil {
		return u.err
	}
	if u.seen.Padding > 0 {
		return fmt.Errorf("%w: %d bytes follow its end", backup.ErrDamaged, u.seen.Padding)
	}
	applied, low, err := peekState(k.store.opts.FS, k.path(snapshotDataName))
	switch {
	case err != nil:
		return fmt.Errorf("what was received does not open: %w", err)
	case applied < u.seen.Manifest.Index:
		return fmt.Errorf("what was received holds everything up to %d, and not up to %d as its sender says", applied, u.seen.Manifest.Index)
	case low <= min(applied, k.meta.Index):
		return fmt.Errorf("what was received needs the log from %d, which nobody keeps for it: it is older than the snapshot", low)
	}
	k.meta.Applied, k.meta.Bytes = applied, k.written
	// Pebble may have made a file, as it was opened.
	return wal.SyncDir(k.store.opts.FS, k.path(snapshotDataName))
}

// peekState opens a state to see that it can be, and tells what it holds and needs.
func peekState(fs vfs.FS, dir string) (applied, low uint64, err error) {
	defer func() {
		// Pebble calls what it does not understand a bug.
		if v := recover(); v != nil {
			err = fmt.Errorf("%v", v)
		}
	}()
	st, err := state.Open(dir, state.Options{
		FS: fs, ReadOnly: true, CacheBytes: 8 << 20, MemTableBytes: 256 << 10,
		Failed: func(error) {}, // whoever reads gets the error, too
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return 0, 0, err
	}
	applied, low = st.Applied(), st.Low()
	return applied, low, st.Close()
}

func writeFile(fs vfs.FS, name string, b []byte) error {
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}
