package engine

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/harepost/harepost/engine/command"
)

// A sharedLog is a log on several machines, in memory: what the member that leads
// appends is committed at once, and told to each member in its own time.
type sharedLog struct {
	mu      sync.Mutex
	more    sync.Cond // something has changed for a member
	rng     *rand.Rand
	entries [][][]byte // commands; the first has index 1
	leader  *member
	term    uint64
}

func newSharedLog(seed uint64) *sharedLog {
	l := &sharedLog{rng: rand.New(rand.NewPCG(seed, 9))}
	l.more.L = &l.mu
	return l
}

// A member is the log as one engine has it, and what opens it.
type member struct {
	shared  *sharedLog
	restore string // what Prepare hands over
	alone   bool   // no other can lead

	machine Machine
	first   uint64 // of its own log
	next    uint64 // index to tell
	limit   uint64 // tells none above it
	busy    bool   // in Commit
	hold    bool   // nothing is committed of what is queued
	closed  bool
	queue   []Proposal
	cookies map[uint64][]any
	term    uint64 // in which it leads
	unsure  atomic.Bool
	teller  sync.WaitGroup
}

var (
	_ Log     = (*member)(nil)
	_ Replica = (*member)(nil)
)

const all = 1<<64 - 1

func (l *sharedLog) member() *member { return &member{shared: l, limit: all} }

func (m *member) Prepare(vfs.FS, string) (string, error) { return m.restore, nil }

func (m *member) LeadsAlone() bool { return m.alone }

func (m *member) OpenLog(o LogOptions) (Log, error) {
	m.machine = o.Machine
	m.first = max(m.first, 1)
	m.next = max(m.first, o.Low) // as raft tells all that it has not kept a snapshot of
	m.closed, m.cookies, m.term, m.queue = false, make(map[uint64][]any), 0, nil
	return m, nil
}

func (m *member) Replay(from uint64, fn func(Committed) error) error { return nil }
func (m *member) FirstIndex() uint64                                 { return m.first }

func (m *member) Start() error {
	m.teller.Go(m.tell)
	return nil
}

// tell is the life of the member's goroutine.
func (m *member) tell() {
	l := m.shared
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		if l.leader == m && len(m.queue) > 0 && !m.hold {
			m.commitLocked()
		}
		if m.next <= m.limit && m.next <= uint64(len(l.entries)) {
			m.tellOneLocked()
			continue
		}
		if m.closed {
			return
		}
		l.more.Wait()
	}
}

// commitLocked makes an entry of some of what is queued.
func (m *member) commitLocked() {
	l := m.shared
	n := 1
	for !command.Alone(m.queue[0].Cmd) && n < len(m.queue) && !command.Alone(m.queue[n].Cmd) && l.rng.IntN(4) > 0 {
		n++
	}
	var cmds [][]byte
	var cookies []any
	for _, p := range m.queue[:n] {
		cmds, cookies = append(cmds, append([]byte(nil), p.Cmd...)), append(cookies, p.Cookie)
	}
	m.queue = m.queue[n:]
	l.entries = append(l.entries, cmds)
	m.cookies[uint64(len(l.entries))] = cookies
	l.more.Broadcast()
}

func (m *member) tellOneLocked() {
	l := m.shared
	index := m.next
	var batch []Committed
	for i, cmd := range l.entries[index-1] {
		c := Committed{Index: index, Cmd: cmd}
		if cookies := m.cookies[index]; cookies != nil {
			c.Cookie = cookies[i]
		}
		batch = append(batch, c)
	}
	delete(m.cookies, index)
	m.next++
	m.busy = true
	l.mu.Unlock()
	m.machine.Commit(batch)
	l.mu.Lock()
	m.busy = false
	l.more.Broadcast()
}

func (m *member) Append(term uint64, cmd []byte, cookie any) error {
	return m.AppendBatch(term, []Proposal{{cmd, cookie}})
}

func (m *member) AppendLater(term uint64, cmd []byte, cookie any) error {
	return m.Append(term, cmd, cookie)
}

func (m *member) AppendBatch(term uint64, batch []Proposal) error {
	m.shared.mu.Lock()
	defer m.shared.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	if term == 0 || term != m.term {
		return ErrNotLeader
	}
	m.queue = append(m.queue, batch...)
	m.shared.more.Broadcast()
	return nil
}

func (m *member) MayDispatch() bool    { return !m.unsure.Load() }
func (m *member) Release(uint64) error { return nil }
func (m *member) MostBytes() int       { return 1 << 20 }
func (m *member) Bytes() int64         { return 0 }
func (m *member) NoSpace() error       { return nil }

// CopyTo makes a log with nothing in it.
func (m *member) CopyTo(dir string, from uint64) (uint64, error) {
	return from, m.machine.(machine).opts.FS.MkdirAll(dir, 0o755)
}

func (m *member) Close() error {
	m.shared.mu.Lock()
	m.closed = true
	if m.shared.leader != m {
		m.limit = 0 // a follower need not hear of all
	}
	m.shared.more.Broadcast()
	m.shared.mu.Unlock()
	m.teller.Wait()
	m.limit = all
	return nil
}

// heardLocked waits until the member was told all up to its limit.
func (m *member) heardLocked() {
	for m.busy || m.next <= m.limit && m.next <= uint64(len(m.shared.entries)) {
		m.shared.more.Wait()
	}
}

// tellUpTo bounds what the member is told, and waits until it was.
func (m *member) tellUpTo(index uint64) {
	m.shared.mu.Lock()
	defer m.shared.mu.Unlock()
	m.limit = index
	m.shared.more.Broadcast()
	m.heardLocked()
}

// lead makes the member's engine the one that leads, in the next term.
func (m *member) lead(t testing.TB) {
	t.Helper()
	l := m.shared
	l.mu.Lock()
	m.heardLocked()
	l.term++
	m.term, l.leader = l.term, m
	term := m.term
	l.mu.Unlock()
	if err := m.machine.Lead(term); err != nil {
		t.Fatal(err)
	}
}

// follow ends that. What was not committed never is.
func (m *member) follow(t testing.TB) {
	t.Helper()
	l := m.shared
	l.mu.Lock()
	l.leader, m.term = nil, 0
	var lost []any
	for _, p := range m.queue {
		lost = append(lost, p.Cookie)
	}
	m.queue = nil
	l.mu.Unlock()
	if err := m.machine.Follow(); err != nil {
		t.Fatal(err)
	}
	m.machine.Lost(lost)
}

// takeOver has the member's engine go on from a state that came with a snapshot of an
// index, which begins its log anew.
func (m *member) takeOver(t testing.TB, dir string, index uint64) {
	t.Helper()
	m.tellUpTo(0)
	if err := m.machine.Restore(dir); err != nil {
		t.Fatal(err)
	}
	m.shared.mu.Lock()
	m.first, m.next = index+1, index+1
	m.shared.mu.Unlock()
	m.tellUpTo(all)
}

func (m *member) last() uint64 {
	m.shared.mu.Lock()
	defer m.shared.mu.Unlock()
	return uint64(len(m.shared.entries))
}
