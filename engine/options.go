package engine

import (
	"context"
	"log/slog"
	"math"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/harepost/harepost/engine/seal"
	"github.com/harepost/harepost/engine/state"
	"github.com/harepost/harepost/transport"
)

// Egress is what the engine needs of the outbound transport, see transport.Transport.
type Egress interface {
	Do(req *transport.Request, res *transport.Result)
	CheckKnown(host string, port uint16) (known bool, err error)
	CheckHost(ctx context.Context, host string, port uint16) error
	LookupTXT(ctx context.Context, name string) ([]string, error)
}

// Options of an Engine. The zero value of a field means its default.
type Options struct {
	// Transport makes the attempts: a *transport.Transport. The engine uses it and does
	// not close it.
	Transport Egress

	// DevLoopback lets every account send to loopback without a verified
	// domain. For one's own machine only.
	DevLoopback bool

	// MaxInFlight bounds the attempts under way at once, each of which costs a
	// goroutine and its buffers, about 20 KiB. Default 4096.
	MaxInFlight int

	// LaneConcurrency bounds the attempts under way in one lane, which adapts
	// below it to what its destination takes. Default 160: on
	// two cores 128 left a fast lane behind its senders at times, 256 cost more
	// wake-ups than it delivered.
	LaneConcurrency int

	// BreakerFailures is how many failures in a row, of different deliveries,
	// hold a lane back until a single attempt succeeds. Default 10; negative: none.
	BreakerFailures int

	// SendsAtOnce bounds the sends that are being accepted at once, see gate;
	// further ones wait a second at most, four for each of these, and then get
	// ErrOverloaded. Default 64 for each processor, at least 256.
	SendsAtOnce int

	// RatePerMinute bounds the sends of each account, as a token bucket of that
	// many tokens that fills at that rate. Default 0: no bound. An account's own
	// RatePerMinute comes before it.
	RatePerMinute int

	// Events are what the operator is told of.
	Events EventOptions

	// Keyring encrypts what deliveries carry, see package seal. Default nil:
	// nothing is encrypted. Data that is encrypted does not open without it.
	Keyring *seal.Keyring

	// IdempotencyWindow is for how long a second send with the same idempotency
	// key, target, method and body is a duplicate. Default 24 h.
	IdempotencyWindow time.Duration

	// RetainFinished and RetainDead are how long finished deliveries and dead
	// letters stay readable. Default 7 and 30 days.
	RetainFinished, RetainDead time.Duration

	// RetainPayload is how long the body of a delivered or cancelled delivery can
	// be read; after it the delivery cannot be replayed. It costs a key more for
	// each delivery that is accepted while it is set, and bodies of up to 1 KiB of
	// those that were accepted before stay; on several nodes what counts is that of
	// the node that accepts. Default 0: as long as the delivery.
	RetainPayload time.Duration

	// MaxDataBytes is what log and state may take on disk together. Above it the
	// oldest finished deliveries are dropped before their time; when that is not
	// enough, sends get ErrStorageFull. Default 0: no limit.
	MaxDataBytes int64

	// DomainsPerAccount and KeysPerAccount are bounds. Default 1,000 and 100.
	DomainsPerAccount, KeysPerAccount int

	// SettingsPerAccount bounds the destinations and flows of an account for which
	// something is set: a rate, a parallelism, a pause. Default 10,000.
	SettingsPerAccount int

	// JobsPerAccount bounds the bulk operations of an account that run at once.
	// Default 16.
	JobsPerAccount int

	// DrainTimeout bounds how long Close waits for attempts under way. What is
	// not done by then is attempted again after the next start. Default 30 s.
	DrainTimeout time.Duration

	// LogQueueBytes bounds the commands that wait for the log; when it is full,
	// sends get ErrOverloaded. Default 64 MiB.
	LogQueueBytes int64

	// LogSegmentBytes is the size of one file of the log. Default 64 MiB, or less
	// where there is little room; so it is with LogBytes and the sizes in State.
	LogSegmentBytes int64

	// LogBytes is how large the log may grow before the state is flushed so
	// that it can be cut. It bounds the time that a start takes. Default 512 MiB.
	LogBytes int64

	// State has the options of the state; FS, Durable and Logger are set by the
	// engine.
	State state.Options

	// Replica opens the log, on several machines. Default nil: the log is on this
	// machine only.
	Replica Replica

	// FS is where everything is kept. Default: the machine's file system.
	FS vfs.FS

	// Now is the clock. Default time.Now.
	Now func() time.Time

	// Failed is called once, when the engine cannot go on: the log or the state
	// cannot be written or read, or are found damaged. The process should end;
	// a later start recovers what was acknowledged.
	Failed func(error)

	Logger *slog.Logger // default slog.Default()
}

func (o *Options) withDefaults() {
	setDefault(&o.MaxInFlight, 4096)
	setDefault(&o.LaneConcurrency, 160)
	setDefault(&o.BreakerFailures, 10)
	setDefault(&o.SendsAtOnce, defaultSendsAtOnce())
	setDefault(&o.IdempotencyWindow, 24*time.Hour)
	setDefault(&o.RetainFinished, 7*24*time.Hour)
	setDefault(&o.RetainDead, 30*24*time.Hour)
	setDefault(&o.DomainsPerAccount, 1000)
	setDefault(&o.KeysPerAccount, 100)
	setDefault(&o.SettingsPerAccount, 10_000)
	setDefault(&o.JobsPerAccount, 16)
	setDefault(&o.DrainTimeout, 30*time.Second)
	setDefault(&o.LogQueueBytes, 64<<20)
	o.Events.withDefaults()
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
}

// fitSizes gives what was not set a size that leaves most of the room to what it
// is for: of MaxDataBytes, or of a disk that is smaller than 2 GiB. It returns how
// much of the disk is to be kept free. dir exists.
func (o *Options) fitSizes(dir string) (reserve int64) {
	room := int64(math.MaxInt64)
	if o.MaxDataBytes > 0 {
		room = o.MaxDataBytes
	}
	if disk, err := o.FS.GetDiskUsage(dir); err == nil { // not every file system can tell
		room = min(room, int64(disk.TotalBytes))
		reserve = min(int64(disk.TotalBytes/reservePart), mostReserve)
	}
	part := min(max(room/32, 1<<20), 64<<20)
	setDefault(&o.LogSegmentBytes, part)
	setDefault(&o.LogBytes, min(room/4, 512<<20))
	setDefault(&o.State.MemTableBytes, min(part, 32<<20))
	// Or young deliveries would hold more of the log than there may be.
	setDefault(&o.State.YoungLogBytes, min(o.LogBytes/2, 128<<20))
	setDefault(&o.State.YoungBytes, min(o.LogBytes/4, 32<<20))
	return reserve
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
