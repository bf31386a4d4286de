package engine

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/harepost/harepost/wal"
)

// engineMetrics are the engine's counters. Every one is kept as things happen
// or read in constant time; a scrape costs the same however large the state.
type engineMetrics struct {
	set *metrics.Set

	accepted   *metrics.Counter
	duplicates *metrics.Counter
	refusals   [refusedStorage + 1]*metrics.Counter
	attempts   [OutcomeRejected + 1]*metrics.Counter
	finished   [StatusCanceled + 1]*metrics.Counter
	control    [JobPurge + 1]struct{ changed, skipped *metrics.Counter }
	dropped    [droppedBodies + 1]struct{ passes, bytes *metrics.Counter }
	inFlight   atomic.Int64
	dead       atomic.Int64 // deliveries that became dead letters or were rejected, but the operator's

	attemptSeconds *metrics.PrometheusHistogram
	syncSeconds    *metrics.PrometheusHistogram
	commitEntries  *metrics.PrometheusHistogram
	commitBytes    *metrics.PrometheusHistogram
}

// refusal is why a send was refused by the engine.
type refusal int

const (
	refusedRate refusal = iota
	refusedTarget
	refusedSuspended
	refusedOverload
	refusedStorage
)

// dropReason is why retention dropped something.
type dropReason int

const (
	droppedForAge dropReason = iota
	droppedForSize
	droppedBodies
)

var dropWords = [...]string{
	droppedForAge: "deliveries past their time", droppedForSize: "the oldest finished deliveries, for their size", droppedBodies: "bodies past their time",
}

var (
	secondsBuckets     = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
	syncBuckets        = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5}
	commitEntryBuckets = []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096}
	commitBytesBuckets = []float64{512, 4096, 16384, 65536, 262144, 1048576, 4194304}
)

func newEngineMetrics(e *Engine) *engineMetrics {
	set := metrics.NewSet()
	m := &engineMetrics{
		set:            set,
		accepted:       set.NewCounter("harepost_sends_accepted_total"),
		duplicates:     set.NewCounter("harepost_sends_duplicate_total"),
		attemptSeconds: set.NewPrometheusHistogramExt("harepost_attempt_duration_seconds", secondsBuckets),
		syncSeconds:    set.NewPrometheusHistogramExt("harepost_log_sync_duration_seconds", syncBuckets),
		commitEntries:  set.NewPrometheusHistogramExt("harepost_log_commit_entries", commitEntryBuckets),
		commitBytes:    set.NewPrometheusHistogramExt("harepost_log_commit_bytes", commitBytesBuckets),
	}
	for r, word := range [...]string{refusedRate: "rate_limit", refusedTarget: "target", refusedSuspended: "suspended", refusedOverload: "overload", refusedStorage: "storage"} {
		m.refusals[r] = set.NewCounter(fmt.Sprintf(`harepost_sends_refused_total{reason=%q}`, word))
	}
	for o := OutcomeDelivered; o <= OutcomeRejected; o++ {
		m.attempts[o] = set.NewCounter(fmt.Sprintf(`harepost_attempts_total{outcome=%q}`, o))
	}
	for s := StatusDelivered; s <= StatusCanceled; s++ {
		m.finished[s] = set.NewCounter(fmt.Sprintf(`harepost_deliveries_finished_total{status=%q}`, s))
	}
	for k := JobReplay; k <= JobPurge; k++ {
		m.control[k].changed = set.NewCounter(fmt.Sprintf(`harepost_deliveries_controlled_total{kind=%q,result="changed"}`, k))
		m.control[k].skipped = set.NewCounter(fmt.Sprintf(`harepost_deliveries_controlled_total{kind=%q,result="skipped"}`, k))
	}
	for r, word := range [...]string{droppedForAge: "age", droppedForSize: "size", droppedBodies: "body_age"} {
		m.dropped[r].passes = set.NewCounter(fmt.Sprintf(`harepost_retention_passes_total{reason=%q}`, word))
		m.dropped[r].bytes = set.NewCounter(fmt.Sprintf(`harepost_retention_dropped_bytes_total{reason=%q}`, word))
	}
	gauge := func(name string, value func() float64) { set.NewGauge(name, value) }
	gauge("harepost_sends_waiting", func() float64 { return float64(e.gate.queued()) })
	gauge("harepost_attempts_in_flight", func() float64 { return float64(m.inFlight.Load()) })
	gauge("harepost_jobs_running", func() float64 { return float64(e.state().CountRunningJobs()) })
	gauge("harepost_deliveries_pending", func() float64 { return float64(e.state().Pending()) })
	gauge("harepost_deliveries_young", func() float64 { return float64(e.state().Young()) })
	gauge("harepost_data_bytes", func() float64 {
		if e.reads.begin() != nil {
			return 0
		}
		defer e.reads.end()
		return float64(e.dataBytes())
	})
	gauge("harepost_data_limit_bytes", func() float64 { return float64(e.quota.max) })
	gauge("harepost_log_bytes", func() float64 { return float64(e.log.Bytes()) })
	gauge("harepost_oldest_due_delivery_age_seconds", func() float64 {
		_, age := e.dispatcher().stats()
		return age.Seconds()
	})
	gauge("harepost_lanes", func() float64 {
		st, _ := e.dispatcher().stats()
		return float64(st.Lanes)
	})
	gauge("harepost_scheduler_items", func() float64 {
		st, _ := e.dispatcher().stats()
		return float64(st.Items)
	})
	return m
}

// notNow counts a send that was refused for want of room, of whichever kind.
func (m *engineMetrics) notNow(err error) {
	switch {
	case errors.Is(err, ErrOverloaded):
		m.refused(refusedOverload)
	case errors.Is(err, ErrStorageFull):
		m.refused(refusedStorage)
	}
}

func (m *engineMetrics) refused(r refusal) { m.refusals[r].Inc() }

// controlled counts what a replay, a cancellation or a purge has done.
func (m *engineMetrics) controlled(k JobKind, changed, skipped int) {
	m.control[k].changed.Add(changed)
	m.control[k].skipped.Add(skipped)
	if k == JobCancel {
		m.finished[StatusCanceled].Add(changed)
	}
}

func (m *engineMetrics) countAttempt(a *attempted) {
	m.attempts[a.outcome].Inc()
	if a.status.Final() {
		m.finished[a.status].Inc()
		if dead := a.status == StatusDeadLetter || a.status == StatusRejected; dead && a.lane.Account != OperatorAccount {
			m.dead.Add(1)
		}
	}
}

func (m *engineMetrics) observeAttempt(latency time.Duration) {
	m.attemptSeconds.Update(latency.Seconds())
}

func (m *engineMetrics) observeCommit(c wal.Commit) {
	m.syncSeconds.Update(c.Sync.Seconds())
	m.commitEntries.Update(float64(c.Entries))
	m.commitBytes.Update(float64(c.StoredBytes))
}

// WriteMetrics writes the engine's metrics in Prometheus text format.
func (e *Engine) WriteMetrics(w io.Writer) {
	e.metrics.set.WritePrometheus(w)
	e.laneTotals.write(w, e.opts.Now())
}
