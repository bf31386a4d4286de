package raftstore

import (
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

// contacts are what a leader knows of the others by their answers. They are what the
// lease rests on: a follower that has answered a leader's message grants no vote for
// an election timeout from then on, which began after the message was sent.
type contacts struct {
	now      func() time.Time                   // monotonic
	observed func(id string, a Acknowledgement) // nil: nobody wants to know

	// committed is the highest index that a leader has said to be. raft itself follows it only as far as
	// this node's log goes, which is of no use to one that waits for a snapshot.
	committed atomic.Uint64

	mu    sync.Mutex
	peers map[raft.ServerID]contact
}

// A contact is the newest answer of a peer.
type contact struct {
	term   uint64    // of the request
	sent   time.Time // when the newest request of that term was sent that was answered with success
	agrees uint64    // index up to which the peer's log is the leader's, as far as is known
	at     time.Time // when it answered last
}

// mostContacts bounds the peers that are remembered; a cluster has a handful.
const mostContacts = 256

// answered notes an answer to a message that was sent at a time.
func (c *contacts) answered(id raft.ServerID, req *raft.AppendEntriesRequest, sent time.Time, resp *raft.AppendEntriesResponse) {
	// What a log holds says little: it may be the tail of a leader that was deposed.
	// With this message it agrees with the leader's so far. Heartbeats are about none.
	term, agrees := req.Term, req.PrevLogEntry+uint64(len(req.Entries))
	if !resp.Success {
		agrees = 0
	}
	if c.observed != nil {
		c.observed(string(id), Acknowledgement{LastLog: resp.LastLog, Match: agrees, Committed: req.LeaderCommitIndex})
	}
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.peers[id]
	if !ok && len(c.peers) >= mostContacts {
		return
	}
	p.at = now
	if agrees > 0 {
		p.agrees = agrees
	}
	if resp.Success && (term > p.term || term == p.term && sent.After(p.sent)) {
		p.term, p.sent = term, sent
	}
	c.peers[id] = p
}

// told takes note of what a leader says to be committed.
func (c *contacts) told(committed uint64) {
	for {
		known := c.committed.Load()
		if committed <= known || c.committed.CompareAndSwap(known, committed) {
			return
		}
	}
}

// of is what is known of a peer.
func (c *contacts) of(id raft.ServerID) (contact, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.peers[id]
	return p, ok
}

// keep forgets peers that are not in the configuration.
func (c *contacts) keep(servers []raft.Server) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.peers {
		if !slices.ContainsFunc(servers, func(s raft.Server) bool { return s.ID == id }) {
			delete(c.peers, id)
		}
	}
}

// quorumSince is the latest moment at which a majority of the voters, self being one
// that always agrees, followed the leader of a term; zero if they never did.
func (c *contacts) quorumSince(term uint64, self raft.ServerID, servers []raft.Server) time.Time {
	now := c.now()
	var buf [8]time.Time
	sent := buf[:0]
	c.mu.Lock()
	for _, s := range servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		at := time.Time{}
		if s.ID == self {
			at = now
		} else if p := c.peers[s.ID]; p.term == term {
			at = p.sent
		}
		sent = append(sent, at)
	}
	c.mu.Unlock()
	if len(sent) == 0 {
		return time.Time{}
	}
	slices.SortFunc(sent, func(a, b time.Time) int { return b.Compare(a) })
	return sent[len(sent)/2]
}

// noting is raft's transport, which notes what peers answer, and lets only those
// through that are admitted.
type noting struct {
	raft.Transport
	contacts *contacts
	admit    func(id string) error
	summons  *summons
	stall    *stall
	votesAt  time.Time // from then on votes are given
	in       chan raft.RPC
	closed   chan struct{}
	once     sync.Once
	running  sync.WaitGroup
}

// newNoting is for a node that starts now. The lease is what a leader may rest on the
// word of a follower: this node may have given its own a moment ago, before it was
// stopped, and remembers nothing of it.
func newNoting(t raft.Transport, c *contacts, m Members, lease time.Duration) *noting {
	n := &noting{
		votesAt: c.now().Add(lease), summons: &summons{now: c.now}, stall: &stall{},
		Transport: t, contacts: c, in: make(chan raft.RPC), closed: make(chan struct{}),
		admit: func(string) error { return nil },
	}
	if m != nil {
		n.admit = m.Admit
	}
	n.running.Go(n.pass)
	return n
}

// Consumer implements raft.Transport.
func (t *noting) Consumer() <-chan raft.RPC { return t.in }

// pass hands requests of admitted peers on.
func (t *noting) pass() {
	for {
		select {
		case rpc := <-t.Transport.Consumer():
			if err := t.admitted(&rpc); err != nil {
				t.running.Go(func() { refuse(&rpc, err) })
				continue
			}
			select {
			case t.in <- rpc:
			case <-t.closed:
				rpc.Respond(nil, raft.ErrTransportShutdown)
				return
			}
		case <-t.closed:
			return
		}
	}
}

// refuse answers a request, of which a snapshot is to be read from the connection all
// the same.
func refuse(rpc *raft.RPC, err error) {
	if rpc.Reader != nil {
		_, _ = io.Copy(io.Discard, rpc.Reader) // an error ends the connection, and is its sender's
	}
	rpc.Respond(nil, err)
}

// errNoVote answers a candidate that comes too early. It asks again after a while.
var errNoVote = errors.New("raftstore: this node has just started, and may have told a leader before that it follows")

func (t *noting) admitted(rpc *raft.RPC) error {
	switch rpc.Command.(type) {
	case *raft.RequestVoteRequest, *raft.RequestPreVoteRequest:
		if t.contacts.now().Before(t.votesAt) {
			return errNoVote
		}
	}
	if c, ok := rpc.Command.(raft.WithRPCHeader); ok {
		if err := t.admit(string(c.GetRPCHeader().ID)); err != nil {
			return err
		}
	}
	if req, ok := rpc.Command.(*raft.AppendEntriesRequest); ok {
		t.contacts.told(req.LeaderCommitIndex)
	}
	return nil
}

// SetHeartbeatHandler implements raft.Transport.
func (t *noting) SetHeartbeatHandler(cb func(raft.RPC)) {
	t.Transport.SetHeartbeatHandler(func(rpc raft.RPC) {
		if err := t.admitted(&rpc); err != nil {
			rpc.Respond(nil, err)
			return
		}
		cb(rpc)
	})
}

// Close implements raft.WithClose.
func (t *noting) Close() error {
	t.once.Do(func() { close(t.closed) })
	defer t.running.Wait() // what reads from a connection ends with it
	if c, ok := t.Transport.(raft.WithClose); ok {
		return c.Close()
	}
	return nil
}

// AppendEntries implements raft.Transport.
func (t *noting) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if err := errors.Join(t.admit(string(id)), t.stall.say(args.Term)); err != nil {
		return err
	}
	sent := t.contacts.now()
	err := t.Transport.AppendEntries(id, target, args, resp)
	if err == nil {
		t.contacts.answered(id, args, sent, resp)
	}
	return err
}

// InstallSnapshot implements raft.Transport.
func (t *noting) InstallSnapshot(id raft.ServerID, target raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	if err := t.admit(string(id)); err != nil {
		return err
	}
	return t.Transport.InstallSnapshot(id, target, args, resp, data)
}

// TimeoutNow implements raft.Transport.
func (t *noting) TimeoutNow(id raft.ServerID, target raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	if err := t.admit(string(id)); err != nil {
		return err
	}
	return t.summons.send(func() error {
		return again(func() error { return t.Transport.TimeoutNow(id, target, args, resp) })
	})
}

// RequestVote implements raft.Transport.
func (t *noting) RequestVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if err := t.admit(string(id)); err != nil {
		return err
	}
	return again(func() error { return t.Transport.RequestVote(id, target, args, resp) })
}

// RequestPreVote implements raft.WithPreVote.
func (t *noting) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if err := t.admit(string(id)); err != nil {
		return err
	}
	return again(func() error { return t.Transport.(raft.WithPreVote).RequestPreVote(id, target, args, resp) })
}

// KeptConnections is the MaxPool of a node's transport.
const KeptConnections = 3

// again asks a peer over as many connections as may be of a former life of it. raft's
// transport keeps those and does not look at them, and an election that finds them closed
// is lost, with one more timeout until the next. What is asked so may be asked twice.
func again(ask func() error) (err error) {
	for range KeptConnections + 1 {
		if err = ask(); !isClosed(err) {
			return err
		}
	}
	return err
}

// isClosed reports whether a connection was closed that was there.
func isClosed(err error) bool {
	for _, closed := range []error{io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, net.ErrClosed, syscall.EPIPE, syscall.ECONNRESET} {
		if errors.Is(err, closed) {
			return true
		}
	}
	return false
}

// AppendEntriesPipeline implements raft.Transport.
func (t *noting) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	if err := t.admit(string(id)); err != nil {
		return nil, err
	}
	inner, err := t.Transport.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	p := &pipeline{AppendPipeline: inner, id: id, contacts: t.contacts, stall: t.stall, out: make(chan raft.AppendFuture, mostAnswers), closed: make(chan struct{})}
	p.running.Go(p.pass)
	return p, nil
}

// mostAnswers is how many answers wait for raft at most. They are never that many while
// raft takes them. But when it has taken one that ends the pipeline, it may go on to send
// for a few rounds, each of which is the last with even chances, and blocked there it would
// neither replicate to that peer any more nor end.
const mostAnswers = 256

// A pipeline passes answers on and notes them.
type pipeline struct {
	raft.AppendPipeline
	id       raft.ServerID
	contacts *contacts
	stall    *stall
	out      chan raft.AppendFuture
	closed   chan struct{}
	once     sync.Once
	running  sync.WaitGroup
}

func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.out }

// AppendEntries implements raft.AppendPipeline.
func (p *pipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if err := p.stall.say(args.Term); err != nil {
		return nil, err
	}
	return p.AppendPipeline.AppendEntries(args, resp)
}

func (p *pipeline) pass() {
	in := p.AppendPipeline.Consumer()
	for {
		select {
		case f := <-in:
			if f.Error() == nil {
				p.contacts.answered(p.id, f.Request(), f.Start(), f.Response())
			}
			select {
			case p.out <- f:
			case <-p.closed:
				return
			}
		case <-p.closed:
			return
		}
	}
}

func (p *pipeline) Close() error {
	p.once.Do(func() { close(p.closed) })
	err := p.AppendPipeline.Close()
	p.running.Wait()
	return err
}
