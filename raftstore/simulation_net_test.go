package raftstore

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// simNet joins the nodes of a simulation. A message takes a while and arrives or does
// not, never twice, and those of one pipeline in order, as with TCP. Each direction
// between two nodes can be cut by itself.
type simNet struct {
	w *world

	mu    sync.Mutex
	links map[[2]raft.ServerAddress]*simLink
	peers map[raft.ServerAddress]*simTransport
}

// simLink is one direction between two nodes.
type simLink struct {
	cuts        int // a message passes while it is 0
	loss        float64
	least, most time.Duration // a message takes
}

var (
	errLost    = errors.New("no answer within the timeout")
	errRefused = errors.New("connection refused")
	errReset   = errors.New("connection reset")
)

func newSimNet(w *world) *simNet {
	return &simNet{w: w, links: make(map[[2]raft.ServerAddress]*simLink), peers: make(map[raft.ServerAddress]*simTransport)}
}

// link is one direction; n.mu is held.
func (n *simNet) link(from, to raft.ServerAddress) *simLink {
	key := [2]raft.ServerAddress{from, to}
	l := n.links[key]
	if l == nil {
		l = &simLink{least: n.w.profile.leastDelay, most: n.w.profile.mostDelay}
		n.links[key] = l
	}
	return l
}

// change changes one direction.
func (n *simNet) change(from, to raft.ServerAddress, do func(*simLink)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	do(n.link(from, to))
}

func (n *simNet) at(a raft.ServerAddress) *simTransport {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.peers[a]
}

// travel is the way of a message, or of a part of a stream. It is false if it is lost.
func (n *simNet) travel(from *simTransport, to raft.ServerAddress) bool {
	n.mu.Lock()
	l := n.link(from.address, to)
	ok := l.cuts == 0 && !n.w.chance.happens(l.loss)
	delay := n.w.chance.between(l.least, l.most)
	n.mu.Unlock()
	from.life.whileHeld()
	sleep(delay)
	if peer := n.at(to); peer != nil {
		peer.life.whileHeld() // it lies in the receiver's buffers
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return ok && l.cuts == 0
}

// simTransport is one life of a node in a simNet.
type simTransport struct {
	net       *simNet
	life      *life
	address   raft.ServerAddress
	timeout   time.Duration
	consumer  chan raft.RPC
	heartbeat atomic.Pointer[func(raft.RPC)]
	closed    chan struct{}
	once      sync.Once
}

func (n *simNet) join(l *life, a raft.ServerAddress) *simTransport {
	t := &simTransport{
		net: n, life: l, address: a, timeout: n.w.profile.rpcTimeout,
		consumer: make(chan raft.RPC), closed: make(chan struct{}),
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.peers[a] = t
	return t
}

// Close takes the node off the net: whoever waits for it is told.
func (t *simTransport) Close() error {
	t.once.Do(func() {
		close(t.closed)
		t.net.mu.Lock()
		defer t.net.mu.Unlock()
		if t.net.peers[t.address] == t {
			delete(t.net.peers, t.address)
		}
	})
	return nil
}

func (t *simTransport) Consumer() <-chan raft.RPC            { return t.consumer }
func (t *simTransport) LocalAddr() raft.ServerAddress        { return t.address }
func (t *simTransport) SetHeartbeatHandler(f func(raft.RPC)) { t.heartbeat.Store(&f) }

func (t *simTransport) EncodePeer(_ raft.ServerID, a raft.ServerAddress) []byte { return []byte(a) }
func (t *simTransport) DecodePeer(b []byte) raft.ServerAddress                  { return raft.ServerAddress(b) }

// call has a peer do something. What of the request still travels when it is given up
// may arrive later.
func (t *simTransport) call(target raft.ServerAddress, cmd any, timeout time.Duration) (any, error) {
	done := make(chan raft.RPCResponse, 1)
	t.net.w.running.Go(func() {
		resp, err := t.exchange(target, cmd, nil)
		if !errors.Is(err, errLost) { // of that nobody learns
			done <- raft.RPCResponse{Response: resp, Error: err}
		}
	})
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case r := <-done:
		return r.Response, r.Error
	case <-timer.C:
		return nil, errLost
	case <-t.closed:
		return nil, errReset
	}
}

func (t *simTransport) exchange(target raft.ServerAddress, cmd any, body io.Reader) (any, error) {
	if t.isClosed() {
		return nil, errReset
	}
	t.net.w.watchMessage(t.life, cmd)
	if !t.net.travel(t, target) {
		return nil, errLost
	}
	peer := t.net.at(target)
	if peer == nil {
		return nil, errRefused
	}
	resp, err := peer.deliver(asReceived(cmd), body)
	if err == nil && !t.net.travel(peer, t.address) {
		return nil, errLost
	}
	return resp, err
}

func (t *simTransport) isClosed() bool {
	select {
	case <-t.closed:
		return true
	default:
		return false
	}
}

// deliver gives raft a request and returns its answer.
func (t *simTransport) deliver(cmd any, body io.Reader) (any, error) {
	answer := make(chan raft.RPCResponse, 1)
	rpc := raft.RPC{Command: cmd, Reader: body, RespChan: answer}
	if handler := t.heartbeat.Load(); handler != nil && isHeartbeat(cmd) {
		(*handler)(rpc)
	} else {
		select {
		case t.consumer <- rpc:
		case <-t.closed:
			return nil, errReset
		}
	}
	select {
	case r := <-answer:
		if t.isClosed() {
			return nil, errReset // a machine without power tells nothing
		}
		return r.Response, r.Error
	case <-t.closed:
		return nil, errReset
	}
}

// isHeartbeat is as raft's own transport has it.
func isHeartbeat(cmd any) bool {
	r, ok := cmd.(*raft.AppendEntriesRequest)
	return ok && r.Term != 0 && r.PrevLogEntry == 0 && r.PrevLogTerm == 0 && len(r.Entries) == 0 && r.LeaderCommitIndex == 0
}

// asReceived is a request as it comes out of a network: nothing of it is the sender's.
func asReceived(cmd any) any {
	switch r := cmd.(type) {
	case *raft.AppendEntriesRequest:
		c := *r
		c.Entries = make([]*raft.Log, len(r.Entries))
		for i, e := range r.Entries {
			c.Entries[i] = &raft.Log{
				Index: e.Index, Term: e.Term, Type: e.Type, AppendedAt: e.AppendedAt,
				Data: bytes.Clone(e.Data), Extensions: bytes.Clone(e.Extensions),
			}
		}
		return &c
	case *raft.InstallSnapshotRequest:
		c := *r
		c.Configuration, c.Peers = slices.Clone(r.Configuration), slices.Clone(r.Peers)
		return &c
	case *raft.RequestVoteRequest:
		c := *r
		return &c
	case *raft.RequestPreVoteRequest:
		c := *r
		return &c
	case *raft.TimeoutNowRequest:
		c := *r
		return &c
	}
	return cmd
}

func simCall[T any](t *simTransport, target raft.ServerAddress, cmd any, out *T) error {
	resp, err := t.call(target, cmd, t.timeout)
	if err == nil {
		*out = *resp.(*T)
	}
	return err
}

func (t *simTransport) AppendEntries(_ raft.ServerID, a raft.ServerAddress, r *raft.AppendEntriesRequest, out *raft.AppendEntriesResponse) error {
	return simCall(t, a, r, out)
}

func (t *simTransport) RequestVote(_ raft.ServerID, a raft.ServerAddress, r *raft.RequestVoteRequest, out *raft.RequestVoteResponse) error {
	return simCall(t, a, r, out)
}

func (t *simTransport) RequestPreVote(_ raft.ServerID, a raft.ServerAddress, r *raft.RequestPreVoteRequest, out *raft.RequestPreVoteResponse) error {
	return simCall(t, a, r, out)
}

func (t *simTransport) TimeoutNow(_ raft.ServerID, a raft.ServerAddress, r *raft.TimeoutNowRequest, out *raft.TimeoutNowResponse) error {
	return simCall(t, a, r, out)
}

// InstallSnapshot streams, in parts that each travel by themselves. A stream that is
// cut stands still until its time is up.
func (t *simTransport) InstallSnapshot(_ raft.ServerID, a raft.ServerAddress, r *raft.InstallSnapshotRequest, out *raft.InstallSnapshotResponse, data io.Reader) error {
	w := t.net.w
	read, write := io.Pipe()
	done := make(chan raft.RPCResponse, 1)
	w.running.Go(func() {
		resp, err := t.exchange(a, r, read)
		read.CloseWithError(errReset) // a receiver that has answered reads no more
		done <- raft.RPCResponse{Response: resp, Error: err}
	})
	w.snapshots.Add(1)
	err := t.stream(a, data, write)
	write.CloseWithError(err) // io.EOF for nil
	answer := <-done
	if answer.Error != nil {
		err = answer.Error
	}
	if err != nil {
		return err
	}
	w.installed.Add(1)
	*out = *answer.Response.(*raft.InstallSnapshotResponse)
	return nil
}

func (t *simTransport) stream(a raft.ServerAddress, data io.Reader, to io.Writer) error {
	w := t.net.w
	part := make([]byte, 16<<10)
	damaged := -1 // the byte that is
	if w.chance.happens(w.profile.damage) && !w.healed.Load() {
		damaged = w.chance.intN(200 << 10)
	}
	for sent := 0; ; {
		n, err := data.Read(part)
		if n > 0 {
			if !t.net.travel(t, a) {
				sleep(t.timeout)
				return errLost
			}
			if t.isClosed() {
				return errReset
			}
			if damaged >= sent && damaged < sent+n {
				part[damaged-sent] ^= 1 << w.chance.intN(8)
			}
			sent += n
			if _, err := to.Write(part[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// simPipeline sends one message after the other. After one that is lost it is of no use
// any more.
type simPipeline struct {
	t      *simTransport
	target raft.ServerAddress
	queue  chan *simFuture
	done   chan raft.AppendFuture
	closed chan struct{}
	once   sync.Once
}

func (t *simTransport) AppendEntriesPipeline(_ raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	if t.net.at(target) == nil {
		return nil, errRefused
	}
	p := &simPipeline{
		t: t, target: target,
		queue: make(chan *simFuture, 2), done: make(chan raft.AppendFuture, 2), closed: make(chan struct{}),
	}
	t.net.w.running.Go(p.carry)
	return p, nil
}

func (p *simPipeline) AppendEntries(r *raft.AppendEntriesRequest, out *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	f := &simFuture{start: time.Now(), request: r, response: out, done: make(chan struct{})}
	select {
	case <-p.closed:
		return nil, raft.ErrPipelineShutdown
	default:
	}
	select {
	case p.queue <- f:
		return f, nil
	case <-p.closed:
		return nil, raft.ErrPipelineShutdown
	}
}

func (p *simPipeline) carry() {
	var broken error
	for {
		select {
		case f := <-p.queue:
			err := broken
			if err == nil {
				var resp any
				if resp, err = p.t.call(p.target, f.request, p.t.timeout); err == nil {
					*f.response = *resp.(*raft.AppendEntriesResponse)
				}
				broken = err
			}
			f.err = err
			close(f.done)
			select {
			case p.done <- f:
			case <-p.closed:
				return
			}
		case <-p.closed:
			return
		}
	}
}

func (p *simPipeline) Consumer() <-chan raft.AppendFuture { return p.done }

func (p *simPipeline) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

type simFuture struct {
	start    time.Time
	request  *raft.AppendEntriesRequest
	response *raft.AppendEntriesResponse
	err      error // set before done is closed
	done     chan struct{}
}

func (f *simFuture) Error() error {
	<-f.done
	return f.err
}
func (f *simFuture) Start() time.Time                      { return f.start }
func (f *simFuture) Request() *raft.AppendEntriesRequest   { return f.request }
func (f *simFuture) Response() *raft.AppendEntriesResponse { return f.response }
