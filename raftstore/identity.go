package raftstore

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/harepost/harepost/wal"
)

const (
	identityName    = "node.json"
	identityVersion = 1

	// livesKept is how many of its lives a node knows. A peer that has last heard of an older one believes it.
	livesKept = 128
)

// ErrIdentity means that a directory is another node's than it is to be, or not to be used any more.
var ErrIdentity = errors.New("raftstore: the data directory is not this node's")

// A Life is one run of the process on a data directory. The id is drawn anew in each, so that two copies of a
// directory that both count on from 7 are told apart.
type Life struct {
	Incarnation uint64 `json:"incarnation"` // 1 is the first
	ID          string `json:"id"`
}

// Founder is a member of a cluster's first configuration, as it was when the cluster was agreed on.
type Founder struct {
	ID        string `json:"id"`
	Directory string `json:"directory"`
	Address   string `json:"address"`
}

// A Proposal is a cluster that is to be, see Membership.Form. Whoever has promised itself to one takes part in
// no other, unless the coordinator says that it has given it up.
type Proposal struct {
	ClusterID   string    `json:"cluster_id"`
	Number      uint64    `json:"number"` // counts those of the coordinator's directory
	Coordinator Founder   `json:"coordinator"`
	Founders    []Founder `json:"founders"` // the coordinator, too; in the order of their ids
}

func (p *Proposal) same(q *Proposal) bool {
	return p != nil && q != nil && p.ClusterID == q.ClusterID && p.Number == q.Number && p.Coordinator.Directory == q.Coordinator.Directory
}

// self is what node.json says. It is copied by value; the slices are replaced, never written to.
type self struct {
	ClusterID string `json:"cluster_id,omitempty"` // empty: none yet
	NodeID    string `json:"node_id"`
	Directory string `json:"directory"`       // drawn when the directory was made
	Since     uint64 `json:"since,omitempty"` // index of the configuration by which it became a member
	Lives     []Life `json:"lives"`           // of this directory, the present one last

	Promise   *Proposal `json:"promise,omitempty"`
	Proposals uint64    `json:"proposals,omitempty"`  // how many this node has made
	Founders  []Founder `json:"founders,omitempty"`   // while raft's log does not begin with them yet
	Convert   bool      `json:"converting,omitempty"` // while a single node's log becomes a cluster's
	Recovered uint64    `json:"recovered,omitempty"`  // how often the cluster was made anew after a lost quorum
	Recover   *recovery `json:"recovering,omitempty"` // while that is under way
	Unusable  string    `json:"unusable,omitempty"`   // why the directory is not to be started any more
}

func (s *self) life() Life { return s.Lives[len(s.Lives)-1] }

// A Server is a member in a file of peers, whose form is that of raft's peers.json.
type Server struct {
	ID       string `json:"id"`
	Address  string `json:"address"`
	NonVoter bool   `json:"non_voter,omitempty"`
}

// recovery is a RecoverQuorum that has begun.
type recovery struct {
	ClusterID string   `json:"cluster_id"`
	Servers   []Server `json:"servers"`
}

// An Identity is who a node is, durably: DIR/cluster/node.json. Its methods may be called from any goroutine;
// those that change something return when that is on disk. The lock of the wal beside it is what keeps two
// processes away.
type Identity struct {
	fs   vfs.FS
	path string

	mu   sync.Mutex // held across the write: changes are rare and must not mix
	self self
}

// OpenIdentity begins a life of the node in the data directory dir, which it makes one of a cluster if it is
// none: a single node's stays one until BeginConversion. Another node's directory, one that was removed from
// its cluster, a damaged file and one of a later version are refused, with a text that says what to do.
func OpenIdentity(fs vfs.FS, dir, nodeID string) (*Identity, error) {
	if err := ValidNodeID(nodeID); err != nil {
		return nil, err
	}
	i, err := readIdentity(fs, dir)
	if err != nil {
		return nil, err
	}
	next := i.self
	if next.NodeID == "" {
		next = self{NodeID: nodeID, Directory: drawID()}
	}
	if err := next.usable(dir, nodeID); err != nil {
		return nil, err
	}
	life := Life{Incarnation: 1, ID: drawID()}
	if len(next.Lives) > 0 {
		life.Incarnation = next.life().Incarnation + 1
	}
	next.Lives = append(slices.Clone(next.Lives[max(0, len(next.Lives)+1-livesKept):]), life)
	if err := makeClusterDir(fs, dir); err != nil {
		return nil, err
	}
	if err := i.write(next); err != nil {
		return nil, err
	}
	return i, nil
}

// readIdentity reads node.json; self is empty when there is none.
func readIdentity(fs vfs.FS, dir string) (*Identity, error) {
	i := &Identity{fs: fs, path: fs.PathJoin(dir, ClusterDir, identityName)}
	ok, err := readSealed(fs, i.path, identityVersion, &i.self)
	if errors.Is(err, ErrDamaged) {
		return nil, fmt.Errorf("%w\nWho this node is cannot be told. On any other node run `harepost cluster remove` with its id, "+
			"empty this directory and start it with --join; where there is no other node, restore a backup", err)
	}
	if err != nil {
		return nil, err
	}
	if ok && (i.self.NodeID == "" || i.self.Directory == "" || len(i.self.Lives) == 0) {
		return nil, fmt.Errorf("%w: %s says nothing", ErrDamaged, i.path)
	}
	return i, nil
}

func (s *self) usable(dir, nodeID string) error {
	switch {
	case s.NodeID != nodeID:
		return fmt.Errorf("%w: %s belongs to node %q and --node-id is %q: give the directory of %q, or --node-id %s",
			ErrIdentity, dir, s.NodeID, nodeID, nodeID, s.NodeID)
	case s.Unusable != "":
		return fmt.Errorf("%w: %s: %s", ErrIdentity, dir, s.Unusable)
	case s.Recover != nil:
		return fmt.Errorf("%w: `harepost cluster recover` was interrupted in %s: run it again", ErrIdentity, dir)
	}
	return nil
}

func makeClusterDir(fs vfs.FS, dir string) error {
	if err := fs.MkdirAll(fs.PathJoin(dir, ClusterDir), 0o700); err != nil {
		return fmt.Errorf("raftstore: make %s: %w", fs.PathJoin(dir, ClusterDir), err)
	}
	// Its name must be as durable as what is going to stand in it.
	for _, d := range []string{dir, fs.PathDir(dir)} {
		if d == "" {
			d = "."
		}
		if err := wal.SyncDir(fs, d); err != nil {
			return fmt.Errorf("raftstore: sync %s: %w", d, err)
		}
	}
	return nil
}

// InCluster reports whether dir is the directory of a node of a cluster, which a single node must not open.
func InCluster(fs vfs.FS, dir string) (bool, error) {
	_, err := fs.Stat(fs.PathJoin(dir, ClusterDir, identityName))
	if oserror.IsNotExist(err) {
		return false, nil
	}
	return err == nil, err
}

// drawID draws 128 bits.
func drawID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func (i *Identity) write(next self) error {
	if err := writeSealed(i.fs, i.path, identityVersion, next); err != nil {
		return err
	}
	i.self = next
	return nil
}

func (i *Identity) get() self {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.self
}

// change writes what fn makes of the present content. When fn returns an error nothing is written.
func (i *Identity) change(fn func(*self) error) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	next := i.self
	if err := fn(&next); err != nil {
		return err
	}
	return i.write(next)
}

// NodeID is the node's id.
func (i *Identity) NodeID() string { return i.get().NodeID }

// ClusterID is the cluster's id, empty while the node belongs to none.
func (i *Identity) ClusterID() string { return i.get().ClusterID }

// Life is the present one.
func (i *Identity) Life() Life {
	s := i.get()
	return s.life()
}

// Converting reports whether the log is a single node's that ConvertSingle has to make a cluster's. All of it is
// committed then.
func (i *Identity) Converting() bool { return i.get().Convert }

// BeginConversion says that the directory, which is a single node's, is going to be the first node of a new
// cluster: ConvertSingle has to be called before raft is started. It may be called again.
func (i *Identity) BeginConversion() error {
	return i.change(func(s *self) error {
		switch {
		case s.Convert:
		case s.ClusterID != "":
			return fmt.Errorf("%w: it is a node of the cluster %s already", ErrIdentity, s.ClusterID)
		case s.Promise != nil:
			return fmt.Errorf("%w: it has promised itself to the cluster that node %q founds", ErrIdentity, s.Promise.Coordinator.ID)
		default:
			s.ClusterID, s.Since, s.Convert = drawID(), 1, true
		}
		return nil
	})
}

// errSuperseded means that another goroutine has decided otherwise meanwhile: nothing was changed.
var errSuperseded = errors.New("raftstore: decided otherwise meanwhile")

// release gives up a promise that is void.
func (i *Identity) release(p *Proposal) error {
	return i.change(func(s *self) error {
		if s.ClusterID != "" || !s.Promise.same(p) {
			return errSuperseded
		}
		s.Promise = nil
		return nil
	})
}

// propose makes a proposal of the node's own, to which it is the first to promise itself. It gives up the one
// before.
func (i *Identity) propose(p *Proposal) error {
	return i.change(func(s *self) error {
		if s.ClusterID != "" || s.Promise != nil && s.Promise.Coordinator.Directory != s.Directory {
			return errSuperseded
		}
		s.Promise, s.Proposals = p, p.Number
		return nil
	})
}

// adopt makes the node a founder of the cluster that it has promised itself to.
func (i *Identity) adopt(p *Proposal) error {
	return i.change(func(s *self) error {
		if !s.Promise.same(p) || s.ClusterID != "" {
			return errSuperseded
		}
		s.ClusterID, s.Since, s.Founders, s.Promise = p.ClusterID, 1, p.Founders, nil
		return nil
	})
}

// join makes the node a member of a cluster that has taken it in by the configuration at index since.
func (i *Identity) join(clusterID string, since uint64) error {
	return i.change(func(s *self) error {
		if s.ClusterID != "" && s.ClusterID != clusterID {
			return fmt.Errorf("%w: it is a node of the cluster %s already", ErrIdentity, s.ClusterID)
		}
		s.ClusterID, s.Since, s.Promise = clusterID, since, nil
		return nil
	})
}

// condemn says durably why the directory is not to be used any more.
func (i *Identity) condemn(why string) error {
	return i.change(func(s *self) error { s.Unusable = why; return nil })
}

// Found writes the first configuration to the log of a founder, once, before raft is started: all founders write
// the same one. Where there is nothing to found it does nothing, but that it refuses a founder whose log was emptied. raft.BootstrapCluster is not used, as a crash
// in it leaves a log that has a term and never gets its configuration.
func (i *Identity) Found(logs raft.LogStore, stable raft.StableStore, snaps raft.SnapshotStore) error {
	me := i.get()
	founders := me.Founders
	last, err := logs.LastIndex()
	if err != nil {
		return fmt.Errorf("raftstore: found the cluster: %w", err)
	}
	list, err := snaps.List()
	if err != nil {
		return fmt.Errorf("raftstore: found the cluster: %w", err)
	}
	empty := last == 0 && len(list) == 0
	switch {
	case founders == nil && empty && me.Since == 1 && !me.Convert:
		return fmt.Errorf("%w: node %s had a log and it is gone: run `harepost cluster remove %s` on another node, empty the directory and start it with --join; "+
			"where there is no other node, restore a backup", ErrIdentity, me.NodeID, me.NodeID)
	case founders == nil:
		return nil
	}
	if empty {
		if err := raiseTerm(stable, 1); err != nil {
			return fmt.Errorf("raftstore: found the cluster: %w", err)
		}
		first := &raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(foundersConfiguration(founders))}
		if err := logs.StoreLog(first); err != nil {
			return fmt.Errorf("raftstore: found the cluster: %w", err)
		}
	}
	return i.change(func(s *self) error { s.Founders = nil; return nil })
}

func foundersConfiguration(founders []Founder) raft.Configuration {
	var c raft.Configuration
	for _, f := range founders {
		c.Servers = append(c.Servers, raft.Server{ID: raft.ServerID(f.ID), Address: raft.ServerAddress(f.Address)})
	}
	return c
}

// keyCurrentTerm is raft's own key.
var keyCurrentTerm = []byte("CurrentTerm")

// raiseTerm makes raft's current term at least term.
func raiseTerm(stable raft.StableStore, term uint64) error {
	now, err := currentTerm(stable)
	if err != nil || now >= term {
		return err
	}
	return stable.SetUint64(keyCurrentTerm, term)
}

func currentTerm(stable raft.StableStore) (uint64, error) {
	term, err := stable.GetUint64(keyCurrentTerm)
	if err != nil && err.Error() == ErrKeyNotFound.Error() {
		return 0, nil
	}
	return term, err
}
