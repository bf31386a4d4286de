package engine

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/lane"
	"github.com/harepost/harepost/engine/state"
)

// settingLocks make one decision at a time about what is set for the lanes of an
// account: whoever changes it looks, decides and commits with the account's lock.
type settingLocks [64]sync.Mutex

func (l *settingLocks) of(a AccountID) *sync.Mutex { return &l[uint64(a)%uint64(len(l))] }

// limits reports whether a send says anything about its flow.
func (f *Flow) limits() bool { return f.Key != "" && (f.Rate != 0 || f.Parallelism != 0) }

// change makes of a flow's setting what a send says of it, and reports whether
// that is another one. What an operator has set stays, and what the send does not
// say.
func (f *Flow) change(s *lane.Setting) bool {
	was := *s
	if f.Rate != 0 && !s.PinnedRate {
		s.Rate = f.Rate
	}
	if f.Parallelism != 0 && !s.PinnedParallelism {
		s.Parallelism = f.Parallelism
	}
	return *s != was
}

// flowSetting is what is set for a flow, and whether that is anything.
func (e *Engine) flowSetting(a AccountID, key string) (lane.Setting, bool) {
	at := state.Lane{Account: a, Destination: delivery.FlowDestination(key)}
	if s, ok := e.state().Directory().Setting(at); ok {
		return s, true
	}
	return lane.Setting{
		Account: a, Destination: at.Destination, Name: lane.Name{Kind: lane.Flow, Text: key},
	}, false
}

// limitFlow sets what a send says of its flow before the send is accepted. Only
// a change costs a command. ErrTooMany at the bound of an account's settings.
func (e *Engine) limitFlow(ctx context.Context, a AccountID, s *Send, now time.Time) error {
	f := &s.Flow
	if !f.limits() {
		return nil
	}
	if set, _ := e.flowSetting(a, f.Key); !f.change(&set) {
		return nil
	}
	term := e.reign.Load()
	if again, err := e.repeats(a, s, now); again || err != nil {
		return err
	}
	c := flowChanges{engine: e, account: a, term: term}
	c.lock()
	defer c.unlock()
	if err := c.add(f); err != nil {
		return err
	}
	return c.commit(ctx)
}

// repeats reports whether a send is the repetition of one that was accepted, and
// so says nothing new of its flow.
func (e *Engine) repeats(a AccountID, s *Send, now time.Time) (bool, error) {
	if s.IdempotencyKey == "" {
		return false, nil
	}
	hash := idempotencyHash(s)
	_, found, err := e.firstOf(a, now, &hash)
	return found, err
}

// limitFlows is limitFlow for the sends of a batch. Of two that say different
// things of one flow, the later counts.
func (b *batch) limitFlows(ctx context.Context) {
	c := flowChanges{engine: b.engine, account: b.account, term: b.term}
	b.left(func(i int, s *Send) {
		if !s.Flow.limits() {
			return
		}
		again, err := b.engine.repeats(b.account, s, b.now)
		if err == nil && !again {
			c.lock()
			err = c.add(&s.Flow)
		}
		b.results[i].Err = err
	})
	defer c.unlock()
	if err := c.commit(ctx); err != nil {
		b.refuse(err)
	}
}

// flowChanges are changes of what is set for flows, to be committed together.
type flowChanges struct {
	engine   *Engine
	account  AccountID
	term     uint64 // of the reign in which they are decided
	locked   bool
	settings map[uint64]lane.Setting // as they are to be, by destination
	made     int                     // of flows for which nothing was set
}

// lock takes the account's lock, unless it has it.
func (c *flowChanges) lock() {
	if !c.locked {
		c.engine.settings.of(c.account).Lock()
		c.locked = true
	}
}

func (c *flowChanges) unlock() {
	if c.locked {
		c.engine.settings.of(c.account).Unlock()
	}
}

// add adds what a send says of its flow.
func (c *flowChanges) add(f *Flow) error {
	s, ok := c.settings[delivery.FlowDestination(f.Key)]
	if !ok {
		s, ok = c.engine.flowSetting(c.account, f.Key)
	}
	if !f.change(&s) {
		return nil
	}
	if !ok {
		if err := c.engine.roomForSetting(c.account, c.made); err != nil {
			return err
		}
		c.made++
	}
	if c.settings == nil {
		c.settings = make(map[uint64]lane.Setting)
	}
	c.settings[s.Destination] = s
	return nil
}

// roomForSetting is ErrTooMany if the account may not have one setting more
// beside those that it has and those that are on their way.
func (e *Engine) roomForSetting(a AccountID, others int) error {
	if e.state().Directory().CountSettings(a)+others >= e.opts.SettingsPerAccount {
		return fmt.Errorf("%w: an account has at most %d destinations and flows with settings", ErrTooMany, e.opts.SettingsPerAccount)
	}
	return nil
}

// commit has the log take the changes, and waits until they are applied.
func (c *flowChanges) commit(ctx context.Context) error {
	settings := make([]lane.Setting, 0, len(c.settings))
	for _, s := range c.settings {
		settings = append(settings, s)
	}
	return c.engine.putLanes(ctx, c.term, settings)
}

// putLanes replaces what is set for lanes, with one append to the log. The lock
// of their account is held.
func (e *Engine) putLanes(ctx context.Context, term uint64, settings []lane.Setting) error {
	cmds := make([][]byte, len(settings))
	for i := range settings {
		cmds[i] = command.AppendPutLane(nil, &settings[i])
	}
	return e.proposeAll(ctx, term, cmds)
}

// proposeAll is propose for several commands, with one append to the log.
func (e *Engine) proposeAll(ctx context.Context, term uint64, cmds [][]byte) error {
	if len(cmds) == 0 {
		return nil
	}
	proposals := make([]Proposal, len(cmds))
	for i, cmd := range cmds {
		proposals[i] = Proposal{cmd, newTicket()}
	}
	if err := e.log.AppendBatch(term, proposals); err != nil {
		return err
	}
	for _, p := range proposals {
		select {
		case <-p.Cookie.(*ticket).done:
			if err := p.Cookie.(*ticket).uncommitted(); err != nil {
				return err
			}
		case <-e.failed:
			return fmt.Errorf("%w: %w", ErrUnknown, e.failure)
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrUnknown, ctx.Err())
		}
	}
	return nil
}
