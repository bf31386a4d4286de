package raftstore

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// A trio is three raft nodes on stores, with raft's own state machine, snapshots and transport for tests.
type trio struct {
	t     *testing.T
	nodes []*trioNode
}

type trioNode struct {
	id    raft.ServerID
	fs    *vfs.MemFS
	snaps *toldSnapshots
	fsm   *raft.MockFSM
	trans *raft.InmemTransport
	s     *Store
	r     *raft.Raft
}

// toldSnapshots tell the store what they get.
type toldSnapshots struct {
	*raft.InmemSnapshotStore
	s       *Store
	created int
}

func (t *toldSnapshots) Create(v raft.SnapshotVersion, index, term uint64, c raft.Configuration, at uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	t.created++
	t.s.Installed(index, term)
	return t.InmemSnapshotStore.Create(v, index, term, c, at, trans)
}

func newTrio(t *testing.T) *trio {
	c := &trio{t: t}
	for i := range 3 {
		n := &trioNode{id: raft.ServerID(fmt.Sprint("node-", i)), fs: vfs.NewMem(), snaps: &toldSnapshots{InmemSnapshotStore: raft.NewInmemSnapshotStore()}}
		c.nodes = append(c.nodes, n)
		c.start(n)
	}
	var all raft.Configuration
	for _, n := range c.nodes {
		all.Servers = append(all.Servers, raft.Server{ID: n.id, Address: raft.ServerAddress(n.id)})
	}
	must(t, c.nodes[0].r.BootstrapCluster(all).Error())
	return c
}

func (c *trio) start(n *trioNode) {
	c.t.Helper()
	o := smallOptions(n.fs)
	o.CacheBytes = 10 << 10
	n.s = mustOpenStore(c.t, o)
	n.snaps.s = n.s
	n.s.Hold(1 << 62) // the state machine's state is in the snapshots alone
	n.fsm = &raft.MockFSM{}
	_, n.trans = raft.NewInmemTransport(raft.ServerAddress(n.id))
	config := raft.DefaultConfig()
	config.LocalID = n.id
	config.Logger = hclog.NewNullLogger()
	config.TrailingLogs = 1
	config.SnapshotThreshold = 1 << 40 // when the test says so
	r, err := raft.NewRaft(config, n.fsm, n.s, n.s, n.snaps, n.trans)
	must(c.t, err)
	n.r = r
	c.heal()
}

func (c *trio) stop(n *trioNode) {
	c.t.Helper()
	must(c.t, n.r.Shutdown().Error())
	must(c.t, n.trans.Close())
	mustCloseStore(c.t, n.s)
	n.r = nil
}

func (c *trio) stopAll() {
	for _, n := range c.nodes {
		c.stop(n)
	}
}

func (c *trio) heal() {
	for _, a := range c.nodes {
		for _, b := range c.nodes {
			if a != b && a.r != nil && b.r != nil {
				a.trans.Connect(raft.ServerAddress(b.id), b.trans)
			}
		}
	}
}

func (c *trio) isolate(n *trioNode) {
	n.trans.DisconnectAll()
	for _, o := range c.nodes {
		o.trans.Disconnect(raft.ServerAddress(n.id))
	}
}

// leader waits for one among the nodes.
func (c *trio) leader(among ...*trioNode) *trioNode {
	c.t.Helper()
	for range 1000 {
		for _, n := range among {
			if n.r.State() == raft.Leader && n.r.VerifyLeader().Error() == nil {
				return n
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	c.t.Fatal("no leader")
	return nil
}

func (c *trio) others(n *trioNode) []*trioNode {
	return slices.DeleteFunc(slices.Clone(c.nodes), func(o *trioNode) bool { return o == n })
}

// settle waits until all nodes have applied the same, as many as wanted, and tells how long that took.
func (c *trio) settle(wanted int) (took time.Duration, ok bool) {
	begin := time.Now()
	for range 600 {
		same := true
		for _, n := range c.nodes {
			same = same && len(n.fsm.Logs()) == wanted
		}
		if same {
			return time.Since(begin), true
		}
		time.Sleep(100 * time.Millisecond)
	}
	return 0, false
}

// compare looks whether the logs agree where they overlap, and the states altogether.
func (c *trio) compare() {
	c.t.Helper()
	a := c.nodes[0]
	for _, b := range c.nodes[1:] {
		if !slices.EqualFunc(a.fsm.Logs(), b.fsm.Logs(), bytes.Equal) {
			c.t.Errorf("%s and %s have applied different entries", a.id, b.id)
		}
		firstA, lastA := bounds(c.t, a.s)
		firstB, lastB := bounds(c.t, b.s)
		for i := max(firstA, firstB, 1); i <= min(lastA, lastB); i++ {
			var x, y raft.Log
			must(c.t, a.s.GetLog(i, &x))
			must(c.t, b.s.GetLog(i, &y))
			if !reflect.DeepEqual(x, y) {
				c.t.Errorf("entry %d of %s has term %d, that of %s term %d", i, a.id, x.Term, b.id, y.Term)
			}
		}
	}
}

// Leaders are cut off with entries that nobody else has; others are elected and go on; when the old ones come
// back, what they had is replaced, whether by entries or, each other time, by a snapshot. Nodes are restarted
// in between. What was acknowledged is applied everywhere, once.
func TestRaftReplacesWhatALostLeaderHad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTrio(t)
		acked := 0
		for round := range 6 {
			old := c.leader(c.nodes...)
			must(t, old.r.Apply(content(1, uint64(round), 3000), time.Minute).Error())
			acked++
			c.isolate(old)
			for i := range 3 {
				old.r.Apply(content(2, uint64(i), 3000), time.Minute) // lost
			}
			lead := c.leader(c.others(old)...)
			for i := range 12 {
				must(t, lead.r.Apply(content(3, uint64(i), 3000), time.Minute).Error())
				acked++
			}
			if round%2 == 1 {
				for _, n := range c.others(old) {
					must(t, n.r.Snapshot().Error())
				}
			}
			c.heal()
			if _, ok := c.settle(acked); !ok {
				t.Fatalf("round %d: the nodes do not come to the same", round)
			}
			c.compare()
			n := c.nodes[round%3]
			c.stop(n)
			c.start(n)
			if _, ok := c.settle(acked); !ok {
				t.Fatalf("round %d: after a restart the nodes do not come to the same", round)
			}
		}
		c.stopAll()
	})
}

// A deposed leader whose own tail is longer than the snapshot that it gets takes up what comes behind the
// snapshot, at once and with one snapshot. (Without Store.Installed it never does: raft sends it the snapshot
// over and over.)
func TestRaftGoesOnBehindASnapshotThatEndsBeforeTheOldTail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTrio(t)
		old := c.leader(c.nodes...)
		must(t, old.r.Apply(content(1, 1, 3000), time.Minute).Error())
		if _, ok := c.settle(1); !ok {
			t.Fatal("the first entry is not applied everywhere")
		}
		c.isolate(old)
		for i := range 60 {
			old.r.Apply(content(2, uint64(i), 3000), time.Minute) // lost
		}
		lead := c.leader(c.others(old)...)
		for i := range 12 {
			must(t, lead.r.Apply(content(3, uint64(i), 3000), time.Minute).Error())
		}
		for _, n := range c.others(old) {
			must(t, n.r.Snapshot().Error())
			if first, _ := bounds(t, n.s); first < 10 {
				t.Fatalf("%s still has entry %d: nothing is tested", n.id, first)
			}
		}
		if _, last := bounds(t, old.s); last < 60 {
			t.Fatalf("the old leader's tail ends with %d: nothing is tested", last)
		}
		before := old.snaps.created
		c.heal()
		if _, ok := c.settle(13); !ok {
			t.Fatal("the snapshot is not installed")
		}
		must(t, c.leader(c.nodes...).r.Apply(content(3, 99, 3000), time.Minute).Error())
		if took, ok := c.settle(14); !ok || took > 5*time.Second {
			t.Errorf("what comes behind the snapshot is not applied, or late: %v, %s", ok, took)
		}
		if n := old.snaps.created - before; n != 1 {
			t.Errorf("%d snapshots were sent", n)
		}
		c.compare()
		c.stopAll()
	})
}

// A process that stopped between the installation of a snapshot and the deletion of the log finds, at its next
// start, a log that does not fit; Align deletes that and no other.
func TestAlign(t *testing.T) {
	for name, c := range map[string]struct {
		index, term uint64
		gone        bool
	}{
		"the log ends before the snapshot": {31, 4, true},
		"long before":                      {5000, 9, true},
		"another entry in its place":       {20, 4, true},
		"the same entry":                   {20, 3, false},
		"the same entry, the last one":     {30, 3, false},
		"the snapshot ends before the log": {9, 3, false},
		"no snapshot":                      {0, 0, false},
	} {
		fs := vfs.NewMem()
		s := mustOpenStore(t, smallOptions(fs))
		must(t, s.StoreLogs(entriesOf(3, 10, 30, 50)))
		must(t, s.Align(c.index, c.term))
		if _, last := bounds(t, s); (last == 0) != c.gone || !c.gone && last != 30 {
			t.Errorf("%s: the log ends with %d", name, last)
		}
		if c.gone {
			var l raft.Log
			if err := s.GetLog(c.index, &l); err != nil || l.Term != c.term {
				t.Errorf("%s: the snapshot's entry has term %d, %v", name, l.Term, err)
			}
			must(t, s.StoreLogs(entriesOf(9, c.index+1, c.index+3, 50)))
		}
		mustCloseStore(t, s)
	}
}

// Behind an installed snapshot the store knows the snapshot's entry, for as long as it lasts, and gives raft
// something to delete where the old log was, until that is done.
func TestEntriesThatASnapshotTookThePlaceOf(t *testing.T) {
	s := mustOpenStore(t, smallOptions(vfs.NewMem()))
	defer mustCloseStore(t, s)
	term := func(i uint64) any {
		var l raft.Log
		if err := s.GetLog(i, &l); err != nil {
			return err
		}
		return l.Term
	}
	check := func(when string, want map[uint64]any) {
		t.Helper()
		for i, w := range want {
			if got := term(i); got != w {
				t.Errorf("%s: GetLog(%d) gave %v, want %v", when, i, got, w)
			}
		}
	}
	none := raft.ErrLogNotFound
	must(t, s.StoreLogs(entriesOf(3, 1, 60, 50)))
	s.Installed(40, 7)
	check("before the log is deleted", map[uint64]any{39: uint64(3), 40: uint64(3), 60: uint64(3), 61: none})
	must(t, s.DeleteRange(1, 60))
	if first, last := bounds(t, s); first != 0 || last != 0 {
		t.Errorf("the log has %d to %d", first, last)
	}
	check("after it", map[uint64]any{39: none, 40: uint64(7), 41: uint64(0), 60: uint64(0), 61: none})
	must(t, s.DeleteRange(41, 60)) // as raft does
	must(t, s.StoreLogs(entriesOf(8, 41, 45, 50)))
	check("with entries behind the snapshot", map[uint64]any{39: none, 40: uint64(7), 41: uint64(8), 45: uint64(8), 46: none, 60: none})
	s.Installed(1, 9)
	must(t, s.DeleteRange(41, 45))
	check("a snapshot of one entry", map[uint64]any{1: none, 2: uint64(0), 45: uint64(0), 46: none})
}
