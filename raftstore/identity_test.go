package raftstore

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
)

// seedOf is the seed of a random test: HAREPOST_SEED, or a new one, printed.
func seedOf(t testing.TB) uint64 {
	seed := rand.Uint64()
	if v := os.Getenv("HAREPOST_SEED"); v != "" {
		var err error
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatalf("HAREPOST_SEED: %v", err)
		}
	}
	t.Logf("HAREPOST_SEED=%d", seed)
	return seed
}

// tells fails the test unless err is of a kind and its text has all words, which are what the operator needs.
func tells(t testing.TB, err, kind error, words ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("got %v, want %v", err, kind)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

func openIdentity(t testing.TB, fs vfs.FS, id string) *Identity {
	t.Helper()
	i, err := OpenIdentity(fs, "data", id)
	noError(t, err)
	return i
}

func TestEachStartIsALife(t *testing.T) {
	fs := vfs.NewMem()
	first := openIdentity(t, fs, "n1").get()
	second := openIdentity(t, fs, "n1").get()
	if first.Directory == "" || first.Directory != second.Directory {
		t.Errorf("directories are %q and %q", first.Directory, second.Directory)
	}
	if len(second.Lives) != 2 || second.Lives[0] != first.life() || second.life().Incarnation != 2 || second.life().ID == first.life().ID {
		t.Errorf("lives are %v and then %v", first.Lives, second.Lives)
	}
	for range 2 * livesKept {
		openIdentity(t, fs, "n1")
	}
	last := openIdentity(t, fs, "n1").get()
	if len(last.Lives) != livesKept || last.life().Incarnation != 2*livesKept+3 {
		t.Errorf("%d lives are kept, the last is %d", len(last.Lives), last.life().Incarnation)
	}
}

func TestIdentitiesThatAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(t *testing.T, i *Identity)
		id      string
		kind    error
		words   []string
	}{
		"another node": {func(*testing.T, *Identity) {}, "n2", ErrIdentity, []string{`"n1"`, "--node-id n1"}},
		"removed":      {func(t *testing.T, i *Identity) { noError(t, i.condemn("it was removed")) }, "n1", ErrIdentity, []string{"it was removed"}},
		"interrupted recovery": {func(t *testing.T, i *Identity) {
			noError(t, i.change(func(s *self) error { s.Recover = &recovery{}; return nil }))
		}, "n1", ErrIdentity, []string{"recover", "again"}},
		"of a later version": {func(t *testing.T, i *Identity) { noError(t, writeSealed(i.fs, i.path, identityVersion+1, i.self)) }, "n1", ErrFuture, []string{"version 2", "later version"}},
		"no name of a node":  {func(*testing.T, *Identity) {}, "N_1", nil, nil},
		"without a directory": {func(t *testing.T, i *Identity) {
			noError(t, writeSealed(i.fs, i.path, identityVersion, self{NodeID: "n1"}))
		}, "n1", ErrDamaged, nil},
		"cut off":       {func(t *testing.T, i *Identity) { noError(t, replaceFile(i.fs, i.path, []byte(`{"version":1,`))) }, "n1", ErrDamaged, []string{"cluster remove", "--join"}},
		"an empty file": {func(t *testing.T, i *Identity) { noError(t, replaceFile(i.fs, i.path, nil)) }, "n1", ErrDamaged, []string{"cluster remove"}},
	} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewMem()
			c.prepare(t, openIdentity(t, fs, "n1"))
			before := readAll(t, fs, "data/cluster/node.json")
			_, err := OpenIdentity(fs, "data", c.id)
			if c.kind == nil && err == nil {
				t.Fatal("it was opened")
			} else if c.kind != nil {
				tells(t, err, c.kind, c.words...)
			}
			if !bytes.Equal(before, readAll(t, fs, "data/cluster/node.json")) {
				t.Error("the file was changed")
			}
		})
	}
}

func readAll(t testing.TB, fs vfs.FS, path string) []byte {
	t.Helper()
	f, err := fs.Open(path)
	noError(t, err)
	b, err := io.ReadAll(f)
	noError(t, errors.Join(err, f.Close()))
	return b
}

// Whatever byte of the file is another one, it is found, or the content is what it was.
func TestDamageOfTheIdentityIsFound(t *testing.T) {
	fs := vfs.NewMem()
	i := openIdentity(t, fs, "n1")
	good := readAll(t, fs, i.path)
	found := 0
	for k := range good {
		for _, flip := range []byte{1, 0x20, 0x80} {
			bad := bytes.Clone(good)
			bad[k] ^= flip
			noError(t, replaceFile(fs, i.path, bad))
			got, err := readIdentity(fs, "data")
			if err == nil && !reflect.DeepEqual(got.self, i.self) {
				t.Fatalf("byte %d xor %#x is not found: %+v", k, flip, got.self)
			}
			if err != nil {
				found++
			}
		}
	}
	if found < len(good) {
		t.Errorf("only %d of %d flips were found", found, 3*len(good))
	}
}

// After a power cut the file says what it said before a change or after it, and after it if the change was
// acknowledged.
func TestIdentityAndPowerCuts(t *testing.T) {
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 1))
	fs := vfs.NewCrashableMem()
	noError(t, fs.MkdirAll("data", 0o755))
	root, err := fs.OpenDir(".")
	noError(t, err)
	noError(t, errors.Join(root.Sync(), root.Close()))
	for range 50 {
		i, err := OpenIdentity(fs, "data", "n1")
		noError(t, err)
		life := i.Life()
		noError(t, i.change(func(s *self) error { s.Since++; return nil }))
		since := i.get().Since
		after := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
		got, err := readIdentity(after, "data")
		if err != nil || got.self.life() != life || got.self.Since != since {
			t.Fatalf("after a cut: %v, life %v, since %d; acknowledged were %v and %d", err, got.self.Lives, got.self.Since, life, since)
		}
		fs = after
	}
}

func TestFoundersAllWriteTheSameFirstEntry(t *testing.T) {
	p := &Proposal{ClusterID: drawID(), Number: 1, Founders: []Founder{{ID: "n1", Directory: "d1", Address: "a1"}, {ID: "n2", Directory: "d2", Address: "a2"}}}
	var written []raft.Log
	for _, id := range []string{"n1", "n2"} {
		i := openIdentity(t, vfs.NewMem(), id)
		store := raft.NewInmemStore()
		noError(t, i.Found(store, store, raft.NewInmemSnapshotStore()))
		if last, _ := store.LastIndex(); last != 0 {
			t.Fatal("a node without a cluster has founded one")
		}
		noError(t, i.change(func(s *self) error { s.Promise = p; return nil }))
		noError(t, i.adopt(p))
		noError(t, i.Found(store, store, raft.NewInmemSnapshotStore()))
		noError(t, i.Found(store, store, raft.NewInmemSnapshotStore())) // as after a restart
		var l raft.Log
		noError(t, store.GetLog(1, &l))
		written = append(written, l)
		if term, err := store.GetUint64(keyCurrentTerm); term != 1 || err != nil {
			t.Errorf("the term is %d, %v", term, err)
		}
		if i.ClusterID() != p.ClusterID || i.get().Founders != nil {
			t.Errorf("the identity is %+v", i.get())
		}
	}
	if !reflect.DeepEqual(written[0], written[1]) {
		t.Errorf("the first entries differ: %+v, %+v", written[0], written[1])
	}
	c := raft.DecodeConfiguration(written[0].Data)
	if len(c.Servers) != 2 || c.Servers[1] != (raft.Server{ID: "n2", Address: "a2"}) {
		t.Errorf("the configuration is %+v", c)
	}
}

// A crash between the term and the entry leaves a log that is founded by the next start; raft.BootstrapCluster would
// never do it.
func TestFoundAfterACrash(t *testing.T) {
	i := openIdentity(t, vfs.NewMem(), "n1")
	p := &Proposal{ClusterID: drawID(), Founders: []Founder{{ID: "n1", Address: "a1"}}}
	noError(t, i.propose(p))
	noError(t, i.adopt(p))
	store := raft.NewInmemStore()
	noError(t, store.SetUint64(keyCurrentTerm, 1))
	noError(t, i.Found(store, store, raft.NewInmemSnapshotStore()))
	if last, _ := store.LastIndex(); last != 1 {
		t.Errorf("the log ends at %d", last)
	}
	tells(t, i.Found(raft.NewInmemStore(), raft.NewInmemStore(), raft.NewInmemSnapshotStore()), ErrIdentity, "cluster remove n1", "--join")
}

func FuzzHello(f *testing.F) {
	b, err := json.Marshal(Hello{Protocol: 1, NodeID: "n1", Directory: "d", Address: "a", Lives: []Life{{1, "x"}}})
	noError(f, err)
	f.Add(b)
	f.Add([]byte(`{"lives":[]}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var h Hello
		if decode(b, &h, &h, "") == nil {
			h.lived(h.life())
		}
	})
}
