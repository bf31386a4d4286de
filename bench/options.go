package bench

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// The systems that Run measures.
const (
	SystemEngine    = "engine"
	SystemForwarder = "forwarder"
)

// Options configure Run and Measure. The zero Options measure the calling
// program's own engine against the forwarder with the defaults named here.
type Options struct {
	// Systems to measure, in the order of one round. Default: forwarder, engine.
	// A system named twice is measured against itself, which shows the noise of
	// the machine.
	Systems []string

	// Engine is the command of the engine's program; "serve", its flags and
	// EngineFlags are added. Default: the running program.
	Engine      []string
	EngineFlags []string

	// Child is the command that calls [Child]; a role is added. Default: the
	// running program with "bench child".
	Child []string

	Connections  []int         // each is measured on its own. Default: 256, 64
	Rounds       int           // of every system at every number of connections. Default: 3
	Warmup       time.Duration // load before the measuring. Default: 2 s; negative: none
	Duration     time.Duration // of the measuring. Default: 10 s
	PayloadBytes int           // of a delivery. Default: 300
	Targets      int           // destinations, each a port of the receiver. Default: 1

	ForwarderWorkers int // Default: as many as connections
	QueueRequests    int // bound of the forwarder's queue. Default: 1,024

	// DrainWait bounds the wait for deliveries after the load, without any
	// arrival; what is missing then is lost. Default: 30 s.
	DrainWait time.Duration
	// SettleWait bounds the wait for the system to be idle. Default: 10 s.
	SettleWait time.Duration

	// Dir is where data directories are made (and removed). It should be on the
	// disk that is to be measured. Default: the current directory.
	Dir string
	// ProfileDir, if set, receives a CPU profile of each system, taken in one
	// more round that no number is taken from.
	ProfileDir string

	// JSON makes Run write the Report as JSON instead of text.
	JSON bool
	// Progress, if set, is told of each round as it ends.
	Progress io.Writer
}

// withDefaults returns o completed, or says what contradicts.
func (o Options) withDefaults() (Options, error) {
	if len(o.Systems) == 0 {
		o.Systems = []string{SystemForwarder, SystemEngine}
	}
	if len(o.Engine) == 0 || len(o.Child) == 0 {
		self, err := os.Executable()
		if err != nil {
			return o, fmt.Errorf("bench: find the running program: %w", err)
		}
		if len(o.Engine) == 0 {
			o.Engine = []string{self}
		}
		if len(o.Child) == 0 {
			o.Child = []string{self, "bench", "child"}
		}
	}
	if len(o.Connections) == 0 {
		o.Connections = []int{256, 64}
	}
	setDefault(&o.Rounds, 3)
	setDefault(&o.Warmup, 2*time.Second)
	setDefault(&o.Duration, 10*time.Second)
	setDefault(&o.PayloadBytes, 300)
	setDefault(&o.Targets, 1)
	setDefault(&o.QueueRequests, 1024)
	setDefault(&o.DrainWait, 30*time.Second)
	setDefault(&o.SettleWait, 10*time.Second)
	setDefault(&o.Dir, ".")
	o.Warmup = max(o.Warmup, 0)
	return o, o.validate()
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (o Options) validate() error {
	var errs []error
	for _, s := range o.Systems {
		if s != SystemEngine && s != SystemForwarder {
			errs = append(errs, fmt.Errorf("bench: no system %q (%s, %s)", s, SystemEngine, SystemForwarder))
		}
	}
	if slices.Min(o.Connections) < 1 || slices.Max(o.Connections) > 10_000 {
		errs = append(errs, fmt.Errorf("bench: connections %v, want 1 to 10,000", o.Connections))
	}
	if o.Rounds < 1 || o.Duration <= 0 {
		errs = append(errs, fmt.Errorf("bench: %d rounds of %s, want at least one of some length", o.Rounds, o.Duration))
	}
	if o.PayloadBytes < minPayloadBytes || o.PayloadBytes > 1<<19 {
		errs = append(errs, fmt.Errorf("bench: payload of %d bytes, want %d (its mark) to 512 KiB", o.PayloadBytes, minPayloadBytes))
	}
	if o.Targets < 1 || o.Targets > slices.Min(o.Connections) || o.Targets > maxHosts {
		errs = append(errs, fmt.Errorf("bench: %d targets, want 1 to the number of connections, and to %d", o.Targets, maxHosts))
	}
	if o.ForwarderWorkers < 0 || o.QueueRequests < 1 {
		errs = append(errs, errors.New("bench: a forwarder needs workers and a queue"))
	}
	return errors.Join(errs...)
}
