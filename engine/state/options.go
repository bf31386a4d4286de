package state

import (
	"log/slog"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// FormatVersion is Pebble's on-disk format that this program writes. It is
// pinned, so that a newer Pebble does not silently make a directory that the
// previous release cannot open.
const FormatVersion = pebble.FormatValueSeparation

// Options of a State. The zero value of a field means its default.
type Options struct {
	FS            vfs.FS // default: the machine's, with Pebble's disk-health checks
	ReadOnly      bool   // nothing is written; Apply must not be called
	CacheBytes    int64  // block cache; default 64 MiB
	MemTableBytes int64  // of one memtable, of which there may be four; default 32 MiB

	// Bounds of what is young, see the package comment. Defaults: 65,536
	// deliveries, 32 MiB of records and bodies, 128 MiB of log. What is above them
	// waits for longer than a second, and is not worth its place: with the
	// scheduler's part each costs some 700 bytes where the payload has 300.
	YoungDeliveries int
	YoungBytes      int64
	YoungLogBytes   int64

	// Durable is called on the state's own goroutine when more has become
	// durable: the log is needed only from low on. Calls do not overlap.
	Durable func(applied, low uint64)

	// Failed is called, once or more, when Pebble finds bytes on disk that are
	// not what it wrote, or cannot write for about a second. Nothing should be
	// applied from then on. Default: panic.
	Failed func(error)

	Logger *slog.Logger // default slog.Default()
}

func (o *Options) withDefaults() {
	if o.CacheBytes == 0 {
		o.CacheBytes = 64 << 20
	}
	if o.MemTableBytes == 0 {
		o.MemTableBytes = 32 << 20
	}
	if o.YoungDeliveries == 0 {
		o.YoungDeliveries = 1 << 16
	}
	if o.YoungBytes == 0 {
		o.YoungBytes = 32 << 20
	}
	if o.YoungLogBytes == 0 {
		o.YoungLogBytes = 128 << 20
	}
	if o.Failed == nil {
		o.Failed = func(err error) { panic(err) }
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
}
