package raftstore

import (
	"io"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// nodeMetrics are what a node counts and measures.
type nodeMetrics struct {
	set      *metrics.Set
	commit   *metrics.PrometheusHistogram
	snapshot *metrics.PrometheusHistogram
	sent     snapshotMetrics
	received snapshotMetrics
	reigns   *metrics.Counter
}

// snapshotMetrics are of the snapshots that went one way between nodes, those that went
// whole.
type snapshotMetrics struct {
	took  *metrics.PrometheusHistogram
	bytes *metrics.Counter
}

func newSnapshotMetrics(set *metrics.Set, way string) snapshotMetrics {
	return snapshotMetrics{
		took:  set.NewPrometheusHistogramExt("harepost_cluster_snapshot_"+way+"_duration_seconds", snapshotBuckets),
		bytes: set.NewCounter("harepost_cluster_snapshot_" + way + "_bytes_total"),
	}
}

func (m *snapshotMetrics) add(bytes int64, took time.Duration) {
	m.took.Update(took.Seconds())
	m.bytes.AddInt64(bytes)
}

var (
	commitBuckets   = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}
	snapshotBuckets = []float64{.01, .1, .5, 1, 5, 10, 30, 60, 300}
)

func newNodeMetrics() *nodeMetrics {
	set := metrics.NewSet()
	return &nodeMetrics{
		set:      set,
		commit:   set.NewPrometheusHistogramExt("harepost_cluster_commit_duration_seconds", commitBuckets),
		snapshot: set.NewPrometheusHistogramExt("harepost_cluster_snapshot_duration_seconds", snapshotBuckets),
		sent:     newSnapshotMetrics(set, "sent"),
		received: newSnapshotMetrics(set, "received"),
		reigns:   set.NewCounter("harepost_cluster_reigns_total"),
	}
}

// WriteMetrics writes what the node counts, in the text form of Prometheus.
func (n *Node) WriteMetrics(w io.Writer) { n.metrics.set.WritePrometheus(w) }
