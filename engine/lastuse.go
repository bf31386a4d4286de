package engine

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/harepost/harepost/engine/command"
)

const (
	// lastUseEvery is how often it is put on record when keys were last used.
	// A crash forgets no more than that.
	lastUseEvery = time.Hour

	// lastUseAtClose bounds what Close spends on it.
	lastUseAtClose = 5 * time.Second
)

// lastUse is when each key was last used. A request must not cost a write: so
// it is noted in memory, and put on record once an hour and by Close.
type lastUse struct {
	m     sync.Map  // KeyID to *keyUse
	saved time.Time // the keeper's own
}

type keyUse struct {
	account AccountID
	at      atomic.Int64 // Unix milliseconds
}

func (l *lastUse) set(a AccountID, k KeyID, now time.Time) {
	v, ok := l.m.Load(k)
	if !ok {
		v, _ = l.m.LoadOrStore(k, &keyUse{account: a})
	}
	// Once a second is enough, and keeps the line out of the other core's way.
	if u, ms := v.(*keyUse), now.UnixMilli(); ms-u.at.Load() >= 1000 {
		u.at.Store(ms)
	}
}

// get is when the key was last used, recorded being what the state knows.
func (l *lastUse) get(k KeyID, recorded time.Time) time.Time {
	if v, ok := l.m.Load(k); ok {
		if at := time.UnixMilli(v.(*keyUse).at.Load()).UTC(); at.After(recorded) {
			return at
		}
	}
	return recorded
}

// changedUses are the uses that the state does not know of. What is noted of keys
// that are gone is forgotten.
func (e *Engine) changedUses() (uses []command.KeyUse) {
	e.lastUse.m.Range(func(key, value any) bool {
		k, u := key.(KeyID), value.(*keyUse)
		known, ok := e.state().Directory().Key(u.account, k)
		if !ok {
			e.lastUse.m.Delete(k)
		} else if at := u.at.Load(); at > known.LastUsed.UnixMilli() {
			uses = append(uses, command.KeyUse{Account: u.account, Key: k, At: at})
		}
		return true
	})
	return uses
}

// saveLastUse puts on record when keys were last used, if that has changed.
func (e *Engine) saveLastUse(ctx context.Context) error {
	term := e.reign.Load()
	if term == 0 {
		return nil
	}
	uses := e.changedUses()
	for len(uses) > 0 {
		n := min(len(uses), command.MostKeyUses)
		if err := e.propose(ctx, term, command.AppendTouchKeys(nil, uses[:n])); err != nil {
			return err
		}
		uses = uses[n:]
	}
	return nil
}

// keepLastUse is saveLastUse once an hour.
func (e *Engine) keepLastUse() {
	now := e.opts.Now()
	if e.lastUse.saved.IsZero() {
		e.lastUse.saved = now
	}
	if now.Sub(e.lastUse.saved).Abs() < lastUseEvery {
		return
	}
	e.lastUse.saved = now
	if err := e.saveLastUse(context.Background()); err != nil {
		e.opts.Logger.Error("engine: note when keys were last used; it will be tried again", "error", err)
	}
}

// saveLastUseAtClose is saveLastUse once more. That it fails costs no more than
// a crash would.
func (e *Engine) saveLastUseAtClose() {
	if e.ended() != ErrClosed { // failed
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), lastUseAtClose)
	defer cancel()
	if err := e.saveLastUse(ctx); err != nil {
		e.opts.Logger.Warn("engine: note when keys were last used", "error", err)
	}
}
