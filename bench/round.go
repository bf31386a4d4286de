package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// A Round is the measurement of one system at one number of connections.
type Round struct {
	System      string `json:"system"`
	Connections int    `json:"connections"`
	Round       int    `json:"round"` // from 1

	// Answers over the whole load, the warm-up included.
	Accepted     uint64 `json:"accepted"`
	Refused      uint64 `json:"refused"` // 429 and 503
	Failed       uint64 `json:"failed"`
	FirstFailure string `json:"first_failure,omitempty"`

	// The comparison of what was acknowledged with what arrived.
	Arrived        uint64 `json:"arrived"`        // distinct sends
	Lost           uint64 `json:"lost"`           // acknowledged, not arrived
	Duplicates     uint64 `json:"duplicates"`     // arrivals beyond the first
	Unacknowledged uint64 `json:"unacknowledged"` // arrived, though not answered 202
	Strangers      uint64 `json:"strangers"`      // arrivals that are no send of this round

	AcceptedPerSecond  float64 `json:"accepted_per_second"`  // after the warm-up
	DeliveredPerSecond float64 `json:"delivered_per_second"` // arrived, after the warm-up
	DrainedPerSecond   float64 `json:"drained_per_second"`   // all, from the first send to the last arrival
	DrainMS            float64 `json:"drain_ms"`             // last arrival after the end of the load; 0: none

	AnswerLatency  Latency `json:"answer_latency"`
	ArrivalLatency Latency `json:"arrival_latency"`

	CPUSecondsPerMillion   float64 `json:"cpu_seconds_per_million"` // deliveries, until the system is idle
	RSSBytes               uint64  `json:"rss_bytes"`               // at the end of the load
	PeakRSSBytes           uint64  `json:"peak_rss_bytes"`
	WrittenBytes           uint64  `json:"written_bytes"` // to the disk, by anybody, after the warm-up
	WrittenPerPayloadBytes float64 `json:"written_per_payload_byte"`

	// GeneratorCPUSecondsPerMillion is what a million sends cost the generator,
	// its start and end included. It is taken from the same CPUs.
	GeneratorCPUSecondsPerMillion float64 `json:"generator_cpu_seconds_per_million"`
}

// A bout is the state of one round while it runs.
type bout struct {
	options  Options
	run      uint32
	disk     disk
	system   *system
	receiver *part

	before, loaded, settled usage          // of the system
	written, writtenInAll   uint64         // by the disk, before the measuring and when settled
	generatorCPU            time.Duration  // in all
	start, end, drained     ReceiverCounts // at the same moments
}

// measureRound starts all processes, loads the system and ends them again. With
// a profile path it takes a profile meanwhile.
func measureRound(ctx context.Context, o Options, name string, connections, round int, profile string) (r Round, err error) {
	dir, err := os.MkdirTemp(o.Dir, "bench-*")
	if err != nil {
		return r, fmt.Errorf("bench: make a directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	b := bout{options: o, disk: findDisk(dir), run: uint32(now()) | 1}
	if b.receiver, err = startPart(ctx, o.Child, roleReceiver, ReceiverOptions{Run: b.run, Targets: o.Targets}); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, b.receiver.close()) }()
	var ready receiverReady
	if err := b.receiver.hear("start", &ready); err != nil {
		return r, err
	}
	if b.system, err = startSystem(ctx, name, o, connections, dir); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, b.system.stop()) }()

	// What others left in memory is not to be written on this system's bill.
	if err := b.disk.flush(); err != nil {
		return r, err
	}
	generated, err := b.load(ctx, GeneratorOptions{
		Addr:          b.system.addr,
		Authorization: b.system.authorization,
		Targets:       ready.Targets,
		Connections:   connections,
		Warmup:        o.Warmup,
		Duration:      o.Duration,
		PayloadBytes:  o.PayloadBytes,
		Run:           b.run,
	}, profile)
	if err != nil {
		return r, err
	}
	if err := b.drain(ctx, generated.Accepted); err != nil {
		return r, err
	}
	var arrivals receiverReport
	if err := b.receiver.ask(request{Do: doReport}, &arrivals); err != nil {
		return r, err
	}
	r = b.result(generated, arrivals)
	r.System, r.Connections, r.Round = name, connections, round
	return r, nil
}

// load runs the generator and takes the samples at the ends of the measuring.
func (b *bout) load(ctx context.Context, o GeneratorOptions, profile string) (g Generated, err error) {
	ctx, cancel := context.WithTimeout(ctx, o.Warmup+o.Duration+2*answerWait)
	defer cancel()
	p, err := startPart(ctx, b.options.Child, roleGenerator, o)
	if err != nil {
		return g, err
	}
	defer func() {
		err = errors.Join(err, p.close())
		b.generatorCPU = p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
	}()
	var warm generatorReady
	if err := p.hear("warm up", &warm); err != nil {
		return g, err
	}
	if b.before, err = readUsage(b.system.pid); err != nil {
		return g, err
	}
	if b.written, err = b.disk.writtenBytes(); err != nil {
		return g, err
	}
	if err := b.receiver.ask(request{Do: doMeasure}, &b.start); err != nil {
		return g, err
	}
	profiled := make(chan error, 1)
	if profile == "" {
		profiled <- nil
	} else {
		go func() { profiled <- b.system.profile(ctx, profile, o.Duration-time.Second/2) }() // read below
	}
	hearErr := p.hear("load", &g)
	countErr := b.receiver.ask(request{Do: doCounts}, &b.end)
	if err := errors.Join(hearErr, countErr, <-profiled); err != nil {
		return g, err
	}
	b.loaded, err = readUsage(b.system.pid)
	return g, err
}

// drain waits until everything acknowledged has arrived, or nothing did for
// DrainWait, and then until the system is idle. A duplicate that comes late
// comes in that time.
func (b *bout) drain(ctx context.Context, accepted uint64) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	b.drained = b.end
	progress := b.end.At
	for b.drained.Arrived < accepted && b.drained.At.sub(progress) < b.options.DrainWait {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		before := b.drained.Arrived
		if err := b.receiver.ask(request{Do: doCounts}, &b.drained); err != nil {
			return err
		}
		if b.drained.Arrived > before {
			progress = b.drained.At
		}
	}
	var err error
	if b.settled, err = settle(ctx, b.system.pid, b.options.SettleWait); err != nil {
		return err
	}
	if err := b.disk.flush(); err != nil {
		return err
	}
	b.writtenInAll, err = b.disk.writtenBytes()
	return err
}

func (b *bout) result(g Generated, arrivals receiverReport) Round {
	r := Round{
		Accepted:       g.Accepted,
		Refused:        g.Refused,
		Failed:         g.Failed,
		FirstFailure:   g.FirstFailure,
		Arrived:        arrivals.Arrived,
		Duplicates:     arrivals.Duplicates,
		AnswerLatency:  g.AnswerLatency,
		ArrivalLatency: arrivals.Latency,
		RSSBytes:       b.loaded.RSSBytes,
		PeakRSSBytes:   b.settled.PeakRSSBytes,
		WrittenBytes:   b.writtenInAll - b.written,
	}
	r.compare(g, arrivals)

	r.AcceptedPerSecond = perSecond(g.MeasuredAccepted, g.MeasuredTime)
	r.DeliveredPerSecond = perSecond(b.end.Arrived-b.start.Arrived, b.end.At.sub(b.start.At))
	r.DrainedPerSecond = perSecond(arrivals.Arrived, arrivals.LastArrival.sub(g.Began))
	r.DrainMS = max(0, arrivals.LastArrival.sub(b.end.At).Seconds()*1000)

	if measured := float64(arrivals.Arrived - b.start.Arrived); measured > 0 {
		r.CPUSecondsPerMillion = (b.settled.CPU - b.before.CPU).Seconds() / measured * 1e6
		r.WrittenPerPayloadBytes = float64(r.WrittenBytes) / (measured * float64(b.options.PayloadBytes))
	}
	if g.Attempted > 0 {
		r.GeneratorCPUSecondsPerMillion = b.generatorCPU.Seconds() / float64(g.Attempted) * 1e6
	}
	return r
}

// compare counts losses and arrivals that should not be, mark by mark: equal
// totals could hide one of each.
func (r *Round) compare(g Generated, arrivals receiverReport) {
	r.Lost = g.AcceptedMarks.minus(arrivals.Seen)
	r.Unacknowledged = arrivals.Seen.minus(g.AcceptedMarks)
	unsent := arrivals.Seen.from(g.Attempted)
	r.Unacknowledged -= unsent
	r.Strangers = arrivals.Strangers + unsent
}

func perSecond(count uint64, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(count) / d.Seconds()
}

// profilePath names the profile of a system.
func profilePath(dir, system string, connections int) string {
	return filepath.Join(dir, fmt.Sprintf("%s-c%d.prof", system, connections))
}
