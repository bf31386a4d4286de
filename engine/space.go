package engine

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"syscall"
)

// diskSpace keeps sends from filling the disk. What is kept free belongs to
// attempts, whose records the log must take, and to the flushes and compactions by
// which what was dropped becomes free again: a disk that is full to the last byte
// has no way back.
type diskSpace struct {
	short atomic.Bool  // sends are refused
	free  atomic.Int64 // when the keeper last looked; MaxInt64: the file system cannot tell
	since atomic.Int64 // bytes of sends taken since

	reserve int64 // kept free

	mu   sync.Mutex // one look at a time
	told bool       // short, as last logged
}

const (
	// Kept free is a part of the disk, but no more than mostReserve.
	reservePart = 10
	mostReserve = 1 << 30

	// writtenAs is how much of the disk a byte of a send may take before the
	// keeper looks again: in the log, in a flush, and while that is compacted.
	writtenAs = 3
)

func (d *diskSpace) init() { d.free.Store(math.MaxInt64) }

// taken notes what was taken.
func (d *diskSpace) taken(bytes int) { d.since.Add(int64(bytes)) }

// isShort reports whether sends are refused.
func (d *diskSpace) isShort() bool {
	return d.short.Load() || d.free.Load()-d.reserve < writtenAs*d.since.Load()
}

// look asks the file system. The error says that too little is free; once it has
// been so, a quarter more than the reserve has to be free again.
func (d *diskSpace) look(e *Engine) error {
	usage, err := e.opts.FS.GetDiskUsage(e.dir)
	if err != nil {
		return nil // not every file system can tell; writing will
	}
	free := int64(min(usage.AvailBytes, math.MaxInt64))
	d.since.Store(0)
	d.free.Store(free)
	want := d.reserve
	if d.short.Load() {
		want += want / 4
	}
	if free < want {
		return fmt.Errorf("%d bytes are free, %d are kept so: %w", free, want, syscall.ENOSPC)
	}
	return nil
}

// watchSpace refuses sends while the disk has too little room, and takes them
// again when it has. A flush may give room, as the log is cut after it, and what
// was purged is dropped with it: while it is short there is one every second.
func (e *Engine) watchSpace() {
	d := &e.space
	d.mu.Lock()
	defer d.mu.Unlock()
	err := errors.Join(d.look(e), e.log.NoSpace(), e.state().NoSpace())
	d.short.Store(err != nil)
	switch short := err != nil; {
	case d.told == short:
	case short:
		e.opts.Logger.Error("the disk is full: sends are refused, deliveries go on", "error", err)
	default:
		e.opts.Logger.Info("the disk has room again: sends are accepted")
	}
	d.told = err != nil
	if err == nil {
		return
	}
	if err := e.state().FlushSoon(); err != nil {
		e.opts.Logger.Error("engine: flush to make room", "error", err)
	}
}
