package raftstore

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/harepost/harepost/engine"
	"github.com/harepost/harepost/wal"
)

// RecoverOptions say which node is to go on, and with whom.
type RecoverOptions struct {
	FS     vfs.FS
	Dir    string // the data directory; no process has it open
	NodeID string
	Peers  []Server // the members from now on; none: the node alone
	// Engine opens the state. Replica, FS and Failed are set here; Transport is needed and not used.
	Engine engine.Options
	Logger *slog.Logger
}

// Recovered is what RecoverQuorum has done.
type Recovered struct {
	OldCluster, NewCluster string
	Servers                []Server
	Rebased
	// Unproven counts the entries at the end of the log of which it is not known that they were committed. They
	// count now.
	Unproven uint64
	// Missing counts the entries that the state needed and this node did not have: it had got the state from another
	// node, and not yet them. What was accepted by them, and had no attempt yet, is lost.
	Missing uint64
	// Known is an index that was committed, as this node has seen of others. If it is beyond Index, what is
	// between was acknowledged and is lost.
	Known uint64
}

// RecoverQuorum makes a new cluster of what one node holds when the majority of the old one is lost for good, on
// disk. What the lost nodes had acknowledged without this one is lost; nothing else is. If several nodes are left, it
// is done on each with the same Peers; the most up-to-date of them will lead. The cluster gets a new id, so that a
// node of the old one that comes back is refused. After a crash it has to be run again, and a node whose
// recovery is not finished does not start; one that fails before it has changed anything leaves the node as it was.
//
// It is what raft.RecoverCluster is, which applies the whole log anew to the state machine, and writes a snapshot of
// it; here the engine replays what its state does not have, and the snapshot says where that ended, see Rebase.
func RecoverQuorum(ctx context.Context, o RecoverOptions) (r Recovered, err error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	i, err := readIdentity(o.FS, o.Dir)
	if err != nil {
		return r, err
	}
	me := i.get()
	switch {
	case me.NodeID == "":
		return r, fmt.Errorf("%w: %s is not the directory of a node of a cluster", ErrIdentity, o.Dir)
	case me.NodeID != o.NodeID:
		return r, fmt.Errorf("%w: %s belongs to node %q and --node-id is %q", ErrIdentity, o.Dir, me.NodeID, o.NodeID)
	case me.Unusable != "":
		return r, fmt.Errorf("%w: %s: %s", ErrIdentity, o.Dir, me.Unusable)
	case me.ClusterID == "" || me.Founders != nil || me.Convert:
		return r, fmt.Errorf("%w: there is nothing to recover in %s, its cluster was not made yet", ErrIdentity, o.Dir)
	}
	walDir := o.FS.PathJoin(o.Dir, "wal")
	servers, err := o.servers(me.Recover)
	if err != nil {
		return r, err
	}
	peers, err := openPeers(o.FS, o.Dir)
	if err != nil {
		return r, err
	}
	for _, id := range peers.ids() {
		k, _ := peers.get(id)
		r.Known = max(r.Known, k.Floor)
	}
	// Before anything is written: whoever has the log open keeps it.
	store, err := OpenStore(walDir, StoreOptions{WAL: wal.Options{FS: o.FS}, Logger: o.Logger})
	if err != nil {
		return r, err
	}
	if err := store.Close(); err != nil {
		return r, err
	}
	r.OldCluster, r.Servers = me.ClusterID, servers
	r.NewCluster = recoveredID(me.ClusterID, me.Recovered+1, servers)
	mark := func() error {
		return i.change(func(s *self) error {
			s.Recover = &recovery{ClusterID: r.NewCluster, Servers: servers}
			return nil
		})
	}
	if err := r.rebase(ctx, &o, mark); err != nil {
		return r, fmt.Errorf("raftstore: recover %s: %w", o.Dir, err)
	}
	// What the others were known to hold is not what counts any more.
	peers.keep(func(string, *peer) bool { return false })
	if err := peers.save(); err != nil {
		return r, err
	}
	return r, i.change(func(s *self) error {
		s.ClusterID, s.Since, s.Recover = r.NewCluster, 1, nil
		s.Recovered++
		return nil
	})
}

// servers are the new members, in the order of their ids; begun is a recovery that was interrupted.
func (o *RecoverOptions) servers(begun *recovery) ([]Server, error) {
	list := slices.Clone(o.Peers)
	if list == nil && begun != nil {
		return begun.Servers, nil
	}
	if list == nil {
		disk, err := inspectLog(o.FS, o.Dir, "wal")
		if err != nil {
			return nil, err
		}
		s, ok := (&configuration{servers: disk.configuration.Servers}).server(o.NodeID)
		if !ok {
			return nil, fmt.Errorf("%w: node %s is not in the last configuration of its log: name it, and its address, in a file of --peers", ErrIdentity, o.NodeID)
		}
		return []Server{{ID: o.NodeID, Address: string(s.Address)}}, nil
	}
	slices.SortFunc(list, func(a, b Server) int { return cmp.Compare(a.ID, b.ID) })
	self := false
	for k, s := range list {
		if err := ValidNodeID(s.ID); err != nil {
			return nil, err
		}
		if s.Address == "" {
			return nil, fmt.Errorf("raftstore: --peers: node %s has no address", s.ID)
		}
		for _, other := range list[:k] {
			if other.ID == s.ID || other.Address == s.Address {
				return nil, fmt.Errorf("raftstore: --peers: the nodes %s and %s have the same id or address", other.ID, s.ID)
			}
		}
		self = self || s.ID == o.NodeID && !s.NonVoter
	}
	if !self {
		return nil, fmt.Errorf("raftstore: --peers: node %s, whose directory this is, is not in it as a voter", o.NodeID)
	}
	return list, nil
}

// recoveredID is the id of the new cluster: the same on all nodes on which the same is done.
func recoveredID(old string, recovered uint64, servers []Server) string {
	text, err := json.Marshal(servers)
	if err != nil {
		panic(fmt.Sprintf("raftstore: servers as JSON: %v", err)) // strings and bools
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "recovered\n%s\n%d\n%s", old, recovered, text))
	return hex.EncodeToString(sum[:16])
}

func serversConfiguration(servers []Server) raft.Configuration {
	var c raft.Configuration
	for _, s := range servers {
		server := raft.Server{ID: raft.ServerID(s.ID), Address: raft.ServerAddress(s.Address)}
		if s.NonVoter {
			server.Suffrage = raft.Nonvoter
		}
		c.Servers = append(c.Servers, server)
	}
	return c
}

// rebase has an engine replay the log and begins a new one behind it. It calls mark, once or twice, before it makes
// something of the directory that a node of the old cluster could not go on with.
func (r *Recovered) rebase(ctx context.Context, o *RecoverOptions, mark func() error) error {
	replica := &offline{logger: o.Logger, mark: mark}
	replica.begin = func(m engine.Machine) (err error) {
		if err := mark(); err != nil {
			return err
		}
		if r.Missing, err = m.GiveUp(); err != nil {
			return err
		}
		b := Rebase{Machine: m, Store: replica.store, Snapshots: replica.snapshots, Configuration: serversConfiguration(r.Servers)}
		if r.Rebased, err = b.run(ctx); err == nil && r.Index == 0 {
			err = errors.New("there is nothing in its log, no snapshot and no state")
		}
		return err
	}
	eo := o.Engine
	eo.FS, eo.Replica, eo.Failed = o.FS, replica, func(error) {}
	if eo.Logger == nil {
		eo.Logger = o.Logger
	}
	e, err := engine.Open(o.Dir, eo)
	if err != nil {
		return err
	}
	r.Unproven = replica.unproven
	return e.Close()
}

// offline is the log of an engine that never leads: it is opened, replayed to its end, and then begin is called.
type offline struct {
	mark   func() error // nil, or called before the state gets entries that may never have been committed
	begin  func(engine.Machine) error
	logger *slog.Logger

	dir       string
	opts      engine.LogOptions
	store     *Store
	snapshots *SnapshotStore
	unproven  uint64 // entries beyond what the state was known to hold
}

var (
	_ engine.Replica = (*offline)(nil)
	_ engine.Log     = offlineLog{}
)

// Prepare implements engine.Replica, as Node does.
func (f *offline) Prepare(fs vfs.FS, dir string) (restore string, err error) {
	f.dir = dir
	f.snapshots, err = OpenSnapshots(SnapshotOptions{FS: fs, Dir: fs.PathJoin(dir, ClusterDir, snapshotDir), Logger: f.logger})
	if err != nil {
		return "", err
	}
	newest, data, ok := f.snapshots.Newest()
	if !ok || data == "" {
		return "", nil
	}
	store, err := OpenStore(fs.PathJoin(dir, "wal"), StoreOptions{WAL: wal.Options{FS: fs}, Logger: f.logger})
	if err != nil {
		return "", err
	}
	store.Start()
	return data, errors.Join(store.Replace(newest.Index, newest.Term), store.Close())
}

// LeadsAlone implements engine.Replica: what the others have may be gone for good.
func (f *offline) LeadsAlone() bool { return true }

// OpenLog implements engine.Replica.
func (f *offline) OpenLog(o engine.LogOptions) (engine.Log, error) {
	store, err := OpenStore(o.Dir, StoreOptions{
		WAL:    wal.Options{FS: o.FS, SegmentBytes: o.SegmentBytes},
		Failed: o.Machine.Failed, Logger: o.Logger,
	})
	if err != nil {
		return nil, err
	}
	f.opts, f.store = o, store
	last, err := store.LastIndex()
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	if last > o.Applied {
		f.unproven = last - o.Applied
	}
	if f.unproven > 0 && f.mark != nil {
		if err := f.mark(); err != nil {
			return nil, errors.Join(err, store.Close())
		}
	}
	return offlineLog{f}, nil
}

type offlineLog struct{ *offline }

// Replay implements engine.Log. All that is there counts.
func (l offlineLog) Replay(from uint64, fn func(engine.Committed) error) error {
	first, _ := l.store.FirstIndex() // they have no errors
	last, _ := l.store.LastIndex()
	if last < from {
		return nil
	}
	return l.store.Replay(max(from, first), func(w wal.Entry) error {
		return engine.EachCommand(w, func(cmd []byte) error {
			return fn(engine.Committed{Index: uint64(w.Index), Cmd: cmd})
		})
	})
}

// FirstIndex implements engine.Log. Between the end of the state that a snapshot was taken of and the snapshot's index
// are raft's own entries: they are not missing, see Node.check.
func (l offlineLog) FirstIndex() uint64 {
	first, _ := l.store.FirstIndex() // it has no error
	if s, _, ok := l.snapshots.Newest(); ok && l.opts.Applied >= s.Applied && first <= s.Index+1 {
		return min(first, l.opts.Low)
	}
	return first
}

// Start implements engine.Log.
func (l offlineLog) Start() error {
	l.store.Start()
	return l.begin(l.opts.Machine)
}

// Append implements engine.Log.
func (l offlineLog) Append(uint64, []byte, any) error { return engine.ErrNotLeader }

// AppendBatch implements engine.Log.
func (l offlineLog) AppendBatch(uint64, []engine.Proposal) error { return engine.ErrNotLeader }

// AppendLater implements engine.Log.
func (l offlineLog) AppendLater(uint64, []byte, any) error { return engine.ErrNotLeader }

// MayDispatch implements engine.Log.
func (l offlineLog) MayDispatch() bool { return false }

// Release implements engine.Log. The log is emptied as a whole, see Rebase.
func (l offlineLog) Release(uint64) error { return nil }

// CopyTo implements engine.Log.
func (l offlineLog) CopyTo(string, uint64) (uint64, error) { return 0, engine.ErrNotLeader }

// MostBytes implements engine.Log.
func (l offlineLog) MostBytes() int { return l.store.MaxEntryBytes() }

// Bytes implements engine.Log.
func (l offlineLog) Bytes() int64 { return l.store.SizeBytes() }

// NoSpace implements engine.Log.
func (l offlineLog) NoSpace() error { return l.store.NoSpace() }

// Close implements engine.Log.
func (l offlineLog) Close() error { return errors.Join(l.store.Close(), l.snapshots.Close()) }
