package raftstore

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	peersName    = "peers.json"
	peersVersion = 1

	// peersKept bounds the nodes that are remembered. raft is made for less than ten.
	peersKept = 64
)

// peer is what a node knows of another one that it has believed. The upper part is durable: a life before the node
// is told that it is believed, Floor and the addresses with the next save.
type peer struct {
	Directory   string `json:"directory"`
	Since       uint64 `json:"since"` // see self.Since
	Incarnation uint64 `json:"incarnation"`
	Life        string `json:"life"`
	Floor       uint64 `json:"floor"` // an index that its log held when it was committed
	Address     string `json:"address"`
	API         string `json:"api,omitempty"`

	admitted bool      // in this life of ours
	unsaved  bool      // its life is not on disk: raft is not to talk to it yet
	version  string    // of its program
	unfit    string    // why it should not lead, as last told; empty: it may
	last     uint64    // the end of its log, as last told
	heard    time.Time // when it last answered an append, or said hello
	answered time.Time // when it last answered an append
}

// peers are the other nodes as this one knows them, in DIR/cluster/peers.json. Losing the file costs the means to
// find out that a node came back with an old directory, nothing else.
type peers struct {
	fs   vfs.FS
	path string

	saving sync.Mutex // held across a write

	mu    sync.Mutex // below; never held across a write
	known map[string]*peer
	dirty bool // something durable has changed since the last save
}

func openPeers(fs vfs.FS, dir string) (*peers, error) {
	p := &peers{fs: fs, path: fs.PathJoin(dir, ClusterDir, peersName), known: map[string]*peer{}}
	if _, err := readSealed(fs, p.path, peersVersion, &p.known); err != nil {
		return nil, fmt.Errorf("%w\nIt tells old copies of the other nodes' directories from the present ones. Where none was copied back, remove the file and start again", err)
	}
	if len(p.known) > peersKept {
		return nil, fmt.Errorf("%w: %s has %d nodes", ErrDamaged, p.path, len(p.known))
	}
	for id, known := range p.known {
		if known == nil {
			return nil, fmt.Errorf("%w: %s says nothing of node %q", ErrDamaged, p.path, id)
		}
	}
	return p, nil
}

// save writes what has changed.
func (p *peers) save() error {
	p.saving.Lock()
	defer p.saving.Unlock()
	p.mu.Lock()
	if !p.dirty {
		p.mu.Unlock()
		return nil
	}
	p.dirty = false
	known := make(map[string]peer, len(p.known))
	for id, k := range p.known {
		known[id] = *k
	}
	p.mu.Unlock()
	err := writeSealed(p.fs, p.path, peersVersion, known)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.dirty = true
		return err
	}
	for id, saved := range known {
		if k := p.known[id]; k != nil && k.Life == saved.Life {
			k.unsaved = false
		}
	}
	return nil
}

// get returns a copy.
func (p *peers) get(id string) (peer, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k := p.known[id]; k != nil {
		return *k, true
	}
	return peer{}, false
}

// believe takes over what a node that is believed has said of itself. Its life is durable before it returns; if that
// could not be, it is tried again.
func (p *peers) believe(h *Hello, now time.Time) error {
	p.mu.Lock()
	k := p.known[h.NodeID]
	if k == nil {
		if len(p.known) >= peersKept {
			p.mu.Unlock()
			return fmt.Errorf("raftstore: %d other nodes are known already", peersKept)
		}
		k = &peer{}
		p.known[h.NodeID] = k
	}
	life := h.life()
	newLife := k.Life != life.ID
	fresh := newLife || k.Since != h.Since
	if k.Directory != h.Directory {
		*k = peer{Directory: h.Directory}
	}
	if fresh || k.Address != h.Address || k.API != h.API {
		p.dirty = true
	}
	k.Since, k.Incarnation, k.Life, k.Address, k.API = h.Since, life.Incarnation, life.ID, h.Address, h.API
	k.admitted, k.version, k.unfit, k.heard = true, h.Version, h.Unfit, now
	k.last = max(k.last, h.LastIndex)
	if fresh {
		k.last = h.LastIndex
	}
	k.unsaved = k.unsaved || newLife // not for Since: raft talks to a node while it is taken in
	for id, other := range p.known { // raft is to know one node at an address, see misplaced
		if id != h.NodeID && other.Address == h.Address {
			other.admitted = false
		}
	}
	due := fresh || k.unsaved
	p.mu.Unlock()
	if due {
		return p.save()
	}
	return nil
}

// An Acknowledgement is what a node's answer to an append tells, and what this one knew then.
type Acknowledgement struct {
	LastLog uint64 // the end of the node's log; what is there beyond Match may be another past's
	// Match is the last index at which the node's log is known to be this one's: that of the last entry of an
	// append that it has taken, or of the one before it where there was none. 0: it is not known.
	Match     uint64
	Committed uint64 // by this node's knowledge
}

// observe notes an answer of a node. What is not committed it may lose and be right.
func (p *peers) observe(id string, a Acknowledgement, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.known[id]
	if k == nil || !k.admitted {
		return
	}
	k.last, k.heard, k.answered = a.LastLog, now, now
	if floor := min(a.Match, a.Committed, a.LastLog); floor > k.Floor {
		k.Floor, p.dirty = floor, true
	}
}

// keep forgets all nodes but those for which stays is true.
func (p *peers) keep(stays func(id string, k *peer) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.known)
	maps.DeleteFunc(p.known, func(id string, k *peer) bool { return !stays(id, k) })
	p.dirty = p.dirty || len(p.known) < n
}

// addresses are the known ones, by node.
func (p *peers) addresses() map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := make(map[string]string, len(p.known))
	for id, k := range p.known {
		if k.Address != "" {
			a[id] = k.Address
		}
	}
	return a
}

func (p *peers) ids() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.known))
}
