package bench

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"time"

	"github.com/harepost/harepost/bench/report"
)

// Options are what all scenarios have in common. Zero fields get the defaults
// named here, or those of the scenario.
type Options struct {
	// Systems to measure, in the order of one round. A system named twice is
	// measured against itself, which shows the noise of the machine.
	Systems []string

	// Engine is the command of the engine's program; "serve", its flags and
	// EngineFlags are added. Default: the running program.
	Engine      []string
	EngineFlags []string

	// Child is the command that calls [Child]; a role is added. Default: the
	// running program with "bench child".
	Child []string

	// URL names a running server, which is then measured as report.Server, with
	// the accounts of Keys. Nothing is known of its process.
	URL  string
	Keys []string
	// CA is the PEM text of authorities that its certificate may be of, beside the
	// system's.
	CA string
	// ReceiverListen is the host, or host:port, at which such a server reaches the
	// receiver. Default: 127.0.0.1.
	ReceiverListen string
	// ReceiverURL is what such a server is to send to, where that is not the
	// receiver's own http address: a name that it lets its accounts send to, with
	// whatever speaks TLS for the receiver behind it. Default: the address.
	ReceiverURL string

	Rounds   int           // of every system under every load
	Warmup   time.Duration // load before the measuring; negative: none
	Duration time.Duration // of the measuring
	Quick    bool          // the size that ends within half a minute

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
	// ProfileDir, if set, receives a CPU profile of each system that is a process of
	// ours, taken in one more round. It shares out among stages what the rounds
	// before have cost.
	ProfileDir string

	Versions report.Versions // of the running program
	Command  []string        // as it was typed

	JSON   bool   // Run writes the report as JSON instead of text
	HTML   string // file that gets the report as a page
	Output string // file that gets the report as JSON

	// Progress, if set, is told how far it is: on a terminal with a line that
	// changes, elsewhere with a line for each round.
	Progress io.Writer
	Terminal bool
}

// sized returns quick or real, whichever the size is.
func sized[T any](o *Options, quick, real T) T {
	if o.Quick {
		return quick
	}
	return real
}

// complete sets the defaults that do not depend on the scenario.
func (o *Options) complete() error {
	if err := o.findPrograms(); err != nil {
		return err
	}
	setDefault(&o.QueueRequests, 1024)
	setDefault(&o.DrainWait, 30*time.Second)
	setDefault(&o.SettleWait, sized(o, 2*time.Second, 10*time.Second))
	setDefault(&o.Rounds, sized(o, 2, 3))
	setDefault(&o.Warmup, sized(o, 500*time.Millisecond, 2*time.Second))
	setDefault(&o.Duration, sized(o, 2*time.Second, 10*time.Second))
	setDefault(&o.Dir, ".")
	o.Warmup = max(o.Warmup, 0)
	return o.validate()
}

// measures sets the systems that are measured where none are named: a running
// server takes the place of the engine.
func (o *Options) measures(systems ...string) {
	switch {
	case len(o.Systems) > 0:
	case o.URL == "":
		o.Systems = systems
	default:
		for _, s := range systems {
			if s == report.Engine {
				s = report.Server
			}
			o.Systems = append(o.Systems, s)
		}
	}
}

// measured is what of the systems is measured beside yardsticks: the engine or a
// server.
func (o *Options) measured() string {
	for _, s := range o.Systems {
		if s == report.Engine || s == report.Server {
			return s
		}
	}
	return ""
}

// findPrograms sets the programs that the harness starts.
func (o *Options) findPrograms() error {
	if len(o.Engine) > 0 && len(o.Child) > 0 {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("bench: find the running program: %w", err)
	}
	if len(o.Engine) == 0 {
		o.Engine = []string{self}
	}
	if len(o.Child) == 0 {
		o.Child = []string{self, "bench", "child"}
	}
	return nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// systems are those that a scenario knows how to measure.
var systems = []string{report.Engine, report.Forwarder, report.Direct, report.Server, report.Cluster}

func (o *Options) validate() error {
	var errs []error
	for _, s := range o.Systems {
		if !slices.Contains(systems, s) {
			errs = append(errs, fmt.Errorf("bench: no system %q (%v)", s, systems))
		}
	}
	if server := slices.Contains(o.Systems, report.Server); server && (o.URL == "" || len(o.Keys) == 0) {
		errs = append(errs, errors.New("bench: a running server is measured by its URL and an API key"))
	}
	if o.ReceiverURL != "" {
		u, err := url.Parse(o.ReceiverURL)
		switch {
		case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
			errs = append(errs, fmt.Errorf("bench: %q is no URL of a receiver", o.ReceiverURL))
		case o.URL == "":
			errs = append(errs, errors.New("bench: the receiver's URL is for a running server, and none is named"))
		}
	}
	if o.Rounds < 1 || o.Duration <= 0 {
		errs = append(errs, fmt.Errorf("bench: %d rounds of %s, want at least one of some length", o.Rounds, o.Duration))
	}
	if o.ForwarderWorkers < 0 || o.QueueRequests < 1 {
		errs = append(errs, errors.New("bench: a forwarder needs workers and a queue"))
	}
	return errors.Join(errs...)
}

// checkConnections says what is wrong with numbers of connections.
func checkConnections(connections ...int) error {
	if slices.Min(connections) < 1 || slices.Max(connections) > 10_000 {
		return fmt.Errorf("bench: connections %v, want 1 to 10,000", connections)
	}
	return nil
}
