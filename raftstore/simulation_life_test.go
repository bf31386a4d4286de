package raftstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/harepost/harepost/engine"
	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/state"
)

// simNode is a machine of a simulation: a disk and a clock, which outlive a life.
type simNode struct {
	w      *world
	id     raft.ServerID
	skew   atomic.Int64 // nanoseconds that its clock is ahead
	set    atomic.Int64 // when it was set last, Unix nanoseconds
	left   atomic.Bool  // it may not be a voter now
	starts int

	turn chan struct{} // held by who starts, stops or crashes it
	mem  *vfs.MemFS
	life atomic.Pointer[life] // nil: it is down
}

func (n *simNode) address() raft.ServerAddress { return raft.ServerAddress(n.id) + ".sim" }

// setClock has the node's clock be wrong.
func (n *simNode) setClock(ahead time.Duration) {
	n.set.Store(time.Now().UnixNano())
	n.skew.Store(int64(ahead))
}

// A life of a node is what a process is: an engine from its start to its end.
type life struct {
	w         *world
	node      *simNode
	name      string
	disk      *simDisk
	transport *simTransport
	raft      *Node
	engine    *engine.Engine
	admin     chan struct{} // taken by who changes something under one of the engine's locks
	handing   chan struct{} // taken by who hands over, which has a lock, too

	closed bool // in peace; whoever has the node's turn

	up    atomic.Bool   // it was opened
	dead  atomic.Bool   // it has no power: nothing it says or writes reaches anybody
	died  chan struct{} // closed when it is dead
	held  atomic.Pointer[chan struct{}]
	leads atomic.Uint64 // term for which Lead has returned

	mu   sync.Mutex
	open map[string]string // attempts that have begun and are not on record: marks by id
}

// begins notes an attempt.
func (l *life) begins(id, mark string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.open = make(map[string]string)
	}
	l.open[id] = mark
}

// isRecorded notes the end of one that is on record.
func (l *life) isRecorded(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, id)
}

// forgets is the end of a reign: what is not on record will be attempted again.
func (l *life) forgets() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	for _, mark := range l.open {
		l.w.repeats[mark]++
		l.w.repeatable++
	}
	clear(l.open)
}

// whileHeld waits while the node is paused.
func (l *life) whileHeld() {
	if held := l.held.Load(); held != nil {
		select {
		case <-*held:
		case <-l.died:
		}
	}
}

// sleep waits; false if the node dies before.
func (l *life) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.died:
		return false
	}
}

func (l *life) now() time.Time { return time.Now().Add(time.Duration(l.node.skew.Load())) }

func (l *life) reignName() string { return fmt.Sprint(l.name, " in term ", l.raft.reign.Load()) }

// start starts the node, whose turn the caller has. It returns when the node is up, or
// has died of an error that was meant to be.
func (n *simNode) start() {
	n.starts++
	w := n.w
	l := &life{w: w, node: n, name: fmt.Sprintf("%s/%d", n.id, n.starts), died: make(chan struct{}), admin: make(chan struct{}, 1), handing: make(chan struct{}, 1)}
	l.disk = newSimDisk(l, n.mem)
	l.transport = w.net.join(l, n.address())
	c := Config{
		ID: n.id, Transport: l.transport, ElectionTimeout: w.profile.electionTimeout,
		EntryBytes: w.profile.entryBytes, CacheBytes: w.profile.cacheBytes, Logger: w.logger(l),
	}
	if n.starts == 1 {
		for _, m := range w.nodes {
			c.Bootstrap = append(c.Bootstrap, raft.Server{ID: m.id, Address: m.address()})
		}
	}
	l.raft = NewNode(c)
	n.life.Store(l)
	w.trace("%s starts", l.name)
	var retainPayload time.Duration
	if n.id == "n1" { // the nodes' flags are not all the same
		retainPayload = 24 * time.Hour
	}
	e, err := engine.Open("data", engine.Options{
		Transport: simEgress{l}, DevLoopback: true,
		MaxInFlight: 200, SendsAtOnce: 256, BreakerFailures: -1, DrainTimeout: time.Second,
		LogSegmentBytes: w.profile.segmentBytes, LogBytes: w.profile.logBytes,
		RetainPayload: retainPayload,
		State:         state.Options{CacheBytes: 1 << 20, MemTableBytes: w.profile.memTableBytes, YoungDeliveries: w.profile.young},
		Replica:       simReplica{l.raft, l}, FS: l.disk, Now: l.now, Logger: w.logger(l),
		Failed: func(err error) { w.running.Go(func() { n.failed(l, err) }) },
	})
	if err != nil {
		if !l.dead.Load() && !l.disk.hit.Load() {
			w.fail("%s does not start: %v", l.name, err)
		}
		l.transport.Close()
		n.cut(l, 100, "does not start")
		return
	}
	l.engine = e
	l.up.Store(true)
	w.trace("%s is up", l.name)
}

// failed is what is left of a node whose engine cannot go on: its process ends.
func (n *simNode) failed(l *life, err error) {
	if !l.dead.Load() && !l.disk.hit.Load() {
		w := n.w
		w.fail("%s failed: %v", l.name, err)
	}
	n.turn <- struct{}{}
	defer func() { <-n.turn }()
	n.cut(l, 100, fmt.Sprint("failed: ", err))
}

// transfer has another node lead, as package api does.
func (l *life) transfer(id raft.ServerID, address raft.ServerAddress) error {
	select {
	case l.handing <- struct{}{}:
	case <-l.died:
		return errGone
	}
	defer func() { <-l.handing }()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	quiet, cancelQuiet := context.WithTimeout(ctx, 2*time.Second)
	defer cancelQuiet()
	_ = l.engine.Quiesce(quiet) // what is still under way then may be made again
	defer l.engine.Resume()
	return l.raft.Transfer(ctx, id, address)
}

// cut ends a life as a power cut does, of which the disk has what was synced and a part
// of the rest: all, if it is only the process that ends. The caller has the node's turn.
func (n *simNode) cut(l *life, percent int, why string) {
	if l.dead.Swap(true) {
		return
	}
	close(l.died)
	n.w.trace("%s ends, with %d%% of what was not synced: %s", l.name, percent, why)
	n.mem = n.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: n.w.chance.child()})
	n.life.Store(nil)
	l.transport.Close()
	l.forgets()
	if l.engine != nil && !l.closed {
		n.w.running.Go(func() { _ = l.engine.Close() }) // of a timeline that is over
	}
}

// down cuts the power of a node, if it is up.
func (n *simNode) down(percent int, why string) {
	n.turn <- struct{}{}
	defer func() { <-n.turn }()
	if l := n.life.Load(); l != nil {
		n.cut(l, percent, why)
	}
}

// rise starts a node, if it is down.
func (n *simNode) rise() {
	n.turn <- struct{}{}
	defer func() { <-n.turn }()
	if n.life.Load() == nil {
		n.start()
	}
}

// leave stops a node as SIGTERM does.
func (n *simNode) leave() {
	n.turn <- struct{}{}
	defer func() { <-n.turn }()
	l := n.life.Load()
	if l == nil || !l.up.Load() {
		return
	}
	n.w.trace("%s is asked to stop", l.name)
	if l.raft.Leads() {
		_ = l.transfer("", "")
	}
	if err := l.engine.Close(); err != nil && !l.disk.hit.Load() {
		n.w.fail("%s: close: %v", l.name, err)
	}
	l.closed = true
	n.cut(l, 100, "it was asked to")
}

// simReplica looks on as raft drives the engine.
type simReplica struct {
	*Node
	life *life
}

func (r simReplica) OpenLog(o engine.LogOptions) (engine.Log, error) {
	o.Machine = simMachine{o.Machine, r.life}
	log, err := r.Node.OpenLog(o)
	return simLog{log, r.life}, err
}

type simMachine struct {
	engine.Machine
	life *life
}

func (m simMachine) Lead(term uint64) error {
	m.life.w.trace("%s begins reign %d", m.life.name, term)
	err := m.Machine.Lead(term)
	if err == nil {
		m.life.leads.Store(term)
		m.life.w.reigns.Add(1)
	}
	m.life.w.trace("%s leads in %d: %v", m.life.name, term, err)
	return err
}

func (m simMachine) Follow() error {
	m.life.leads.Store(0)
	err := m.Machine.Follow()
	m.life.forgets()
	m.life.w.trace("%s follows", m.life.name)
	return err
}

func (m simMachine) Commit(batch []engine.Committed) {
	for i := range batch {
		kind, r, err := command.Parse(batch[i].Cmd)
		if err != nil || kind != command.KindAttempt {
			continue
		}
		if c, err := command.ReadAttempt(&r); err == nil {
			m.life.isRecorded(c.ID.String())
		}
	}
	m.Machine.Commit(batch)
}

func (m simMachine) Restore(dir string) error {
	m.life.w.trace("%s restores %s", m.life.name, dir)
	m.life.w.restored.Add(1)
	return m.Machine.Restore(dir)
}

func (m simMachine) Lost(cookies []any) {
	m.life.w.lost.Add(int64(len(cookies)))
	m.Machine.Lost(cookies)
}

type simLog struct {
	engine.Log
	life *life
}

// MayDispatch checks that whoever is certain is right.
func (l simLog) MayDispatch() bool {
	if !l.Log.MayDispatch() {
		return false
	}
	l.life.w.isCertain(l.life, l.life.raft.reign.Load())
	return true
}

var errGone = errors.New("the connection was closed")

// askOf has a node do something for a client, which learns of the node's end as of a
// connection that is closed.
func askOf[T any](l *life, do func(*engine.Engine) (T, error)) (T, error) {
	type answer struct {
		result T
		err    error
	}
	var none T
	if !l.up.Load() || l.dead.Load() {
		return none, errRefused
	}
	done := make(chan answer, 1)
	l.w.running.Go(func() {
		l.whileHeld()
		if l.dead.Load() {
			return
		}
		r, err := do(l.engine)
		l.whileHeld()
		done <- answer{r, err}
	})
	select {
	case a := <-done:
		if l.dead.Load() {
			return none, errGone
		}
		return a.result, a.err
	case <-l.died:
		return none, errGone
	}
}
