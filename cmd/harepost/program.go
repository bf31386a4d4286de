package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/harepost/harepost/api"
	"github.com/harepost/harepost/engine"
	"github.com/harepost/harepost/transport"
)

// A program is a server with all its rooms, wired. Its life is openProgram,
// run, close. close may be called at any time after openProgram, and again.
type program struct {
	cfg config
	log *slog.Logger

	listeners listeners
	lock      *os.File  // of the data directory
	profiler  *profiler // nil: none
	transport *transport.Transport
	cluster   *clusterNode // nil: the server runs alone
	engine    *engine.Engine
	api       *api.Server

	failed    chan error // the engine's first and last failure; room for one
	closeOnce sync.Once
	closeErr  error
	collector *collector // nil: none
}

// openProgram binds the listeners, then locks and recovers the data directory. A node
// of a cluster waits for the others before, as long as ctx lasts. Nothing is answered
// before run.
func openProgram(ctx context.Context, cfg config) (_ *program, err error) {
	p := &program{cfg: cfg, log: cfg.logger, failed: make(chan error, 1)}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if p.listeners, err = openListeners(cfg); err != nil {
		return nil, err
	}
	if p.profiler, err = openProfiler(cfg.Pprof); err != nil {
		return nil, err
	}
	if err = checkAlone(cfg.DataDir, cfg.NodeID); err != nil {
		return nil, err
	}
	if err = prepareDataDir(cfg.DataDir); err != nil {
		return nil, err
	}
	if p.lock, err = lockDataDir(cfg.DataDir); err != nil {
		return nil, explainOpen(cfg.DataDir, err)
	}
	p.collector = startCollector()
	if cfg.clustered() {
		if p.cluster, err = openCluster(ctx, p); err != nil {
			return nil, err
		}
	}
	if p.transport, err = transport.New(p.transportOptions()); err != nil {
		return nil, err
	}
	began := time.Now()
	if p.engine, err = p.openEngine(); err != nil {
		return nil, err
	}
	p.log.Info("data directory open", "dir", cfg.DataDir, "took", time.Since(began))
	if p.api, err = api.New(p.engine, p.apiOptions()); err != nil {
		return nil, err
	}
	if p.cluster != nil {
		p.cluster.start(p.engine.FitToLead)
		p.cluster.serve(p.api.PeerHandler())
	}
	return p, nil
}

// openEngine waits for the data directory to be open, or for the engine to say
// that it never will be: storage that fails during recovery may leave Open
// waiting, and then ends the process as it would later.
func (p *program) openEngine() (*engine.Engine, error) {
	type opening struct {
		engine *engine.Engine
		err    error
	}
	opened := make(chan opening, 1)
	go func() {
		e, err := engine.Open(p.cfg.DataDir, p.engineOptions())
		opened <- opening{e, err}
	}()
	select {
	case o := <-opened:
		if o.err != nil {
			return nil, explainNode(p.cfg.DataDir, o.err)
		}
		return o.engine, nil
	case err := <-p.failed:
		return nil, exitWith(exitStorageFailed, explainOpen(p.cfg.DataDir, err))
	}
}

func (p *program) transportOptions() transport.Options {
	return transport.Options{
		EgressAllow: p.cfg.egressAllow,
		RootCAs:     p.cfg.rootCAs,
		Resolver:    p.cfg.DNSResolver,

		LookupsPerSecond: p.cfg.DNSRate,

		UserAgent: "Harepost/" + readBuildInfo().Version,
		Forbidden: p.ownAddresses(),
		Logger:    p.log,
	}
}

// ownAddresses are never sent to, whatever --egress-allow says: a send to our
// own API, to the cluster port, or to the profiler, would act with the rights of this
// machine.
func (p *program) ownAddresses() []netip.AddrPort {
	var own []netip.AddrPort
	if a := p.listeners.address(); a.IsValid() {
		own = append(own, a)
	}
	if p.cluster != nil {
		own = append(own, p.cluster.address)
	}
	if p.profiler != nil {
		own = append(own, p.profiler.listener.Addr().(*net.TCPAddr).AddrPort())
	}
	return own
}

func (p *program) engineOptions() engine.Options {
	var replica engine.Replica
	if p.cluster != nil {
		replica = p.cluster.replica
	}
	return engine.Options{
		Replica:           replica,
		Transport:         p.transport,
		DevLoopback:       p.cfg.Dev,
		MaxInFlight:       p.cfg.MaxInFlight,
		LaneConcurrency:   p.cfg.LaneConcurrency,
		BreakerFailures:   p.cfg.breakerFailures(),
		SendsAtOnce:       p.cfg.MaxSends,
		RatePerMinute:     p.cfg.RateLimit,
		Keyring:           p.cfg.keyring,
		IdempotencyWindow: p.cfg.IdempotencyWindow,
		RetainFinished:    p.cfg.RetentionFinished,
		RetainDead:        p.cfg.RetentionDead,
		RetainPayload:     p.cfg.RetentionPayload,
		MaxDataBytes:      p.cfg.MaxDataBytes,
		DrainTimeout:      max(p.cfg.DrainTimeout-p.requestDrain()-p.handOverTime(), leastDrain),
		Events:            p.cfg.events,
		Failed:            p.fail,
		Logger:            p.log,
	}
}

func (p *program) apiOptions() api.Options {
	var cluster api.Cluster
	if p.cluster != nil {
		cluster = p.cluster.door
	}
	return api.Options{
		Cluster:             cluster,
		NodeID:              p.cfg.NodeID,
		AdminToken:          p.cfg.AdminToken,
		Version:             readBuildInfo().Version,
		OpenSignup:          p.cfg.OpenSignup || p.cfg.Dev,
		AllowHTTPTargets:    p.cfg.AllowHTTPTargets,
		Dev:                 p.cfg.Dev,
		RequestBytes:        p.cfg.MaxRequestBytes,
		BatchBytes:          int(p.cfg.largestBody()),
		BatchSends:          p.cfg.MaxBatchSends,
		BodyBytes:           p.cfg.MaxBodyBytes,
		AccountBodyBytes:    min(max(p.cfg.MaxAccountBodyBytes, p.cfg.largestBody()), p.cfg.MaxBodyBytes),
		BodyBytesPerSecond:  p.cfg.MinBodyRate,
		Labels:              p.cfg.MaxLabels,
		LabelChars:          p.cfg.MaxLabelChars,
		Headers:             p.cfg.MaxHeaders,
		HeadersBytes:        p.cfg.MaxHeaderBytes,
		URLChars:            p.cfg.MaxURLChars,
		MetadataBytes:       p.cfg.MaxMetadataBytes,
		IdempotencyKeyChars: p.cfg.MaxKeyChars,
		Connections:         p.cfg.MaxConnections,
		Metrics:             p.writeMetrics,
		Logger:              p.log,
	}
}

func (p *program) writeMetrics(w io.Writer) {
	p.engine.WriteMetrics(w)
	metrics.WriteProcessMetrics(w)
	if p.cluster != nil {
		p.cluster.metrics(w)
		st := p.cluster.door.Status()
		writeClusterMetrics(w, &st)
	}
	if p.cfg.certificate != nil {
		metrics.WriteGaugeUint64(w, "harepost_tls_certificate_not_after_timestamp_seconds", uint64(p.cfg.certificate.notAfter().Unix()))
	}
}

// fail keeps the engine's failure for run. It is called on the engine's
// goroutines and must not wait.
func (p *program) fail(err error) {
	select {
	case p.failed <- err:
	default: // one is enough
	}
}

// url is where the API is reached from this machine.
func (p *program) url() string { return p.listeners.url() }

// run serves until ctx ends, and then drains, or until the engine fails. The
// caller closes, except after a failure of the engine: then the process has to
// end as it is.
func (p *program) run(ctx context.Context) error {
	p.announce()
	p.announceCluster()
	served := make(chan error, len(p.listeners.all()))
	for _, ln := range p.listeners.all() {
		go func() { served <- p.api.Serve(ln) }()
	}
	var stopped <-chan error // never, of a server that runs alone
	if p.cluster != nil {
		stopped = p.cluster.stopped
	}
	stopLooking := p.lookAfterNode()
	defer stopLooking()
	select {
	case <-ctx.Done():
		stopLooking()
		return p.drain(served)
	case err := <-p.failed:
		return p.storageFailed(err)
	case err := <-stopped:
		stopLooking()
		return errors.Join(p.expelled(err), p.drain(served))
	case err := <-served:
		return fmt.Errorf("the API stopped: %w", err)
	}
}

// storageFailed tells of the failure and gives the status to end with.
func (p *program) storageFailed(err error) error {
	p.log.Error("storage failed, ending at once; what was acknowledged is recovered at the next start", "error", err)
	return exitWith(exitStorageFailed, nil)
}

// drain ends what run began: readiness off, a pause for load balancers to see
// it, leadership to another node, no new connections, the requests that are in get
// their answer. The engine's own drain is part of close.
func (p *program) drain(served <-chan error) error {
	p.log.Info("draining", "delay", p.cfg.DrainDelay, "timeout", p.cfg.DrainTimeout)
	p.api.Drain()
	select {
	case <-time.After(p.cfg.DrainDelay):
	case err := <-p.failed:
		return p.storageFailed(err)
	}
	p.handOver()
	ctx, cancel := context.WithTimeout(context.Background(), p.requestDrain())
	defer cancel()
	if err := p.api.Shutdown(ctx); err != nil {
		// Their senders get no answer and will ask again; what was accepted is safe.
		p.log.Warn("some requests did not end in time", "error", err)
	}
	for range p.listeners.all() {
		<-served
	}
	return nil
}

// failedBy is err, unless the engine has failed: then that is what counts,
// whatever closing it returned.
func (p *program) failedBy(err error) error {
	select {
	case failure := <-p.failed:
		return p.storageFailed(failure)
	default:
		return err
	}
}

// requestDrain is the part of --drain-timeout that requests may use; attempts
// have the rest. A request waits for one sync, an attempt for a stranger.
func (p *program) requestDrain() time.Duration { return p.cfg.DrainTimeout / 4 }

// leastDrain is what attempts have of --drain-timeout at least.
const leastDrain = 10 * time.Millisecond

// closeGrace is how much longer than the drain the engine may take to close.
// Attempts that outlive the drain are not cut off and may last 30 s more; who
// sent SIGTERM will not wait for that.
const closeGrace = 2 * time.Second

// close gives everything back: attempts end or are parked, the state is
// flushed, the directory unlocked. What the engine has not done by the end of
// the grace is left to the end of the process: then the next start replays more
// of the log, and makes the attempts again.
func (p *program) close() error {
	p.closeOnce.Do(func() {
		p.collector.stop()
		p.listeners.close() // already closed by the API, if it ran
		p.profiler.close()
		if p.cluster != nil {
			p.cluster.leave()
		}
		if p.engine == nil {
			if p.cluster != nil {
				p.closeErr = p.cluster.close()
			}
			if p.transport != nil {
				p.transport.Close()
			}
			p.lock.Close() // nil is fine
			return
		}
		closed := make(chan error, 1)
		go func() {
			err := p.engine.Close()
			if p.cluster != nil {
				err = errors.Join(err, p.cluster.close())
			}
			p.transport.Close()
			closed <- errors.Join(err, p.lock.Close())
		}()
		select {
		case p.closeErr = <-closed:
			p.closeErr = p.failedBy(p.closeErr)
		case <-time.After(p.cfg.DrainTimeout + closeGrace):
			p.log.Warn("attempts still under way are left behind, they are made again after the next start")
		}
	})
	return p.closeErr
}
