package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/harepost/harepost/wal"
)

// SnapshotOptions of a SnapshotStore. The zero value of a field means its default.
type SnapshotOptions struct {
	FS  vfs.FS
	Dir string // its own, which it makes; on the disk of the state

	// BytesPerSecond bounds what is sent to one node. Default 0: no bound.
	BytesPerSecond int64

	// Failed is called when what the disk holds is not known any more. The process
	// should end.
	Failed func(error)

	// Sent and Received are told of every snapshot that was sent to another node, or
	// received, as a whole: its bytes, and how long that took. Default: nobody is.
	Sent, Received func(bytes int64, took time.Duration)

	Now    func() time.Time // default time.Now
	Logger *slog.Logger     // default slog.Default()
}

func (o *SnapshotOptions) withDefaults() {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Sent == nil {
		o.Sent = func(int64, time.Duration) {}
	}
	if o.Received == nil {
		o.Received = func(int64, time.Duration) {}
	}
	if o.Failed == nil {
		o.Failed = func(err error) { panic(err) }
	}
}

// A SnapshotStore is a raft.SnapshotStore that keeps one snapshot, and of its own
// node's only what raft must know of it: the state is durable beyond it, and a copy
// of it is as good as one that was taken then. What is between is committed, and
// skipped by whoever gets it.
//
//	INDEX-TERM-NUMBER/meta.json   the snapshot; see SnapshotMeta
//	INDEX-TERM-NUMBER/data/       of one that was received: the state, until the engine has moved it away
//	incoming-INDEX-TERM-NUMBER/   one on its way, until it is whole, checked and durable: then it is renamed
//	checkpoint-NUMBER/            a copy of the state that is being sent
//
// What is sent is a backup, in the form of package backup, without a log. Its size is
// known beforehand, as raft wants; its files are read once, and summed up meanwhile.
//
// There is a goroutine for each snapshot that is being sent or received. All methods
// are for any goroutine.
type SnapshotStore struct {
	opts   SnapshotOptions
	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	streams sync.WaitGroup // goroutines of sources and sinks

	publishing sync.Mutex // held while one becomes the newest; over disk writes, which nobody else waits for

	mu         sync.Mutex
	closed     bool
	checkpoint func(ctx context.Context, dir string) (applied uint64, err error)
	log        raft.LogStore
	newest     *SnapshotMeta // nil: there is none
	number     uint64        // the last that was given out
	sending    int
	restoring  map[string]int // readers of what was received, by id
	stale      []string       // ids of which something may be left on disk
	failedAt   time.Time      // when a checkpoint could not be made
	failure    error
}

const (
	incomingPrefix   = "incoming-"
	checkpointPrefix = "checkpoint-"
	snapshotMetaName = "meta.json"
	snapshotDataName = "data"
)

const (
	// mostSending bounds the copies of the state that are kept from going away.
	mostSending = 4

	// checkpointWait bounds the flush before a checkpoint, which on a full disk would
	// not end.
	checkpointWait = time.Minute

	// checkpointPause is how long nobody tries again after a failure: raft would at once.
	checkpointPause = time.Second
)

// OpenSnapshots opens the store in o.Dir, or makes it, and removes what a crash left
// unfinished. The error says what to do when the snapshot that is there cannot be
// used: an older one would not fit to the log.
func OpenSnapshots(o SnapshotOptions) (*SnapshotStore, error) {
	o.withDefaults()
	s := &SnapshotStore{opts: o, restoring: make(map[string]int)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.load(); err != nil {
		s.cancel()
		return nil, fmt.Errorf("raftstore: snapshots in %s: %w", o.Dir, err)
	}
	return s, nil
}

func (s *SnapshotStore) load() error {
	fs := s.opts.FS
	if err := fs.MkdirAll(s.opts.Dir, 0o700); err != nil {
		return err
	}
	// Neither it nor what it is in may vanish with a power cut.
	parent := fs.PathDir(s.opts.Dir)
	if err := errors.Join(wal.SyncDir(fs, parent), wal.SyncDir(fs, fs.PathDir(parent))); err != nil {
		return err
	}
	names, err := fs.List(s.opts.Dir)
	if err != nil {
		return err
	}
	var ids []snapshotID
	for _, name := range names {
		if id, ok := parseSnapshotID(name); ok {
			ids = append(ids, id)
			s.number = max(s.number, id.number)
		} else if strings.HasPrefix(name, incomingPrefix) || strings.HasPrefix(name, checkpointPrefix) {
			if err := fs.RemoveAll(s.path(name)); err != nil {
				return err
			}
		}
	}
	if len(ids) == 0 {
		return nil
	}
	slices.SortFunc(ids, snapshotID.compare)
	newest := ids[len(ids)-1]
	if s.newest, err = s.read(newest); err != nil {
		return fmt.Errorf("%s: %w", newest, err)
	}
	for _, id := range ids[:len(ids)-1] {
		s.stale = append(s.stale, id.String())
	}
	s.tidy()
	return nil
}

// read reads a meta.json.
func (s *SnapshotStore) read(id snapshotID) (*SnapshotMeta, error) {
	const remedy = "remove this node from the cluster, empty its data directory, and let it join anew (harepost cluster remove, then serve --join)"
	b, err := readFile(s.opts.FS, s.path(id.String(), snapshotMetaName))
	if err != nil && !oserror.IsNotExist(err) {
		return nil, err
	}
	var m SnapshotMeta
	if err == nil {
		m, err = decodeSnapshotMeta(b)
	}
	if err == nil && (m.ID != id.String() || m.Index != id.index || m.Term != id.term) {
		err = fmt.Errorf("%w: it calls itself %s, of index %d and term %d", errDamagedSnapshot, m.ID, m.Index, m.Term)
	}
	if errors.Is(err, errFutureSnapshot) {
		return nil, fmt.Errorf("%s: %w", snapshotMetaName, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", snapshotMetaName, err, remedy)
	}
	return &m, nil
}

// mostMetaBytes is far more than a meta.json has.
const mostMetaBytes = 1 << 20

func readFile(fs vfs.FS, name string) ([]byte, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, mostMetaBytes))
	return b, errors.Join(err, f.Close())
}

func (s *SnapshotStore) path(elem ...string) string {
	return s.opts.FS.PathJoin(append([]string{s.opts.Dir}, elem...)...)
}

// SetCheckpoint says how a copy of the state is made: engine.Machine's Checkpoint. No
// snapshot of this node's own can be sent before.
func (s *SnapshotStore) SetCheckpoint(fn func(ctx context.Context, dir string) (applied uint64, err error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checkpoint = fn
}

// SetLog has the store refuse snapshots of which the log has more than they do: raft
// would throw away what comes after them, which this node has acknowledged.
func (s *SnapshotStore) SetLog(log raft.LogStore) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = log
}

// Newest is the snapshot that there is. dir has the state of one that was received
// and that the engine has not taken over, else it is empty.
func (s *SnapshotStore) Newest() (m SnapshotMeta, dir string, ok bool) {
	s.mu.Lock()
	newest := s.newest
	s.mu.Unlock()
	if newest == nil {
		return SnapshotMeta{}, "", false
	}
	return newest.clone(), s.dataOf(newest), true
}

func (m *SnapshotMeta) clone() SnapshotMeta {
	c := *m
	c.Configuration = m.Configuration.Clone()
	return c
}

// dataOf is the directory with a received state. When it cannot be told whether it
// is still there it is taken to be: whoever wants it will see.
func (s *SnapshotStore) dataOf(m *SnapshotMeta) string {
	if !m.Received {
		return ""
	}
	dir := s.path(m.ID, snapshotDataName)
	if _, err := s.opts.FS.Stat(dir); oserror.IsNotExist(err) {
		return ""
	}
	return dir
}

// Sending reports whether one is being sent.
func (s *SnapshotStore) Sending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sending > 0
}

// List implements raft.SnapshotStore, from memory.
func (s *SnapshotStore) List() ([]*raft.SnapshotMeta, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.newest == nil {
		return nil, nil
	}
	m := s.newest.clone()
	return []*raft.SnapshotMeta{&m.SnapshotMeta}, nil
}

// ErrSnapshotsClosed is for what was begun before Close or comes after it.
var ErrSnapshotsClosed = errors.New("raftstore: the snapshots are closed")

// Close ends what is being sent and received. It is called before raft is shut down,
// which waits for whoever reads or writes one. It may be called twice.
func (s *SnapshotStore) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.streams.Wait()
	return nil
}

// begin counts a goroutine of the store's, and starts it.
func (s *SnapshotStore) begin(run func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrSnapshotsClosed
	}
	s.streams.Go(run)
	return nil
}

// Publish makes a snapshot of this node's own the newest, see SnapshotSink.Own: of
// index and term, with the configuration as of configurationIndex, and a durable state
// up to applied.
func (s *SnapshotStore) Publish(index, term uint64, configuration raft.Configuration, configurationIndex, applied uint64) error {
	sink, err := s.create(index, term, configuration, configurationIndex)
	if err != nil {
		return err
	}
	sink.Own(applied)
	return sink.Close()
}

// publish makes the newest of what lies in incoming-ID, which is durable.
func (s *SnapshotStore) publish(m *SnapshotMeta, id snapshotID) error {
	s.publishing.Lock()
	defer s.publishing.Unlock()
	if err := s.wanted(id, m.Received); err != nil {
		return err
	}
	fs, dir := s.opts.FS, s.path(m.ID)
	if err := fs.Rename(s.path(incomingPrefix+m.ID), dir); err != nil {
		return err
	}
	if err := wal.SyncDir(fs, s.opts.Dir); err != nil {
		// raft will be told that there is none, and a start must not find it.
		if undo := errors.Join(fs.RemoveAll(dir), wal.SyncDir(fs, s.opts.Dir)); undo != nil {
			s.opts.Failed(fmt.Errorf("raftstore: take back snapshot %s: %w", m.ID, errors.Join(err, undo)))
		}
		return err
	}
	s.mu.Lock()
	if s.newest != nil {
		s.stale = append(s.stale, s.newest.ID)
	}
	s.newest = m
	s.mu.Unlock()
	s.tidy()
	return nil
}

// wanted is nil while a snapshot would be newer than the one there is. A received one
// must be of use, too: when the log has all that it has, and more, it is an old one
// that was late on its way. The state of one must have been taken over before the node
// takes one of its own.
func (s *SnapshotStore) wanted(id snapshotID, received bool) error {
	s.mu.Lock()
	newest, log := s.newest, s.log
	s.mu.Unlock()
	if newest != nil {
		if there, _ := parseSnapshotID(newest.ID); id.compare(there) <= 0 {
			return fmt.Errorf("raftstore: snapshot %s is older than %s, which is there already", id, there)
		}
	}
	if !received && newest != nil && s.dataOf(newest) != "" {
		return fmt.Errorf("raftstore: snapshot %s comes before %s was restored, which was received", id, newest.ID)
	}
	if !received || log == nil {
		return nil
	}
	last, err := log.LastIndex()
	if err != nil || last <= id.index {
		return err
	}
	// The same term at the same index: the log has all that is before it, too.
	var entry raft.Log
	if err := log.GetLog(id.index, &entry); err == nil && entry.Term == id.term {
		return fmt.Errorf("raftstore: snapshot %s is of no use: the log has its entries, and more up to %d", id, last)
	}
	return nil
}

// tidy removes older snapshots, but none that somebody restores from. What cannot be
// removed is tried again next time, or by the next start.
func (s *SnapshotStore) tidy() {
	s.mu.Lock()
	var remove []string
	s.stale = slices.DeleteFunc(s.stale, func(id string) bool {
		if s.restoring[id] > 0 {
			return false
		}
		remove = append(remove, id)
		return true
	})
	s.mu.Unlock()
	for _, id := range remove {
		if err := s.opts.FS.RemoveAll(s.path(id)); err != nil {
			s.opts.Logger.Warn("raftstore: an older snapshot cannot be removed, it is tried again", "id", id, "error", err)
			s.mu.Lock()
			s.stale = append(s.stale, id)
			s.mu.Unlock()
		}
	}
}
