package engine

import (
	"sync"
	"time"

	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/lane"
	"github.com/harepost/harepost/engine/state"
	"github.com/harepost/harepost/scheduler"
)

// dispatcher lets workers make the attempts that the scheduler says are next.
// Workers pull: one that has ended an attempt takes the next itself, under the
// same lock, so that under load an attempt costs no wake-up.
//
// There is one for each reign. Between reigns there is one at rest, of term 0,
// whose scheduler knows nothing.
type dispatcher struct {
	engine *Engine
	term   uint64

	mu       sync.Mutex
	sched    *scheduler.Scheduler
	idle     []*worker // waiting for work; the last to have worked is the last here
	workers  int
	pages    int  // being read
	behind   bool // nothing was started for mostUnrecorded
	unsure   bool // nothing was started because another node may lead
	resting  bool // nothing is started until Resume
	armed    scheduler.Time
	stopping bool

	rearm    chan struct{} // to the timekeeper: the next moment has come nearer
	running  sync.WaitGroup
	timing   sync.WaitGroup
	stopOnce sync.Once
	stopTime chan struct{}
}

// pagesAtOnce bounds the workers that read the disk rather than deliver; there
// are so many more than attempts may be under way.
const pagesAtOnce = 4

// mostUnrecorded bounds the attempts that have ended and are not on record yet:
// a crash would repeat them. Workers that only make more take the processors from
// the applier, and what it is behind by would grow until the log's queue is full.
const mostUnrecorded = 4096

// A worker is a goroutine that makes attempts.
type worker struct {
	wake chan bool // false: end
	attempting
}

func newDispatcher(e *Engine, term uint64) *dispatcher {
	return &dispatcher{
		engine:   e,
		term:     term,
		stopping: term == 0,
		sched: scheduler.New(scheduler.Options{
			Slots:           e.opts.MaxInFlight,
			LaneConcurrency: e.opts.LaneConcurrency,
			TripAfter:       e.opts.BreakerFailures,
		}),
		rearm:    make(chan struct{}, 1),
		stopTime: make(chan struct{}),
	}
}

func (d *dispatcher) now() scheduler.Time { return schedulerTime(d.engine.opts.Now()) }

func schedulerTime(t time.Time) scheduler.Time { return scheduler.Time(t.UnixMilli()) }

func (d *dispatcher) start() { d.timing.Go(d.keepTime) }

// stop lets attempts under way end, waits for them up to the timeout, and
// reports whether all have. It may be called again: a reign may end while the engine
// is being closed.
func (d *dispatcher) stop(timeout time.Duration) (drained bool) {
	d.mu.Lock()
	d.stopping = true
	for _, w := range d.idle {
		w.wake <- false
	}
	d.idle = nil
	d.mu.Unlock()
	d.stopOnce.Do(func() { close(d.stopTime) })
	d.timing.Wait()
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.running.Wait()
	}()
	t := time.NewTimer(timeout)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}

// halt lets no further attempt begin: once the log has failed nothing would
// keep the record of it, and after the next start it would be made again.
// Stop does the rest.
func (d *dispatcher) halt() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopping = true
}

// rest lets no attempt begin, until it is called with false.
func (d *dispatcher) rest(on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.resting = on
	d.kick(d.sched.Stats().ReadyLanes)
}

// wait waits for attempts that outlived the drain; each ends at its own
// deadline.
func (d *dispatcher) wait() { d.running.Wait() }

// addYoung gives the scheduler an accepted delivery. The lock is held, or
// nothing runs yet.
func (d *dispatcher) addYoung(y *state.Young, index uint64, now scheduler.Time) {
	d.sched.Add(laneKey(y.Lane()), scheduler.Item{
		ID:      scheduler.ID(y.ID),
		Due:     scheduler.Time(y.Due),
		Attempt: 1,
	}, index, now)
}

// follow has the scheduler hold an account's attempts back, or let them go on,
// as the account is now. Those of a deleted account wait until it is swept:
// what it had is gone then, and nothing is attempted of it.
func (d *dispatcher) follow(a AccountID) {
	if d.term == 0 {
		return
	}
	dir := d.engine.state().Directory()
	owner, ok := dir.Account(a)
	d.mu.Lock()
	defer d.mu.Unlock()
	if ok && owner.Suspended || !ok && dir.IsDeleted(a) {
		d.sched.Suspend(uint64(a))
		return
	}
	if !ok {
		d.sched.Forget(uint64(a), d.now())
		return
	}
	d.sched.Resume(uint64(a), d.now())
	d.kick(d.sched.Stats().ReadyLanes)
}

// limit has the scheduler keep to what is set for a lane.
func (d *dispatcher) limit(l state.Lane) {
	if d.term == 0 {
		return
	}
	set, _ := d.engine.state().Directory().Setting(l)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sched.SetLimits(laneKey(l), laneLimits(&set), d.now())
	d.kick(d.sched.Stats().ReadyLanes)
}

func laneLimits(set *lane.Setting) scheduler.LaneLimits {
	return scheduler.LaneLimits{Parallelism: set.Parallelism, Rate: set.Rate, Paused: set.Paused}
}

// recorded tells the scheduler which attempts are on record, and what has come
// to be on disk.
func (d *dispatcher) recorded(c *commit, low uint64) {
	if d.term == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	now, retries := d.now(), 0
	for i, cookie := range c.cookies {
		if effect := c.entries[i].Effect; effect != nil {
			retries += d.controlled(effect, now)
		}
		a, ok := cookie.(*attempted)
		if !ok || a.by != d {
			continue
		}
		d.sched.Recorded(laneKey(a.lane), scheduler.ID(a.id))
		if a.status == StatusRetrying && !c.entries[i].Ignored {
			d.sched.Add(laneKey(a.lane), schedulerItem(a.retry), 0, now)
			retries++
		}
	}
	d.sched.StoredBelow(low)
	if d.behind && d.sched.Unrecorded() < mostUnrecorded {
		d.behind = false
		retries = max(retries, len(c.cookies))
	}
	d.kick(retries)
}

// next is the attempt to start now; false if there is none, or none is to begin now.
// The lock is held.
func (d *dispatcher) next(now time.Time) (scheduler.Dispatch, bool) {
	if d.resting {
		return scheduler.Dispatch{}, false
	}
	if d.sched.Unrecorded() >= mostUnrecorded {
		d.behind = true
		return scheduler.Dispatch{}, false
	}
	if d.unsure = !d.engine.log.MayDispatch(); d.unsure {
		d.rearmBy(schedulerTime(now) + unsureWait)
		return scheduler.Dispatch{}, false
	}
	return d.sched.Next(schedulerTime(now))
}

// controlled tells the scheduler what a command has done to deliveries, and returns
// how many attempts it has put into lanes. The lock is held.
func (d *dispatcher) controlled(effect *state.Effect, now scheduler.Time) int {
	for _, c := range effect.Canceled {
		d.sched.Cancel(laneKey(c.Lane), scheduler.ID(c.ID))
	}
	for _, r := range effect.Requeued {
		it := schedulerItem(r.Position)
		if d.sched.Busy(it.ID) {
			continue // it could be read before: a page has brought it
		}
		if it.Class != scheduler.Fresh { // else it had to wait for its turn until now
			it.Class = scheduler.Replay
		}
		d.sched.Add(laneKey(r.Lane), it, 0, now)
	}
	return len(effect.Requeued)
}

// waiting is how many deliveries in memory have not been attempted yet, and how
// many accounts have such.
func (d *dispatcher) waiting() (deliveries, accounts int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sched.Stats().YoungItems, d.sched.YoungAccounts()
}

// waitingOf is how many an account has.
func (d *dispatcher) waitingOf(a AccountID) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sched.Young(uint64(a))
}

// busy reports whether an attempt of a delivery is under way or not recorded.
func (d *dispatcher) busy(id DeliveryID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sched.Busy(scheduler.ID(id))
}

// kick wakes or makes workers for up to n pieces of work, if there is any, and
// the timekeeper if its next moment has come nearer. The lock is held.
func (d *dispatcher) kick(n int) {
	if d.stopping {
		return
	}
	st := d.sched.Stats()
	if st.ReadyLanes == 0 || d.behind || d.resting {
		n = 0
	}
	if st.PagesWanted > 0 {
		n = max(n, 1)
	}
	for ; n > 0; n-- {
		if k := len(d.idle); k > 0 {
			w := d.idle[k-1]
			d.idle = d.idle[:k-1]
			w.wake <- true
		} else if d.workers < d.engine.opts.MaxInFlight+pagesAtOnce {
			d.workers++
			w := &worker{wake: make(chan bool, 1)}
			d.running.Go(func() { d.work(w) })
		} else {
			break
		}
	}
	if next, ok := d.sched.NextWake(); ok {
		d.rearmBy(next)
	}
}

// rearmBy has the timekeeper wake at a moment, or before. The lock is held.
func (d *dispatcher) rearmBy(at scheduler.Time) {
	if at < d.armed {
		d.armed = at
		select {
		case d.rearm <- struct{}{}:
		default:
		}
	}
}

// unsureWait is how long attempts wait before it is asked again whether this node
// leads, in milliseconds.
const unsureWait = 50

// work is a worker's life: attempts while there are any, then waiting.
func (d *dispatcher) work(w *worker) {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer func() { d.workers-- }()
	for !d.stopping {
		if d.pages < pagesAtOnce {
			if req, ok := d.sched.NextPage(); ok {
				d.readPage(req)
				continue
			}
		}
		now := d.engine.opts.Now()
		if next, ok := d.next(now); ok {
			d.attempts(w, next, now)
			continue
		}
		d.idle = append(d.idle, w)
		d.mu.Unlock()
		goOn := <-w.wake
		d.mu.Lock()
		if !goOn {
			return
		}
	}
}

// attempts makes one attempt after the other until there is something else to
// do. The lock is held on entry and on return, and given up in between.
//
// The slot of an attempt is freed before its record is queued for the log:
// were it the other way round, the record could be applied and the retry
// started before, and it would be the retry's slot that is freed.
func (d *dispatcher) attempts(w *worker, next scheduler.Dispatch, now time.Time) {
	var done *attempted // the last attempt, not queued for the log yet
	for more := true; more; {
		d.kick(1) // another attempt may be ready: let another worker take it
		d.mu.Unlock()
		if done != nil {
			d.engine.record(d, done)
		}
		done = d.engine.attempt(&w.attempting, next, now)
		d.mu.Lock()
		now = d.engine.opts.Now() // with the lock: an older time than another's would park lanes that are due
		d.sched.Done(next.Lane, next.Item.ID, w.ended, schedulerTime(now))
		if done == nil {
			d.sched.Recorded(next.Lane, next.Item.ID) // there is nothing to record
		}
		if more = !d.stopping && d.sched.Stats().PagesWanted == 0; more {
			next, more = d.next(now)
		}
	}
	if done != nil {
		d.mu.Unlock()
		d.engine.record(d, done)
		d.mu.Lock()
	}
}

// readPage reads a part of a lane's disk queue. The lock is held on entry and
// on return, and given up in between.
func (d *dispatcher) readPage(req scheduler.PageRequest) {
	d.pages++
	d.mu.Unlock()
	page, more, err := d.engine.queuePage(req)
	items := make([]scheduler.Item, len(page))
	for i, p := range page {
		items[i] = schedulerItem(p)
	}
	if err != nil {
		d.engine.opts.Logger.Error("engine: read a lane's queue; it will be tried again", "error", err)
	}
	d.mu.Lock()
	d.pages--
	if err != nil {
		d.sched.PageFailed(req.Lane, d.now())
		d.kick(0) // the timekeeper: the page is due again soon
		return
	}
	d.sched.Paged(req.Lane, items, more, d.now())
	d.kick(len(items))
}

func (e *Engine) queuePage(req scheduler.PageRequest) (page []state.Position, more bool, err error) {
	if err := e.reads.begin(); err != nil {
		return nil, false, err
	}
	defer e.reads.end()
	return e.state().QueuePage(stateLane(req.Lane), statePosition(req.From), req.Limit)
}

// longestSleep bounds how late the timekeeper notices that the clock was set
// forward, or stood still in a machine that was suspended: its timer knows of
// neither.
const longestSleep = time.Second

// keepTime wakes the scheduler at its next moment.
func (d *dispatcher) keepTime() {
	const never = scheduler.Time(1<<63 - 1)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-d.rearm:
		case <-d.stopTime:
			return
		}
		d.mu.Lock()
		now := d.now()
		d.sched.Wake(now)
		d.armed = never
		next, ok := d.sched.NextWake()
		if d.unsure && (!ok || next > now+unsureWait) {
			next, ok = now+unsureWait, true
		}
		if ok {
			d.armed = next
			sleep := min(max(next-now, 0), scheduler.Time(longestSleep.Milliseconds()))
			timer.Reset(time.Duration(sleep) * time.Millisecond)
		}
		d.kick(d.sched.Stats().ReadyLanes)
		d.mu.Unlock()
	}
}

// trim ends the half of the idle workers that has waited longest.
func (d *dispatcher) trim() {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := len(d.idle) / 2
	for _, w := range d.idle[:n] {
		w.wake <- false
	}
	d.idle = append(d.idle[:0], d.idle[n:]...)
}

// stats are the scheduler's counts and the age of the oldest due attempt.
func (d *dispatcher) stats() (st scheduler.Stats, oldest time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.now()
	if due, ok := d.sched.OldestDue(now); ok {
		oldest = time.Duration(now-due) * time.Millisecond
	}
	return d.sched.Stats(), oldest
}

func laneKey(l state.Lane) scheduler.LaneKey {
	return scheduler.LaneKey{Account: uint64(l.Account), Destination: l.Destination}
}

func stateLane(k scheduler.LaneKey) state.Lane {
	return state.Lane{Account: AccountID(k.Account), Destination: k.Destination}
}

func schedulerPosition(p state.Position) scheduler.Position {
	return scheduler.Position{Due: scheduler.Time(p.Due), ID: scheduler.ID(p.ID), Attempt: p.Attempt}
}

// schedulerItem is an attempt to make. Of those on disk only the number is
// known: a replay counts among the retries once its lane has let go of it.
func schedulerItem(p state.Position) scheduler.Item {
	it := scheduler.Item{ID: scheduler.ID(p.ID), Due: scheduler.Time(p.Due), Attempt: p.Attempt}
	if p.Attempt > 1 {
		it.Class = scheduler.Retry
	}
	return it
}

func statePosition(p scheduler.Position) state.Position {
	return state.Position{Due: int64(p.Due), ID: delivery.ID(p.ID), Attempt: p.Attempt}
}
