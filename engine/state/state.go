package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/wire"
)

// FormatVersion is Pebble's on-disk format that this program writes. It is
// pinned, so that a newer Pebble does not silently make a directory that the
// previous release cannot open.
const FormatVersion = pebble.FormatValueSeparation

// Options of a State. The zero value of a field means its default.
type Options struct {
	FS            vfs.FS // default: the machine's, with Pebble's disk-health checks
	ReadOnly      bool   // nothing is written; Apply must not be called
	CacheBytes    int64  // block cache; default 128 MiB
	MemTableBytes int64  // of one memtable, of which there may be four; default 64 MiB

	// Bounds of what is young, see the package comment. Defaults: 262,144
	// deliveries, 64 MiB of records and bodies, 128 MiB of log.
	YoungDeliveries int
	YoungBytes      int64
	YoungLogBytes   int64

	// InlineBodyBytes is the longest body that is kept inside its row, where
	// it costs no key of its own but is read by every list that passes it.
	// Default 1 KiB. A row remembers where its body is, so the number may change.
	InlineBodyBytes int

	// Durable is called on the state's own goroutine when more has become
	// durable: the log is needed only from low on. Calls do not overlap.
	Durable func(applied, low uint64)

	// Failed is called, once or more, when Pebble finds bytes on disk that are
	// not what it wrote, or cannot write for about a second. Nothing should be
	// applied from then on. Default: panic.
	Failed func(error)

	Logger *slog.Logger // default slog.Default()
}

func (o *Options) withDefaults() {
	if o.CacheBytes == 0 {
		o.CacheBytes = 128 << 20
	}
	if o.MemTableBytes == 0 {
		o.MemTableBytes = 64 << 20
	}
	if o.YoungDeliveries == 0 {
		o.YoungDeliveries = 1 << 18
	}
	if o.YoungBytes == 0 {
		o.YoungBytes = 64 << 20
	}
	if o.YoungLogBytes == 0 {
		o.YoungLogBytes = 128 << 20
	}
	if o.InlineBodyBytes == 0 {
		o.InlineBodyBytes = 1 << 10
	}
	if o.Failed == nil {
		o.Failed = func(err error) { panic(err) }
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
}

// State is the state. Apply, Rebuild and Flush are for one goroutine, the
// applier; everything else is for any.
type State struct {
	opts  Options
	db    *pebble.DB
	dir   *Directory
	cache *pebble.Cache

	young youngSet

	pending atomic.Int64 // deliveries that are not final

	// The applier's own.
	applied  uint64
	logBytes int64 // sum of the commands seen so far: a position for YoungLogBytes
	touched  map[delivery.ID]pendingRow
	key, buf []byte

	flushed   chan struct{} // written by Pebble's flushes, read by reportDurable
	stop      chan struct{}
	broken    chan struct{} // closed by breakDown
	fullAt    atomic.Int64  // Unix nanoseconds of the latest write without room, see NoSpace
	breakOnce sync.Once
	reporter  sync.WaitGroup
	closeOnce sync.Once
	closeErr  error
}

// Open opens the state in dir, or makes it.
func Open(dir string, o Options) (*State, error) {
	o.withDefaults()
	s := &State{
		opts:    o,
		dir:     newDirectory(),
		touched: make(map[delivery.ID]pendingRow),
		flushed: make(chan struct{}, 1),
		stop:    make(chan struct{}),
		broken:  make(chan struct{}),
		cache:   pebble.NewCache(o.CacheBytes),
	}
	s.young.init()
	db, err := pebble.Open(dir, s.pebbleOptions())
	if err != nil {
		s.cache.Unref()
		return nil, fmt.Errorf("state: open %s: %w", dir, err)
	}
	s.db = db
	if err := errors.Join(s.loadMeta(), s.loadDirectory()); err != nil {
		err = errors.Join(fmt.Errorf("state: load %s: %w", dir, err), db.Close())
		s.cache.Unref()
		return nil, err
	}
	s.reporter.Go(s.reportDurable)
	return s, nil
}

func (s *State) pebbleOptions() *pebble.Options {
	o := &pebble.Options{
		FS:                          s.opts.FS,
		ReadOnly:                    s.opts.ReadOnly,
		Cache:                       s.cache,
		FormatMajorVersion:          FormatVersion,
		DisableWAL:                  true,
		MemTableSize:                uint64(s.opts.MemTableBytes),
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       2,
		L0StopWritesThreshold:       1000,
		LBaseMaxBytes:               64 << 20,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 2 },
		Logger:                      pebbleLogger{s.opts.Logger},
		EventListener:               s.eventListener(),
	}
	o.Experimental.EnableDeleteOnlyCompactionExcises = func() bool { return true }
	o.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionFastest })
	for i := range o.Levels {
		o.Levels[i].BlockSize = 32 << 10
		o.Levels[i].IndexBlockSize = 256 << 10
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		o.Levels[i].FilterType = sstable.TableFilter
	}
	return o
}

const (
	// A flush or compaction that fails is tried again by Pebble at once, with
	// new files. After mostBackgroundErrors in a row it is not going to succeed.
	mostBackgroundErrors = 20
	backgroundErrorPause = 50 * time.Millisecond
)

func (s *State) eventListener() *pebble.EventListener {
	var failures atomic.Int64
	return &pebble.EventListener{
		FlushEnd: func(i pebble.FlushInfo) {
			if i.Err == nil {
				failures.Store(0)
				signal(s.flushed)
			}
		},
		BackgroundError: func(err error) {
			if errors.Is(err, syscall.ENOSPC) {
				// A full disk is not a broken one: there may be room again. Until
				// then memtables fill up, then Apply waits, then the log's queue
				// fills up, and sends are refused long before.
				if s.NoSpace() == nil {
					s.opts.Logger.Error("state: no room for background work, it is tried again", "error", err)
				}
				s.fullAt.Store(time.Now().UnixNano())
				time.Sleep(backgroundErrorPause)
				return
			}
			switch n := failures.Add(1); {
			case n < mostBackgroundErrors:
				s.opts.Logger.Error("state: background work failed, it is tried again", "error", err)
				// Pebble holds its lock here. That is wanted: without the pause it
				// would try, and log, some 20,000 times a second.
				time.Sleep(backgroundErrorPause)
			case n == mostBackgroundErrors:
				s.breakDown(fmt.Errorf("state: background work fails again and again: %w", err))
			}
		},
		DataCorruption: func(i pebble.DataCorruptionInfo) {
			s.breakDown(fmt.Errorf("state: corruption in %s: %w", i.Path, i.Details))
		},
	}
}

// ErrNoSpace says that the disk has no room for what Pebble has to write.
var ErrNoSpace = errors.New("state: no space left on the disk")

// noSpaceFor is how long a write that found no room is remembered. Pebble
// tries again many times within it.
const noSpaceFor = 5 * time.Second

// NoSpace is ErrNoSpace while Pebble finds no room for what it has to write.
func (s *State) NoSpace() error {
	if at := s.fullAt.Load(); at != 0 && time.Since(time.Unix(0, at)) < noSpaceFor {
		return ErrNoSpace
	}
	return nil
}

func (s *State) breakDown(err error) {
	s.breakOnce.Do(func() { close(s.broken) })
	s.opts.Failed(err)
}

// ErrBroken says that the state cannot be written any more.
var ErrBroken = errors.New("state: broken")

// Close stops what runs and closes Pebble without flushing: what is not
// flushed is in the log. Call Flush before for a fast next start. It may be
// called twice.
func (s *State) Close() error {
	s.closeOnce.Do(func() {
		close(s.stop)
		s.reporter.Wait()
		s.closeErr = s.db.Close()
		s.cache.Unref()
	})
	return s.closeErr
}

// Flush makes all that is applied durable. Only for the applier, or when
// nothing applies any more.
func (s *State) Flush() error {
	done, err := s.db.AsyncFlush()
	if err != nil {
		return fmt.Errorf("state: flush: %w", err)
	}
	select {
	case <-done:
		return nil
	case <-s.broken:
		return ErrBroken
	}
}

// FlushSoon starts a flush and does not wait for it.
func (s *State) FlushSoon() error {
	if _, err := s.db.AsyncFlush(); err != nil {
		return fmt.Errorf("state: flush: %w", err)
	}
	return nil
}

// Applied is the last index whose effect the state holds. Only for the
// applier.
func (s *State) Applied() uint64 { return s.applied }

// Low is the first index that the log must still have for this state: the
// oldest young delivery's, or the one after Applied.
func (s *State) Low() uint64 { return s.young.low(s.applied + 1) }

// Pending is the number of deliveries that are not final.
func (s *State) Pending() int64 { return s.pending.Load() }

// Young is the number of deliveries that are only in the log and in memory.
func (s *State) Young() int { return s.young.len() }

// Directory is the accounts with their keys and domains.
func (s *State) Directory() *Directory { return s.dir }

// Metrics are Pebble's.
func (s *State) Metrics() *pebble.Metrics { return s.db.Metrics() }

type meta struct {
	applied, low uint64
	pending      int64
}

const metaVersion = 1

func (m meta) append(dst []byte) []byte {
	dst = append(dst, metaVersion)
	dst = binary.BigEndian.AppendUint64(dst, m.applied)
	dst = binary.BigEndian.AppendUint64(dst, m.low)
	return binary.AppendVarint(dst, m.pending)
}

func decodeMeta(b []byte) (meta, error) {
	r := wire.NewReader(b)
	if r.Byte() != metaVersion {
		r.Fail()
	}
	m := meta{applied: r.Uint64(), low: r.Uint64(), pending: r.Varint()}
	if r.Err() != nil {
		return meta{}, fmt.Errorf("state: applied index: %w", r.Err())
	}
	return m, nil
}

func (s *State) loadMeta() error {
	v, closer, err := s.db.Get([]byte{spaceMeta})
	if errors.Is(err, pebble.ErrNotFound) {
		s.young.setLow(1)
		return nil
	}
	if err != nil {
		return fmt.Errorf("state: applied index: %w", err)
	}
	m, err := decodeMeta(v)
	if err := errors.Join(err, closer.Close()); err != nil {
		return err
	}
	s.applied = m.applied
	s.pending.Store(m.pending)
	s.young.setLow(m.low)
	return nil
}

// durableMeta reads what a crash at this moment would leave.
func (s *State) durableMeta() (m meta, ok bool, err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{
		OnlyReadGuaranteedDurable: true,
		LowerBound:                []byte{spaceMeta},
		UpperBound:                []byte{spaceMeta + 1},
	})
	if err != nil {
		return meta{}, false, err
	}
	if it.First() {
		ok = true
		m, err = decodeMeta(it.Value())
	}
	return m, ok, errors.Join(err, it.Close())
}

// reportDurable tells the owner of the log what it may drop, after each flush.
func (s *State) reportDurable() {
	for {
		select {
		case <-s.flushed:
		case <-s.stop:
			return
		}
		if s.opts.Durable == nil {
			continue
		}
		m, ok, err := s.durableMeta()
		if err != nil {
			s.opts.Logger.Error("state: read the durable index; the log keeps more than it needs", "error", err)
			continue
		}
		if ok {
			s.opts.Durable(m.applied, m.low)
		}
	}
}

// scan calls fn with every key and value in [lower, upper).
func (s *State) scan(lower, upper []byte, fn func(key, value []byte) error) error {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err == nil {
			err = fn(it.Key(), v)
		}
		if err != nil {
			return errors.Join(err, it.Close())
		}
	}
	return it.Close()
}

func (s *State) loadDirectory() error {
	load := func(space byte, read func(r *wire.Reader)) error {
		return s.scan([]byte{space}, []byte{space + 1}, func(key, value []byte) error {
			r := wire.NewReader(append([]byte(nil), value...))
			read(&r)
			if r.Err() != nil || len(r.Rest()) > 0 {
				return fmt.Errorf("state: row %q: %w", key, wire.ErrMalformed)
			}
			return nil
		})
	}
	return errors.Join(
		load(spaceAccount, func(r *wire.Reader) {
			var a account.Account
			a.Read(r)
			s.dir.putAccount(a)
		}),
		load(spaceKey, func(r *wire.Reader) {
			var k account.Key
			k.Read(r)
			s.dir.putKey(k)
		}),
		load(spaceDomain, func(r *wire.Reader) {
			var d account.Domain
			d.Read(r)
			s.dir.putDomain(d)
		}),
	)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// pebbleLogger passes Pebble's log on. Pebble's Fatalf must not return: it
// says that a write to the state failed, after which memory and disk may
// differ.
type pebbleLogger struct{ *slog.Logger }

func (l pebbleLogger) Infof(format string, args ...any) {
	l.Debug("state: " + fmt.Sprintf(format, args...))
}

func (l pebbleLogger) Errorf(format string, args ...any) {
	l.Error("state: " + fmt.Sprintf(format, args...))
}

func (l pebbleLogger) Fatalf(format string, args ...any) {
	panic("state: " + fmt.Sprintf(format, args...))
}
