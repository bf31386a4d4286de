package raftstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/hashicorp/raft"

	"github.com/harepost/harepost/engine"
	"github.com/harepost/harepost/engine/seal"
	"github.com/harepost/harepost/engine/state"
	"github.com/harepost/harepost/transport"
	"github.com/harepost/harepost/wal"
)

// household is an engine's directory through its changes, and what was acknowledged in it.
type household struct {
	t       *testing.T
	fs      *vfs.MemFS
	trans   *transport.Transport
	keys    *seal.Keyring // nil: nothing is encrypted
	target  engine.Target
	account engine.AccountID
	acked   []engine.DeliveryID
}

func newHousehold(t *testing.T) *household {
	t.Helper()
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength%2 == 1 {
			w.WriteHeader(http.StatusServiceUnavailable) // some stay pending
		}
	}))
	t.Cleanup(receiver.Close)
	u, err := url.Parse(receiver.URL)
	noError(t, err)
	port, err := strconv.Atoi(u.Port())
	noError(t, err)
	tr, err := transport.New(transport.Options{EgressAllow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Logger: silent})
	noError(t, err)
	t.Cleanup(tr.Close)
	return &household{t: t, fs: vfs.NewCrashableMem(), trans: tr,
		target: engine.Target{URL: receiver.URL + "/", Scheme: "http", Host: u.Hostname(), Port: uint16(port), URI: "/"}}
}

func (h *household) options(r engine.Replica) engine.Options {
	return engine.Options{FS: h.fs, Transport: h.trans, DevLoopback: true, Logger: silent, Replica: r, Keyring: h.keys, LogSegmentBytes: 256 << 10,
		State: state.Options{CacheBytes: 1 << 20, MemTableBytes: 256 << 10}}
}

func (h *household) open(r engine.Replica) *engine.Engine {
	h.t.Helper()
	e, err := engine.Open("data", h.options(r))
	noError(h.t, err)
	return e
}

// send has sends acknowledged.
func (h *household) send(e *engine.Engine, sends int) {
	h.t.Helper()
	ctx := context.Background()
	if h.account == 0 {
		a, err := e.CreateAccount(ctx, "a")
		noError(h.t, err)
		h.account = a.Account.ID
	}
	for i := range sends {
		r, err := e.Send(ctx, h.account, &engine.Send{Target: h.target, Method: "POST", Body: fmt.Appendf(nil, "%0*d", 1+i%5, i),
			Policy: engine.Policy{MaxAttempts: 20, BaseDelay: time.Hour, MaxDelay: time.Hour, Timeout: 5 * time.Second}})
		noError(h.t, err)
		h.acked = append(h.acked, r.ID)
	}
}

// has fails the test unless all that was acknowledged is there.
func (h *household) has(e *engine.Engine) {
	h.t.Helper()
	for _, id := range h.acked {
		if _, err := e.Delivery(context.Background(), h.account, id, engine.ReadOptions{Payload: true}); err != nil {
			h.t.Fatalf("%v was acknowledged: %v", id, err)
		}
	}
}

// converting is a replica that converts when it is started, as a Node does.
func converting(i *Identity) *offline {
	f := &offline{logger: silent}
	f.begin = func(m engine.Machine) error {
		return ConvertSingle(context.Background(), i, m, f.store, f.snapshots, "a1")
	}
	return f
}

func TestASingleNodeBecomesAClusterAndBack(t *testing.T) {
	h := newHousehold(t)
	for round := range 3 {
		e := h.open(nil)
		h.has(e)
		h.send(e, 60)
		last := h.lastAfter(e)

		i := openIdentity(t, h.fs, "n1")
		noError(t, i.BeginConversion())
		noError(t, i.BeginConversion())
		replica := converting(i)
		e = h.open(replica)
		h.has(e)
		newest, _, ok := replica.snapshots.Newest()
		if first, err := replica.store.FirstIndex(); !ok || newest.Index != last || first != 0 || err != nil {
			t.Errorf("round %d: the log ended at %d, the snapshot is at %d, and the log begins at %d", round, last, newest.Index, first)
		}
		if c := newest.Configuration.Servers; len(c) != 1 || c[0] != (raft.Server{ID: "n1", Address: "a1"}) {
			t.Errorf("the configuration is %v", c)
		}
		if term, err := currentTerm(replica.store); err != nil || term < newest.Term || newest.Term < 1 {
			t.Errorf("raft's term is %d, the snapshot's %d", term, newest.Term)
		}
		noError(t, e.Close())
		if i.Converting() || i.ClusterID() == "" {
			t.Error("it was not converted")
		}

		noError(t, Detach(h.fs, "data", "wal", "state", false))
		if in, err := InCluster(h.fs, "data"); in || err != nil {
			t.Errorf("it is still in a cluster: %v", err)
		}
	}
	e := h.open(nil)
	h.has(e)
	noError(t, e.Close())
}

// lastAfter closes an engine, and is where its log ends.
func (h *household) lastAfter(e *engine.Engine) uint64 {
	h.t.Helper()
	noError(h.t, e.Close())
	disk, err := inspectLog(h.fs, "data", "wal")
	noError(h.t, errors.Join(err, h.fs.RemoveAll("data/cluster")))
	return disk.last
}

// The power goes at any moment of a conversion: the next start makes the same of what is left, or, before it has
// begun, the directory is a single node's.
func TestConversionAndPowerCuts(t *testing.T) {
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 9))
	h := newHousehold(t)
	e := h.open(nil)
	h.send(e, 60)
	noError(t, e.Close())
	before := h.fs

	const cuts = 25
	var mu sync.Mutex
	var left []*vfs.MemFS
	counting, at, ops := true, map[int]bool{}, 0
	watch := errorfs.InjectorFunc(func(op errorfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			if ops++; !counting && at[ops] {
				// Pebble trusts that of two files in a directory the one that is made later does not outlive a
				// crash alone: while it opens one, all or none.
				percent := rng.IntN(101)
				if strings.HasPrefix(op.Path, "data/state") {
					percent = 100 * rng.IntN(2)
				}
				left = append(left, h.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng}))
			}
		}
		return nil
	})
	convert := func() {
		fs := errorfs.Wrap(h.fs, watch)
		i, err := OpenIdentity(fs, "data", "n1")
		noError(t, err)
		noError(t, i.BeginConversion())
		o := h.options(converting(i))
		o.FS = fs
		e, err := engine.Open("data", o)
		noError(t, err)
		noError(t, e.Close())
	}
	h.fs = before.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rng})
	convert()
	for range cuts {
		at[1+rng.IntN(ops)] = true
	}
	counting, ops = false, 0
	h.fs = before.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rng})
	convert()
	if len(left) == 0 {
		t.Fatal("there was no cut")
	}
	for k, fs := range left {
		h.fs = fs
		i, err := OpenIdentity(fs, "data", "n1")
		noError(t, err)
		if i.ClusterID() == "" {
			noError(t, i.BeginConversion())
		}
		e, err := engine.Open("data", h.options(converting(i)))
		if err != nil {
			t.Fatalf("cut %d: %v", k, err)
		}
		h.has(e)
		noError(t, e.Close())
		disk, err := inspectLog(fs, "data", "wal")
		noError(t, err)
		if i.Converting() || len(disk.configuration.Servers) != 1 {
			t.Errorf("cut %d: it was not converted: %+v", k, disk)
		}
	}
}

func TestDirectoriesThatAreNotDetached(t *testing.T) {
	h := newHousehold(t)
	tells(t, Detach(h.fs, "data", "wal", "state", false), ErrIdentity, "not the directory of a node of a cluster")
	e := h.open(nil)
	h.send(e, 5)
	noError(t, e.Close())
	i := openIdentity(t, h.fs, "n1")
	noError(t, i.BeginConversion())
	e = h.open(converting(i))
	noError(t, e.Close())
	// Another member, in the log.
	disk, err := inspectLog(h.fs, "data", "wal")
	noError(t, err)
	s, err := OpenStore("data/wal", StoreOptions{WAL: wal.Options{FS: h.fs}, Logger: silent})
	noError(t, err)
	s.Start()
	noError(t, s.StoreLog(&raft.Log{Index: disk.last + 1, Term: 2, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(threeServers())}))
	noError(t, s.Close())
	tells(t, Detach(h.fs, "data", "wal", "state", false), ErrIdentity, "n2", "n3", "--force")
	noError(t, i.change(func(s *self) error { s.Recover = &recovery{}; return nil }))
	tells(t, Detach(h.fs, "data", "wal", "state", true), ErrIdentity, "recover")
	noError(t, i.change(func(s *self) error { s.Recover = nil; return nil }))
	noError(t, Detach(h.fs, "data", "wal", "state", true))
	e = h.open(nil)
	h.has(e)
	noError(t, e.Close())
}
