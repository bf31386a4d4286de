package raftstore

import (
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// simDisk is the disk of one life of a node. What is slow, or stands still while the
// node does, are the writes and syncs of its log: the goroutine that makes them holds no
// lock. One that sleeps with a lock held would stop simulated time for all, as who waits
// for a lock counts as busy.
type simDisk struct {
	vfs.FS
	life *life

	slow   atomic.Int64 // nanoseconds that a sync takes at most
	broken atomic.Int64 // how many more writes and syncs succeed; 0: all do
	hit    atomic.Bool  // one did not
}

var errBroken = errors.New("the disk is broken")

func newSimDisk(l *life, mem vfs.FS) *simDisk {
	d := &simDisk{life: l}
	d.FS = errorfs.Wrap(mem, errorfs.InjectorFunc(d.before))
	return d
}

// before is called before each operation.
func (d *simDisk) before(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() != errorfs.OpIsWrite || d.life.dead.Load() {
		return nil
	}
	if strings.HasSuffix(op.Path, ".wal") {
		switch op.Kind {
		case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo, errorfs.OpFileWriteAt:
			d.life.whileHeld()
			if slow := time.Duration(d.slow.Load()); slow > 0 {
				sleep(d.life.w.chance.between(0, slow))
			}
		}
	}
	if op.Path == "data/state" || strings.HasPrefix(op.Path, "data/state/") {
		return nil // Pebble waits with a lock held before it tries again
	}
	if d.broken.Load() > 0 && d.broken.Add(-1) == 0 {
		d.broken.Store(1) // for good
		d.hit.Store(true)
		return errBroken
	}
	return nil
}
