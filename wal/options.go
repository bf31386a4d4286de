package wal

import (
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	defaultSegmentBytes  = 64 << 20
	defaultFrameBytes    = 4 << 20
	defaultMaxEntryBytes = 32 << 20
	defaultQueueBytes    = 64 << 20
	defaultSpares        = 2
	defaultLater         = 5 * time.Millisecond

	// MinSegmentBytes is the smallest Options.SegmentBytes.
	MinSegmentBytes = 16 << 10

	// firstSegmentBytes is the size of the first segment that a life of the log prepares: the first
	// commit after a start must not wait until a whole one is zeroed.
	firstSegmentBytes = 1 << 20
)

// Options are the log's settings. The zero value is good for production, except for Committed and
// Failed, which a user of Append needs.
type Options struct {
	// FS is the disk. Default: vfs.Default.
	FS vfs.FS

	// SegmentBytes is the size of a segment file. Default 64 MiB, at least MinSegmentBytes. It may
	// differ from one start to the next.
	SegmentBytes int64

	// FrameBytes is the most payload that is gathered into one frame, that is into one write and one
	// sync. A larger entry travels alone. Default 4 MiB, or a quarter of a segment if that is less.
	FrameBytes int

	// MaxEntryBytes is the largest Ext and Data together that Append takes. Default 32 MiB, or what
	// fits into a segment if that is less.
	MaxEntryBytes int

	// QueueBytes bounds what Append has taken and Committed has not given back: entries' bytes plus 96
	// for each. Default 64 MiB, at least the largest entry.
	QueueBytes int64

	// Later is how long what nobody waits for is held back, so that it shares a frame and a sync with
	// what comes next: entries of AppendLater, and the mark. Default 5 ms.
	Later time.Duration

	// Spares is how many segment files, prepared or recycled, are kept for later. Default 2.
	Spares int

	// Identity names the node or cluster that the log belongs to. Zero: taken from the directory, or
	// made up when that is new. Another one than the directory's is refused.
	Identity [16]byte

	// AppliedIndex is what the state already holds. Open refuses a log that ends before it.
	AppliedIndex Index

	// ReserveBytes is what preparing a segment ahead leaves free on the disk, for what else writes to it:
	// where there is less, NoSpace says so, and the segment is made only when it is needed. Default 0.
	ReserveBytes int64

	// Compression of new frames. Default s2.
	Compression Compression

	// Committed is called with every group commit after its sync, in index order, on the writer's
	// goroutine: while it runs the disk rests. The slice and what it points to belong to the log again
	// when it returns. It must not wait for the log (AppendWait, TruncateBack, Reset, Close); Append is
	// fine.
	Committed func([]Entry)

	// Failed is called once, when the log has failed for good, on the goroutine that met the error.
	// What waits then, and what Append took since the last Committed, is unknown: it may or may not be
	// there at the next Open. It must not call Close.
	Failed func(error)

	// Observe is called after every group commit, before Committed, on the writer's goroutine.
	Observe func(Commit)

	// Logger gets what an operator should know. Default: slog.Default.
	Logger *slog.Logger

	// Now is the clock for file headers, for people to read; the log's work does not depend on it.
	// Default: time.Now.
	Now func() time.Time

	// Rand gives a new log's identity and salt. Default: crypto/rand.
	Rand io.Reader
}

// A Commit describes one group commit, for metrics.
type Commit struct {
	Entries     int
	RawBytes    int64 // payload before compression
	StoredBytes int64 // what the frame takes in the segment
	Write       time.Duration
	Sync        time.Duration
}

// withDefaults fills in what is not set and refuses what contradicts itself.
func (o Options) withDefaults() (Options, error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	setDefault(&o.SegmentBytes, defaultSegmentBytes)
	if o.SegmentBytes < MinSegmentBytes || o.SegmentBytes > 4<<30 {
		return o, fmt.Errorf("wal: SegmentBytes %d is not between %d and 4 GiB", o.SegmentBytes, MinSegmentBytes)
	}
	o.SegmentBytes &^= headerBytes - 1 // whole pages
	fits := min(roomBytes(o.SegmentBytes), maxFrameBytes) - frameHeaderBytes - frameAlignBytes - maxEntryOverheadBytes
	setDefault(&o.FrameBytes, int(min(defaultFrameBytes, o.SegmentBytes/4)))
	setDefault(&o.MaxEntryBytes, int(min(defaultMaxEntryBytes, fits)))
	setDefault(&o.QueueBytes, defaultQueueBytes)
	setDefault(&o.Spares, defaultSpares)
	setDefault(&o.Later, defaultLater)
	switch {
	case o.FrameBytes < 1 || int64(o.FrameBytes) > fits:
		return o, fmt.Errorf("wal: FrameBytes %d does not fit into a segment of %d", o.FrameBytes, o.SegmentBytes)
	case o.MaxEntryBytes < 1 || int64(o.MaxEntryBytes) > fits:
		return o, fmt.Errorf("wal: MaxEntryBytes %d does not fit into a segment of %d", o.MaxEntryBytes, o.SegmentBytes)
	case o.QueueBytes < int64(o.MaxEntryBytes)+entrySlotBytes:
		return o, fmt.Errorf("wal: QueueBytes %d is less than one entry of MaxEntryBytes %d", o.QueueBytes, o.MaxEntryBytes)
	case o.Spares < 0:
		return o, fmt.Errorf("wal: Spares %d is negative", o.Spares)
	case o.Later < 0:
		return o, fmt.Errorf("wal: Later %s is negative", o.Later)
	case o.ReserveBytes < 0:
		return o, fmt.Errorf("wal: ReserveBytes %d is negative", o.ReserveBytes)
	case o.Compression > CompressionNone:
		return o, fmt.Errorf("wal: compression %d is unknown", o.Compression)
	}
	return o.withHooks(), nil
}

func (o Options) withHooks() Options {
	if o.Committed == nil {
		o.Committed = func([]Entry) {}
	}
	if o.Failed == nil {
		o.Failed = func(error) {}
	}
	if o.Observe == nil {
		o.Observe = func(Commit) {}
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	return o
}

func setDefault[T int | int64 | time.Duration](v *T, value T) {
	if *v == 0 {
		*v = value
	}
}
