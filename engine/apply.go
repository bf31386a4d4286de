package engine

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/harepost/harepost/engine/state"
)

// A ticket is what waits for a command: a Send's, or a change of an account.
type ticket struct {
	done  chan struct{} // one slot: the applier writes once, the waiter reads once
	young *state.Young  // of a Send
	term  uint64        // of the reign in which it was decided on, of a Send

	// ignored is written before done: the command changed nothing, because the
	// account had been deleted meanwhile.
	ignored bool
	// fate is written before done: a ticketFate.
	fate atomic.Int32
	// changed is how many deliveries a control command changed; set before done.
	changed int

	// Of the gate, for who has it now.
	share  *share
	units  int
	waited bool
}

// A ticketFate is what has become of a ticket's command.
type ticketFate int32

const (
	ticketCommitted ticketFate = iota
	ticketLost                 // whether it is committed, or ever will be, is unknown
	ticketRefused              // it is not, nor will it be
)

func newTicket() *ticket { return &ticket{done: make(chan struct{}, 1)} }

// attempted is what the dispatcher remembers of an attempt until its record is
// applied.
type attempted struct {
	by      *dispatcher // of the reign in which it was made
	cmd     []byte      // the command, which nothing refers to once it is applied
	lane    state.Lane
	id      DeliveryID
	outcome Outcome
	status  Status
	ordered bool           // others with its ordering key may wait for its end
	retry   state.Position // the next attempt, if status is StatusRetrying
}

// attempteds are reused: there is one for every attempt.
var attempteds = sync.Pool{New: func() any { return new(attempted) }}

// mostKeptCommand bounds the memory that an attempted keeps for its next use. A
// response that was kept of a failed attempt is longer.
const mostKeptCommand = 1 << 10

// release gives a up to be reused.
func (a *attempted) release() {
	cmd := a.cmd[:0]
	if cap(cmd) > mostKeptCommand {
		cmd = nil
	}
	*a = attempted{cmd: cmd}
	attempteds.Put(a)
}

// A commit is a batch on its way from the log to the state.
type commit struct {
	entries []state.Entry
	cookies []any
	waiters []*ticket // the applier's own
	turn    func()    // instead of entries: to be called between two commits
}

func (c *commit) take(batch []Committed) {
	c.entries, c.cookies = c.entries[:0], c.cookies[:0]
	for i := range batch {
		entry := state.Entry{Index: batch[i].Index, Command: batch[i].Cmd}
		if t, ok := batch[i].Cookie.(*ticket); ok {
			entry.Young = t.young
		}
		c.entries = append(c.entries, entry)
		c.cookies = append(c.cookies, batch[i].Cookie)
	}
}

// apply is the applier. After a failure it only keeps the log's writer from
// waiting for ever.
func (e *Engine) apply() {
	for c := range e.commits {
		if c.turn != nil {
			c.turn()
			c.turn = nil
			e.spare <- c
			continue
		}
		select {
		case <-e.failed:
		default:
			err := e.skipApplied(c)
			if err == nil && len(c.entries) > 0 {
				err = e.applyCommit(c)
			}
			if err != nil {
				e.fail(fmt.Errorf("engine: %w", err))
			}
		}
		clear(c.entries)
		clear(c.cookies)
		e.spare <- c
	}
}

// skipApplied takes out of a commit what the state holds already, as when a
// replicated log tells again what it told before a restart. Of what the log has not
// told since the state was opened the state is told what it has in memory of it.
func (e *Engine) skipApplied(c *commit) error {
	st, n := e.state(), 0
	for ; n < len(c.entries) && c.entries[n].Index <= st.Applied(); n++ {
		if index := c.entries[n].Index; index > e.heard && index >= st.Low() {
			if err := st.Rebuild(c.entries[n]); err != nil {
				return err
			}
		}
	}
	if len(c.entries) > 0 {
		e.heard = max(e.heard, c.entries[len(c.entries)-1].Index)
	}
	c.entries, c.cookies = c.entries[n:], c.cookies[n:]
	return nil
}

func (e *Engine) applyCommit(c *commit) error {
	done := 0
	err := e.state().Apply(c.entries, func(batch []state.Entry) {
		e.answerAccepts(batch, c.cookies[done:done+len(batch)])
		done += len(batch)
	})
	if err != nil {
		return err
	}
	// Before whoever asked for it is answered.
	for i := range c.entries {
		if a := c.entries[i].Changed; a != 0 {
			e.dispatcher().follow(a)
			known := e.Locked()
			if err := e.vault.follow(a, e.state().Directory()); err != nil && !known {
				e.tellLocked(err)
			}
		}
		if l := c.entries[i].Set; l.Account != 0 {
			e.dispatcher().limit(l)
		}
	}
	waiters := c.waiters[:0]
	for i, cookie := range c.cookies {
		if t, ok := cookie.(*ticket); ok {
			t.ignored = c.entries[i].Ignored
			if effect := c.entries[i].Effect; effect != nil {
				t.changed = effect.Changed
			}
			waiters = append(waiters, t)
		} else if a, ok := cookie.(*attempted); ok && !c.entries[i].Ignored {
			e.metrics.countAttempt(a)
		}
	}
	e.dispatcher().recorded(c, e.state().Low())
	for _, cookie := range c.cookies {
		if a, ok := cookie.(*attempted); ok {
			a.release()
		}
	}
	for _, t := range waiters { // the scheduler knows: whoever waits can rely on it
		t.done <- struct{}{}
	}
	clear(waiters)
	c.waiters = waiters
	return e.boundLog()
}

// boundLog flushes the state when the log has grown long, so that it can be
// cut: small rows fill a memtable slowly, and a start replays what is not
// flushed.
func (e *Engine) boundLog() error {
	if e.log.Bytes() < max(e.opts.LogBytes, e.flushAt.Load()) || e.flushing.Swap(true) {
		return nil
	}
	return e.state().FlushSoon()
}

// answeredEarly reports whether a ticket is answered as soon as its delivery
// is in memory. A send with an idempotency key waits until the key is in
// Pebble, where the next send with it will look.
func answeredEarly(t *ticket) bool { return t.young != nil && !t.young.Accept.Idempotent }

// answerAccepts lets the accepted deliveries start and their senders go on.
func (e *Engine) answerAccepts(batch []state.Entry, cookies []any) {
	accepted := 0
	e.learnLanes(batch)
	d := e.dispatcher()
	if d.term == 0 {
		return // somebody else delivers, and answered who sent
	}
	d.mu.Lock()
	now := d.now()
	for i := range batch {
		if y := batch[i].Young; y != nil {
			if !y.Accept.Ordered { // whose turn it is the effect of the entry will say
				d.addYoung(y, batch[i].Index, now)
			}
			accepted++
		}
	}
	d.kick(accepted)
	waiting := d.sched.Stats().YoungItems
	d.mu.Unlock()
	e.gate.throttle.watch(waiting)
	e.metrics.accepted.Add(accepted)
	for i, cookie := range cookies {
		if t, ok := cookie.(*ticket); ok && answeredEarly(t) {
			t.ignored = batch[i].Ignored
			cookies[i] = nil // from here on the ticket is its waiter's, for another send
			t.done <- struct{}{}
		}
	}
}
