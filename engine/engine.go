package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/lane"
	"github.com/harepost/harepost/engine/state"
	"github.com/harepost/harepost/scheduler"
)

// The directories inside the engine's.
const (
	walDir   = "wal"
	stateDir = "state"
)

// Engine accepts sends and delivers them. Its methods are for any goroutine.
type Engine struct {
	opts Options
	dir  string

	log         Log
	stored      atomic.Pointer[state.State] // another one after Machine.Restore
	dispatching atomic.Pointer[dispatcher]  // another one in each reign, and one at rest between
	reign       atomic.Uint64               // the term in which this node leads; 0: it does not
	metrics     *engineMetrics

	heard uint64         // index up to which the log has told; the applier's own
	past  sync.WaitGroup // dispatchers of past reigns whose attempts have not ended

	ids     idSource
	flights flights
	limiter limiter
	gate    gate // of sends
	lookups lookups
	vault   vault
	lastUse lastUse
	control sync.Mutex // one decision about deliveries at a time
	clerk   clerk
	admin   sync.Mutex // one change of accounts, keys or domains at a time
	reads   reads
	chores  sync.RWMutex // held by what looks at the state for longer, and does nothing for who waits
	backups backups

	commits chan *commit // from the log's writer to the applier
	spare   chan *commit // and back, for reuse
	applier sync.WaitGroup
	keeper  sync.WaitGroup
	started chan struct{} // closed when Open is done with the stores
	stop    chan struct{} // closed by Close

	flushing atomic.Bool  // a flush was asked for because the log is long
	flushAt  atomic.Int64 // how long it must be for the next
	space    diskSpace

	sweeping chan struct{} // to the keeper: a deleted account is to be swept
	retained retention     // bounds of the last whole pass; the keeper's own
	released state.Order   // where releaseOrders goes on; the keeper's own
	quota    quota

	compactor compactor
	events    events

	settings   settingLocks
	lanes      laneMemory
	laneTotals laneTotals

	failOnce  sync.Once
	failed    chan struct{} // closed when the engine cannot go on
	failure   error         // set before failed is closed
	closeOnce sync.Once
	closeErr  error
}

// commitsAhead is how many batches the log may be ahead of the state.
const commitsAhead = 4

// Open opens the engine in dir, or makes it. It returns when all that was
// acknowledged is readable and attempts are being made.
func Open(dir string, o Options) (*Engine, error) {
	o.withDefaults()
	if o.Transport == nil {
		return nil, errors.New("engine: Options.Transport is needed")
	}
	e := &Engine{
		opts:    o,
		dir:     dir,
		commits: make(chan *commit, commitsAhead),
		spare:   make(chan *commit, commitsAhead+2),
		started: make(chan struct{}),
		stop:    make(chan struct{}),
		failed:  make(chan struct{}),

		sweeping: make(chan struct{}, 1),
	}
	e.vault.keys = o.Keyring
	e.quota.max = o.MaxDataBytes
	e.limiter.rate = e.ratePerMinute
	e.gate.init(e.opts.SendsAtOnce)
	e.gate.throttle.engine = e
	e.dispatching.Store(newDispatcher(e, 0))
	e.gate.throttle.young = func(a AccountID) int { return e.dispatcher().waitingOf(a) }
	e.clerk.init()
	e.compactor.init()
	e.events.engine = e
	e.space.init()
	e.lookups.init()
	e.metrics = newEngineMetrics(e)
	if err := e.openStores(dir); err != nil {
		return nil, err
	}
	if err := e.vault.unlock(e.state().Directory()); err != nil && o.Replica != nil && !o.Replica.LeadsAlone() {
		e.tellLocked(err)
	} else if err != nil {
		return nil, errors.Join(err, e.log.Close(), e.state().Close())
	}
	for range cap(e.spare) {
		e.spare <- new(commit)
	}
	e.space.short.Store(e.space.look(e) != nil) // the keeper looks for the first time in a second
	close(e.started)
	e.applier.Go(e.apply)
	e.keeper.Go(e.keep)
	e.keeper.Go(e.work)
	e.keeper.Go(e.compact)
	e.keeper.Go(e.watchEvents)
	if err := e.log.Start(); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// state is the state as it is now; a log on several machines may replace it. Whoever
// reads rows holds reads or chores meanwhile.
func (e *Engine) state() *state.State { return e.stored.Load() }

// dispatcher is that of the reign, or one at rest.
func (e *Engine) dispatcher() *dispatcher { return e.dispatching.Load() }

// openStores opens state and log and brings the state up to what the log has for good.
func (e *Engine) openStores(dir string) error {
	if err := e.opts.FS.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("engine: make %s: %w", dir, err)
	}
	if err := e.removeBackup(); err != nil { // of a life that was cut short
		return err
	}
	if err := e.prepareState(); err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	e.space.reserve = e.opts.fitSizes(dir)
	so := &e.opts.State
	so.FS, so.Logger, so.Durable = e.opts.FS, e.opts.Logger, e.release
	so.Failed = e.fail
	st, err := state.Open(e.opts.FS.PathJoin(dir, stateDir), *so)
	if err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	open := openWAL
	if e.opts.Replica != nil {
		open = e.opts.Replica.OpenLog
	}
	log, err := open(LogOptions{
		FS:           e.opts.FS,
		Dir:          e.opts.FS.PathJoin(dir, walDir),
		SegmentBytes: e.opts.LogSegmentBytes,
		ReserveBytes: e.space.reserve,
		QueueBytes:   e.opts.LogQueueBytes,
		LogBytes:     e.opts.LogBytes,
		Applied:      st.Applied(),
		Low:          st.Low(),
		Machine:      machine{e},
		Observe:      e.metrics.observeCommit,
		Now:          e.opts.Now,
		Logger:       e.opts.Logger,
	})
	if err != nil {
		return errors.Join(fmt.Errorf("engine: %w", err), st.Close())
	}
	e.stored.Store(st)
	if err := e.replay(log); err != nil {
		return errors.Join(err, log.Close(), st.Close())
	}
	e.log = log
	return nil
}

// prepareState puts a state in place that was to replace the one there is when the
// process ended.
func (e *Engine) prepareState() error {
	if e.opts.Replica != nil {
		restore, err := e.opts.Replica.Prepare(e.opts.FS, e.dir)
		if err != nil {
			return err
		}
		if restore != "" {
			if err := e.offerState(restore); err != nil {
				return err
			}
		}
	}
	return e.adoptState()
}

// replayBytes is about how much of the log goes into one batch of the state.
const replayBytes = 1 << 20

// replay applies what the log has and the state does not. Commands of one index are
// applied together.
func (e *Engine) replay(log Log) error {
	st := e.state()
	low, applied := st.Low(), st.Applied()
	if first := log.FirstIndex(); first > low {
		return fmt.Errorf("engine: the log begins at %d, the state needs it from %d: entries are missing", first, low)
	}
	began := e.opts.Now()
	var batch []state.Entry
	size := 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		err := st.Apply(batch, nil)
		batch, size = batch[:0], 0
		return err
	}
	err := log.Replay(low, func(c Committed) error {
		entry := state.Entry{Index: c.Index, Command: bytes.Clone(c.Cmd)}
		if size >= replayBytes && entry.Index != e.heard {
			if err := flush(); err != nil {
				return err
			}
		}
		e.heard = entry.Index
		if entry.Index <= applied {
			return st.Rebuild(entry)
		}
		batch = append(batch, entry)
		size += len(c.Cmd)
		return nil
	})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return fmt.Errorf("engine: replay the log from %d: %w", low, err)
	}
	e.opts.Logger.Info("log replayed", "from", low, "applied", st.Applied(),
		"entries", st.Applied()+1-low, "pending", st.Pending(), "took", e.opts.Now().Sub(began))
	return nil
}

// restore gives the scheduler what is pending.
func (d *dispatcher) restore() error {
	e := d.engine
	dir := e.state().Directory()
	for _, a := range slices.Concat(dir.Suspended(), dir.Deleted()) {
		d.follow(a)
	}
	dir.EachSetting(func(set lane.Setting) {
		key := scheduler.LaneKey{Account: uint64(set.Account), Destination: set.Destination}
		d.sched.SetLimits(key, laneLimits(&set), d.now())
	})
	err := e.state().Lanes(func(l state.Lane, first state.Position) {
		d.sched.Restore(laneKey(l), schedulerPosition(first), d.now())
	})
	if err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	e.state().EachYoung(func(y *state.Young) {
		e.ids.observe(y.ID)
		e.lanes.learn(y.Lane(), y.Accept.Record)
		d.addYoung(y, y.Index(), d.now())
	})
	return nil
}

// Ready is nil while sends are accepted. The error is ErrNotLeader while another node
// leads, ErrOverloaded while the disk is full, ErrStorageFull while the data is at its
// limit, and otherwise says that the engine has ended.
func (e *Engine) Ready() error {
	if err := e.ended(); err != nil {
		return err
	}
	if e.reign.Load() == 0 {
		return ErrNotLeader
	}
	if e.space.isShort() {
		return fmt.Errorf("%w: the disk is full", ErrOverloaded)
	}
	if e.quota.isFull() {
		return ErrStorageFull
	}
	return nil
}

// ended is ErrUnknown after a failure, ErrClosed once Close has begun, and nil
// before.
func (e *Engine) ended() error {
	select {
	case <-e.failed:
		return fmt.Errorf("%w: %w", ErrUnknown, e.failure)
	default:
	}
	select {
	case <-e.stop:
		return ErrClosed
	default:
		return nil
	}
}

// fail ends the engine's work: whoever waits is told that the outcome is
// unknown, no attempt begins any more, and the owner is told why.
func (e *Engine) fail(err error) {
	e.failOnce.Do(func() {
		e.failure = err
		close(e.failed)
		e.gate.wake()
		e.dispatcher().halt()
		if e.opts.Failed != nil {
			e.opts.Failed(err)
		}
	})
}

// Close stops accepting, waits for attempts under way (at most DrainTimeout),
// commits and applies their records, flushes the state and closes everything.
// It may be called twice. After a failure it only closes.
func (e *Engine) Close() error {
	e.closeOnce.Do(func() { e.closeErr = e.shutdown() })
	return e.closeErr
}

func (e *Engine) shutdown() error {
	close(e.stop)
	e.keeper.Wait()
	last := e.dispatcher()
	drained := last.stop(e.opts.DrainTimeout)
	e.saveLastUseAtClose()
	err := e.log.Close()
	close(e.commits)
	e.applier.Wait()
	if e.ended() == ErrClosed { // not failed
		err = errors.Join(err, e.flushAtClose())
	}
	if !drained {
		// Their records find the log closed; the attempts are made again. What
		// has ended is on disk by now, if the owner does not wait with us.
		e.opts.Logger.Warn("attempts under way were given up; they are made again after the next start")
	}
	last.wait()
	if begun := e.dispatcher(); begun != last { // of a reign that began meanwhile
		begun.stop(0)
		begun.wait()
	}
	e.past.Wait()
	e.reads.close()
	return errors.Join(err, e.state().Close())
}

// flushAtClose spares the next start the replay. It is not waited for for ever, as
// on a disk that is full and stays so: the log has everything.
func (e *Engine) flushAtClose() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeFlushWait)
	defer cancel()
	err := e.state().FlushContext(ctx)
	if ctx.Err() != nil {
		e.opts.Logger.Warn("the state is not flushed in time, the next start replays the log", "no_space", e.state().NoSpace() != nil)
		return nil
	}
	return err
}

// closeFlushWait is much longer than a flush takes where there is room.
const closeFlushWait = 20 * time.Second

// propose commits a command that was decided on in the reign of that term, and waits
// until it is applied. The error is ErrNotLeader when that reign is over, ErrUnknown
// when the command may or may not be committed.
func (e *Engine) propose(ctx context.Context, term uint64, cmd []byte) error {
	_, err := e.proposeControl(ctx, term, cmd)
	return err
}

// proposeControl is propose, and returns how many deliveries a control command
// has changed.
func (e *Engine) proposeControl(ctx context.Context, term uint64, cmd []byte) (changed int, err error) {
	t := newTicket()
	if err := e.log.Append(term, cmd, t); err != nil {
		return 0, err
	}
	select {
	case <-t.done:
		return t.changed, t.uncommitted()
	case <-e.failed:
		return 0, fmt.Errorf("%w: %w", ErrUnknown, e.failure)
	case <-ctx.Done():
		return 0, fmt.Errorf("%w: %w", ErrUnknown, ctx.Err())
	}
}

// idSource draws ids that ascend within the process, also when the clock
// trembles. They follow a clock that is set back by more than idsAhead: an id
// is also the moment at which its first attempt is due, and that must not be
// as far off as the clock was wrong. Such ids are told from earlier ones of the
// same moment by their random half.
type idSource struct{ last atomic.Uint64 }

// idsAhead is how far the time in an id may be ahead of the clock.
const idsAhead = time.Second

func (s *idSource) next(now time.Time) DeliveryID {
	want, most := delivery.Sequence(now), delivery.Sequence(now.Add(idsAhead))
	for {
		last := s.last.Load()
		seq := max(want, last+1)
		if seq > most {
			seq = want
		}
		if s.last.CompareAndSwap(last, seq) {
			return delivery.MakeID(seq, rand.Uint64())
		}
	}
}

// observe makes later ids larger than one that exists.
func (s *idSource) observe(id DeliveryID) {
	if seq := id.Sequence(); seq > s.last.Load() {
		s.last.Store(seq)
	}
}
