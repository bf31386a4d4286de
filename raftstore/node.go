package raftstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/harepost/harepost/engine"
	"github.com/harepost/harepost/wal"
)

// ClusterDir is what of a node's directory belongs to the cluster and not to log or
// state.
const ClusterDir = "cluster"

// snapshotDir is where snapshots are, within ClusterDir.
const snapshotDir = "snapshots"

// Config is what a Node needs to know. The zero value of a field that has a default
// means it.
type Config struct {
	ID        raft.ServerID
	Transport raft.Transport // the node closes it

	// Bootstrap is the first configuration of a new cluster, for a node whose log is
	// empty. Default: none; the node waits to be told by a leader.
	Bootstrap []raft.Server

	// ElectionTimeout is for how long a follower that hears nothing waits, at least,
	// before it calls for an election, which it does after up to twice that. Messages
	// of the leader are a tenth of it apart, its lease is half of it. Default 1 s.
	ElectionTimeout time.Duration

	// EntryBytes is about how much of what waits is put into one entry of raft's log, or
	// what that takes in one, if it is less. A larger command has an entry to itself.
	// Default DefaultEntryBytes.
	EntryBytes int

	// EntriesInFlight is how many entries raft may be given that it has not applied.
	// What comes meanwhile waits, and makes the next one. Default DefaultEntriesInFlight.
	EntriesInFlight int

	// DiskPatience is for how long a leader's disk may take no entry: then the node falls
	// silent, so that another one is elected, see stall. Default 5 s.
	DiskPatience time.Duration

	// CacheBytes bounds the newest entries that are kept in memory. Default 64 MiB.
	CacheBytes int64

	// SnapshotBytesPerSecond bounds what is sent to a node that is far behind. Default
	// 0: no bound.
	SnapshotBytesPerSecond int64

	// Members is who the others are, and whether they are who they say. Default nil:
	// they are taken at their word, which is for tests.
	Members Members

	// Begin is called before raft is started, with what raft is going to work on: a new
	// cluster gets its first entry then. Default: nothing.
	Begin func(ctx context.Context, m engine.Machine, log *Store, snapshots *SnapshotStore) error

	// Single says that the log is that of a single node, all of which is committed, and
	// that Begin makes it a cluster's.
	Single bool

	Logger *slog.Logger // default slog.Default()
}

// Members is what a Node needs of its Membership; see there for what the methods mean.
type Members interface {
	Opened(last func() (index, term uint64))
	Configured(index uint64, c raft.Configuration)
	Admit(id string) error
	Observe(id string, a Acknowledgement)
	Greet(ctx context.Context) error
}

func (c *Config) withDefaults() {
	if c.ElectionTimeout == 0 {
		c.ElectionTimeout = time.Second
	}
	if c.EntryBytes == 0 {
		c.EntryBytes = DefaultEntryBytes
	}
	if c.EntriesInFlight == 0 {
		c.EntriesInFlight = DefaultEntriesInFlight
	}
	if c.DiskPatience == 0 {
		c.DiskPatience = 5 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
}

// A Node is one of several machines that keep one log: the [engine.Replica] of its
// engine. The engine opens it, starts it and closes it.
type Node struct {
	cfg       Config
	opts      engine.LogOptions
	dir       string // the engine's
	store     *Store
	snapshots *SnapshotStore
	batcher   *batcher
	contacts  *contacts
	raft      *raft.Raft
	metrics   *nodeMetrics
	mostBytes int

	reign      atomic.Uint64 // term of the reign that the engine knows of, or is told of now; 0: none
	begunReign atomic.Uint64 // the same, once the engine has all that was committed before it
	begun      time.Time     // for lease
	quorum     atomic.Int64  // nanoseconds from begun to the latest moment at which a quorum followed this leader
	summons    summons       // of others, to lead in this node's place
	transfers  sync.Mutex    // one at a time
	balked     balked        // transfers' own
	stall      stall
	snapshot   chan struct{} // asks for one; room for one
	snapshotAt atomic.Int64  // how long the log must be for the next
	changes    changes       // of the leader and of reign

	stop    chan struct{}
	gone    chan struct{} // closed when raft has ended
	running sync.WaitGroup
}

var _ engine.Replica = (*Node)(nil)

// NewNode makes a node that is not open yet.
func NewNode(c Config) *Node {
	c.withDefaults()
	n := &Node{
		cfg:      c,
		snapshot: make(chan struct{}, 1),
		stop:     make(chan struct{}),
		gone:     make(chan struct{}),
		begun:    time.Now(),
		metrics:  newNodeMetrics(),
		summons:  summons{now: time.Now, election: 2 * c.ElectionTimeout},
	}
	n.contacts = &contacts{now: time.Now, peers: make(map[raft.ServerID]contact)}
	if c.Members != nil {
		n.contacts.observed = c.Members.Observe
	}
	return n
}

// Prepare implements engine.Replica.
func (n *Node) Prepare(fs vfs.FS, dir string) (restore string, err error) {
	n.dir = dir
	n.snapshots, err = OpenSnapshots(SnapshotOptions{
		FS: fs, Dir: fs.PathJoin(dir, ClusterDir, snapshotDir),
		BytesPerSecond: n.cfg.SnapshotBytesPerSecond, Logger: n.cfg.Logger,
		Sent: n.metrics.sent.add, Received: n.metrics.received.add,
		Failed: func(err error) { n.opts.Machine.Failed(err) }, // nothing fails for good before the log is open
	})
	if err != nil {
		return "", err
	}
	newest, data, ok := n.snapshots.Newest()
	if !ok || data == "" {
		return "", nil
	}
	// It was received and not taken over: that begins with the log, see fsm.Restore.
	n.cfg.Logger.Info("a snapshot that was received before is taken over", "index", newest.Index, "term", newest.Term)
	if err := n.replaceLog(fs, newest.Index, newest.Term); err != nil {
		return "", err
	}
	return data, nil
}

// replaceLog empties the log of a node that is not running.
func (n *Node) replaceLog(fs vfs.FS, index, term uint64) error {
	store, err := OpenStore(fs.PathJoin(n.dir, "wal"), StoreOptions{WAL: wal.Options{FS: fs}, Logger: n.cfg.Logger})
	if err != nil {
		return err
	}
	store.Start()
	return errors.Join(store.Replace(index, term), store.Close())
}

// LeadsAlone implements engine.Replica.
func (n *Node) LeadsAlone() bool { return n.cfg.Single }

// OpenLog implements engine.Replica.
func (n *Node) OpenLog(o engine.LogOptions) (engine.Log, error) {
	n.opts = o
	store, err := OpenStore(o.Dir, StoreOptions{
		WAL: wal.Options{
			FS:           o.FS,
			SegmentBytes: o.SegmentBytes,
			ReserveBytes: o.ReserveBytes,
			Observe:      o.Observe,
		},
		CacheBytes: n.cfg.CacheBytes,
		Failed:     o.Machine.Failed,
		Logger:     o.Logger,
	})
	if err != nil {
		return nil, err
	}
	n.store = store
	if err := n.check(); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	store.Hold(o.Low)
	n.mostBytes = store.MaxEntryBytes() - 1<<10
	n.batcher = newBatcher(rand.Uint64(), min(n.cfg.EntryBytes, n.mostBytes), n.cfg.EntriesInFlight, o.QueueBytes)
	n.batcher.lost, n.batcher.refused = o.Machine.Lost, o.Machine.Refused
	n.snapshots.SetCheckpoint(o.Machine.Checkpoint)
	n.snapshots.SetLog(store)
	return replicatedLog{n}, nil
}

// check refuses a log and a state that do not fit to each other (FACTS 5.4): what is
// missing was acknowledged, and this node must not vote as if it never had it.
func (n *Node) check() error {
	first, err := n.store.FirstIndex()
	if err != nil {
		return err
	}
	last, err := n.store.LastIndex()
	if err != nil {
		return err
	}
	applied := n.opts.Applied
	snapshot, _, ok := n.snapshots.Newest()
	covered := applied // an entry up to there is not needed any more
	if ok && applied >= snapshot.Applied {
		covered = max(applied, snapshot.Index) // what is between are raft's own entries
	}
	switch {
	case ok && applied < snapshot.Applied && (first > applied+1 || last < snapshot.Applied):
		return fmt.Errorf("raftstore: the newest snapshot is of a state that ended at %d, log and state end at %d and %d: they are older. Remove this node from the cluster, empty its directory and let it join again", snapshot.Applied, last, applied)
	case first > covered+1:
		return fmt.Errorf("raftstore: the log begins at %d and the state ends at %d: entries are missing. Remove this node from the cluster, empty its directory and let it join again", first, applied)
	case applied > max(last, snapshot.Index, snapshot.Applied):
		return fmt.Errorf("raftstore: the state ends at %d and the log at %d: the log has lost what was acknowledged. Remove this node from the cluster, empty its directory and let it join again", applied, last)
	}
	return nil
}

// start starts raft.
func (n *Node) start() error {
	n.store.Start()
	if newest, _, ok := n.snapshots.Newest(); ok {
		if err := n.store.Align(newest.Index, newest.Term); err != nil {
			return err
		}
	}
	if err := n.meet(); err != nil {
		return err
	}
	t := newNoting(n.cfg.Transport, n.contacts, n.cfg.Members, n.leaseTime())
	t.summons, t.stall = &n.summons, &n.stall
	c := n.raftConfig()
	if len(n.cfg.Bootstrap) > 0 {
		err := raft.BootstrapCluster(c, n.store, n.store, n.snapshots, t, raft.Configuration{Servers: n.cfg.Bootstrap})
		if err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
			return fmt.Errorf("raftstore: bootstrap: %w", err)
		}
	}
	r, err := raft.NewRaft(c, &fsm{n: n, machine: n.opts.Machine}, n.store, stableStore{n.store}, n.snapshots, t)
	if err != nil {
		return errors.Join(fmt.Errorf("raftstore: %w", err), t.Close())
	}
	n.raft = r
	n.batcher.apply = func(data []byte) raft.Future { return r.Apply(data, 0) }
	n.batcher.outcome = n.wait
	n.batcher.start()
	n.running.Go(n.rule)
	n.running.Go(n.watchDisk)
	n.running.Go(n.watchLeader)
	n.running.Go(n.takeSnapshots)
	return nil
}

// meet begins the cluster, if it is to begin here, and makes sure that the others take
// this node for who it is.
func (n *Node) meet() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if n.cfg.Begin != nil {
		if err := n.cfg.Begin(ctx, n.opts.Machine, n.store, n.snapshots); err != nil {
			return err
		}
	}
	if n.cfg.Members == nil {
		return nil
	}
	n.cfg.Members.Opened(n.end)
	n.configuredBySnapshot()
	return n.cfg.Members.Greet(ctx)
}

// end is where the log or the newest snapshot ends.
func (n *Node) end() (index, term uint64) {
	if newest, _, ok := n.snapshots.Newest(); ok {
		index, term = newest.Index, newest.Term
	}
	var l raft.Log
	if last, err := n.store.LastIndex(); err == nil && last > index && n.store.GetLog(last, &l) == nil {
		index, term = last, l.Term
	}
	return index, term
}

func (n *Node) configuredBySnapshot() {
	if newest, _, ok := n.snapshots.Newest(); ok && n.cfg.Members != nil {
		n.cfg.Members.Configured(newest.ConfigurationIndex, newest.Configuration)
	}
}

const (
	// appendEntries is how many entries a message to a follower has at most, and
	// messageBytes about how much they are where many wait: it has to arrive in time.
	appendEntries = 16
	messageBytes  = 8 << 20

	// leastTrailing and mostTrailing bound the entries that are kept after a snapshot,
	// for followers that are a little behind.
	leastTrailing = 64
	mostTrailing  = 1 << 20

	// commitTimeout is how late a follower learns of a commit after which none comes.
	commitTimeout = 50 * time.Millisecond
)

func (n *Node) raftConfig() *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = n.cfg.ID
	c.HeartbeatTimeout, c.ElectionTimeout = n.cfg.ElectionTimeout, n.cfg.ElectionTimeout
	c.LeaderLeaseTimeout = n.leaseTime()
	c.CommitTimeout = commitTimeout
	c.MaxAppendEntries = min(appendEntries, max(messageBytes/n.cfg.EntryBytes, 1))
	c.BatchApplyCh = true
	c.NoSnapshotRestoreOnStart = true // the state is there
	c.NoLegacyTelemetry = true
	c.ShutdownOnRemove = false
	c.TrailingLogs = leastTrailing
	c.SnapshotThreshold = 1 << 62 // snapshots are taken by the size of the log
	c.SnapshotInterval = 24 * time.Hour
	c.Logger = raftLogger(n.cfg.Logger)
	return c
}

// leaseTime is for how long after a quorum has followed a leader no other can have been
// elected, less what clocks may differ in speed, with much to spare.
func (n *Node) leaseTime() time.Duration { return n.cfg.ElectionTimeout / 2 }

// Leads reports whether the engine of this node accepts and delivers.
func (n *Node) Leads() bool { return n.begunReign.Load() != 0 }

// Certain reports whether this node leads and no other can at this moment. A leader
// that was cut off, or paused, is not certain, though it may not know of another.
func (n *Node) Certain() bool {
	term := n.reign.Load()
	if term == 0 || n.summons.open() || n.raft.State() != raft.Leader {
		return false
	}
	now := time.Since(n.begun)
	if now-time.Duration(n.quorum.Load()) < n.leaseTime() {
		return true
	}
	since := n.contacts.quorumSince(term, n.cfg.ID, n.servers())
	if since.IsZero() {
		return false
	}
	at := since.Sub(n.begun)
	n.quorum.Store(int64(at))
	return time.Since(n.begun)-at < n.leaseTime()
}

// rule has the engine lead while raft says that this node does, one reign after the
// other.
func (n *Node) rule() {
	look := time.NewTicker(n.cfg.ElectionTimeout / 4)
	defer look.Stop()
	for {
		select {
		case leader := <-n.raft.LeaderCh():
			if leader && n.reigns() {
				continue // it was elected again, and beginReign saw that before it was told
			}
			n.endReign()
			if leader {
				n.beginReign()
			}
		case <-look.C:
			n.contacts.keep(n.servers())
			n.look()
		case <-n.stop:
			return
		}
	}
}

// look ends a reign, or begins one, of which LeaderCh does not tell, or not yet.
func (n *Node) look() {
	term := n.raft.CurrentTerm()
	switch reign := n.reign.Load(); {
	case reign != 0 && n.stall.silent(reign):
		n.endReign()
		n.batcher.abandon()
	case reign != 0 && !n.reigns():
		n.endReign() // LeaderCh is about to say so
	case reign == 0 && n.raft.State() == raft.Leader && !n.stall.silent(term):
		// It was elected while a transfer of an earlier reign was under way, as far as raft
		// knows, and could not begin.
		n.beginReign()
	}
}

// reigns reports whether the reign that the engine knows of is that of raft now. A
// leader of a term that stopped to lead does not lead in that term again.
func (n *Node) reigns() bool {
	return n.raft.State() == raft.Leader && n.raft.CurrentTerm() == n.reign.Load()
}

// servers is the newest configuration that this node knows of.
func (n *Node) servers() []raft.Server {
	f := n.raft.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	return f.Configuration().Servers
}

// beginReign makes the engine lead, when it has all that was committed before.
func (n *Node) beginReign() {
	term := n.raft.CurrentTerm()
	if err := n.wait(n.raft.Barrier(0)); err != nil {
		if !errors.Is(err, raft.ErrLeadershipTransferInProgress) { // look tries again
			n.cfg.Logger.Warn("raftstore: elected, and not leader any more", "term", term, "error", err)
		}
		return
	}
	if n.raft.State() != raft.Leader || n.raft.CurrentTerm() != term {
		return // LeaderCh says so
	}
	n.quorum.Store(-int64(n.leaseTime()))
	n.batcher.begin(term)
	n.reign.Store(term)
	n.metrics.reigns.Inc()
	err := n.opts.Machine.Lead(term)
	if err == nil {
		n.begunReign.Store(term) // before, the state may lack what another node has answered
	}
	n.changes.tell()
	switch {
	case err == nil:
		n.cfg.Logger.Info("this node leads", "node", n.cfg.ID, "term", term)
	case errors.Is(err, engine.ErrNotLeader), errors.Is(err, engine.ErrUnknown), errors.Is(err, engine.ErrClosed):
		n.cfg.Logger.Warn("raftstore: the reign ended as it began", "term", term, "error", err)
	default:
		n.opts.Machine.Failed(fmt.Errorf("raftstore: begin to lead: %w", err))
	}
}

// endReign makes the engine follow.
func (n *Node) endReign() {
	n.begunReign.Store(0)
	term := n.reign.Swap(0)
	if term == 0 {
		return
	}
	n.batcher.end()
	n.changes.tell()
	if err := n.opts.Machine.Follow(); err != nil {
		n.cfg.Logger.Warn("raftstore: follow", "error", err)
	}
	n.cfg.Logger.Info("this node does not lead any more", "node", n.cfg.ID, "term", term)
}

// Snapshot takes a snapshot now, which lets the log be cut, and returns its index.
func (n *Node) Snapshot() (index uint64, err error) {
	n.fitTrailing()
	f := n.raft.Snapshot()
	if err := f.Error(); err != nil {
		if errors.Is(err, raft.ErrNothingNewToSnapshot) {
			newest, _, _ := n.snapshots.Newest()
			return newest.Index, nil
		}
		return 0, fmt.Errorf("raftstore: snapshot: %w", err)
	}
	newest, _, _ := n.snapshots.Newest()
	return newest.Index, nil
}

// fitTrailing has raft keep about a quarter of what the log may have after a snapshot,
// which counts entries, that may be a few bytes or a megabyte; and up to as much as it
// may have for a peer that answers and is behind, which would need a snapshot else.
func (n *Node) fitTrailing() {
	first, err1 := n.store.FirstIndex()
	last, err2 := n.store.LastIndex()
	if err1 != nil || err2 != nil || first == 0 {
		return
	}
	each := max(n.store.SizeBytes()/int64(last-first+1), 1)
	c := n.raft.ReloadableConfig()
	trailing := n.opts.LogBytes / 4 / each
	if behind := int64(last - n.slowest(last)); behind*each <= n.opts.LogBytes {
		trailing = max(trailing, behind)
	}
	c.TrailingLogs = uint64(min(max(trailing, leastTrailing), mostTrailing))
	if err := n.raft.ReloadConfig(c); err != nil {
		n.cfg.Logger.Error("raftstore: trailing logs", "error", err)
	}
}

// slowest is how far the peer that is the furthest behind of those that answer is.
func (n *Node) slowest(last uint64) uint64 {
	if !n.Leads() {
		return last
	}
	for _, s := range n.servers() {
		if p, ok := n.contacts.of(s.ID); ok && p.agrees > 0 && n.contacts.now().Sub(p.at) < answersLately {
			last = min(last, p.agrees)
		}
	}
	return last
}

// answersLately is how long ago a peer may have answered that is waited for.
const answersLately = 10 * time.Second

func (n *Node) snapshotSoon() {
	select {
	case n.snapshot <- struct{}{}:
	default:
	}
}

// takeSnapshots takes those that are asked for, one at a time.
func (n *Node) takeSnapshots() {
	for {
		select {
		case <-n.snapshot:
		case <-n.stop:
			return
		}
		if n.snapshots.Sending() && n.store.SizeBytes() < 2*n.opts.LogBytes {
			continue // what follows the one that is being sent is needed; it is asked for again
		}
		if _, err := n.Snapshot(); err != nil && !errors.Is(err, raft.ErrRaftShutdown) {
			n.cfg.Logger.Warn("raftstore: a snapshot failed; the log grows until one succeeds", "error", err)
		}
		// What followers or young deliveries need stays. Each snapshot flushes the state,
		// after which this is asked again: without a bound there would be no end to it.
		n.snapshotAt.Store(n.store.SizeBytes() + n.opts.LogBytes/8)
	}
}
