package raftstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	"github.com/valyala/fasthttp"
)

// The paths of the internal HTTP that a Membership serves.
const (
	pathPrefix  = "/internal/v1/"
	pathHello   = pathPrefix + "hello"
	pathWho     = pathPrefix + "who"
	pathPromise = pathPrefix + "promise"
	pathJoin    = pathPrefix + "join"
)

// OwnPath reports whether a path of the internal HTTP is a Membership's, see Handle.
func OwnPath(path string) bool { return strings.HasPrefix(path, pathPrefix) }

// A Caller makes a call to another node's internal HTTP: a POST of body to a path. It returns when there is a whole
// answer or ctx is done. See NewCaller.
type Caller interface {
	Call(ctx context.Context, address, path string, body []byte) (status int, answer []byte, err error)
}

// NewCaller makes calls by do, which is InternalClient.Do.
func NewCaller(do func(ctx context.Context, address string, req *fasthttp.Request, resp *fasthttp.Response) error) Caller {
	return httpCaller(do)
}

type httpCaller func(context.Context, string, *fasthttp.Request, *fasthttp.Response) error

func (do httpCaller) Call(ctx context.Context, address, path string, body []byte) (int, []byte, error) {
	var req fasthttp.Request
	var resp fasthttp.Response
	req.Header.SetMethod(fasthttp.MethodPost)
	req.Header.SetHost(address)
	req.Header.SetContentType("application/json")
	req.SetRequestURI(path)
	req.SetBodyRaw(body)
	if err := do(ctx, address, &req, &resp); err != nil {
		return 0, nil, err
	}
	return resp.StatusCode(), resp.Body(), nil
}

// Consensus is what a Membership needs of *raft.Raft.
type Consensus interface {
	State() raft.RaftState
	LeaderWithID() (raft.ServerAddress, raft.ServerID)
	CommitIndex() uint64
	VerifyLeader() raft.Future
	AddVoter(id raft.ServerID, address raft.ServerAddress, prevIndex uint64, timeout time.Duration) raft.IndexFuture
	AddNonvoter(id raft.ServerID, address raft.ServerAddress, prevIndex uint64, timeout time.Duration) raft.IndexFuture
	RemoveServer(id raft.ServerID, prevIndex uint64, timeout time.Duration) raft.IndexFuture
	LeadershipTransfer() raft.Future
	LeadershipTransferToServer(id raft.ServerID, address raft.ServerAddress) raft.Future
}

var _ Consensus = (*raft.Raft)(nil)

// MembershipOptions are a Membership's settings. FS, Dir, Identity, Address and Caller are needed.
type MembershipOptions struct {
	FS       vfs.FS
	Dir      string // the data directory
	Identity *Identity
	Caller   Caller

	Address string // of this node, for others: --cluster-advertise
	API     string // of this node, for clients
	Version string // of the program

	// Join are addresses at which other nodes may be. The node's own may be among them. What other nodes know
	// is found through them.
	Join []string
	// Expect is how many empty nodes found a cluster, see Form. 0: this one founds none.
	Expect int
	// Token is what a node has to know to be taken in, and what this one says to be. Empty: none is taken in.
	Token string

	// Stopped is called once, from a goroutine of the Membership, when the node must not go on: it was removed, or
	// others have found that it is not who it says. The process should end.
	Stopped func(error)

	// CallTimeout bounds a call. Default 2 s. ProbeTimeout is that of the question whether a life goes on
	// elsewhere. Default 1 s.
	CallTimeout, ProbeTimeout time.Duration
	// GreetWait is how long Greet waits for nodes that do not answer, and GreetGrace when the majority has
	// answered. Default 5 s and 500 ms.
	GreetWait, GreetGrace time.Duration
	// Interval is how often the nodes that have not been met are tried again. Default 1 s. To those that have
	// been met hello is said every second time.
	Interval time.Duration
	// ChangeTimeout bounds a change of the configuration. Default 10 s.
	ChangeTimeout time.Duration

	// PromoteEntries is how far behind the leader's commits a new node's log may be to become a voter. Default
	// 1024. Contact is how recently a node must have answered raft to count as alive. Default 5 s.
	PromoteEntries uint64
	Contact        time.Duration

	Now    func() time.Time // default time.Now
	Logger *slog.Logger     // default slog.Default()
}

func (o *MembershipOptions) setDefaults() {
	for _, d := range []struct {
		bound *time.Duration
		value time.Duration
	}{
		{&o.CallTimeout, 2 * time.Second}, {&o.ProbeTimeout, time.Second},
		{&o.GreetWait, 5 * time.Second}, {&o.GreetGrace, 500 * time.Millisecond}, {&o.Interval, time.Second},
		{&o.ChangeTimeout, 10 * time.Second}, {&o.Contact, 5 * time.Second},
	} {
		if *d.bound == 0 {
			*d.bound = d.value
		}
	}
	if o.PromoteEntries == 0 {
		o.PromoteEntries = 1024
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Stopped == nil {
		o.Stopped = func(error) {}
	}
}

// A Membership is the node's place among the others: who they are, whether they are who they say, which of them
// found a cluster, join it and leave it.
//
//	i, err := OpenIdentity(...)
//	m, err := NewMembership(...)
//	... serve m.Handle ...
//	err = m.Form(ctx)       // until the node belongs to a cluster
//	... open the log ...
//	m.Opened(last)
//	err = i.Found(...)      // or ConvertSingle
//	err = m.Greet(ctx)      // others may refuse this node
//	... start raft, with Admit, Observe and Configured ...
//	m.Start(raft, fit)
//	m.Close()               // before raft is shut down
//
// # Who is believed
//
// A node that came back with an old copy of its directory, or an empty one, has forgotten what it had voted and
// acknowledged, and with it raft can lose what was committed. So every node keeps, of each other one, the life
// that it last believed, and an index that the other one's log is known to have held when it was committed. Two
// nodes exchange nothing of raft before they have said hello to each other in their present lives (Admit), and a
// hello is believed only if it goes on from what is known: the life that is known is one of those that the
// directory remembers, and the log does not end before the index. A node whose directory is refused for that writes it
// down and does not start again.
//
// It is no proof: nodes that all lost their own notes, or never heard of the life in question, believe. Where there
// is no other node there is nobody to ask.
//
// All methods may be called from any goroutine. Start begins one goroutine, which Close ends.
type Membership struct {
	o        MembershipOptions
	identity *Identity
	peers    *peers

	meeting sync.Mutex    // held from judging a hello until it is taken over
	changes chan struct{} // a place for one change of the configuration at a time; a channel, as raft is waited for

	mu      sync.Mutex // below
	last    func() (index, term uint64)
	tried   bool // Greet has asked the others whether they would believe this node
	raft    Consensus
	fit     func() error // nil: nothing has been started
	config  configuration
	met     map[string]string // addresses that others told of, by node; at most peersKept
	warned  map[string]string // what was last logged of a node; at most peersKept
	stopped bool

	wake    chan struct{} // has Form and the loop look again; one is enough
	done    chan struct{} // closed by Close
	closing sync.Once
	loop    sync.WaitGroup
}

// configuration is a committed one.
type configuration struct {
	index   uint64 // 0: none is known
	servers []raft.Server
}

func (c *configuration) has(id string) bool { _, ok := c.server(id); return ok }

func (c *configuration) server(id string) (raft.Server, bool) {
	for _, s := range c.servers {
		if s.ID == raft.ServerID(id) {
			return s, true
		}
	}
	return raft.Server{}, false
}

func (c *configuration) voters() (n int) {
	for _, s := range c.servers {
		if s.Suffrage == raft.Voter {
			n++
		}
	}
	return n
}

// NewMembership reads what is known of other nodes.
func NewMembership(o MembershipOptions) (*Membership, error) {
	o.setDefaults()
	if o.Address == "" {
		return nil, errors.New("raftstore: the node has no address for others: give --cluster-advertise")
	}
	if o.Expect < 0 || o.Expect > 9 {
		return nil, fmt.Errorf("raftstore: --bootstrap-expect %d: give 1 to 9", o.Expect)
	}
	p, err := openPeers(o.FS, o.Dir)
	if err != nil {
		return nil, err
	}
	return &Membership{
		o: o, identity: o.Identity, peers: p,
		met: map[string]string{}, warned: map[string]string{},
		changes: make(chan struct{}, 1),
		wake:    make(chan struct{}, 1),
		done:    make(chan struct{}),
	}, nil
}

// Opened says where the log or the snapshot ends, from now on. Until then a node of a cluster answers no hello: that
// its log is empty is not what is meant. Until Greet has asked the others, it answers only those that ask, too.
func (m *Membership) Opened(last func() (index, term uint64)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = last
}

// Configured takes note of a configuration that is committed: of the one of the newest snapshot at the start and
// after a restore, and of each that raft hands to the state machine.
func (m *Membership) Configured(index uint64, c raft.Configuration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if index > m.config.index {
		m.config = configuration{index: index, servers: slices.Clone(c.Servers)}
		m.signal()
	}
}

func (m *Membership) configuration() (c configuration, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.config, m.config.index > 0
}

// belongs reports whether a node that was taken in at index since is a member of the cluster as far as this one knows.
// As long as no configuration is known, all are that say so. One that was taken in later than that is believed, too:
// after a start the newest configuration known to be committed is that of the snapshot, until a leader commits, for which
// those who were taken in since may be needed. Whether they have a vote is raft's to know.
func (m *Membership) belongs(id string, since uint64) bool {
	c, known := m.configuration()
	return !known || c.has(id) || since > c.index
}

// Admit is nil if raft may talk to the node in this life of ours, over connections that it has accepted as well as
// over those that it makes. If not, hello is said to it soon.
func (m *Membership) Admit(id string) error {
	if k, ok := m.peers.get(id); ok && k.admitted && !k.unsaved {
		return nil
	}
	m.signal()
	return fmt.Errorf("raftstore: node %s has not been met yet", id)
}

// Observe notes a node's answer to an append; without, no node counts as alive and none gets a vote. It is cheap.
func (m *Membership) Observe(id string, a Acknowledgement) {
	m.peers.observe(id, a, m.o.Now())
}

func (m *Membership) signal() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// consensus is raft, nil before Start.
func (m *Membership) consensus() Consensus {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.raft
}

// hello is what this node says of itself.
func (m *Membership) hello() Hello {
	me := m.identity.get()
	h := Hello{
		Protocol: Protocol, Version: m.o.Version,
		ClusterID: me.ClusterID, NodeID: me.NodeID, Directory: me.Directory, Since: me.Since, Lives: me.Lives,
		Address: m.o.Address, API: m.o.API, Promise: me.Promise,
		Peers: m.peers.addresses(),
	}
	m.mu.Lock()
	last, r, fit := m.last, m.raft, m.fit
	h.Trial = last != nil && !m.tried
	maps.Copy(h.Peers, m.met)
	m.mu.Unlock()
	if me.ClusterID == "" {
		h.Expect = m.o.Expect
	}
	if last != nil {
		h.LastIndex, h.LastTerm = last()
	}
	if r != nil {
		address, id := r.LeaderWithID()
		h.LeaderID, h.LeaderAddress = string(id), string(address)
	}
	if fit != nil {
		if err := fit(); err != nil {
			h.Unfit = err.Error()
		}
	}
	return h
}

// presentable reports whether the node can say what it is asked for in a hello: a member knows where its log ends when
// it is open. That of a founder in its first life is empty before; in a later one its directory may be a copy. Whoever
// asks in earnest takes note of the answer, which has to wait until this node was tried, see Greet.
func (m *Membership) presentable(trial bool) bool {
	m.mu.Lock()
	opened := m.last != nil && (trial || m.tried)
	m.mu.Unlock()
	me := m.identity.get()
	return opened || me.ClusterID == "" || me.Founders != nil && len(me.Lives) == 1
}

// learn takes note of a node's address and those that it knows. They are only where to ask.
func (m *Membership) learn(h *Hello) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.meetLocked(h.NodeID, h.Address)
	n := 0
	for id, address := range h.Peers {
		if n++; n > helloPeers {
			return
		}
		if _, ok := m.met[id]; !ok {
			m.meetLocked(id, address)
		}
	}
}

func (m *Membership) meetLocked(id, address string) {
	if id == m.identity.NodeID() || address == "" || ValidNodeID(id) != nil {
		return
	}
	if _, ok := m.met[id]; ok || len(m.met) < peersKept {
		m.met[id] = address
	}
}

// targets are the addresses at which other nodes may be, each once.
func (m *Membership) targets() []string {
	set := map[string]bool{}
	for _, a := range m.o.Join {
		set[a] = true
	}
	for _, a := range m.peers.addresses() {
		set[a] = true
	}
	m.mu.Lock()
	for _, a := range m.met {
		set[a] = true
	}
	for _, s := range m.config.servers {
		set[string(s.Address)] = true
	}
	m.mu.Unlock()
	delete(set, m.o.Address)
	return slices.Sorted(maps.Keys(set))
}

// errStarting means that a node is there and cannot answer yet.
var errStarting = errors.New("raftstore: the node is starting")

// call asks another node. answer is filled in from its JSON.
func (m *Membership) call(ctx context.Context, address, path string, request, answer any) error {
	return m.callFor(ctx, m.o.CallTimeout, address, path, request, answer)
}

func (m *Membership) callFor(ctx context.Context, timeout time.Duration, address, path string, request, answer any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("raftstore: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	status, text, err := m.o.Caller.Call(ctx, address, path, body)
	if err != nil {
		return err
	}
	if status == http.StatusServiceUnavailable {
		return errStarting
	}
	if status != http.StatusOK {
		return fmt.Errorf("raftstore: node at %s answered %d: %.200s", address, status, text)
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("raftstore: node at %s: %w", address, err)
	}
	return nil
}

// Handle answers a request of another node: what the internal server has for paths that begin with /internal/v1/.
// peer is the node that it came from, as its certificate proves, or empty. body is not kept.
func (m *Membership) Handle(ctx context.Context, path, peer string, body []byte) (status int, answer []byte) {
	var reply any
	var err error
	switch path {
	case pathWho:
		reply = m.hello()
	case pathHello:
		var h Hello
		if err = decode(body, &h, &h, peer); err != nil {
			break
		}
		if !m.presentable(h.Trial) {
			return http.StatusServiceUnavailable, []byte(errStarting.Error())
		}
		reply, err = m.answerHello(ctx, &h)
	case pathPromise:
		var r promiseRequest
		if err = decode(body, &r, &r.Hello, peer); err == nil {
			reply, err = m.answerPromise(&r)
		}
	case pathJoin:
		var r joinRequest
		if err = decode(body, &r, &r.Hello, ""); err == nil {
			reply, err = m.answerJoin(ctx, &r, peer)
		}
	default:
		return http.StatusNotFound, []byte("no such path")
	}
	var bad *badRequest
	switch {
	case errors.As(err, &bad):
		return http.StatusBadRequest, []byte(err.Error())
	case err != nil:
		m.o.Logger.Error("another node's request could not be answered", "path", path, "error", err)
		return http.StatusInternalServerError, []byte(err.Error())
	}
	if answer, err = json.Marshal(reply); err != nil {
		return http.StatusInternalServerError, []byte(err.Error())
	}
	return http.StatusOK, answer
}

// badRequest is the other side's mistake.
type badRequest struct{ error }

// decode reads a request that begins with a hello, which must be from the peer whose certificate it came with.
func decode(body []byte, request any, h *Hello, peer string) error {
	if err := json.Unmarshal(body, request); err != nil {
		return &badRequest{err}
	}
	if err := h.check(); err != nil {
		return &badRequest{err}
	}
	if peer != "" && peer != h.NodeID {
		return &badRequest{fmt.Errorf("raftstore: the certificate is for node %q, the hello is from %q", peer, h.NodeID)}
	}
	return nil
}
