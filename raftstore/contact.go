package raftstore

import (
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// contacts are what a leader knows of the others by their answers. They are what the
// lease rests on: a follower that has answered a leader's message grants no vote for
// an election timeout from then on, which began after the message was sent.
type contacts struct {
	now      func() time.Time                       // monotonic
	observed func(id raft.ServerID, lastLog uint64) // nil: nobody wants to know

	mu    sync.Mutex
	peers map[raft.ServerID]contact
}

// A contact is the newest answer of a peer.
type contact struct {
	term    uint64    // of the request
	sent    time.Time // when the newest request of that term was sent that was answered with success
	lastLog uint64    // the end of the peer's log
	at      time.Time // when it answered last
}

// mostContacts bounds the peers that are remembered; a cluster has a handful.
const mostContacts = 256

// answered notes an answer to a message that was sent at a time in a term.
func (c *contacts) answered(id raft.ServerID, term uint64, sent time.Time, resp *raft.AppendEntriesResponse) {
	if c.observed != nil {
		c.observed(id, resp.LastLog)
	}
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.peers[id]
	if !ok && len(c.peers) >= mostContacts {
		return
	}
	p.at, p.lastLog = now, resp.LastLog
	if resp.Success && (term > p.term || term == p.term && sent.After(p.sent)) {
		p.term, p.sent = term, sent
	}
	c.peers[id] = p
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

// noting is raft's transport, which notes what peers answer.
type noting struct {
	raft.Transport
	contacts *contacts
}

// AppendEntries implements raft.Transport.
func (t *noting) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	sent := t.contacts.now()
	err := t.Transport.AppendEntries(id, target, args, resp)
	if err == nil {
		t.contacts.answered(id, args.Term, sent, resp)
	}
	return err
}

// RequestPreVote implements raft.WithPreVote.
func (t *noting) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return t.Transport.(raft.WithPreVote).RequestPreVote(id, target, args, resp)
}

// Close implements raft.WithClose.
func (t *noting) Close() error {
	if c, ok := t.Transport.(raft.WithClose); ok {
		return c.Close()
	}
	return nil
}

// AppendEntriesPipeline implements raft.Transport.
func (t *noting) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	inner, err := t.Transport.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	p := &pipeline{AppendPipeline: inner, id: id, contacts: t.contacts, out: make(chan raft.AppendFuture), closed: make(chan struct{})}
	p.running.Go(p.pass)
	return p, nil
}

// A pipeline passes answers on and notes them.
type pipeline struct {
	raft.AppendPipeline
	id       raft.ServerID
	contacts *contacts
	out      chan raft.AppendFuture
	closed   chan struct{}
	once     sync.Once
	running  sync.WaitGroup
}

func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.out }

func (p *pipeline) pass() {
	in := p.AppendPipeline.Consumer()
	for {
		select {
		case f := <-in:
			if f.Error() == nil {
				p.contacts.answered(p.id, f.Request().Term, f.Start(), f.Response())
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
