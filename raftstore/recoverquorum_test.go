package raftstore

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/harepost/harepost/engine"
	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/seal"
	"github.com/harepost/harepost/wal"
)

// clustered is a directory of node n1 of a cluster of three that was lost, in which log entries follow on a snapshot.
// The entries are those of a leader that had not been told that they were committed.
func clustered(t *testing.T) *household {
	t.Helper()
	h := newHousehold(t)
	e := h.open(nil)
	h.send(e, 40)
	noError(t, e.Close())
	i := openIdentity(t, h.fs, "n1")
	noError(t, i.BeginConversion())
	e = h.open(converting(i))
	noError(t, e.Close())
	// A single node's entries are such entries, too.
	e = h.open(nil)
	h.send(e, 40)
	noError(t, e.Close())
	s := openStoreOf(t, h.fs)
	last, err := s.LastIndex()
	noError(t, err)
	noError(t, s.StoreLog(&raft.Log{Index: last + 1, Term: 7, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(threeServers())}))
	noError(t, s.SetUint64(keyCurrentTerm, 9))
	noError(t, s.Close())
	p, err := openPeers(h.fs, "data")
	noError(t, err)
	noError(t, p.believe(&Hello{ClusterID: i.ClusterID(), NodeID: "n2", Directory: "d", Since: 1, Address: "a2", Lives: []Life{{1, "x"}}}, time.Now()))
	p.observe("n2", Acknowledgement{LastLog: last + 5, Match: last + 5, Committed: last + 3}, time.Now())
	noError(t, p.save())
	return h
}

func openStoreOf(t *testing.T, fs vfs.FS) *Store {
	t.Helper()
	s, err := OpenStore("data/wal", StoreOptions{WAL: wal.Options{FS: fs}, Logger: silent})
	noError(t, err)
	s.Start()
	return s
}

func (h *household) recoverWith(node string, peers ...Server) (Recovered, error) {
	return RecoverQuorum(h.t.Context(), RecoverOptions{FS: h.fs, Dir: "data", NodeID: node, Peers: peers, Engine: h.options(nil), Logger: silent})
}

func TestOneNodeGoesOnAfterTheQuorumIsLost(t *testing.T) {
	for name, peers := range map[string][]Server{
		"alone":        nil,
		"with another": {{ID: "n3", Address: "b3"}, {ID: "n1", Address: "b1"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := clustered(t)
			disk, err := inspectLog(h.fs, "data", "wal")
			noError(t, err)
			r, err := h.recoverWith("n1", peers...)
			noError(t, err)
			if r.Index != disk.last || r.Term != 7 || r.Known != disk.last+2 || r.NewCluster == r.OldCluster || r.Unproven == 0 {
				t.Errorf("it recovered %+v of a log up to %d", r, disk.last)
			}
			i, err := readIdentity(h.fs, "data")
			noError(t, err)
			if s := i.get(); s.ClusterID != r.NewCluster || s.Recover != nil || s.Recovered != 1 {
				t.Errorf("node.json says %+v", s)
			}
			after, err := inspectLog(h.fs, "data", "wal")
			noError(t, err)
			if after.last != disk.last || len(after.configuration.Servers) != max(1, len(peers)) || after.configuration.Servers[0].ID != "n1" {
				t.Errorf("log and snapshot say %+v", after)
			}
			s := openStoreOf(t, h.fs)
			first, _ := s.FirstIndex()
			if term, err := currentTerm(s); first != 0 || term != 9 || err != nil {
				t.Errorf("the log begins at %d, raft's term is %d, %v", first, term, err)
			}
			noError(t, s.Close())
			p, err := openPeers(h.fs, "data")
			noError(t, err)
			if len(p.known) != 0 {
				t.Error("what other nodes held still counts")
			}
			openIdentity(t, h.fs, "n1")
			if peers == nil {
				h.leadsAlone()
			}
		})
	}
}

// leadsAlone starts the node on what was recovered: it leads and has everything.
func (h *household) leadsAlone() {
	h.t.Helper()
	_, trans := raft.NewInmemTransport("a1")
	e := h.open(NewNode(Config{ID: "n1", Transport: trans, Logger: silent, ElectionTimeout: 100 * time.Millisecond}))
	h.leads(e)
	h.has(e)
	h.send(e, 10)
	h.has(e)
	noError(h.t, e.Close())
}

// leads waits until an engine accepts.
func (h *household) leads(e *engine.Engine) {
	h.t.Helper()
	deadline := time.After(20 * time.Second)
	for tick := time.NewTicker(5 * time.Millisecond); e.Ready() != nil; {
		select {
		case <-tick.C:
		case <-deadline:
			h.t.Fatal("it does not lead: ", e.Ready())
		}
	}
}

// Of two nodes that go on together the one whose log ends in the higher term leads. The other's may be longer, by
// what an earlier leader did not get committed: it gives that up.
func TestALongerLogOfALowerTermIsGivenUp(t *testing.T) {
	h := clustered(t)
	other := *h
	other.fs = h.fs.CrashClone(vfs.CrashCloneCfg{})
	i, err := readIdentity(other.fs, "data")
	noError(t, err)
	noError(t, i.change(func(s *self) error { s.NodeID, s.Directory = "n3", drawID(); return nil }))
	disk, err := inspectLog(h.fs, "data", "wal")
	noError(t, err)
	store := func(fs vfs.FS, term uint64, entries uint64) {
		s := openStoreOf(t, fs)
		for n := range entries {
			noError(t, s.StoreLog(&raft.Log{Index: disk.last + 1 + n, Term: term, Type: raft.LogNoop}))
		}
		noError(t, s.Close())
	}
	store(h.fs, 9, 1)
	store(other.fs, 8, 3)
	peers := []Server{{ID: "n1", Address: "b1"}, {ID: "n3", Address: "b3"}}
	first, err := h.recoverWith("n1", peers...)
	noError(t, err)
	second, err := other.recoverWith("n3", peers...)
	noError(t, err)
	if first.Index >= second.Index || first.Term <= second.Term || first.NewCluster != second.NewCluster {
		t.Fatalf("they end as %+v and %+v", first, second)
	}
	_, t1 := raft.NewInmemTransport("b1")
	_, t3 := raft.NewInmemTransport("b3")
	t1.Connect("b3", t3)
	t3.Connect("b1", t1)
	e1 := h.open(NewNode(Config{ID: "n1", Transport: t1, Logger: silent, ElectionTimeout: 300 * time.Millisecond}))
	e3 := other.open(NewNode(Config{ID: "n3", Transport: t3, Logger: silent, ElectionTimeout: 300 * time.Millisecond}))
	h.leads(e1)
	h.send(e1, 10) // acknowledged by both
	h.has(e1)
	noError(t, e1.Close())
	noError(t, e3.Close())
}

// The log of a node that got the state from another one begins behind raft's own entries, which no state knows of.
func TestANodeThatGotASnapshotIsRecovered(t *testing.T) {
	h := clustered(t)
	_, err := h.recoverWith("n1") // its log is empty now, and the snapshot's index is that of a configuration
	noError(t, err)
	disk, err := inspectLog(h.fs, "data", "wal")
	noError(t, err)
	s := openStoreOf(t, h.fs)
	noError(t, s.StoreLog(&raft.Log{Index: disk.last + 1, Term: 9, Type: raft.LogNoop}))
	noError(t, s.Close())
	r, err := h.recoverWith("n1")
	noError(t, err)
	if r.Index != disk.last+1 {
		t.Errorf("it recovered %+v of a log up to %d", r, disk.last+1)
	}
	h.leadsAlone()
}

// A node that got the state from another one may have less of the log than the state needs, as its sender had it when
// it sent it. Where nobody has the rest it goes on without, and says so.
func TestANodeWhoseStateIsAheadOfItsLogIsRecovered(t *testing.T) {
	h := clustered(t)
	e := h.open(nil)
	paused := true
	_, err := e.ChangeDestinations(t.Context(), h.account, engine.DestinationRef{Host: h.target.Host, Port: h.target.Port}, engine.DestinationChange{Paused: &paused})
	noError(t, err)
	h.send(e, 5) // they stay in memory, and in the log
	noError(t, e.Close())
	applied, low, err := peekState(h.fs, "data/state")
	noError(t, err)
	var accepts []uint64
	s := openStoreOf(t, h.fs)
	noError(t, s.Replay(low, func(w wal.Entry) error {
		if command.IsAccept(w.Data) {
			accepts = append(accepts, uint64(w.Index))
		}
		return nil
	}))
	const lost = 2
	cut := accepts[len(accepts)-lost]
	noError(t, s.DeleteRange(cut, applied))
	noError(t, s.Close())
	r, err := h.recoverWith("n1")
	noError(t, err)
	if r.Index != applied || r.Missing != applied+1-cut {
		t.Errorf("it recovered %+v; the state was at %d and the log ended before %d", r, applied, cut)
	}
	h.acked = h.acked[:len(h.acked)-lost]
	h.leadsAlone()
}

// The same done on several nodes makes them one cluster, and another thing another one.
func TestNodesThatAreRecoveredTogetherAreOneCluster(t *testing.T) {
	two := []Server{{ID: "n1", Address: "b1"}, {ID: "n3", Address: "b3"}}
	again := []Server{{ID: "n1", Address: "b1"}, {ID: "n3", Address: "b3"}}
	if recoveredID("c", 1, two) != recoveredID("c", 1, again) {
		t.Error("the same is not the same")
	}
	for _, other := range []string{recoveredID("d", 1, two), recoveredID("c", 2, two), recoveredID("c", 1, two[:1])} {
		if other == recoveredID("c", 1, two) || len(other) != len(drawID()) {
			t.Errorf("%q is not another cluster's id", other)
		}
	}
}

func TestRecoveriesThatAreRefused(t *testing.T) {
	h := newHousehold(t)
	_, err := h.recoverWith("n1")
	tells(t, err, ErrIdentity, "not the directory of a node of a cluster")
	h = clustered(t)
	_, err = h.recoverWith("n2")
	tells(t, err, ErrIdentity, `"n1"`, "--node-id")
	for _, peers := range [][]Server{
		{{ID: "n2", Address: "a2"}}, {{ID: "n1", Address: "a1", NonVoter: true}}, {{ID: "n1"}},
		{{ID: "n1", Address: "a1"}, {ID: "n2", Address: "a1"}}, {{ID: "n1", Address: "a1"}, {ID: "n1", Address: "a2"}},
		{{ID: "n1", Address: "a1"}, {ID: "?", Address: "a2"}},
	} {
		if _, err := h.recoverWith("n1", peers...); err == nil {
			t.Errorf("%v was taken", peers)
		}
	}
	e := h.open(nil) // as a server has it
	_, err = h.recoverWith("n1")
	tells(t, err, wal.ErrLocked)
	noError(t, e.Close())
	before := readAll(t, h.fs, "data/cluster/node.json")
	i, err := readIdentity(h.fs, "data")
	noError(t, err)
	if i.get().Recover != nil || len(before) == 0 {
		t.Error("a refused recovery has begun")
	}
}

// One that was interrupted keeps the node from starting, and is done by the next.
func TestARecoveryThatWasInterrupted(t *testing.T) {
	h := clustered(t)
	i, err := readIdentity(h.fs, "data")
	noError(t, err)
	noError(t, i.change(func(s *self) error {
		s.Recover = &recovery{ClusterID: "x", Servers: []Server{{ID: "n1", Address: "b1"}}}
		return nil
	}))
	_, err = OpenIdentity(h.fs, "data", "n1")
	tells(t, err, ErrIdentity, "recover", "again")
	r, err := h.recoverWith("n1")
	noError(t, err)
	if len(r.Servers) != 1 || r.Servers[0].Address != "b1" {
		t.Errorf("it went on with %v", r.Servers)
	}
	openIdentity(t, h.fs, "n1")
}

// That the key file is missing turns out when the log was replayed. The node can go on in its old cluster then, unless
// its state may have got entries that were never committed.
func TestARecoveryWithoutTheKeyFile(t *testing.T) {
	h := newHousehold(t)
	keys, err := seal.ParseKeyring([]byte("k1:" + base64.StdEncoding.EncodeToString(make([]byte, 32))))
	noError(t, err)
	h.keys = keys
	e := h.open(nil)
	h.send(e, 10)
	noError(t, e.Close())
	i := openIdentity(t, h.fs, "n1")
	noError(t, i.BeginConversion())
	noError(t, h.open(converting(i)).Close())
	h.keys = nil
	locked := func() {
		t.Helper()
		if _, err := h.recoverWith("n1"); err == nil || !strings.Contains(err.Error(), "key file") {
			t.Fatalf("it recovered without the keys: %v", err)
		}
	}
	locked()
	openIdentity(t, h.fs, "n1")

	disk, err := inspectLog(h.fs, "data", "wal")
	noError(t, err)
	s := openStoreOf(t, h.fs)
	noError(t, s.StoreLog(&raft.Log{Index: disk.last + 1, Term: 7, Type: raft.LogNoop}))
	noError(t, s.SetUint64(keyCurrentTerm, 7))
	noError(t, s.Close())
	locked()
	_, err = OpenIdentity(h.fs, "data", "n1")
	tells(t, err, ErrIdentity, "recover", "again")
	h.keys = keys
	r, err := h.recoverWith("n1")
	noError(t, err)
	if r.Index != disk.last+1 {
		t.Errorf("it recovered %+v of a log up to %d", r, disk.last+1)
	}
	openIdentity(t, h.fs, "n1")
	h.leadsAlone()
}
