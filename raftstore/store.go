package raftstore

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/harepost/harepost/wal"
)

// defaultCacheBytes is what StoreOptions.CacheBytes is when it is 0.
const defaultCacheBytes = 64 << 20

// StoreOptions are a Store's settings. The zero value is good, except for Failed.
type StoreOptions struct {
	// WAL are the settings of the log itself. Committed and Failed are the store's and are overwritten.
	WAL wal.Options

	// CacheBytes bounds the newest entries that are kept in memory beside the log: raft reads each one
	// back when it is committed, and once more for each follower. Default 64 MiB.
	CacheBytes int64

	// Failed is called once, when the store has failed for good, on the goroutine that met the error: the
	// process is to end. It must not call Close, nor wait for one.
	Failed func(error)

	// Logger gets what an operator should know. Default: slog.Default.
	Logger *slog.Logger
}

// ErrClosed is returned by calls that Close found waiting, and by those that come after it.
var ErrClosed = errors.New("raftstore: log store is closed")

// A Store is raft's log and its few stable values, in a wal directory. Its methods may be called from any
// goroutine; those that change something take turns.
//
// Memory: the tail cache (CacheBytes), a few cursors for readers of older entries (cursorsKept, see
// wal.Cursor), and the log's own queue.
type Store struct {
	o   StoreOptions
	log *wal.Log

	// turn is held by StoreLogs and DeleteRange, also while they wait for the disk: it is a channel because
	// those who wait for it wait for failed and closed too.
	turn    chan struct{}
	tail    tail
	cursors cursors
	stable  stable

	failed chan struct{} // closed by the first failure
	closed chan struct{} // closed by Close

	mu      sync.Mutex // below
	failure error      // set before failed is closed
	hold    uint64     // see Hold
	over    snapshot   // see Installed
	fresh   bool       // over was installed, and the log is not deleted yet
	ghost   uint64     // see Installed; last entry of the log that was deleted, 0: none
	last    wal.Index  // what the StoreLogs under way waits for, 0 when there is none
	done    chan struct{}
	since   time.Time // see storing

	closeOnce sync.Once
	closeErr  error
}

var (
	_ raft.LogStore          = (*Store)(nil)
	_ raft.StableStore       = (*Store)(nil)
	_ raft.MonotonicLogStore = (*Store)(nil)
)

// OpenStore opens the log in a directory, or makes it. The errors are those of wal.Open. No goroutine runs
// before Start.
func OpenStore(dir string, o StoreOptions) (*Store, error) {
	if o.CacheBytes == 0 {
		o.CacheBytes = defaultCacheBytes
	}
	if o.CacheBytes < 0 {
		return nil, fmt.Errorf("raftstore: CacheBytes %d is negative", o.CacheBytes)
	}
	if o.Failed == nil {
		o.Failed = func(error) {}
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	s := &Store{o: o, turn: make(chan struct{}, 1), failed: make(chan struct{}), closed: make(chan struct{})}
	s.tail.most = o.CacheBytes
	w := o.WAL
	w.Committed, w.Failed = s.committed, func(err error) { s.fail(err) }
	if w.Logger == nil {
		w.Logger = o.Logger
	}
	log, err := wal.Open(dir, w)
	if err != nil {
		return nil, err
	}
	s.log, s.cursors.log = log, log
	if err := s.stable.load(log.Stable()); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	return s, nil
}

// Start begins to write. Call it before raft gets the store, and before anything is stored.
func (s *Store) Start() { s.log.Start() }

// Replay calls fn with the entries from index from on, as wal.Log's does: what is durable when it begins,
// whether committed by raft or not. What an entry points to is valid during the call only.
func (s *Store) Replay(from uint64, fn func(wal.Entry) error) error {
	return s.log.Replay(wal.Index(from), fn)
}

// Hold says that the state still needs the entries from index low on, after a crash: DeleteRange keeps them
// when it deletes a prefix. Each call replaces the one before. Until the first one, no prefix is deleted.
func (s *Store) Hold(low uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hold = low
}

// SizeBytes is the size of the log's files.
func (s *Store) SizeBytes() int64 { return s.log.SizeBytes() }

// BytesFrom is [wal.Log.BytesFrom].
func (s *Store) BytesFrom(index uint64) int64 { return s.log.BytesFrom(wal.Index(index)) }

// MaxEntryBytes is the most that an entry's data may take.
func (s *Store) MaxEntryBytes() int { return s.log.MaxEntryBytes() }

// NoSpace is the error that keeps the log from preparing its next segment, as wal.Log's.
func (s *Store) NoSpace() error { return s.log.NoSpace() }

// Recovery says what OpenStore found.
func (s *Store) Recovery() wal.Recovery { return s.log.Recovery() }

// Identity names the node or cluster that the log belongs to.
func (s *Store) Identity() [16]byte { return s.log.Identity() }

// CopyTo writes the durable entries from index from up to last, or to the end if that comes first, into a new
// log in dir, and answers the index of the last one; see wal.Log.CopyRange. With what raft has committed as
// last, no entry is in the copy that may yet be taken back. The copy has the stable values too.
func (s *Store) CopyTo(dir string, from, last uint64) (uint64, error) {
	copied, err := s.log.CopyRange(dir, wal.Index(from), wal.Index(last))
	return uint64(copied), err
}

// Close ends the store: what was stored and waits is committed, calls that a failure has stopped return. It
// may be called again, and gives the same error: that of a store that has failed, or nil.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		close(s.closed)
		s.closeErr = errors.Join(s.cursors.close(), s.log.Close())
		if err := s.Err(); err != nil {
			s.closeErr = err
		}
	})
	return s.closeErr
}

// Err is nil, or the failure that ended the store.
func (s *Store) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure
}

// fail makes err the end of the store, unless it has ended before.
func (s *Store) fail(err error) {
	err = fmt.Errorf("raftstore: log store has failed: %w", err)
	s.mu.Lock()
	first := s.failure == nil
	if first {
		s.failure = err
	}
	s.mu.Unlock()
	if first {
		close(s.failed)
		s.o.Failed(err)
	}
}

// stop is where a call ends that has met an error. Unless that is Close's doing, it is the end of the store,
// and raft is not to learn of it while it runs.
func (s *Store) stop(err error) error {
	if errors.Is(err, wal.ErrClosed) {
		return ErrClosed
	}
	s.fail(err)
	return s.halt()
}

// halt waits for Close and gives the failure.
func (s *Store) halt() error {
	<-s.closed
	if err := s.Err(); err != nil {
		return err
	}
	return ErrClosed
}

// begin takes the turn to change something, and end gives it back. An error is for the caller to return.
func (s *Store) begin() error {
	select {
	case s.turn <- struct{}{}:
	case <-s.failed:
		return s.halt()
	case <-s.closed:
		return ErrClosed
	}
	select {
	case <-s.closed:
		s.end()
		return ErrClosed
	case <-s.failed:
		s.end()
		return s.halt()
	default:
		return nil
	}
}

func (s *Store) end() { <-s.turn }
