package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/harepost/harepost/engine/backup"
)

// Open implements raft.SnapshotStore. Of this node's own snapshot it makes a copy of
// the state as it is now, which waits for a flush, and is removed when the reader is
// closed. Of one that was received and is still to be restored there is nothing to
// read, see ReceivedDir.
func (s *SnapshotStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.mu.Lock()
	newest := s.newest
	s.mu.Unlock()
	if newest == nil || newest.ID != id {
		return nil, nil, fmt.Errorf("raftstore: there is no snapshot %s", id)
	}
	m := newest.clone()
	if dir := s.dataOf(newest); dir != "" {
		m.Size = m.Bytes
		return &m.SnapshotMeta, s.openReceived(&m, dir), nil
	}
	src, err := s.openOwn(&m)
	if err != nil {
		return nil, nil, fmt.Errorf("raftstore: open snapshot %s: %w", id, err)
	}
	m.Size = src.size
	return &m.SnapshotMeta, src, nil
}

// A received is the reader of a snapshot that is to be restored.
type received struct {
	store *SnapshotStore
	meta  *SnapshotMeta
	dir   string
	close sync.Once
}

func (s *SnapshotStore) openReceived(m *SnapshotMeta, dir string) *received {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restoring[m.ID]++
	return &received{store: s, meta: m, dir: dir}
}

// Read fails: a node that leads by what it has not restored must not send it on.
func (r *received) Read([]byte) (int, error) {
	return 0, fmt.Errorf("raftstore: snapshot %s was received, and is to be restored before it is sent on", r.meta.ID)
}

func (r *received) Close() error {
	r.close.Do(func() {
		s := r.store
		s.mu.Lock()
		if s.restoring[r.meta.ID]--; s.restoring[r.meta.ID] == 0 {
			delete(s.restoring, r.meta.ID)
		}
		s.mu.Unlock()
		s.tidy()
	})
	return nil
}

// ReceivedDir is the directory with the state of a snapshot that was received and is
// to be restored, and its last entry's index and term. ok is false for any other reader. The directory is to
// be moved away: that it is gone is how the store knows that it was restored.
func ReceivedDir(rc io.ReadCloser) (dir string, index, term uint64, ok bool) {
	for {
		if r, ok := rc.(*received); ok {
			return r.dir, r.meta.Index, r.meta.Term, true
		}
		w, ok := rc.(raft.ReadCloserWrapper)
		if !ok {
			return "", 0, 0, false
		}
		rc = w.WrappedReadCloser()
	}
}

// A source is the reader of a copy of the state.
type source struct {
	store    *SnapshotStore
	dir      string // of the copy
	manifest backup.Manifest
	files    []backup.File
	size     int64 // of the stream
	read     int64 // of that
	began    time.Time
	from     *io.PipeReader
	done     chan struct{} // closed when the goroutine has ended
	pace     pace
	close    sync.Once
	err      error
}

func (s *SnapshotStore) openOwn(m *SnapshotMeta) (*source, error) {
	checkpoint, number, err := s.beginSending()
	if err != nil {
		return nil, err
	}
	src := &source{store: s, dir: s.path(fmt.Sprint(checkpointPrefix, number)), done: make(chan struct{}), began: s.opts.Now()}
	src.pace = pace{perSecond: s.opts.BytesPerSecond}
	err = src.copyState(m, checkpoint)
	if err == nil {
		err = src.start()
	}
	if err != nil {
		err = errors.Join(err, s.opts.FS.RemoveAll(src.dir))
		s.endSending(err)
		return nil, err
	}
	return src, nil
}

func (s *SnapshotStore) beginSending() (checkpoint func(context.Context, string) (uint64, error), number uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, 0, ErrSnapshotsClosed
	case s.checkpoint == nil:
		return nil, 0, errors.New("the state is not open yet")
	case s.sending >= mostSending:
		return nil, 0, fmt.Errorf("%d are being sent already", s.sending)
	case s.failure != nil && s.opts.Now().Sub(s.failedAt) < checkpointPause:
		return nil, 0, s.failure
	}
	s.sending++
	s.number++
	return s.checkpoint, s.number, nil
}

// endSending takes the failure to make a copy, nil if there was none.
func (s *SnapshotStore) endSending(failure error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sending--
	s.failure, s.failedAt = failure, s.opts.Now()
}

// copyState makes the copy and finds out what it is made of.
func (src *source) copyState(m *SnapshotMeta, checkpoint func(context.Context, string) (uint64, error)) error {
	s := src.store
	ctx, cancel := context.WithTimeout(s.ctx, checkpointWait)
	defer cancel()
	applied, err := checkpoint(ctx, src.dir)
	if err != nil {
		return fmt.Errorf("copy the state: %w", err)
	}
	if applied < m.Applied {
		return fmt.Errorf("the state holds everything up to %d, and not up to %d as it must", applied, m.Applied)
	}
	src.manifest = backup.Manifest{CreatedAt: s.opts.Now().UTC().Truncate(time.Second), Index: applied}
	names, err := s.opts.FS.List(src.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		info, err := s.opts.FS.Stat(s.opts.FS.PathJoin(src.dir, name))
		if err != nil {
			return err
		}
		src.files = append(src.files, backup.File{Name: backup.StateDir + "/" + name, Bytes: info.Size()})
	}
	src.size, err = backup.Size(src.manifest, src.files)
	return err
}

// start begins to write the stream.
func (src *source) start() error {
	from, into := io.Pipe()
	src.from = from
	return src.store.begin(func() {
		defer close(src.done)
		defer closeWith(src.store.ctx, into)()
		into.CloseWithError(src.write(into)) // nil is the end of the stream
	})
}

func (src *source) write(w io.Writer) error {
	bw, err := backup.NewWriter(w, src.manifest)
	if err != nil {
		return err
	}
	for _, f := range src.files {
		if err := src.add(bw, f); err != nil {
			return err
		}
	}
	return bw.Close()
}

func (src *source) add(w *backup.Writer, file backup.File) (err error) {
	fs := src.store.opts.FS
	f, err := fs.Open(fs.PathJoin(src.dir, file.Name[len(backup.StateDir)+1:]), vfs.SequentialReadsOption)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return w.Add(file.Name, file.Bytes, f)
}

// Read reads the stream.
func (src *source) Read(p []byte) (int, error) {
	n, err := src.from.Read(p)
	src.read += int64(n)
	if n > 0 && src.read == src.size {
		src.store.opts.Sent(src.size, src.store.opts.Now().Sub(src.began))
	}
	if waitErr := src.pace.wait(src.store.ctx, n); waitErr != nil && err == nil {
		err = ErrSnapshotsClosed
	}
	return n, err
}

// Close ends it and removes the copy. It may be called twice.
func (src *source) Close() error {
	src.close.Do(func() {
		src.from.CloseWithError(ErrSnapshotsClosed)
		<-src.done
		src.err = src.store.opts.FS.RemoveAll(src.dir)
		src.store.endSending(nil)
	})
	return src.err
}

// closeWith closes an end of a pipe when ctx ends, until stop is called: at the other
// one it is the error.
func closeWith(ctx context.Context, end interface{ CloseWithError(error) error }) (stop func()) {
	undo := context.AfterFunc(ctx, func() { end.CloseWithError(ErrSnapshotsClosed) })
	return func() { undo() }
}

// pace holds a reader to so many bytes a second. One goroutine uses it.
type pace struct {
	perSecond int64     // 0: no bound
	next      time.Time // when what was read until now is paid for
}

func (p *pace) wait(ctx context.Context, n int) error {
	if p.perSecond <= 0 {
		return nil
	}
	now := time.Now()
	if p.next.Before(now) {
		p.next = now // what was not used is not made up for
	}
	p.next = p.next.Add(time.Duration(float64(n) / float64(p.perSecond) * float64(time.Second)))
	timer := time.NewTimer(p.next.Sub(now))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
