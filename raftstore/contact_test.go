package raftstore

import (
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// The lease rests on the answers of a majority of the voters, to messages of the term
// in question, from the moment on at which these were sent.
func TestQuorumSince(t *testing.T) {
	begin := time.Now()
	now := begin.Add(10 * time.Second)
	at := func(s int) time.Time { return begin.Add(time.Duration(s) * time.Second) }
	server := func(id raft.ServerID, s raft.ServerSuffrage) raft.Server { return raft.Server{ID: id, Suffrage: s} }
	three := []raft.Server{server("a", raft.Voter), server("b", raft.Voter), server("c", raft.Voter)}
	with := append(three[:3:3], server("d", raft.Nonvoter))
	type answer struct {
		id   raft.ServerID
		term uint64
		sent int
		ok   bool
	}
	for name, c := range map[string]struct {
		servers []raft.Server
		answers []answer
		want    time.Time
	}{
		"alone in the cluster":             {three[:1], nil, now},
		"nobody has answered":              {three, nil, time.Time{}},
		"one of two others":                {three, []answer{{"b", 5, 3, true}}, at(3)},
		"the later of two":                 {three, []answer{{"b", 5, 3, true}, {"c", 5, 4, true}}, at(4)},
		"an older one that comes later":    {three, []answer{{"b", 5, 4, true}, {"b", 5, 3, true}}, at(4)},
		"of an earlier term":               {three, []answer{{"b", 4, 3, true}}, time.Time{}},
		"an earlier term after this":       {three, []answer{{"b", 5, 3, true}, {"b", 4, 9, true}}, at(3)},
		"one that has refused":             {three, []answer{{"b", 5, 3, false}}, time.Time{}},
		"one without a vote":               {with, []answer{{"d", 5, 3, true}}, time.Time{}},
		"one that is no member":            {three, []answer{{"x", 5, 3, true}}, time.Time{}},
		"two members need both":            {three[:2], []answer{{"b", 5, 3, true}}, at(3)},
		"four members need two others":     {append(three[:3:3], server("e", raft.Voter)), []answer{{"b", 5, 3, true}}, time.Time{}},
		"four members, two others answer":  {append(three[:3:3], server("e", raft.Voter)), []answer{{"b", 5, 3, true}, {"e", 5, 2, true}}, at(2)},
		"this node is not a member itself": {three[1:], []answer{{"b", 5, 3, true}, {"c", 5, 2, true}}, at(2)},
	} {
		k := contacts{now: func() time.Time { return now }, peers: map[raft.ServerID]contact{}}
		for _, a := range c.answers {
			k.answered(a.id, &raft.AppendEntriesRequest{Term: a.term}, at(a.sent), &raft.AppendEntriesResponse{Success: a.ok})
		}
		if got := k.quorumSince(5, "a", c.servers); !got.Equal(c.want) {
			t.Errorf("%s: since %v, want %v", name, got.Sub(begin), c.want.Sub(begin))
		}
	}
}

// A wire is a stream layer by which one node reaches another, in memory.
type wire struct {
	accepted chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

func newWire() *wire { return &wire{accepted: make(chan net.Conn), closed: make(chan struct{})} }

func (w *wire) Dial(raft.ServerAddress, time.Duration) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case w.accepted <- there:
		return here, nil
	case <-w.closed:
		return nil, errors.New("connection refused")
	}
}

func (w *wire) Accept() (net.Conn, error) {
	select {
	case c := <-w.accepted:
		return c, nil
	case <-w.closed:
		return nil, net.ErrClosed
	}
}

func (w *wire) Close() error   { w.once.Do(func() { close(w.closed) }); return nil }
func (w *wire) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// A line is a wire to whichever life the other node is in.
type line struct {
	*wire
	mu sync.Mutex
	to *wire
}

func (l *line) Dial(a raft.ServerAddress, d time.Duration) (net.Conn, error) {
	l.mu.Lock()
	to := l.to
	l.mu.Unlock()
	return to.Dial(a, d)
}

// A vote is not lost because connections are kept of a life of the voter that has ended,
// be they as many as are kept.
func TestAVoterThatWasStartedAgainIsAsked(t *testing.T) {
	const peer = raft.ServerID("b")
	open := func(layer raft.StreamLayer) *raft.NetworkTransport {
		return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: layer, MaxPool: KeptConnections, Timeout: time.Minute, Logger: hclog.NewNullLogger()})
	}
	l := &line{wire: newWire()}
	k := contacts{now: time.Now, peers: map[raft.ServerID]contact{}}
	asks := newNoting(open(l), &k, nil, 0)
	defer asks.Close()
	live := func() (end func()) {
		to := newWire()
		l.mu.Lock()
		l.to = to
		l.mu.Unlock()
		voter := open(to)
		var answering sync.WaitGroup
		stop, together := make(chan struct{}), make(chan struct{}, KeptConnections)
		answering.Go(func() {
			for {
				select {
				case rpc := <-voter.Consumer():
					answering.Go(func() {
						switch r := rpc.Command.(type) {
						case *raft.RequestVoteRequest:
							rpc.Respond(&raft.RequestVoteResponse{Term: r.Term, Granted: true}, nil)
						case *raft.RequestPreVoteRequest:
							// All at once, each over a connection of its own.
							for together <- struct{}{}; len(together) < cap(together); {
								<-time.After(time.Millisecond)
							}
							rpc.Respond(&raft.RequestPreVoteResponse{Term: r.Term, Granted: true}, nil)
						case *raft.TimeoutNowRequest:
							rpc.Respond(&raft.TimeoutNowResponse{}, nil)
						}
					})
				case <-stop:
					return
				}
			}
		})
		return func() {
			voter.Close()
			voter.CloseStreams()
			close(stop)
			answering.Wait()
		}
	}
	fill := func() {
		t.Helper()
		var asking sync.WaitGroup
		for range KeptConnections {
			asking.Go(func() {
				var resp raft.RequestPreVoteResponse
				if err := asks.RequestPreVote(peer, "b", &raft.RequestPreVoteRequest{Term: 2}, &resp); err != nil || !resp.Granted {
					t.Errorf("%v, %+v", err, resp)
				}
			})
		}
		asking.Wait()
	}
	end := live()
	fill()
	for name, ask := range map[string]func() error{
		"vote": func() error {
			var resp raft.RequestVoteResponse
			err := asks.RequestVote(peer, "b", &raft.RequestVoteRequest{Term: 3}, &resp)
			if err == nil && !resp.Granted {
				err = errors.New("not granted")
			}
			return err
		},
		"summons": func() error {
			return asks.TimeoutNow(peer, "b", &raft.TimeoutNowRequest{}, new(raft.TimeoutNowResponse))
		},
	} {
		end()
		end = live()
		if err := ask(); err != nil {
			t.Errorf("%s: %v", name, err)
			break // fill would wait for what is not answered
		}
		fill()
	}
	end()
	l.to.Close()
	if err := asks.RequestVote(peer, "b", &raft.RequestVoteRequest{Term: 4}, new(raft.RequestVoteResponse)); err == nil {
		t.Error("one that is away has answered")
	}
}

// A node that lacks entries knows how many by its leader's word: not that of a heartbeat, which says
// nothing of them, nor that of somebody who is no member.
func TestWhatALeaderHasCommitted(t *testing.T) {
	in := make(chan raft.RPC)
	k := contacts{now: time.Now}
	n := newNoting(bareTransport{in: in}, &k, nil, 0)
	defer n.Close()
	n.admit = func(id string) error {
		if id != "a" {
			return errors.New("not a member")
		}
		return nil
	}
	for _, c := range []struct {
		by              string
		committed, want uint64
	}{{"a", 0, 0}, {"x", 9, 0}, {"a", 7, 7}, {"a", 0, 7}, {"a", 5, 7}, {"x", 90, 7}, {"a", 8, 8}} {
		answer := make(chan raft.RPCResponse, 1)
		in <- raft.RPC{Command: &raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{ID: []byte(c.by)}, LeaderCommitIndex: c.committed}, RespChan: answer}
		if c.by == "a" {
			rpc := <-n.Consumer()
			rpc.Respond(nil, nil)
		}
		<-answer
		if got := k.committed.Load(); got != c.want {
			t.Errorf("%+v: %d is known", c, got)
		}
	}
}
