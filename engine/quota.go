package engine

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/state"
)

// A quota keeps the data within Options.MaxDataBytes: the oldest finished
// deliveries go first, and when none is left, or they do not go fast enough,
// sends are refused. Pending ones are never touched, and go on.
//
// It works in steps, each of which drops the oldest part of what is finished, and
// then waits: the state gives the room back some moments later, and what one step
// frees must not be missed by the next. How much a step drops goes by bytes and
// not by the clock, which may have leapt.
type quota struct {
	max int64 // 0: none

	full  atomic.Bool  // sends are refused
	used  atomic.Int64 // when it was last looked at
	since atomic.Int64 // taken since

	mu   sync.Mutex // one look at a time
	wait int        // seconds before the next step
	told bool       // full, as last logged
}

const (
	// A step drops as much as there is too much, but at least a trimLeast-th and
	// at most a trimMost-th of what is finished.
	trimLeast, trimMost = 64, 8

	// trimTries is how often the moment is halved up to which a step drops.
	trimTries = 20

	// trimPause is how many seconds a step is given to show on disk, and
	// trimUrgently how many while sends are refused.
	trimPause, trimUrgently = 5, 2
)

// crowded is how full it may become while finished deliveries are being dropped,
// and roomy where sends are taken again: otherwise they would be refused and
// taken in turns.
func (q *quota) crowded() int64 { return q.max + q.max/10 }
func (q *quota) roomy() int64   { return q.max - q.max/50 }

// dataBytes is what the data directory takes on disk.
func (e *Engine) dataBytes() int64 { return e.log.Bytes() + e.state().DiskBytes() }

// watchQuota looks after the quota once a second.
func (e *Engine) watchQuota() {
	q := &e.quota
	if q.max == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	used := e.dataBytes()
	q.looked(used)
	if used <= q.roomy() {
		e.setFull(false, used)
	}
	if used <= q.max && !q.full.Load() {
		q.wait = 0
		return
	}
	left := true
	if q.wait--; q.wait < 0 && e.leads() {
		if q.wait = trimPause; used > q.crowded() {
			q.wait = trimUrgently
		}
		var err error
		if left, err = e.trim(used); err != nil {
			e.opts.Logger.Error("engine: trim to --max-data-bytes; it will be tried again", "error", err)
		}
	}
	if !left {
		e.compactor.wake() // what is left of what was dropped
	}
	if !left || used > q.crowded() {
		e.setFull(true, used)
	}
}

// looked notes what is used; taken adds what was taken since. Between two looks
// the data of a second comes in, which may be a lot.
func (q *quota) looked(used int64) {
	q.used.Store(used)
	q.since.Store(0)
}

func (q *quota) taken(bytes int) {
	if q.max > 0 {
		q.since.Add(int64(bytes))
	}
}

// isFull reports whether sends are refused.
func (q *quota) isFull() bool {
	return q.full.Load() || q.max > 0 && q.used.Load()+q.since.Load() > q.crowded()
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
	if err := e.state().FlushSoon(); err != nil {
		return true, err
	}
	finished, err := e.state().Finished()
	if err != nil {
		return true, err
	}
	if finished == nil {
		return false, e.unpinLog()
	}
	until, err := trimUntil(finished, used-e.quota.roomy())
	if err != nil {
		return true, fmt.Errorf("trim: %w", err)
	}
	var dropped int64
	term := e.reign.Load()
	err = e.eachSpan(func(first, last AccountID) error {
		c := command.Trim{First: first, Last: last, Accepted: until}
		needed, bytes, err := e.state().NeedsTrim(c)
		if err != nil || !needed {
			return err
		}
		dropped += bytes
		return e.propose(context.Background(), term, command.AppendTrim(nil, &c))
	})
	if err != nil {
		return true, fmt.Errorf("trim: %w", err)
	}
	e.dropped(droppedForSize, dropped, time.UnixMilli(until), "bytes_before", used, "limit", e.quota.max)
	return true, e.state().FlushSoon() // a deletion frees nothing while it is in memory only
}

// trimUntil is up to which moment a step drops what was accepted.
func trimUntil(finished *state.Finished, tooMuch int64) (until int64, err error) {
	after, until := finished.Oldest, finished.Newest+1
	all, err := finished.DiskBytes(until)
	want := min(max(tooMuch, all/trimLeast), all/trimMost)
	for try := 0; try < trimTries && until-after > 1 && err == nil; try++ {
		var n int64
		middle := after + (until-after)/2
		if n, err = finished.DiskBytes(middle); n >= want {
			until = middle
		} else {
			after = middle
		}
	}
	return until, err
}

// unpinLog applies a command that does nothing, if the log is what is large:
// young deliveries that hold it leave memory for the disk queue with it.
func (e *Engine) unpinLog() error {
	if e.log.Bytes() <= e.opts.LogBytes {
		return nil
	}
	return e.propose(context.Background(), e.reign.Load(), command.AppendTrim(nil, &command.Trim{}))
}

// eachSpan calls fn with the accounts, retainAccounts at a time, so that no
// command holds up the applier for long. The last span has no upper end.
func (e *Engine) eachSpan(fn func(first, last AccountID) error) error {
	accounts, first := e.state().Directory().Accounts(), AccountID(0)
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
