package raftstore

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/harepost/harepost/wal"
)

// A world is three whole nodes, what joins them, those who send, and those who receive,
// in the simulated time of a synctest bubble: each node is an engine over a Node, a log
// and a state on a disk in memory that can lose its power. What is not simulated is a
// stop of the processor: a node that is paused has its messages, its log and its answers
// stand still, and its timers go on.
//
// Time is exact, the order of goroutines is not: a seed repeats the faults and what is
// asked for, and most of what comes of it.
type world struct {
	t       testing.TB
	seed    uint64
	length  time.Duration // with faults
	chance  *chance
	profile profile
	began   time.Time

	net       *simNet
	nodes     []*simNode
	receivers *receivers
	ledger    *ledger

	running sync.WaitGroup // everything that ends when the nodes have

	mu         sync.Mutex
	leaders    map[uint64]leadership // by term
	newest     uint64                // of their terms
	events     []string              // the newest of them, told when the world fails
	failures   int
	repeats    map[string]int // by mark: attempts that were not on record when their reign ended
	repeatable int

	attempts, reigns, lost, restored, snapshots, installed, accepted atomic.Int64
	healed                                                           atomic.Bool
	faults                                                           map[string]int // nemesis's own
}

// A leadership is what is known of a term by the messages of its leader.
type leadership struct {
	id    raft.ServerID
	since time.Time // of its first message
}

// mostEvents bounds what is remembered for the case of a failure.
const mostEvents = 3000

// A profile is what differs between seeds besides their course.
type profile struct {
	electionTimeout       time.Duration
	leastDelay, mostDelay time.Duration
	rpcTimeout            time.Duration
	damage                float64 // how often a stream is
	entryBytes            int
	cacheBytes            int64
	segmentBytes          int64
	logBytes              int64
	memTableBytes         int64
	young                 int
	bodyBytes             int
	clockError            time.Duration
	pauseBetweenFaults    time.Duration
	think                 time.Duration // of a client, on average
}

func newProfile(c *chance) profile {
	pick := func(n ...int64) int64 { return n[c.intN(len(n))] }
	p := profile{
		electionTimeout:    time.Second,
		leastDelay:         time.Duration(pick(50, 200, 500)) * time.Microsecond,
		rpcTimeout:         time.Duration(pick(500, 2000, 10000)) * time.Millisecond,
		entryBytes:         int(pick(2<<10, 32<<10, 512<<10)),
		cacheBytes:         pick(1, 16<<10, 1<<20),
		segmentBytes:       pick(wal.MinSegmentBytes, 32<<10, 64<<10),
		memTableBytes:      pick(64<<10, 256<<10),
		young:              int(pick(1, 20, 1000)),
		bodyBytes:          int(pick(50, 500, 3000)),
		clockError:         time.Duration(pick(0, 50, 2000, 3600_000)) * time.Millisecond,
		pauseBetweenFaults: time.Duration(pick(5, 15, 40)) * time.Second,
	}
	p.mostDelay = p.leastDelay * time.Duration(pick(2, 10, 40))
	p.logBytes = p.segmentBytes * pick(4, 8)
	if c.happens(.3) {
		p.damage = .3
	}
	p.think = time.Duration(pick(2, 4, 8)) * time.Second
	return p
}

// chance is a source of chance that several goroutines share.
type chance struct {
	mu  sync.Mutex
	rng *rand.Rand
}

func newChance(a, b uint64) *chance { return &chance{rng: rand.New(rand.NewPCG(a, b))} }

func (c *chance) intN(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rng.IntN(n)
}

func (c *chance) happens(p float64) bool {
	if p == 0 {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rng.Float64() < p
}

func (c *chance) between(a, b time.Duration) time.Duration {
	if b <= a {
		return a
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return a + time.Duration(c.rng.Int64N(int64(b-a)))
}

// around is a duration of which most are shorter and few much longer.
func (c *chance) around(d time.Duration) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Duration(min(c.rng.ExpFloat64(), 6) * float64(d))
}

func (c *chance) child() *rand.Rand {
	c.mu.Lock()
	defer c.mu.Unlock()
	return rand.New(rand.NewPCG(c.rng.Uint64(), 0))
}

func newWorld(t testing.TB, seed uint64, length time.Duration) *world {
	w := &world{
		t: t, seed: seed, length: length, chance: newChance(seed, 1), began: time.Now(),
		leaders: make(map[uint64]leadership), repeats: make(map[string]int), faults: make(map[string]int),
	}
	w.profile = newProfile(w.chance)
	if length < 10*time.Minute { // or little would happen
		w.profile.pauseBetweenFaults = min(w.profile.pauseBetweenFaults, 4*time.Second)
		w.profile.think = min(w.profile.think, 4*time.Second)
	}
	w.net = newSimNet(w)
	w.receivers = &receivers{w: w, got: make(map[string]*reception)}
	w.ledger = newLedger(w)
	for i := range 3 {
		w.nodes = append(w.nodes, &simNode{
			w: w, id: raft.ServerID(fmt.Sprint("n", i+1)), turn: make(chan struct{}, 1), mem: newMem(),
		})
	}
	return w
}

// live has events told as they happen, for a simulation that does not end.
var live = os.Getenv("HAREPOST_SIMULATION_LIVE") != ""

// trace notes an event.
func (w *world) trace(format string, args ...any) {
	line := fmt.Sprintf("%12.6f  %s", time.Since(w.began).Seconds(), fmt.Sprintf(format, args...))
	if live {
		fmt.Fprintln(os.Stderr, line)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.events) == mostEvents {
		w.events = append(w.events[:0], w.events[mostEvents/2:]...)
	}
	w.events = append(w.events, line)
}

// fail is a promise that was broken.
func (w *world) fail(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.trace("FAILURE %s", text)
	w.mu.Lock()
	w.failures++
	first := w.failures <= 20
	w.mu.Unlock()
	if first {
		w.t.Errorf("HAREPOST_SEED=%d, at %.3f s: %s", w.seed, time.Since(w.began).Seconds(), text)
	}
}

// tell prints what happened, if something did that must not.
func (w *world) tell() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failures == 0 {
		return
	}
	for _, line := range w.events {
		w.t.Log(line)
	}
	w.t.Logf("repeat with HAREPOST_SEED=%d HAREPOST_SIMULATION_TIME=%s", w.seed, w.length)
}

// logger has what a node logs among the events.
func (w *world) logger(l *life) *slog.Logger { return slog.New(traceHandler{w: w, name: l.name}) }

type traceHandler struct {
	w    *world
	name string
	with string
}

func (h traceHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo
}

func (h traceHandler) Handle(_ context.Context, r slog.Record) error {
	text := h.with
	r.Attrs(func(a slog.Attr) bool {
		text += fmt.Sprintf(" %s=%v", a.Key, a.Value)
		return true
	})
	h.w.trace("%s %s %s%s", h.name, r.Level, r.Message, text)
	return nil
}

func (h traceHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, a := range attrs {
		h.with += fmt.Sprintf(" %s=%v", a.Key, a.Value)
	}
	return h
}

func (h traceHandler) WithGroup(string) slog.Handler { return h }

// watchMessage learns from messages who leads, and that no term has two leaders.
func (w *world) watchMessage(l *life, cmd any) {
	r, ok := cmd.(*raft.AppendEntriesRequest)
	if !ok {
		return
	}
	w.mu.Lock()
	known, ok := w.leaders[r.Term]
	if !ok {
		w.leaders[r.Term] = leadership{l.node.id, time.Now()}
		w.newest = max(w.newest, r.Term)
	}
	w.mu.Unlock()
	if ok && known.id != l.node.id {
		w.fail("%s and %s lead in term %d", known.id, l.name, r.Term)
	}
	if ok {
		return
	}
	w.trace("%s is the leader of term %d", l.name, r.Term)
	for _, n := range w.nodes {
		if o := n.life.Load(); o != nil && o != l && o.up.Load() && o.raft.Certain() {
			w.isCertain(o, o.raft.reign.Load())
		}
	}
}

// isCertain is told that a node is certain to lead, in a term, and alone.
func (w *world) isCertain(l *life, term uint64) {
	if l.dead.Load() {
		return
	}
	w.mu.Lock()
	newest := w.newest
	other := w.leaders[newest]
	w.mu.Unlock()
	if newest > term && !other.since.After(time.Now()) {
		w.fail("%s is certain of its reign in term %d, since %s ago %s leads in term %d",
			l.name, term, time.Since(other.since), other.id, newest)
	}
}

// leader is the node that leads by its own account, in the newest term; nil: none.
func (w *world) leader() (leader *life) {
	newest := uint64(0)
	for _, n := range w.nodes {
		if l := n.life.Load(); l != nil && l.up.Load() {
			if term := l.leads.Load(); term > newest {
				leader, newest = l, term
			}
		}
	}
	return leader
}

// awaitLeader waits until there is a leader that is certain.
func (w *world) awaitLeader(within time.Duration) *life {
	for end := time.Now().Add(within); time.Now().Before(end); sleep(20 * time.Millisecond) {
		if l := w.leader(); l != nil && l.raft.Certain() {
			return l
		}
	}
	w.fail("there is no leader after %s without a fault", within)
	return nil
}
