package engine

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/harepost/harepost/engine/command"
)

// A quota keeps the data within Options.MaxDataBytes: the oldest finished
// deliveries go first, and when none is left, or they do not go fast enough,
// sends are refused. Pending ones are never touched, and go on.
//
// It works in steps, each of which drops what was accepted in the oldest part of
// the time that finished deliveries are from, and then waits: the state gives the
// room back some moments later, and what one step frees must not be missed by the
// next.
type quota struct {
	max int64 // 0: none

	full atomic.Bool // sends are refused

	mu   sync.Mutex // one look at a time
	wait int        // seconds before the next step
	told bool       // full, as last logged
}

const (
	// trimParts is into how many parts the time of finished deliveries is cut;
	// a step drops the oldest.
	trimParts = 16

	// trimPause is how many seconds a step is given to show on disk.
	trimPause = 5

	// leastTrim keeps the steps from becoming ever smaller.
	leastTrim = time.Second
)

// crowded is how full it may become while finished deliveries are being dropped,
// and roomy where sends are taken again: otherwise they would be refused and
// taken in turns.
func (q *quota) crowded() int64 { return q.max + q.max/10 }
func (q *quota) roomy() int64   { return q.max - q.max/50 }

// dataBytes is what the data directory takes on disk.
func (e *Engine) dataBytes() int64 { return e.log.Bytes() + e.state.DiskBytes() }

// watchQuota looks after the quota once a second.
func (e *Engine) watchQuota() {
	q := &e.quota
	if q.max == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	used := e.dataBytes()
	if used <= q.max {
		q.wait = 0
		if used <= q.roomy() {
			e.setFull(false, used)
		}
		return
	}
	left := true
	if q.wait--; q.wait < 0 {
		q.wait = trimPause
		var err error
		if left, err = e.trim(used); err != nil {
			e.opts.Logger.Error("engine: trim to --max-data-bytes; it will be tried again", "error", err)
		}
	}
	if !left || used > q.crowded() {
		e.setFull(true, used)
	}
}

func (e *Engine) setFull(full bool, used int64) {
	q := &e.quota
	q.full.Store(full)
	if q.told == full {
		return
	}
	if q.told = full; full {
		e.opts.Logger.Error("the data has reached its limit: sends are refused, deliveries go on", "bytes", used, "limit", q.max)
		return
	}
	e.opts.Logger.Info("the data is below its limit again: sends are accepted", "bytes", used, "limit", q.max)
}

// trim drops the oldest part of the finished deliveries. It reports false when
// there are none.
func (e *Engine) trim(used int64) (left bool, err error) {
	// What the log still has of what is flushed goes at once.
	if err := e.state.FlushSoon(); err != nil {
		return true, err
	}
	oldest, found, err := e.state.OldestFinished()
	if err != nil || !found {
		return found, err
	}
	now := e.opts.Now().UnixMilli()
	until := oldest + max((now-oldest)/trimParts, leastTrim.Milliseconds())
	var dropped int64
	err = e.eachSpan(func(first, last AccountID) error {
		c := command.Trim{First: first, Last: last, Accepted: until}
		needed, bytes, err := e.state.NeedsTrim(c)
		if err != nil || !needed {
			return err
		}
		dropped += bytes
		return e.propose(context.Background(), command.AppendTrim(nil, &c))
	})
	if err != nil {
		return true, fmt.Errorf("trim: %w", err)
	}
	e.dropped(droppedForSize, dropped, time.UnixMilli(until), "bytes_before", used, "limit", e.quota.max)
	return true, e.state.FlushSoon() // a deletion frees nothing while it is in memory only
}

// eachSpan calls fn with the accounts, retainAccounts at a time, so that no
// command holds up the applier for long. The last span has no upper end.
func (e *Engine) eachSpan(fn func(first, last AccountID) error) error {
	accounts, first := e.state.Directory().Accounts(), AccountID(0)
	for {
		last, more := AccountID(math.MaxUint64), len(accounts) > retainAccounts
		if more {
			last = accounts[retainAccounts-1]
			accounts = accounts[retainAccounts:]
		}
		if err := fn(first, last); err != nil || !more {
			return err
		}
		first = last + 1
	}
}
