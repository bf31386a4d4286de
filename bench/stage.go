package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/harepost/harepost/bench/report"
	"github.com/harepost/harepost/client"
)

// stageOptions say what has to be there for a round.
type stageOptions struct {
	system   string // a report.System
	receiver ReceiverOptions
	accounts int // default 1
	workers  int // of the forwarder
}

// A stage is everything that a round needs but the load: the system that is
// measured, started for it on a new data directory, and the receiver.
type stage struct {
	options  Options
	run      uint32 // of the marks
	dir      string
	disk     disk
	system   *system
	receiver *part
	targets  []string // URLs of the receiver
	// manyHosts has the sampler count descriptors, which costs something for each.
	manyHosts bool
}

// newStage starts the processes. close ends them, and so does the end of ctx.
func newStage(ctx context.Context, o Options, want stageOptions) (s *stage, err error) {
	dir, err := os.MkdirTemp(o.Dir, "bench-*")
	if err != nil {
		return nil, fmt.Errorf("bench: make a directory: %w", err)
	}
	s = &stage{options: o, dir: dir, disk: findDisk(dir), run: uint32(now()) | 1, manyHosts: want.receiver.Hosts > 1}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if want.receiver.Run == 0 {
		want.receiver.Run = s.run
	}
	if want.receiver.Listen == "" {
		want.receiver.Listen = o.ReceiverListen
	}
	s.run = want.receiver.Run
	if s.receiver, err = startPart(ctx, o.Child, roleReceiver, want.receiver); err != nil {
		return s, err
	}
	var ready receiverReady
	if err := s.receiver.hear("start", &ready); err != nil {
		return s, err
	}
	s.targets = ready.Targets
	if o.ReceiverURL != "" && want.system == report.Server {
		s.targets = []string{o.ReceiverURL}
	}
	if ready.CA != "" && (want.system == report.Engine || want.system == report.Cluster) {
		ca := filepath.Join(dir, "ca.pem")
		if err := os.WriteFile(ca, []byte(ready.CA), 0o644); err != nil {
			return s, fmt.Errorf("bench: keep the receiver's certificate: %w", err)
		}
		o.EngineFlags = append(slices.Clone(o.EngineFlags), "--egress-ca="+ca)
	}
	if ready.Resolver != "" {
		o.EngineFlags = append(slices.Clone(o.EngineFlags), "--dns-resolver="+ready.Resolver, "--allow-http-targets")
	}
	if s.system, err = startSystem(ctx, o, want, dir); err != nil || ready.Resolver == "" {
		return s, err
	}
	return s, s.proveNames(ctx)
}

// proveNames has each account verify the domain of the receiver's hosts.
func (s *stage) proveNames(ctx context.Context) error {
	for _, key := range s.system.keys {
		c, err := client.New(s.system.url, key, client.Options{HTTPClient: control})
		if err != nil {
			return err
		}
		d, err := c.AddDomain(ctx, receiverDomain)
		if err != nil {
			return fmt.Errorf("bench: add the domain of the hosts: %w", err)
		}
		if err := s.receiver.ask(request{Do: doProve, Text: d.Record.Value}, new(ReceiverCounts)); err != nil {
			return err
		}
		if _, err := c.VerifyDomain(ctx, receiverDomain); err != nil {
			return fmt.Errorf("bench: verify the domain of the hosts: %w", err)
		}
	}
	return nil
}

func (s *stage) close() (err error) {
	if s.system != nil {
		err = errors.Join(err, s.system.stop())
	}
	if s.receiver != nil {
		err = errors.Join(err, s.receiver.close())
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

// restart ends the engine, by SIGTERM or by SIGKILL, and starts it on what it has.
// It returns when it had ended, and when it was ready again. All stages that share
// the engine see the new one.
func (s *stage) restart(ctx context.Context, kill bool) (ended, ready moment, err error) {
	old := *s.system
	end := old.stop
	if kill {
		end = old.kill
	}
	s.system.stop = func() error { return nil } // close must not stop it again
	if err := end(); err != nil {
		return 0, 0, err
	}
	ended = now()
	next, err := startEngine(ctx, s.options, 0, s.dir)
	if err != nil {
		return 0, 0, fmt.Errorf("restart: %w", err)
	}
	ready = now()
	next.keys = old.keys
	*s.system = *next
	return ended, ready, nil
}

// load starts a generator against the stage's system. What o leaves open is
// filled in: where to, with which keys, which targets, whose marks.
func (s *stage) load(ctx context.Context, o GeneratorOptions) (*generation, error) {
	o.URL, o.Direct = s.system.url, s.system.name == report.Direct
	if o.Direct {
		o.Batch, o.Repeat, o.OrderingKeys = 0, 0, 0
	}
	o.CA = s.options.CA
	if len(o.Keys) == 0 {
		o.Keys = s.system.keys
	}
	if len(o.Targets) == 0 {
		o.Targets = s.targets
	}
	if o.Run == 0 {
		o.Run = s.run
	}
	return startGenerator(ctx, s.options.Child, o)
}

// counts asks the receiver what has arrived.
func (s *stage) counts() (c ReceiverCounts, err error) {
	return c, s.receiver.ask(request{Do: doCounts}, &c)
}

// A look is what can be seen of a stage at one moment.
type look struct {
	counts  ReceiverCounts
	usage   usage  // zero where the system is not a process of ours
	page    page   // nil where the system has none
	written uint64 // by the disk
}

// look looks at everything. doMeasure instead of doCounts makes the receiver
// forget the latencies so far.
func (s *stage) look(ctx context.Context, do string) (l look, err error) {
	if err := s.receiver.ask(request{Do: do}, &l.counts); err != nil {
		return l, err
	}
	if l.usage, err = s.system.usage(); err != nil {
		return l, err
	}
	if l.written, err = s.disk.writtenBytes(); err != nil {
		return l, err
	}
	l.page, err = s.system.metrics(ctx)
	return l, err
}
