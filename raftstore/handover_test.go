package raftstore

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/harepost/harepost/engine"
)

// openMembers opens a cluster of three in one process, which the test closes. with says
// what is special of each.
func openMembers(t *testing.T, with func(*member)) (ms []*member) {
	t.Helper()
	return openMembersOf(t, []string{"n1", "n2", "n3"}, with)
}

// openMembersOf is openMembers for a cluster of others.
func openMembersOf(t *testing.T, ids []string, with func(*member)) (ms []*member) {
	t.Helper()
	var boot []raft.Server
	for _, id := range ids {
		_, tr := raft.NewInmemTransport(raft.ServerAddress(id))
		m := &member{id: id, fs: vfs.NewMem(), trans: tr, election: time.Second}
		if with != nil {
			with(m)
		}
		ms = append(ms, m)
		boot = append(boot, raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(id)})
	}
	for _, a := range ms {
		for _, b := range ms {
			if a != b {
				a.trans.Connect(raft.ServerAddress(b.id), b.trans)
			}
		}
	}
	for _, m := range ms {
		openMember(t, m, boot, 1<<20)
	}
	t.Cleanup(func() {
		for _, m := range ms {
			if err := m.eng.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return ms
}

// A transfer that fails changes nothing: the node goes on to lead, and what came
// meanwhile is accepted and delivered. It once lost the records of attempts, whose
// deliveries then waited for the next reign.
func TestATransferThatFailsLosesNothing(t *testing.T) {
	var mu sync.Mutex
	delivered := map[string]int{}
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		id := r.Header.Get("X-Harepost-Delivery")
		if delivered[id]++; delivered[id] == 1 {
			w.WriteHeader(http.StatusServiceUnavailable) // it is made again if this one is on record
		}
	}))
	defer receiver.Close()
	u, err := url.Parse(receiver.URL)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	target := engine.Target{URL: receiver.URL + "/", Scheme: "http", Host: u.Hostname(), Port: uint16(port), URI: "/"}

	for range 5 {
		if transferFails(t, target, func(id string) int {
			mu.Lock()
			defer mu.Unlock()
			return delivered[id]
		}) {
			return
		}
	}
	t.Error("on this machine no leader lasts")
}

// transferFails has a leader fail to hand over, under sends, and reports whether it led
// all the time: on a busy machine it may be taken for dead, which shows nothing. delivered
// is how many attempts of a delivery have arrived.
func transferFails(t *testing.T, target engine.Target, delivered func(id string) int) bool {
	ms := openMembers(t, nil)
	l := leaderOf(ms)
	term := l.node.Term()
	a, err := l.eng.CreateAccount(t.Context(), "a")
	if errors.Is(err, engine.ErrNotLeader) || errors.Is(err, engine.ErrUnknown) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	away := ms[0]
	if away == l {
		away = ms[1]
	}
	l.trans.Disconnect(raft.ServerAddress(away.id))
	var sent []string
	var refused error
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			r, err := l.eng.Send(context.Background(), a.Account.ID, &engine.Send{Target: target, Method: "POST", Body: []byte("x"),
				Policy: engine.Policy{MaxAttempts: 5, BaseDelay: 20 * time.Millisecond, MaxDelay: 50 * time.Millisecond, Timeout: 5 * time.Second}})
			if err != nil {
				refused = err
				return
			}
			sent = append(sent, r.ID.String())
		}
	}()
	for _, want := range []error{nil, errBalked} {
		switch err := l.node.Transfer(t.Context(), raft.ServerID(away.id), raft.ServerAddress(away.id)); {
		case err == nil:
			t.Fatal("the leadership was handed to a node that is away")
		case want != nil && l.node.Term() == term && !errors.Is(err, want) && !errors.Is(err, engine.ErrNotLeader):
			t.Errorf("a second transfer: %v", err)
		}
	}
	close(stop)
	<-stopped
	if got := l.node.Term(); got != term {
		t.Logf("term %d, it was %d: once more", got, term)
		return false
	}
	if refused != nil {
		t.Errorf("a send while the leadership is not handed over: %v", refused)
	}
	deadline := time.Now().Add(time.Minute)
	for _, id := range sent {
		for n := 0; n < 2; {
			n = delivered(id)
			if n < 2 && time.Now().After(deadline) {
				t.Fatalf("%s of %d was attempted %d times", id, len(sent), n)
			}
			if n < 2 {
				<-time.After(5 * time.Millisecond)
			}
		}
	}
	for until := time.Now().Add(time.Minute); !l.node.Certain(); <-time.After(5 * time.Millisecond) {
		if l.node.Term() != term {
			return false
		}
		if time.Now().After(until) {
			t.Fatal("the node leads and never is certain of it again")
		}
	}
	return true
}

// slowToLead is a node whose engine takes until leave is closed to begin to lead.
type slowToLead struct {
	*Node
	begun, leave chan struct{}
}

func (s slowToLead) OpenLog(o engine.LogOptions) (engine.Log, error) {
	o.Machine = slowMachine{o.Machine, s}
	return s.Node.OpenLog(o)
}

type slowMachine struct {
	engine.Machine
	slow slowToLead
}

func (m slowMachine) Lead(term uint64) error {
	m.slow.begun <- struct{}{}
	<-m.slow.leave
	return m.Machine.Lead(term)
}

// A node that was elected has no reign, and so answers nobody, before its engine has
// what was committed before.
func TestANodeReignsWhenItsEngineDoes(t *testing.T) {
	begun, leave := make(chan struct{}, 64), make(chan struct{})
	var once sync.Once
	goOn := func() { once.Do(func() { close(leave) }) }
	ms := openMembers(t, func(m *member) {
		m.replica = func(n *Node) engine.Replica { return slowToLead{n, begun, leave} }
	})
	defer goOn() // before the engines are closed
	<-begun
	for _, m := range ms {
		if m.node.Term() != 0 || m.node.Leads() {
			t.Errorf("%s reigns before its engine does", m.id)
		}
	}
	goOn()
	l := leaderOf(ms)
	if l.node.Term() == 0 || !l.node.Leads() {
		t.Errorf("%s leads without a reign", l.id)
	}
}
