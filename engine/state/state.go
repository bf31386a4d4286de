package state

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/job"
	"github.com/harepost/harepost/engine/lane"
	"github.com/harepost/harepost/engine/wire"
)

// State is the state. Apply, Rebuild and Flush are for one goroutine, the
// applier; everything else is for any.
type State struct {
	opts  Options
	db    *pebble.DB
	dir   *Directory
	jobs  jobs
	cache *pebble.Cache

	young    youngSet
	backlogs backlogs

	pending atomic.Int64 // deliveries that are not final

	// The applier's own.
	applied  uint64
	logBytes int64 // sum of the commands seen so far: a position for YoungLogBytes
	touched  map[delivery.ID]pendingRow
	ordered  uint64 // deliveries with an ordering key so far: the number of the last one
	orders   map[Order]*order
	key, buf []byte

	flushed   chan struct{} // written by Pebble's flushes, read by reportDurable
	stop      chan struct{}
	broken    chan struct{} // closed by breakDown
	stuck     atomic.Bool   // Pebble's locks are held for good, see stuckWith
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
		// Pebble takes its memtables out of the cache's budget, two of them all the
		// time: without room for them nothing would be left for blocks.
		cache: pebble.NewCache(o.CacheBytes + 2*o.MemTableBytes),
	}
	s.young.init()
	s.backlogs.init()
	db, err := pebble.Open(dir, s.pebbleOptions())
	if err != nil {
		s.cache.Unref()
		return nil, fmt.Errorf("state: open %s: %w", dir, err)
	}
	s.db = db
	if err := errors.Join(s.loadMeta(), s.loadDirectory(), s.loadBacklogs()); err != nil {
		err = errors.Join(fmt.Errorf("state: load %s: %w", dir, err), db.Close())
		s.cache.Unref()
		return nil, err
	}
	s.reporter.Go(s.reportDurable)
	return s, nil
}

// Close stops what runs and closes Pebble without flushing: what is not
// flushed is in the log. Call Flush before for a fast next start. It may be
// called twice.
func (s *State) Close() error {
	s.closeOnce.Do(func() {
		close(s.stop)
		if s.stuck.Load() {
			s.closeErr = ErrBroken // anything else would wait for ever
			return
		}
		s.reporter.Wait()
		s.closeErr = s.db.Close()
		if errors.Is(s.closeErr, syscall.ENOSPC) {
			// Pebble ends a log of its own that has nothing in it. What is not flushed
			// is in ours.
			s.opts.Logger.Warn("state: no room to close it in order, which loses nothing", "error", s.closeErr)
			s.closeErr = nil
		}
		s.cache.Unref()
	})
	return s.closeErr
}

// Flush makes all that is applied durable; when others apply at the same time,
// what was applied before it was called.
func (s *State) Flush() error { return s.FlushContext(context.Background()) }

// FlushContext is Flush, and gives up waiting when ctx ends: the flush goes on. On
// a full disk it would wait until there is room.
func (s *State) FlushContext(ctx context.Context) error {
	done, err := s.db.AsyncFlush()
	if err != nil {
		return fmt.Errorf("state: flush: %w", err)
	}
	select {
	case <-done:
		return nil
	case <-s.broken:
		return ErrBroken
	case <-ctx.Done():
		return fmt.Errorf("state: flush: %w", ctx.Err())
	}
}

// FlushSoon starts a flush and does not wait for it, if none is on its way. On a
// full disk one is for as long as that lasts, and Pebble makes whoever asks for
// more wait, with the applier behind it.
func (s *State) FlushSoon() error {
	if s.db.Metrics().MemTable.Count > 1 {
		return nil
	}
	if _, err := s.db.AsyncFlush(); err != nil {
		return fmt.Errorf("state: flush: %w", err)
	}
	return nil
}

// Checkpoint makes a copy of what is durable in dir, which must not exist, out of
// hard links where it can. The copy holds everything up to applied, and may hold
// more; low is the first index that a log must have which is to go with it, or one
// before that. For any goroutine.
func (s *State) Checkpoint(dir string) (applied, low uint64, err error) {
	// They only ever ascend: what is read before the copy is not beyond it.
	applied, low, err = s.Durable()
	if err != nil {
		return 0, 0, fmt.Errorf("state: checkpoint: %w", err)
	}
	if err := checkpoint(s.db, dir); err != nil {
		return 0, 0, fmt.Errorf("state: checkpoint: %w", err)
	}
	return applied, low, nil
}

// checkpoint is Pebble's, which panics with the error where the copy's own directory
// cannot be synced. Nothing but the copy is half done then.
func checkpoint(db *pebble.DB, dir string) (err error) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case runtime.Error:
			panic(v)
		case error:
			err = v
		default:
			panic(v)
		}
	}()
	return db.Checkpoint(dir)
}

// Durable is the index up to which a crash at this moment would leave everything,
// and the first one that the log must still have for what it leaves. For any
// goroutine.
func (s *State) Durable() (applied, low uint64, err error) {
	m, ok, err := s.durableMeta()
	if err != nil || !ok {
		return 0, 1, err
	}
	return m.applied, m.low, nil
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
		s.scan([]byte{spaceDataKey}, []byte{spaceDataKey + 1}, func(key, value []byte) error {
			if len(key) != 1+8 {
				return fmt.Errorf("state: row %q: %w", key, wire.ErrMalformed)
			}
			s.dir.putDataKey(account.ID(binary.BigEndian.Uint64(key[1:])), bytes.Clone(value))
			return nil
		}),
		load(spaceAccount, func(r *wire.Reader) {
			var a account.Account
			a.Read(r)
			s.dir.putAccount(a)
		}),
		load(spaceJob, func(r *wire.Reader) {
			var j job.Job
			j.Read(r)
			s.jobs.put(j)
		}),
		load(spaceKey, func(r *wire.Reader) {
			var k account.Key
			k.Read(r)
			s.dir.putKey(k)
		}),
		load(spaceSetting, func(r *wire.Reader) {
			var set lane.Setting
			set.Read(r)
			s.dir.putLane(set)
		}),
		load(spaceDomain, func(r *wire.Reader) {
			var d account.Domain
			d.Read(r)
			s.dir.putDomain(d)
		}),
		s.loadTombstones(),
	)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
