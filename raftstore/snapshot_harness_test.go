package raftstore

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/state"
)

const snapshotsDir = "data/cluster/snapshots"

var discard = slog.New(slog.DiscardHandler)

// snapshotSeeds runs fn with random seeds, or with the one of HAREPOST_SEED.
func snapshotSeeds(t *testing.T, few int, fn func(t *testing.T, rng *rand.Rand)) {
	if v, err := strconv.ParseUint(os.Getenv("HAREPOST_SEED"), 10, 64); err == nil {
		fn(t, rand.New(rand.NewPCG(v, 1)))
		return
	}
	if n, err := strconv.Atoi(os.Getenv("HAREPOST_CRASH_N")); err == nil {
		few = max(few, n)
	}
	for range few {
		seed := rand.Uint64()
		t.Run(fmt.Sprint("HAREPOST_SEED=", seed), func(t *testing.T) { fn(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A stateOf is a state with accounts, one for each index of its log.
type stateOf struct {
	t testing.TB
	*state.State
}

func stateOptions(fs vfs.FS) state.Options {
	return state.Options{FS: fs, CacheBytes: 1 << 20, MemTableBytes: 64 << 10, Logger: discard}
}

// newState opens the state in dir, or makes it, and closes it at the end of the test.
func newState(t testing.TB, fs vfs.FS, dir string) *stateOf {
	t.Helper()
	noError(t, fs.MkdirAll(dir, 0o755))
	s, err := state.Open(dir, stateOptions(fs))
	noError(t, err)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close the state: %v", err)
		}
	})
	return &stateOf{t, s}
}

// grow brings it to an index. Each account's name is long, so that there are several
// files before long.
func (s *stateOf) grow(to uint64) {
	s.t.Helper()
	var entries []state.Entry
	for i := s.Applied() + 1; i <= to; i++ {
		noise := rand.New(rand.NewPCG(i, 0))
		name := make([]byte, 500)
		for n := range name {
			name[n] = byte('a' + noise.IntN(26))
		}
		a := account.Account{ID: account.ID(i), Name: string(name), CreatedAt: time.Unix(1_800_000_000, 0)}
		a.Secrets = []account.Secret{{Text: "whsec_x", CreatedAt: a.CreatedAt}}
		k := account.Key{Account: a.ID, ID: account.KeyID(i), Prefix: "hp_live_abcd", CreatedAt: a.CreatedAt}
		k.Hash[0], k.Hash[1], k.Hash[2] = byte(i), byte(i>>8), byte(i>>16)
		entries = append(entries, state.Entry{Index: i, Command: command.AppendCreateAccount(nil, &a, &k)})
	}
	noError(s.t, s.Apply(entries, nil))
}

// checkpoint is engine.Machine's Checkpoint.
func (s *stateOf) checkpoint(ctx context.Context, dir string) (uint64, error) {
	if err := s.FlushContext(ctx); err != nil {
		return 0, err
	}
	applied, _, err := s.Checkpoint(dir)
	return applied, err
}

// holds fails unless the state in dir opens, fits together and has all accounts up to
// its index.
func holds(t testing.TB, fs vfs.FS, dir string, index uint64) {
	t.Helper()
	s, err := state.Open(dir, state.Options{FS: fs, ReadOnly: true, CacheBytes: 1 << 20, MemTableBytes: 64 << 10, Logger: discard})
	noError(t, err)
	defer s.Close()
	r, err := s.Verify()
	if err != nil || len(r.Findings) > 0 {
		t.Fatalf("the state does not fit together: %v, %v", r.Findings, err)
	}
	if n := len(s.Directory().Accounts()); s.Applied() != index || uint64(n) != index {
		t.Fatalf("the state is at %d with %d accounts, want %d", s.Applied(), n, index)
	}
}

func snapshotOptions(t testing.TB, fs vfs.FS) SnapshotOptions {
	return SnapshotOptions{
		FS: fs, Dir: snapshotsDir, Logger: discard,
		Failed: func(err error) { t.Errorf("the store failed: %v", err) },
	}
}

func openSnapshots(t testing.TB, fs vfs.FS) *SnapshotStore {
	t.Helper()
	return openSnapshotsWith(t, snapshotOptions(t, fs))
}

func openSnapshotsWith(t testing.TB, o SnapshotOptions) *SnapshotStore {
	t.Helper()
	s, err := OpenSnapshots(o)
	noError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

var oneVoter = raft.Configuration{Servers: []raft.Server{
	{ID: "n1", Address: "127.0.0.1:7001", Suffrage: raft.Voter}, {ID: "n2", Address: "127.0.0.1:7002", Suffrage: raft.Nonvoter},
}}

// publishOwn publishes a snapshot of a state as it is now.
func publishOwn(t testing.TB, s *SnapshotStore, st *stateOf) {
	t.Helper()
	noError(t, st.Flush())
	noError(t, s.Publish(st.Applied(), 3, oneVoter, 1, st.Applied()))
}

// opened opens the newest snapshot.
func opened(t testing.TB, s *SnapshotStore) (*raft.SnapshotMeta, io.ReadCloser) {
	t.Helper()
	list, err := s.List()
	if err != nil || len(list) != 1 {
		t.Fatalf("%d snapshots, %v", len(list), err)
	}
	m, r, err := s.Open(list[0].ID)
	noError(t, err)
	return m, r
}

// sent is all that a node sends of its newest snapshot.
func sent(t testing.TB, s *SnapshotStore) (*raft.SnapshotMeta, []byte) {
	t.Helper()
	m, r := opened(t, s)
	b, err := io.ReadAll(r)
	noError(t, err)
	noError(t, r.Close())
	if int64(len(b)) != m.Size {
		t.Fatalf("%d bytes were sent, %d were announced", len(b), m.Size)
	}
	return m, b
}

// receive does what raft does with a stream.
func receive(s *SnapshotStore, m *raft.SnapshotMeta, stream io.Reader) error {
	sink, err := s.Create(m.Version, m.Index, m.Term, m.Configuration, m.ConfigurationIndex, nil)
	if err != nil {
		return err
	}
	n, err := io.Copy(sink, stream)
	if err == nil && n != m.Size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		sink.Cancel()
		return err
	}
	return sink.Close()
}

// leader is a store with a snapshot at index 100 of a state that is at 120 by now, as
// raft sends it.
func leader(t testing.TB) (m *raft.SnapshotMeta, stream []byte) {
	t.Helper()
	fs := vfs.NewMem()
	st := newState(t, fs, "data/state")
	st.grow(100)
	s := openSnapshots(t, fs)
	s.SetCheckpoint(st.checkpoint)
	publishOwn(t, s, st)
	st.grow(120)
	m, stream = sent(t, s)
	return m, stream
}

// restored is what is left of a snapshot in a store when the engine has taken its
// state over.
func restored(t testing.TB, fs vfs.FS, s *SnapshotStore) {
	t.Helper()
	m, r := opened(t, s)
	if _, _, _, ok := ReceivedDir(struct{ io.ReadCloser }{r}); ok {
		t.Fatal("a reader inside something that does not say so")
	}
	dir, index, _, ok := ReceivedDir(wrapped{wrapped{r}})
	if !ok || index != m.Index {
		t.Fatalf("%q, %d, %t", dir, index, ok)
	}
	if n, err := io.Copy(io.Discard, r); n != 0 || err == nil {
		t.Fatalf("%d bytes of a snapshot that is not restored are sent on, %v", n, err)
	}
	noError(t, fs.RemoveAll("data/state"))
	noError(t, fs.Rename(dir, "data/state"))
	noError(t, r.Close())
}

type wrapped struct{ io.ReadCloser }

func (w wrapped) WrappedReadCloser() io.ReadCloser { return w.ReadCloser }

// leftovers are the names in the store's directory that are no snapshots.
func leftovers(t testing.TB, fs vfs.FS) (names []string) {
	t.Helper()
	all, err := fs.List(snapshotsDir)
	noError(t, err)
	for _, name := range all {
		if strings.HasPrefix(name, incomingPrefix) || strings.HasPrefix(name, checkpointPrefix) {
			names = append(names, name)
		}
	}
	return names
}

// snapshotsOnDisk are the ids of those that a start would find.
func snapshotsOnDisk(t testing.TB, fs vfs.FS) (ids []string) {
	t.Helper()
	all, err := fs.List(snapshotsDir)
	noError(t, err)
	for _, name := range all {
		if _, ok := parseSnapshotID(name); ok {
			ids = append(ids, name)
		}
	}
	return ids
}
