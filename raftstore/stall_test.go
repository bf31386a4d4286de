package raftstore

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/hashicorp/raft"

	"github.com/harepost/harepost/engine"
)

// hanging is a disk whose log takes nothing while it hangs, and gives no error.
type hanging struct {
	vfs.FS
	mu sync.Mutex
	on chan struct{} // closed when it goes on; nil: it does not hang
}

func newHanging() *hanging {
	h := &hanging{}
	h.FS = errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		h.mu.Lock()
		on := h.on
		h.mu.Unlock()
		if on != nil && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && strings.Contains(op.Path, "wal") {
			<-on
		}
		return nil
	}))
	return h
}

func (h *hanging) hang() (goOn func()) {
	on := make(chan struct{})
	h.mu.Lock()
	defer h.mu.Unlock()
	h.on = on
	return sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.on = nil
		close(on)
	})
}

// A leader whose disk hangs would be followed for good: its heartbeats need none. It falls
// silent, another node leads, and who waits for it learns that nobody knows the outcome.
func TestALeaderWhoseDiskHangsIsReplaced(t *testing.T) {
	ms := openMembers(t, func(m *member) { m.fs, m.patience = newHanging(), 300*time.Millisecond })
	var a engine.AccountID
	var l *member
	for made := false; !made; { // there may be another election on a busy machine
		l = leaderOf(ms)
		created, err := l.eng.CreateAccount(t.Context(), "a")
		a, made = created.Account.ID, err == nil
	}
	send := engine.Send{Target: engine.Target{URL: "http://127.0.0.1:9/", Scheme: "http", Host: "127.0.0.1", Port: 9, URI: "/"}, Method: "POST",
		NotBefore: time.Now().Add(time.Hour), Policy: engine.Policy{MaxAttempts: 1, Timeout: time.Second}}
	goOn := l.fs.(*hanging).hang()
	defer goOn() // before the engines are closed
	sent := make(chan error)
	go func() {
		_, err := l.eng.Send(t.Context(), a, &send)
		sent <- err
	}()
	if err := <-sent; !errors.Is(err, engine.ErrUnknown) && !errors.Is(err, engine.ErrNotLeader) {
		t.Errorf("a send while the disk hangs: %v", err)
	}
	var rest []*member
	for _, m := range ms {
		if m != l {
			rest = append(rest, m)
		}
	}
	var r engine.Receipt
	err := engine.ErrNotLeader
	for errors.Is(err, engine.ErrNotLeader) || errors.Is(err, engine.ErrUnknown) {
		r, err = leaderOf(rest).eng.Send(t.Context(), a, &send)
	}
	if err != nil {
		t.Fatal(err)
	}
	if l.node.Leads() || l.eng.Ready() == nil {
		t.Error("the node whose disk hangs still leads")
	}
	goOn()
	for {
		// It leads no more, or has been elected again, with all that was accepted meanwhile.
		if _, err := l.eng.Delivery(t.Context(), a, r.ID, engine.ReadOptions{}); err == nil {
			break
		}
		<-time.After(5 * time.Millisecond)
	}
}

// withheld is a transport whose summons arrive when the test says so.
type withheld struct {
	*raft.InmemTransport
	asked, answer chan struct{}
}

func (w withheld) TimeoutNow(raft.ServerID, raft.ServerAddress, *raft.TimeoutNowRequest, *raft.TimeoutNowResponse) error {
	w.asked <- struct{}{}
	<-w.answer
	return errors.New("no answer")
}

// A node that is elected again while a transfer of its last reign is under way leads when
// that is over: raft refuses its entries until then, and does not say when it takes them.
func TestALeaderThatHandedOverBeforeLeadsAgain(t *testing.T) {
	asked, answer := make(chan struct{}, 1), make(chan struct{})
	release := sync.OnceFunc(func() { close(answer) })
	ms := openMembersOf(t, []string{"n1", "n2"}, func(m *member) {
		m.between = func(t *raft.InmemTransport) raft.Transport { return withheld{t, asked, answer} }
		if m.election = 300 * time.Millisecond; m.id == "n2" {
			m.election = 2 * time.Second // it is most often n1 that is elected
		}
	})
	defer release() // before the engines are closed
	l := leaderOf(ms)
	other := ms[0]
	if l == ms[0] {
		other = ms[1]
	}
	term := l.node.raft.CurrentTerm()
	transferred := make(chan error, 1)
	go func() {
		transferred <- l.node.Transfer(t.Context(), raft.ServerID(other.id), raft.ServerAddress(other.id))
	}()
	<-asked
	l.trans.Disconnect(raft.ServerAddress(other.id))
	for l.node.raft.State() == raft.Leader {
		<-time.After(time.Millisecond)
	}
	l.trans.Connect(raft.ServerAddress(other.id), other.trans)
	for l.node.raft.State() != raft.Leader && other.node.raft.State() != raft.Leader {
		<-time.After(time.Millisecond)
	}
	release()
	if err := <-transferred; err == nil && l.node.raft.CurrentTerm() == term {
		t.Error("it has handed over, and nobody leads")
	}
	leaderOf(ms)
}
