package raftstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/harepost/harepost/wal"
)

// formAll has all nodes form at once, and returns when all have, or fails.
func formAll(t *testing.T, within time.Duration, nodes ...*being) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	var all sync.WaitGroup
	for _, b := range nodes {
		all.Go(func() {
			if err := b.Form(ctx); err != nil {
				t.Errorf("node %s: %v", b.identity.NodeID(), err)
			}
		})
	}
	all.Wait()
}

// founders is the one cluster of the nodes.
func oneCluster(t *testing.T, founders []string, nodes ...*being) {
	t.Helper()
	for _, b := range nodes {
		s := b.identity.get()
		var ids []string
		for _, f := range s.Founders {
			ids = append(ids, f.ID)
		}
		if first := nodes[0].identity.get(); s.ClusterID == "" || s.ClusterID != first.ClusterID || !slices.Equal(ids, founders) {
			t.Errorf("node %s is of the cluster %q with %v, node %s of %q; the founders are to be %v",
				s.NodeID, s.ClusterID, ids, first.NodeID, first.ClusterID, founders)
		}
	}
}

func TestOneNodeFoundsAClusterAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		a := n.live(vfs.NewMem(), "n1", "a1", expecting(1))
		formAll(t, time.Millisecond, a)
		oneCluster(t, []string{"n1"}, a)
	})
}

func TestThreeNodesFoundACluster(t *testing.T) {
	for name, addresses := range map[string][][]string{
		"all know all, and themselves": {{"a1", "a2", "a3"}, {"a1", "a2", "a3"}, {"a1", "a2", "a3"}},
		"by names":                     {{"node2", "node3"}, {"node1", "node3"}, {"node1", "node2"}},
		"all know one":                 {{"a2"}, {"a2"}, {"a2"}},
		"a chain":                      {nil, {"a1"}, {"a2"}},
		"some do not exist":            {{"a9", "a2"}, {"a8", "a3", "a1"}, {"a7", "a1"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				var nodes []*being
				for i, list := range addresses {
					n.name(fmt.Sprint("node", i+1), fmt.Sprint("a", i+1))
					nodes = append(nodes, n.live(vfs.NewMem(), fmt.Sprint("n", i+1), fmt.Sprint("a", i+1), expecting(3, list...)))
				}
				formAll(t, 10*time.Second, nodes...)
				oneCluster(t, []string{"n1", "n2", "n3"}, nodes...)
			})
		})
	}
}

// However late the last one is, and whichever it is.
func TestALateNodeFoundsWithTheOthers(t *testing.T) {
	for late := range 3 {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			nodes := make([]*being, 3)
			var all sync.WaitGroup
			begin := func(i int) {
				nodes[i] = n.live(vfs.NewMem(), fmt.Sprint("n", i+1), fmt.Sprint("a", i+1), expecting(3, "a1", "a2", "a3"))
				all.Go(func() {
					if err := nodes[i].Form(ctx); err != nil {
						t.Error(err)
					}
				})
			}
			for i := range 3 {
				if i != late {
					begin(i)
				}
			}
			time.Sleep(30 * time.Second)
			for i, b := range nodes {
				if b != nil && b.identity.ClusterID() != "" {
					t.Errorf("node n%d has a cluster without the third", i+1)
				}
			}
			begin(late)
			all.Wait()
			oneCluster(t, []string{"n1", "n2", "n3"}, nodes...)
		})
	}
}

func TestNodesThatExpectDifferentNumbersFoundNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		a := n.live(vfs.NewMem(), "n1", "a1", expecting(2, "a2"))
		b := n.live(vfs.NewMem(), "n2", "a2", expecting(3, "a1"))
		for _, x := range []*being{a, b} {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			if err := x.Form(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("it formed: %v", err)
			}
			cancel()
		}
		if a.identity.ClusterID()+b.identity.ClusterID() != "" {
			t.Error("there is a cluster")
		}
	})
}

func TestTwoNewNodesWithOneID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.live(vfs.NewMem(), "n1", "a1", expecting(2, "a2"))
		b := n.live(vfs.NewMem(), "n1", "a2", expecting(2, "a1"))
		tells(t, b.Form(t.Context()), ErrRefused, "node n1", "--node-id")
	})
}

// When the coordinator's directory is lost before it could say that the cluster exists, those that have promised
// themselves say what to do, and found no other cluster.
func TestTheCoordinatorsDirectoryIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		a := n.live(vfs.NewMem(), "n1", "a1", expecting(2, "a2"))
		b := n.live(vfs.NewMem(), "n2", "a2", expecting(2, "a1"))
		formAll(t, 10*time.Second, a)
		if b.identity.get().Promise == nil {
			t.Fatal("node n2 was not asked")
		}
		a.die()
		n.live(vfs.NewMem(), "n1", "a1", expecting(2, "a2"))
		tells(t, b.Form(t.Context()), ErrIdentity, "n1", "empty")
		if b.identity.ClusterID() != "" {
			t.Error("there is a cluster")
		}
	})
}

// Kills with power cuts, lost messages and cut cables at any moment, with more nodes than are expected: there is never
// more than one cluster, and in the end there is one.
func TestNeverTwoClusters(t *testing.T) {
	seed := seedOf(t)
	for run := range uint64(storms(t)) {
		if !t.Run(fmt.Sprint(run), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { foundInStorm(t, rand.New(rand.NewPCG(seed, run))) })
		}) {
			return
		}
	}
}

// storms is how many are tried: few in make test, HAREPOST_CRASH_N of them if that is more.
func storms(t *testing.T) int {
	n, err := strconv.Atoi(cmp.Or(os.Getenv("HAREPOST_CRASH_N"), "0"))
	if err != nil {
		t.Fatalf("HAREPOST_CRASH_N: %v", err)
	}
	return max(n, 15)
}

type stormy struct {
	*being
	disk   *vfs.MemFS
	cancel context.CancelFunc
	formed chan struct{}
}

func foundInStorm(t *testing.T, rng *rand.Rand) {
	var mu sync.Mutex
	random := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return rng.IntN(n)
	}
	n := newNetwork(t)
	calm := false
	n.weather = func(ctx context.Context) bool {
		time.Sleep(time.Duration(random(80)) * time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		return ctx.Err() == nil && (calm || rng.IntN(10) > 0)
	}
	count, expect := 3+random(3), 3
	addresses := []string{"a1", "a2", "a3", "a4", "a5"}
	nodes := make([]*stormy, count)
	begin := func(i int, disk *vfs.MemFS) {
		ctx, cancel := context.WithCancel(t.Context())
		s := &stormy{disk: disk, cancel: cancel, formed: make(chan struct{})}
		s.being = n.live(disk, fmt.Sprint("n", i+1), addresses[i], expecting(expect, addresses[:count]...),
			func(o *MembershipOptions) { o.CallTimeout, o.Interval = 300*time.Millisecond, 200*time.Millisecond })
		nodes[i] = s
		go func() {
			defer close(s.formed)
			err := s.Form(ctx)
			if err == nil { // as a node's start does it
				s.Opened(func() (uint64, uint64) { return 1, 1 })
				err = s.Greet(ctx)
			}
			if err != nil && ctx.Err() == nil {
				t.Errorf("node n%d: %v", i+1, err)
			}
		}()
	}
	for i := range count {
		disk := vfs.NewCrashableMem()
		noError(t, disk.MkdirAll("data", 0o755))
		noError(t, wal.SyncDir(disk, "."))
		begin(i, disk)
	}
	clusters := map[string]bool{}
	look := func() {
		for _, s := range nodes {
			if id := s.identity.ClusterID(); id != "" {
				clusters[id] = true
			}
		}
		if len(clusters) > 1 {
			t.Errorf("there are %d clusters", len(clusters))
		}
	}
	for range random(60) {
		time.Sleep(time.Duration(random(700)) * time.Millisecond)
		look()
		switch i := random(count); random(4) {
		case 0, 1:
			s := nodes[i]
			n.set(s.address, nil)
			mu.Lock()
			disk := s.disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
			mu.Unlock()
			s.cancel()
			<-s.formed
			begin(i, disk)
		default:
			n.sever(addresses[i], addresses[random(count)], random(2) == 0)
		}
	}
	mu.Lock()
	calm = true
	mu.Unlock()
	n.mu.Lock()
	clear(n.cut)
	n.mu.Unlock()
	time.Sleep(2 * time.Minute)
	look()
	var members []*being
	for _, s := range nodes {
		s.cancel()
		<-s.formed
		if s.identity.ClusterID() != "" {
			members = append(members, s.being)
		}
	}
	if len(members) != expect {
		t.Errorf("%d nodes have founded a cluster, expected were %d", len(members), expect)
		for _, s := range nodes {
			me := s.identity.get()
			t.Logf("node %s: cluster %q, founders %v, promise %+v, %d lives", me.NodeID, me.ClusterID, me.Founders, me.Promise, len(me.Lives))
		}
		return
	}
	var ids []string
	for _, m := range members {
		ids = append(ids, m.identity.NodeID())
	}
	oneCluster(t, ids, members...)
}
