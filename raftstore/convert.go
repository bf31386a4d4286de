package raftstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/harepost/harepost/engine"
	"github.com/harepost/harepost/wal"
)

// A Rebase is a log that is to begin anew behind all that there is, for a cluster that begins with what the state
// holds then. All of the log counts as committed. Machine has applied it and is not leading; nothing is
// stored meanwhile.
type Rebase struct {
	Machine       engine.Machine
	Store         *Store // started
	Snapshots     *SnapshotStore
	Configuration raft.Configuration
	OwnTerm       bool // the snapshot gets raft's current term, and not that of the last entry
}

// A Rebased log has nothing up to Index, which is the snapshot's.
type Rebased struct{ Index, Term uint64 }

// run makes the state durable with all that the log has, publishes a snapshot of that, and empties the log. Each step is
// durable before the next, and all of them may be done again after any of them:
//
//	the state needs nothing of the log up to Index
//	raft's term is at least Term
//	the snapshot says that the cluster begins at Index, with Configuration
//	the log is empty, its next entry is Index+1
//
// Index is 0 where there is nothing at all.
func (r *Rebase) run(ctx context.Context) (Rebased, error) {
	applied, err := r.Machine.Settle()
	if err != nil {
		return Rebased{}, err
	}
	durable, low, err := r.Machine.Flush(ctx)
	if err != nil {
		return Rebased{}, err
	}
	if durable < applied || low <= applied {
		return Rebased{}, fmt.Errorf("the state is durable up to %d and needs the log from %d, not up to %d", durable, low, applied)
	}
	end, err := r.end(durable)
	if err != nil || end.Index == 0 {
		return end, err
	}
	if err := raiseTerm(r.Store, end.Term); err != nil {
		return end, err
	}
	// As if it were in the first entry of all.
	if err := r.Snapshots.Publish(end.Index, end.Term, r.Configuration, 1, durable); err != nil {
		return end, err
	}
	if err := r.Store.Replace(end.Index, end.Term); err != nil {
		return end, err
	}
	r.Store.Hold(end.Index + 1)
	return end, nil
}

// end is where log, snapshot and state end. The term is known of an entry or a snapshot. A state that is ahead of
// both, as it may be after it was received, ends in a term that is not higher than raft's present one.
func (r *Rebase) end(applied uint64) (Rebased, error) {
	term, err := currentTerm(r.Store)
	if err != nil {
		return Rebased{}, err
	}
	last, err := r.Store.LastIndex()
	if err != nil {
		return Rebased{}, err
	}
	snapshot, _, _ := r.Snapshots.Newest()
	end := Rebased{Index: max(last, snapshot.Index, applied), Term: term}
	switch {
	case end.Index == last && last > 0:
		var entry raft.Log
		if err := r.Store.GetLog(last, &entry); err != nil {
			return end, err
		}
		end.Term = entry.Term
	case end.Index == snapshot.Index:
		end.Term = snapshot.Term
	}
	if r.OwnTerm {
		end.Term = max(end.Term, term, 1)
	}
	return end, nil
}

// ConvertSingle makes a single node's log that of the first node of a new cluster, after Identity.BeginConversion
// and before raft is started; address is the node's own. A crash leaves a directory of which the next start makes
// the same. When Identity.Converting is false it does nothing.
func ConvertSingle(ctx context.Context, i *Identity, m engine.Machine, s *Store, snapshots *SnapshotStore, address string) error {
	if !i.Converting() {
		return nil
	}
	me := i.get()
	c := raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(me.NodeID), Address: raft.ServerAddress(address)}}}
	// A directory that was in a cluster before has entries of a single node, term 1, behind those of higher ones.
	r := Rebase{Machine: m, Store: s, Snapshots: snapshots, Configuration: c, OwnTerm: true}
	end, err := r.run(ctx)
	if err != nil {
		return fmt.Errorf("raftstore: make a cluster of a single node: %w", err)
	}
	return i.change(func(s *self) error {
		if s.Convert = false; end.Index == 0 {
			s.Founders = []Founder{{ID: s.NodeID, Directory: s.Directory, Address: address}} // for Found
		}
		return nil
	})
}

// detachedDir is what ClusterDir is called when it does not count any more.
const detachedDir = ClusterDir + ".detached"

// Detach makes the directory of a node that is not running a single node's: what it holds stays, what is the
// cluster's is removed. A node that is not the only member is refused, as the others would deliver the same again,
// unless force says that they are gone; then entries at the end of its log that may never have been acknowledged
// count, too.
func Detach(fs vfs.FS, dir, walDir, stateDir string, force bool) error {
	detached := fs.PathJoin(dir, detachedDir)
	is, err := InCluster(fs, dir)
	if err != nil {
		return fmt.Errorf("raftstore: detach: %w", err)
	}
	if !is {
		if _, err := fs.Stat(detached); err == nil { // interrupted at its end
			return fs.RemoveAll(detached)
		}
		return fmt.Errorf("%w: %s is not the directory of a node of a cluster", ErrIdentity, dir)
	}
	if err := mayDetach(fs, dir, walDir, stateDir, force); err != nil {
		return err
	}
	if err := fs.RemoveAll(detached); err != nil {
		return fmt.Errorf("raftstore: detach: %w", err)
	}
	if err := fs.Rename(fs.PathJoin(dir, ClusterDir), detached); err != nil {
		return fmt.Errorf("raftstore: detach: %w", err)
	}
	if err := wal.SyncDir(fs, dir); err != nil {
		return fmt.Errorf("raftstore: detach: %w", err)
	}
	return fs.RemoveAll(detached)
}

func mayDetach(fs vfs.FS, dir, walDir, stateDir string, force bool) error {
	i, err := readIdentity(fs, dir)
	if err != nil {
		return err
	}
	s := i.get()
	pending := func(what string) error {
		return fmt.Errorf("%w: in %s %s: start it as node %s of its cluster once, and stop it, before it is detached", ErrIdentity, dir, what, s.NodeID)
	}
	if s.Recover != nil {
		return fmt.Errorf("%w: `harepost cluster recover` was interrupted in %s: run it again first", ErrIdentity, dir)
	}
	if s.Promise != nil && !force {
		return pending("a cluster was about to be founded")
	}
	disk, err := inspectLog(fs, dir, walDir)
	if err != nil {
		return err
	}
	if disk.received {
		return pending("a state that was received has not taken its place")
	}
	if _, err := fs.Stat(fs.PathJoin(dir, stateDir+".new")); !oserror.IsNotExist(err) {
		return pending("a state that was received has not taken its place")
	}
	applied, _, err := peekState(fs, fs.PathJoin(dir, stateDir))
	if err != nil {
		return fmt.Errorf("raftstore: detach: %w", err)
	}
	if applied > disk.last {
		return pending(fmt.Sprintf("the log ends at %d and the state at %d (where the rest is lost, `harepost cluster recover` goes on without it)", disk.last, applied))
	}
	configuration := disk.configuration
	if s.Founders != nil {
		configuration = foundersConfiguration(s.Founders)
	}
	for _, server := range configuration.Servers {
		if string(server.ID) != s.NodeID && !force {
			return fmt.Errorf("%w: the cluster has other members (%s): both would deliver the same. Remove them first (`harepost cluster remove`), or give --force if they are gone for good",
				ErrIdentity, (&configurationOf{configuration}).names())
		}
	}
	return nil
}

type configurationOf struct{ raft.Configuration }

func (c *configurationOf) names() string { return (&configuration{servers: c.Servers}).names() }

// logOnDisk is what the log and the snapshots of a node that is not running say.
type logOnDisk struct {
	last          uint64             // of the log, or the index before its next entry where it is empty
	configuration raft.Configuration // the newest, committed or not
	received      bool               // there is a state to be taken over
}

// inspectLog reads all of the log. A server that has it open makes that fail, see wal.ErrLocked.
func inspectLog(fs vfs.FS, dir, walDir string) (d logOnDisk, err error) {
	quietly := slog.New(slog.DiscardHandler)
	store, err := OpenStore(fs.PathJoin(dir, walDir), StoreOptions{WAL: wal.Options{FS: fs}, Logger: quietly})
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	snapshots, err := OpenSnapshots(SnapshotOptions{FS: fs, Dir: fs.PathJoin(dir, ClusterDir, snapshotDir), Logger: quietly})
	if err != nil {
		return d, err
	}
	newest, data, ok := snapshots.Newest()
	if err := snapshots.Close(); err != nil {
		return d, err
	}
	if ok {
		d.last, d.configuration, d.received = newest.Index, newest.Configuration, data != ""
	}
	first, err := store.FirstIndex()
	if err != nil || first == 0 {
		return d, err
	}
	return d, store.Replay(first, func(w wal.Entry) error {
		d.last = max(d.last, uint64(w.Index))
		if raft.LogType(w.Type) == raft.LogConfiguration {
			c, err := decodeConfiguration(w.Data)
			if err != nil {
				return fmt.Errorf("raftstore: entry %d of the log: %w", w.Index, err)
			}
			d.configuration = c
		}
		return nil
	})
}

// decodeConfiguration is raft's, which panics.
func decodeConfiguration(data []byte) (c raft.Configuration, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%v", v)
		}
	}()
	return raft.DecodeConfiguration(data), nil
}
