package raftstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/hashicorp/raft"
)

// network carries calls between memberships in one process. Each has its address; names stand for addresses, as DNS
// has them.
type network struct {
	t  testing.TB
	mu sync.Mutex

	nodes map[string]*Membership
	names map[string]string
	cut   map[[2]string]bool // from, to
	calls map[string]int     // by path

	peers   []*peerNode                    // those with raft
	weather func(ctx context.Context) bool // takes its time; false: the message is lost

	accent func(from string, message []byte) []byte // what of a message goes over the wire, if it is not the same
}

func newNetwork(t testing.TB) *network {
	return &network{t: t, nodes: map[string]*Membership{}, names: map[string]string{}, cut: map[[2]string]bool{}, calls: map[string]int{}}
}

// name has a name stand for an address.
func (n *network) name(name, address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.names[name] = address
}

// port is the network as one node sees it.
type port struct {
	net  *network
	from string
}

func (p port) Call(ctx context.Context, address, path string, body []byte) (int, []byte, error) {
	n := p.net
	n.mu.Lock()
	if a, ok := n.names[address]; ok {
		address = a
	}
	m, cut := n.nodes[address], n.cut[[2]string{p.from, address}]
	n.calls[path]++
	n.mu.Unlock()
	if cut { // not even a refusal
		<-ctx.Done()
		return 0, nil, ctx.Err()
	}
	if m == nil {
		return 0, nil, errors.New("connection refused")
	}
	if n.weather != nil && !n.weather(ctx) {
		<-ctx.Done() // the request was lost
		return 0, nil, ctx.Err()
	}
	n.mu.Lock()
	died := n.nodes[address] != m // meanwhile
	n.mu.Unlock()
	if died {
		return 0, nil, errors.New("connection reset")
	}
	if n.accent != nil {
		body = n.accent(p.from, body)
	}
	status, answer := m.Handle(ctx, path, "", body)
	if n.accent != nil {
		answer = n.accent(address, answer)
	}
	if n.weather != nil && !n.weather(ctx) {
		<-ctx.Done() // the answer was lost
		return 0, nil, ctx.Err()
	}
	return status, answer, nil
}

func (n *network) set(address string, m *Membership) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.nodes[address] = m; m == nil {
		delete(n.nodes, address)
	}
}

func (n *network) sever(from, to string, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[[2]string{from, to}] = cut
}

// being is one life of a node in a test.
type being struct {
	*Membership
	fs      vfs.FS
	address string
	net     *network
	ended   chan error // what Stopped got
}

type birth func(*MembershipOptions)

func joining(token string, addresses ...string) birth {
	return func(o *MembershipOptions) { o.Token, o.Join = token, addresses }
}

func expecting(n int, addresses ...string) birth {
	return func(o *MembershipOptions) { o.Expect, o.Join, o.Token = n, addresses, "secret" }
}

var silent = slog.New(slog.DiscardHandler)

// live begins a life of node id on fs, at an address.
func (n *network) live(fs vfs.FS, id, address string, how ...birth) *being {
	n.t.Helper()
	b, err := n.tryLive(fs, id, address, how...)
	noError(n.t, err)
	return b
}

func (n *network) tryLive(fs vfs.FS, id, address string, how ...birth) (*being, error) {
	i, err := OpenIdentity(fs, "data", id)
	if err != nil {
		return nil, err
	}
	b := &being{fs: fs, address: address, net: n, ended: make(chan error, 1)}
	o := MembershipOptions{FS: fs, Dir: "data", Identity: i, Caller: port{n, address}, Address: address, API: "api." + address,
		Version: "v1", Logger: silent, Stopped: func(err error) { b.ended <- err }}
	for _, h := range how {
		h(&o)
	}
	if b.Membership, err = NewMembership(o); err != nil {
		return nil, err
	}
	n.set(address, b.Membership)
	return b, nil
}

// die ends a life, of a moment before which all is on disk.
func (b *being) die() {
	b.net.t.Helper()
	b.net.set(b.address, nil)
	noError(b.net.t, b.Close())
}

// member makes a being one of a cluster, with a log up to last.
func (b *being) member(cluster string, since, last uint64) *being {
	b.net.t.Helper()
	noError(b.net.t, b.identity.join(cluster, since))
	b.Opened(func() (uint64, uint64) { return last, 1 })
	b.tryOut(false) // as if it had greeted when it was alone
	return b
}

func greet(t testing.TB, b *being) {
	t.Helper()
	noError(t, b.Greet(t.Context()))
}

// copyOf is the disk as it is now.
func copyOf(t testing.TB, fs vfs.FS) vfs.FS {
	t.Helper()
	to := vfs.NewMem()
	ok, err := vfs.Clone(fs, to, "data", "data")
	if err != nil || !ok {
		t.Fatal("clone", ok, err)
	}
	return to
}

func TestNodesThatMeetAreAdmitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		a := n.live(vfs.NewMem(), "n1", "a1", joining("", "a2")).member("c", 1, 10)
		b := n.live(vfs.NewMem(), "n2", "a2").member("c", 1, 10)
		if a.Admit("n2") == nil || b.Admit("n1") == nil {
			t.Fatal("admitted before a word was said")
		}
		if id, ok := a.NodeOf("a2"); ok {
			t.Errorf("%q is expected where nobody was met", id)
		}
		greet(t, a)
		noError(t, errors.Join(a.Admit("n2"), b.Admit("n1")))
		if id, ok := a.NodeOf("a2"); id != "n2" || !ok {
			t.Errorf("%q is expected where n2 is", id)
		}
		if k, _ := b.peers.get("n1"); k.Address != "a1" || k.API != "api.a1" || k.Life != a.identity.Life().ID {
			t.Errorf("n2 knows of n1 %+v", k)
		}
	})
}

// A node that comes back as it was, however often, is believed.
func TestNodesThatComeBackAreBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		a := n.live(vfs.NewMem(), "n1", "a1").member("c", 1, 10)
		fs := vfs.NewMem()
		for round := range uint64(10) {
			b := n.live(fs, "n2", "a2", joining("", "a1")).member("c", 1, 10+round)
			greet(t, b)
			a.Observe("n2", Acknowledgement{LastLog: 500, Match: 10 + round, Committed: 1000})
			b.die()
			for range round { // lives that nobody hears of
				n.live(fs, "n2", "a2").die()
			}
		}
	})
}

func TestOldCopiesAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		last uint64                                       // of the copy's log
		make func(t *testing.T, older, now vfs.FS) vfs.FS // the disk of the life that is to be refused
	}{
		"an older copy":            {20, func(_ *testing.T, older, _ vfs.FS) vfs.FS { return older }},
		"one that was emptied":     {0, func(*testing.T, vfs.FS, vfs.FS) vfs.FS { return vfs.NewMem() }},
		"one whose log is shorter": {19, func(_ *testing.T, _, now vfs.FS) vfs.FS { return now }},
		"an older copy that was started often": {20, func(t *testing.T, older, _ vfs.FS) vfs.FS {
			for range 5 {
				openIdentity(t, older, "n2")
			}
			return older
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				fsA := vfs.NewMem()
				a := n.live(fsA, "n1", "a1").member("c", 1, 20)
				fs := vfs.NewMem()
				b := n.live(fs, "n2", "a2", joining("", "a1")).member("c", 1, 20)
				greet(t, b)
				b.die()
				older := copyOf(t, fs)
				b = n.live(fs, "n2", "a2", joining("", "a1")).member("c", 1, 20)
				greet(t, b)
				a.Observe("n2", Acknowledgement{LastLog: 25, Match: 22, Committed: 20})
				b.die()
				if rng := seedOf(t); rng%2 == 0 { // the one that knows may have been started again, too
					a.die()
					n.live(fsA, "n1", "a1").member("c", 1, 20)
				}
				disk := c.make(t, older, fs)
				b = n.live(disk, "n2", "a2", joining("", "a1")).member("c", 1, c.last)
				tells(t, b.Greet(t.Context()), ErrRefused, "n2", "cluster remove n2", "--join")
				if b.Admit("n1") == nil {
					t.Error("it would talk to raft's peers")
				}
				b.die()
				// It is the directory's end.
				_, err := n.tryLive(disk, "n2", "a2")
				tells(t, err, ErrIdentity, "cluster remove n2")
			})
		})
	}
}

// anOldCopy is a cluster of which n2 has ended: fs is its directory, and copied an older
// copy, which n1 can tell and n3 cannot.
func anOldCopy(t *testing.T, n *network) (knows, other *being, fs, copied vfs.FS) {
	t.Helper()
	knows = n.live(vfs.NewMem(), "n1", "a1").member("c", 1, 20)
	other = n.live(vfs.NewMem(), "n3", "a3").member("c", 1, 20)
	fs = vfs.NewMem()
	b := n.live(fs, "n2", "a2", joining("", "a1", "a3")).member("c", 1, 20)
	greet(t, b)
	copied = copyOf(t, fs)
	knows.Observe("n2", Acknowledgement{LastLog: 25, Match: 25, Committed: 25})
	b.die()
	return knows, other, fs, copied
}

// A copy of a directory that a node was started with since has all its lives. Not all nodes can tell it by its log,
// and those that cannot must not know of it when the directory itself comes back.
func TestARefusedCopyIsNotRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		leader, other, fs, copied := anOldCopy(t, n)
		b := n.live(copied, "n2", "a2", joining("", "a1", "a3"))
		b.Opened(func() (uint64, uint64) { return 20, 1 })
		if r := other.say(t.Context(), "a2"); r.err == nil {
			t.Errorf("before anybody was asked the copy says %+v", r.answer)
		}
		tells(t, b.Greet(t.Context()), ErrRefused, "n2", "cluster remove n2", "--join")
		if r := other.say(t.Context(), "a2"); r.err == nil {
			t.Errorf("refused, the copy says %+v", r.answer)
		}
		b.die()

		b = n.live(fs, "n2", "a2", joining("", "a1", "a3"))
		b.Opened(func() (uint64, uint64) { return 25, 1 })
		greet(t, b)
		noError(t, errors.Join(b.Admit("n1"), b.Admit("n3"), leader.Admit("n2"), other.Admit("n2")))
		for _, m := range []*being{leader, other} {
			if k, _ := m.peers.get("n2"); k.Life != b.identity.Life().ID {
				t.Errorf("%s knows of n2 %+v", m.identity.NodeID(), k)
			}
		}
	})
}

// A copy from while the cluster was founded is that of a founder, whose log is empty, and is tried all the same.
func TestACopyOfAFounderIsTried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		other := n.live(vfs.NewMem(), "n3", "a3").member("c", 1, 20)
		fs := vfs.NewMem()
		b := n.live(fs, "n2", "a2", joining("", "a3"))
		noError(t, b.identity.change(func(s *self) error {
			s.ClusterID, s.Since, s.Founders = "c", 1, []Founder{{"n2", s.Directory, "a2"}, {"n3", "d", "a3"}}
			return nil
		}))
		copied := copyOf(t, fs)
		r := other.say(t.Context(), "a2")
		noError(t, errors.Join(r.err, other.Admit("n2"))) // the founder itself is not
		life := b.identity.Life()
		b.die()
		n.live(copied, "n2", "a2", joining("", "a3"))
		if r := other.say(t.Context(), "a2"); !errors.Is(r.err, errStarting) {
			t.Errorf("before anybody was asked the copy says %+v", r.answer)
		}
		if k, _ := other.peers.get("n2"); k.Life != life.ID {
			t.Errorf("known of n2 is %+v", k)
		}
	})
}

// A node that is about to answer is waited for, though a majority has answered: it may be the one that can tell an old
// copy. Where others have been met, a configuration of one node is no majority by itself.
func TestWhoIsStartingIsHeard(t *testing.T) {
	for name, configured := range map[string][]raft.Server{"no configuration": nil, "of one": {{ID: "n2", Address: "a2"}}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				knows, other, _, copied := anOldCopy(t, n)
				knows.mu.Lock()
				knows.last, knows.tried = nil, false // it was started again
				knows.mu.Unlock()
				if configured != nil {
					n.set("a3", nil) // nobody else is there
				}
				b := n.live(copied, "n2", "a2", joining("", "a1", "a3"))
				b.Opened(func() (uint64, uint64) { return 20, 1 })
				if configured != nil {
					b.Configured(3, raft.Configuration{Servers: configured})
				}
				time.AfterFunc(3*time.Second, func() { knows.Opened(func() (uint64, uint64) { return 25, 1 }) })
				tells(t, b.Greet(t.Context()), ErrRefused, "n2")
				if k, _ := other.peers.get("n2"); k.Life == b.identity.Life().ID {
					t.Error("the copy is remembered")
				}
			})
		})
	}
}

// Nodes that start at the same moment answer each other's trials.
func TestNodesThatGreetAtOnceMeet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		var nodes []*being
		for i := range 3 {
			b := n.live(vfs.NewMem(), fmt.Sprint("n", i), fmt.Sprint("a", i), joining("", "a0", "a1", "a2")).member("c", 1, 10)
			b.tryOut(true)
			nodes = append(nodes, b)
		}
		begun := time.Now()
		var greeting sync.WaitGroup
		for _, b := range nodes {
			greeting.Go(func() { noError(t, b.Greet(t.Context())) })
		}
		greeting.Wait()
		if took := time.Since(begun); took > time.Second {
			t.Errorf("it took %s", took)
		}
		noError(t, errors.Join(nodes[0].Admit("n1"), nodes[1].Admit("n2"), nodes[2].Admit("n0")))
	})
}

// All nodes were started again, and the snapshot of each is of when there was one of them: nothing is committed before
// they talk to each other.
func TestNodesTakenInSinceTheSnapshotMeet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		first := raft.Configuration{Servers: []raft.Server{{ID: "n1", Address: "a1"}}}
		disks := []vfs.FS{vfs.NewMem(), vfs.NewMem(), vfs.NewMem()}
		up := func(i int) *being {
			b := n.live(disks[i], fmt.Sprint("n", i+1), fmt.Sprint("a", i+1)).member("c", uint64(1+4*i), 10)
			b.Configured(3, first)
			return b
		}
		all := []*being{up(0), up(1), up(2)}
		for _, b := range all { // the first time by --join
			for _, other := range all {
				b.say(t.Context(), other.address)
			}
		}
		for _, b := range all {
			b.die()
		}
		two := []*being{up(1), up(2)} // they are a majority
		for _, b := range two {
			b.Start(&stubRaft{}, nil)
		}
		time.Sleep(3 * time.Second)
		met := errors.Join(two[0].Admit("n3"), two[1].Admit("n2"))
		one := up(0)
		met = errors.Join(met, one.Greet(t.Context()), one.Admit("n2"), one.Admit("n3"), two[0].Admit("n1"), two[1].Admit("n1"))
		two[0].die()
		two[1].die()
		noError(t, met)
	})
}

// What was acknowledged and is not committed may be gone.
func TestWhatWasNotCommittedMayBeGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		a := n.live(vfs.NewMem(), "n1", "a1").member("c", 1, 20)
		fs := vfs.NewMem()
		b := n.live(fs, "n2", "a2", joining("", "a1")).member("c", 1, 20)
		greet(t, b)
		a.Observe("n2", Acknowledgement{LastLog: 25, Match: 25, Committed: 20})
		a.Observe("n2", Acknowledgement{LastLog: 25, Committed: 25})
		b.die()
		greet(t, n.live(fs, "n2", "a2", joining("", "a1")).member("c", 1, 20))
	})
}

// Of two processes on copies of one directory the later is refused, as long as the first runs.
func TestTwoProcessesWithOneID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.live(vfs.NewMem(), "n1", "a1").member("c", 1, 20)
		fs := vfs.NewMem()
		first := n.live(fs, "n2", "a2", joining("", "a1")).member("c", 1, 20)
		greet(t, first)
		disk := copyOf(t, fs)
		second := n.live(disk, "n2", "a9", joining("", "a1")).member("c", 1, 20)
		tells(t, second.Greet(t.Context()), ErrRefused, "a2", "stop one")
		greet(t, first)
		first.die()
		second.die()
		// Which is nothing against the directory: it has moved.
		greet(t, n.live(disk, "n2", "a9", joining("", "a1")).member("c", 1, 20))
	})
}

// advertising has a node say that it is at an address, whether it is there or not.
func advertising(address string) birth {
	return func(o *MembershipOptions) { o.Address = address }
}

// Of two nodes that say that they are at one address whoever answers there is believed: raft would give its vote to
// both.
func TestTwoNodesAtOneAddress(t *testing.T) {
	for name, configured := range map[string]bool{"by their words": false, "by the configuration": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				n.name("one", "a1")
				a := n.live(vfs.NewMem(), "n1", "a1").member("c", 1, 20)
				disk2, disk3 := vfs.NewMem(), vfs.NewMem()
				c := n.live(disk3, "n3", "a3").member("c", 1, 20)
				if configured {
					a.Configured(1, threeServers())
				} else {
					noError(t, a.say(t.Context(), "a3").err)
				}
				start := func(how ...birth) (b *being, err error) {
					b = n.live(disk2, "n2", "a2", append(how, joining("", "one", "a3"))...).member("c", 1, 20)
					return b, b.Greet(t.Context())
				}
				b, err := start(advertising("a3"))
				tells(t, err, ErrRefused, "node n2", "a3", "node n3 answers", "--cluster-advertise")
				b.die()
				c.die()
				b, err = start(advertising("a3"))
				tells(t, err, ErrRefused, "node n2", "a3", "nobody answers", "--cluster-advertise")
				b.die()
				b, err = start(advertising("a1"))
				tells(t, err, ErrRefused, "nodes n2 and n1", "a1", "--cluster-advertise")
				if a.Admit("n2") == nil {
					t.Error("it is admitted")
				}
				b.die()

				// It may take the other one's place, as long as that one is not there.
				b = n.live(disk2, "n2", "a3", joining("", "a1")).member("c", 1, 20)
				greet(t, b)
				noError(t, a.Admit("n2"))
				if id, _ := a.NodeOf("a3"); id != "n2" || a.Admit("n3") == nil {
					t.Errorf("two nodes are admitted at one address, %q is expected there", id)
				}
				b.die()
				c = n.live(disk3, "n3", "a3", joining("", "a1")).member("c", 1, 20)
				greet(t, c)
				noError(t, a.Admit("n3"))
				if id, _ := a.NodeOf("a3"); id != "n3" || a.Admit("n2") == nil {
					t.Errorf("two nodes are admitted at one address, %q is expected there", id)
				}
				// And nothing was held against it for good.
				_, err = start()
				noError(t, errors.Join(err, a.Admit("n2"), a.Admit("n3")))
			})
		})
	}
}

func TestNodesThatDoNotFit(t *testing.T) {
	for name, c := range map[string]struct {
		other func(n *network)
		words []string
	}{
		"another cluster": {func(n *network) { n.live(vfs.NewMem(), "n1", "a1").member("d", 1, 20) }, []string{"cluster c", "--join"}},
		"my id":           {func(n *network) { n.live(vfs.NewMem(), "n2", "a1").member("c", 1, 20) }, []string{"node n2", "--node-id"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				c.other(n)
				b := n.live(vfs.NewMem(), "n2", "a2", joining("", "a1")).member("c", 1, 20)
				tells(t, b.Greet(t.Context()), ErrRefused, c.words...)
				if b.Admit("n1") == nil {
					t.Error("it would talk to raft's peers")
				}
			})
		})
	}
}

// An empty node that was given another one's id by mistake ends, and not the node that has it.
func TestAnEmptyNodeWithMyID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.live(vfs.NewMem(), "n3", "a3").member("c", 1, 20)
		a := n.live(vfs.NewMem(), "n1", "a1", joining("", "a2", "a3")).member("c", 1, 20)
		b := n.live(vfs.NewMem(), "n1", "a2", joining("secret", "a1", "a3"))
		greet(t, a)
		r := a.say(t.Context(), "a2")
		noError(t, r.err)
		noError(t, a.verdict(&r))
		tells(t, b.Form(t.Context()), ErrRefused, "node n1")
	})
}

// One node of a foreign cluster at an address of ours does not keep a node from starting that others believe.
func TestOneStrangerIsNoMajority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.live(vfs.NewMem(), "n1", "a1").member("c", 1, 20)
		n.live(vfs.NewMem(), "n3", "a3").member("c", 1, 20)
		n.live(vfs.NewMem(), "n7", "a7").member("d", 1, 20)
		b := n.live(vfs.NewMem(), "n2", "a2", joining("", "a1", "a3", "a7")).member("c", 1, 20)
		greet(t, b)
		noError(t, errors.Join(b.Admit("n1"), b.Admit("n3")))
		if b.Admit("n7") == nil {
			t.Error("the stranger is admitted")
		}
	})
}

// Others at the addresses of --join do not keep a node from starting that knows where the members are, or that it is
// the only one; where a member is to be they do.
func TestStrangersAtJoinDoNotCount(t *testing.T) {
	for name, c := range map[string]struct {
		configuration []raft.Server
		met           string // address of n1 as n2 has met it
		refused       bool
	}{
		"it knows nothing":           {nil, "", true},
		"it is alone":                {[]raft.Server{{ID: "n2", Address: "a2"}}, "", false},
		"it was alone elsewhere":     {[]raft.Server{{ID: "n2", Address: "a7"}}, "", false},
		"a member is elsewhere":      {[]raft.Server{{ID: "n1", Address: "a1"}, {ID: "n2", Address: "a2"}}, "", false},
		"a member is to be there":    {[]raft.Server{{ID: "n1", Address: "a7"}, {ID: "n2", Address: "a2"}}, "", true},
		"one that it met, elsewhere": {nil, "a1", false},
		"one that it met was there":  {nil, "a7", true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				fs := vfs.NewMem()
				if c.met != "" {
					a := n.live(vfs.NewMem(), "n1", c.met).member("c", 1, 20)
					b := n.live(fs, "n2", "a2", joining("", c.met)).member("c", 1, 20)
					greet(t, b)
					a.die()
					b.die()
				}
				n.live(vfs.NewMem(), "n1", "a7").member("d", 1, 20)
				b := n.live(fs, "n2", "a2", joining("", "a7")).member("c", 1, 20)
				if c.configuration != nil {
					b.Configured(1, raft.Configuration{Servers: c.configuration})
				}
				if err := b.Greet(t.Context()); c.refused {
					tells(t, err, ErrRefused, "cluster c", "--join")
				} else {
					noError(t, err)
				}
			})
		})
	}
}

// A node of the version before or after, which says what this one has never heard of, is a member like any other,
// whoever speaks first, and may join. One that is further away is neither.
func TestVersionsThatMeet(t *testing.T) {
	for skew, meets := range map[int]bool{-2: false, -1: true, 0: true, 1: true, 2: false} {
		for _, first := range []string{"n1", "n2"} {
			t.Run(fmt.Sprintf("%+d, %s first", skew, first), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := newNetwork(t)
					said := fmt.Sprintf(`"protocol":%d,"colour":{"of":["its","own"]},`, Protocol+skew)
					n.accent = func(from string, message []byte) []byte {
						if from == "a2" {
							message = bytes.Replace(message, fmt.Appendf(nil, `"protocol":%d,`, Protocol), []byte(said), 1)
						}
						return message
					}
					a := n.live(vfs.NewMem(), "n1", "a1", joining("secret", "a2")).member("c", 1, 20)
					b := n.live(vfs.NewMem(), "n2", "a2", joining("secret", "a1")).member("c", 1, 20)
					speaks := map[string]*being{"n1": a, "n2": b}[first]
					if err := speaks.Greet(t.Context()); meets {
						noError(t, errors.Join(err, a.Admit("n2"), b.Admit("n1")))
					} else if a.Admit("n2") == nil {
						t.Error("it is admitted")
					} else if first == "n2" {
						tells(t, err, ErrRefused, "upgrade one release at a time")
					}
					var answer joinAnswer
					noError(t, b.call(t.Context(), "a1", pathJoin, joinRequest{Hello: b.hello(), Token: "secret"}, &answer))
					if strings.Contains(answer.Refused, "one release at a time") == meets || answer.Final == meets {
						t.Errorf("it asks to join and gets %+v", answer)
					}
				})
			})
		}
	}
}

// Nodes that do not answer are waited for for a while, and less where a majority has answered.
func TestGreetDoesNotWaitForEver(t *testing.T) {
	for name, c := range map[string]struct {
		present []string
		cut     bool
		most    time.Duration
	}{
		"nobody is there":              {nil, false, 6 * time.Second},
		"nobody says a word":           {nil, true, 6 * time.Second},
		"one of two is there":          {[]string{"n1"}, false, time.Second},
		"one of two, the other silent": {[]string{"n1"}, true, time.Second},
		"all are there":                {[]string{"n1", "n3"}, false, time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				for _, id := range c.present {
					n.live(vfs.NewMem(), id, "a"+id[1:]).member("c", 1, 20)
				}
				for _, a := range []string{"a1", "a3"} {
					n.sever("a2", a, c.cut && n.nodes[a] == nil)
				}
				b := n.live(vfs.NewMem(), "n2", "a2", joining("", "a1", "a3")).member("c", 1, 20)
				b.Configured(1, threeServers())
				began := time.Now()
				greet(t, b)
				if took := time.Since(began); took > c.most {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}

func threeServers() (c raft.Configuration) {
	for _, id := range []string{"1", "2", "3"} {
		c.Servers = append(c.Servers, raft.Server{ID: raft.ServerID("n" + id), Address: raft.ServerAddress("a" + id)})
	}
	return c
}

// A member that is starting and has not opened its log says nothing that could be taken for an empty log.
func TestAStartingNodeIsNotTakenForAnEmptyOne(t *testing.T) {
	n := newNetwork(t)
	a := n.live(vfs.NewMem(), "n1", "a1").member("c", 1, 20)
	b := n.live(vfs.NewMem(), "n2", "a2")
	noError(t, b.identity.join("c", 1))
	if r := a.say(t.Context(), "a2"); r.err == nil || !strings.Contains(r.err.Error(), "starting") {
		t.Errorf("it answered %+v", r)
	}
}

func TestRequestsThatAreNone(t *testing.T) {
	n := newNetwork(t)
	a := n.live(vfs.NewMem(), "n1", "a1").member("c", 1, 20)
	for _, path := range []string{pathHello, pathPromise, pathJoin} {
		for _, body := range []string{"", "null", "[]", "{}", `{"hello":null}`, `{"node_id":"n2","lives":[]}`} {
			if status, _ := a.Handle(t.Context(), path, "", []byte(body)); status != http.StatusBadRequest {
				t.Errorf("%s with %q gave %d", path, body, status)
			}
		}
	}
	if status, _ := a.Handle(t.Context(), pathPrefix+"x", "", nil); status != http.StatusNotFound {
		t.Errorf("a path that is none gave %d", status)
	}
	body := fmt.Appendf(nil, `{"node_id":"n2","directory":"d","address":"a","lives":[{"incarnation":1,"id":"x"}]}`)
	if status, answer := a.Handle(t.Context(), pathHello, "n3", body); status != http.StatusBadRequest || !strings.Contains(string(answer), `"n3"`) {
		t.Errorf("a hello with another node's certificate gave %d %s", status, answer)
	}
}

// Whatever is learned is bounded.
func TestMemoryOfOthersIsBounded(t *testing.T) {
	n := newNetwork(t)
	a := n.live(vfs.NewMem(), "n1", "a1").member("c", 1, 20)
	for i := range 10 * peersKept {
		h := Hello{Protocol: Protocol, ClusterID: "c", NodeID: fmt.Sprint("x", i), Directory: "d", Address: fmt.Sprint("b", i),
			Lives: []Life{{1, "l"}}, Peers: map[string]string{}}
		for k := range 100 {
			h.Peers[fmt.Sprint("y", i, "-", k)] = "z"
		}
		if _, err := a.answerHello(t.Context(), &h); err != nil && i < peersKept {
			t.Fatal(err)
		}
	}
	if len(a.met) > peersKept || len(a.peers.known) > peersKept {
		t.Errorf("%d addresses and %d nodes are kept", len(a.met), len(a.peers.known))
	}
	noError(t, a.peers.save())
	again, err := openPeers(a.fs, "data")
	noError(t, err)
	if !slices.Equal(again.ids(), a.peers.ids()) {
		t.Error("what was saved is not what was known")
	}
}

// A life that could not be written down is not believed, however often it is told.
func TestALifeIsOnDiskBeforeItIsBelieved(t *testing.T) {
	n := newNetwork(t)
	var full atomic.Bool
	fs := onChange(vfs.NewMem(), func(errorfs.Op) error {
		if full.Load() {
			return syscall.ENOSPC
		}
		return nil
	})
	a := n.live(fs, "n1", "a1").member("c", 1, 20)
	b := n.live(vfs.NewMem(), "n2", "a2").member("c", 1, 20)
	full.Store(true)
	for range 2 {
		if r := b.say(t.Context(), "a1"); r.err == nil {
			t.Errorf("it is told %+v", r.answer)
		}
		if a.Admit("n2") == nil {
			t.Error("raft would talk to it")
		}
	}
	full.Store(false)
	r := b.say(t.Context(), "a1")
	noError(t, errors.Join(r.err, a.Admit("n2"), b.Admit("n1")))
	saved, err := openPeers(fs, "data")
	noError(t, err)
	if k, _ := saved.get("n2"); k.Life != b.identity.Life().ID {
		t.Errorf("saved is %+v", k)
	}
}

// The index that another node's log held is saved in time, and not for each answer.
func TestFloorsAreSavedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		fs := vfs.NewMem()
		a := n.live(fs, "n1", "a1").member("c", 1, 20)
		greet(t, n.live(vfs.NewMem(), "n2", "a2", joining("", "a1")).member("c", 1, 20))
		a.Start(&stubRaft{}, nil)
		for i := range uint64(100) {
			a.Observe("n2", Acknowledgement{LastLog: i, Match: i, Committed: i})
		}
		time.Sleep(helloEvery*time.Second + time.Second)
		saved, err := openPeers(fs, "data")
		noError(t, err)
		if k, _ := saved.get("n2"); k.Floor != 99 {
			t.Errorf("saved is %+v", k)
		}
		a.die()
	})
}

// stubRaft follows nobody.
type stubRaft struct{ Consensus }

func (*stubRaft) State() raft.RaftState                             { return raft.Follower }
func (*stubRaft) LeaderWithID() (raft.ServerAddress, raft.ServerID) { return "", "" }
