package raftstore

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// A snapshotNode is a node of a cluster whose state machine counts: entry i makes
// account i.
type snapshotNode struct {
	t         *testing.T
	fs        vfs.FS
	id        raft.ServerID
	state     *stateOf
	log       *raft.InmemStore
	snapshots *SnapshotStore
	metrics   *nodeMetrics
	raft      *raft.Raft
	restores  int
}

func (n *snapshotNode) Apply(l *raft.Log) any {
	n.state.grow(l.Index)
	return nil
}

func (n *snapshotNode) Snapshot() (raft.FSMSnapshot, error) {
	return snapshotOf{n, n.state.Applied()}, nil
}

type snapshotOf struct {
	node    *snapshotNode
	applied uint64
}

func (s snapshotOf) Persist(sink raft.SnapshotSink) error {
	if err := s.node.state.Flush(); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	sink.(*SnapshotSink).Own(s.applied)
	return sink.Close()
}

func (snapshotOf) Release() {}

func (n *snapshotNode) Restore(source io.ReadCloser) error {
	dir, _, _, ok := ReceivedDir(source)
	if !ok {
		return errors.New("there is nothing to restore")
	}
	n.restores++
	to := fmt.Sprintf("data/state%d", n.restores)
	if err := n.fs.Rename(dir, to); err != nil {
		return err
	}
	n.state = newState(n.t, n.fs, to)
	n.snapshots.SetCheckpoint(n.state.checkpoint)
	return nil
}

func startSnapshotNode(t *testing.T, id raft.ServerID) (*snapshotNode, raft.Transport) {
	fs := vfs.NewMem()
	n := &snapshotNode{t: t, fs: fs, id: id, state: newState(t, fs, "data/state"), log: raft.NewInmemStore(), metrics: newNodeMetrics()}
	o := snapshotOptions(t, fs)
	o.Sent, o.Received = n.metrics.sent.add, n.metrics.received.add
	n.snapshots = openSnapshotsWith(t, o)
	n.snapshots.SetCheckpoint(n.state.checkpoint)
	n.snapshots.SetLog(n.log)
	trans, err := raft.NewTCPTransport("127.0.0.1:0", nil, 2, 10*time.Second, io.Discard)
	noError(t, err)
	c := raft.DefaultConfig()
	c.LocalID, c.Logger = id, hclog.NewNullLogger()
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = 2*time.Second, 2*time.Second, 2*time.Second // also on a busy machine
	c.CommitTimeout, c.TrailingLogs, c.NoSnapshotRestoreOnStart = 5*time.Millisecond, 1, true
	n.raft, err = raft.NewRaft(c, n, n.log, raft.NewInmemStore(), n.snapshots, trans)
	noError(t, err)
	t.Cleanup(func() {
		noError(t, n.snapshots.Close())
		noError(t, n.raft.Shutdown().Error())
		trans.CloseStreams() // others' goroutines read from them
		noError(t, trans.Close())
	})
	return n, trans
}

// raft takes a snapshot of a node, throws its log away, and brings others up by it,
// over a connection that announces the size; they go on with what comes after it, and
// one of them brings up the next.
func TestRaftInstallsSnapshots(t *testing.T) {
	first, trans := startSnapshotNode(t, "n1")
	noError(t, first.raft.BootstrapCluster(raft.Configuration{Servers: []raft.Server{{ID: "n1", Address: trans.LocalAddr()}}}).Error())
	for lead := range first.raft.LeaderCh() {
		if lead {
			break
		}
	}
	leads := first
	for _, id := range []raft.ServerID{"n2", "n3"} {
		for range 20 {
			noError(t, leads.raft.Apply([]byte("x"), 0).Error())
		}
		noError(t, leads.raft.Snapshot().Error())
		for range 10 {
			noError(t, leads.raft.Apply([]byte("x"), 0).Error()) // the copy is ahead of the snapshot
		}
		n, trans := startSnapshotNode(t, id)
		noError(t, leads.raft.AddVoter(id, trans.LocalAddr(), 0, 0).Error())
		var last uint64
		for range 10 {
			f := leads.raft.Apply([]byte("x"), 0)
			noError(t, f.Error())
			last = f.Index()
		}
		for n.raft.AppliedIndex() < last {
			select {
			case <-time.After(time.Millisecond):
			case <-t.Context().Done():
				t.Fatal("it is never caught up")
			}
		}
		// The last entry is applied when a barrier is through. Only the state machine's
		// goroutine may look.
		noError(t, leads.raft.Barrier(0).Error())
		if err := leads.raft.LeadershipTransferToServer(id, trans.LocalAddr()).Error(); err != nil {
			t.Fatal(err)
		}
		for lead := range n.raft.LeaderCh() {
			if lead {
				break
			}
		}
		noError(t, n.raft.Barrier(0).Error())
		if n.restores != 1 || n.state.Applied() != last {
			t.Errorf("%s has restored %d times and is at %d, not %d", id, n.restores, n.state.Applied(), last)
		}
		if r, err := n.state.Verify(); err != nil || len(r.Findings) > 0 {
			t.Errorf("%v, %v", r.Findings, err)
		}
		if m, dir, ok := n.snapshots.Newest(); !ok || dir != "" || !m.Received {
			t.Errorf("%+v in %q", m, dir)
		}
		if names := leftovers(t, leads.fs); len(names) != 0 {
			t.Errorf("%q are left of sending", names)
		}
		if sent, got := leads.metrics.sent.bytes.Get(), n.metrics.received.bytes.Get(); sent == 0 || sent != got {
			t.Errorf("%d bytes were sent, %d received", sent, got)
		}
		for of, want := range map[*snapshotNode]string{
			leads: "harepost_cluster_snapshot_sent_duration_seconds_count 1\n", n: "harepost_cluster_snapshot_received_duration_seconds_count 1\n",
		} {
			var page strings.Builder
			of.metrics.set.WritePrometheus(&page)
			if !strings.Contains(page.String(), want) {
				t.Errorf("%s: no %s in\n%s", of.id, want, page.String())
			}
		}
		leads = n
	}
}
