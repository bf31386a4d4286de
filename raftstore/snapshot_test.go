package raftstore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/hashicorp/raft"

	"github.com/harepost/harepost/engine/backup"
	"github.com/harepost/harepost/wal"
)

// What one node sends another has whole: the state as it was when it was sent, under
// the index, term and configuration of the snapshot. It is there after a restart, too,
// and once it is restored the node can send it in turn.
func TestASnapshotIsReceived(t *testing.T) {
	m, stream := leader(t)
	fs := vfs.NewMem()
	s := openSnapshots(t, fs)
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Fatalf("%v, %v", list, err)
	}
	noError(t, receive(s, m, bytes.NewReader(stream)))
	for range 2 { // the second time after a restart
		got, dir, ok := s.Newest()
		if !ok || dir == "" || got.Index != 100 || got.Term != 3 || got.ConfigurationIndex != 1 || got.Applied != 120 ||
			got.Bytes != m.Size || !reflect.DeepEqual(got.Configuration, oneVoter) {
			t.Fatalf("%+v in %q", got, dir)
		}
		holds(t, fs, dir, 120)
		s = openSnapshots(t, fs)
	}
	restored(t, fs, s)
	for range 2 {
		got, dir, ok := s.Newest()
		if !ok || dir != "" || got.Applied != 120 {
			t.Fatalf("%+v in %q", got, dir)
		}
		s = openSnapshots(t, fs)
	}
	st := newState(t, fs, "data/state")
	if _, _, err := s.Open(m.ID); err == nil {
		t.Error("it is opened by its name on another node")
	}
	if list, _ := s.List(); len(list) == 1 {
		if _, _, err := s.Open(list[0].ID); err == nil {
			t.Error("it is opened before the state is")
		}
	}
	s.SetCheckpoint(st.checkpoint)
	again, stream := sent(t, s)
	if again.Index != 100 || again.Term != 3 || len(leftovers(t, fs)) != 0 {
		t.Errorf("%+v, and %q", again, leftovers(t, fs))
	}
	third := vfs.NewMem()
	s = openSnapshots(t, third)
	noError(t, receive(s, again, bytes.NewReader(stream)))
	_, dir, _ := s.Newest()
	holds(t, third, dir, 120)
}

// There is one snapshot: the newest. Own and received ones take each other's place,
// and older ones nobody's.
func TestOnlyTheNewestIsKept(t *testing.T) {
	m, stream := leader(t)
	fs := vfs.NewMem()
	s := openSnapshots(t, fs)
	noError(t, s.Publish(50, 2, oneVoter, 1, 48))
	first, _, _ := s.Newest()
	noError(t, s.Publish(50, 2, oneVoter, 1, 50)) // nothing has happened since
	second, dir, _ := s.Newest()
	if first.ID == second.ID || dir != "" || second.Applied != 50 || second.Received {
		t.Errorf("%+v after %+v", second, first)
	}
	noError(t, receive(s, m, bytes.NewReader(stream)))
	noError(t, receive(s, m, bytes.NewReader(stream))) // the answer was lost, and it is sent again
	if ids := snapshotsOnDisk(t, fs); len(ids) != 1 {
		t.Errorf("%q are kept", ids)
	}
	if err := s.Publish(99, 3, oneVoter, 1, 99); err == nil {
		t.Error("an older one of its own takes the place of one that was received")
	}
	if err := s.Publish(130, 3, oneVoter, 1, 120); err == nil {
		t.Error("a state that was received is replaced before it was restored")
	}
	restored(t, fs, s)
	noError(t, s.Publish(130, 3, oneVoter, 1, 120))
	if err := receive(s, m, bytes.NewReader(stream)); err == nil {
		t.Error("an older one that was received takes the place of its own")
	}
	if ids := snapshotsOnDisk(t, fs); len(ids) != 1 || len(leftovers(t, fs)) != 0 {
		t.Errorf("%q and %q are kept", ids, leftovers(t, fs))
	}
	if again, _, _ := openSnapshots(t, fs).Newest(); again.Index != 130 {
		t.Errorf("after a restart: %+v", again)
	}
}

// Of snapshots of two logs that of the higher term is the newer one, also where it is the
// shorter, and also for a start that finds both.
func TestAHigherTermIsNewer(t *testing.T) {
	m, stream := leader(t) // of term 3
	fs := vfs.NewMem()
	s := openSnapshots(t, fs)
	noError(t, s.Publish(130, 2, oneVoter, 1, 130))
	old, _, _ := s.Newest()
	if _, err := vfs.Clone(fs, fs, s.path(old.ID), "kept"); err != nil {
		t.Fatal(err)
	}
	noError(t, receive(s, m, bytes.NewReader(stream)))
	noError(t, fs.Rename("kept", s.path(old.ID))) // as if the power had gone before it was removed
	if now, dir, ok := openSnapshots(t, fs).Newest(); !ok || now.Index != 100 || now.Term != 3 || dir == "" {
		t.Errorf("a start finds %+v in %q", now, dir)
	}
}

// A snapshot that was received is not removed while the engine takes it over.
func TestNothingIsRemovedUnderARestore(t *testing.T) {
	m, stream := leader(t)
	fs := vfs.NewMem()
	s := openSnapshots(t, fs)
	noError(t, receive(s, m, bytes.NewReader(stream)))
	_, r := opened(t, s)
	dir, _, _, _ := ReceivedDir(r)
	noError(t, receive(s, m, bytes.NewReader(stream)))
	holds(t, fs, dir, 120)
	noError(t, r.Close())
	noError(t, r.Close())
	if _, err := fs.Stat(dir); err == nil {
		t.Error("it is never removed")
	}
	_, dir, _ = s.Newest()
	holds(t, fs, dir, 120)
}

// An empty stream is not a snapshot of this node's own.
func TestAnEmptyStreamIsRefused(t *testing.T) {
	fs := vfs.NewMem()
	s := openSnapshots(t, fs)
	m := raft.SnapshotMeta{Version: 1, Index: 7, Term: 1, Configuration: oneVoter}
	if err := receive(s, &m, bytes.NewReader(nil)); err == nil {
		t.Error("an empty stream is a snapshot")
	}
	sink, err := s.create(8, 1, oneVoter, 1)
	noError(t, err)
	sink.Own(8)
	if _, err := sink.Write([]byte("x")); err == nil {
		t.Error("something is written to this node's own")
	}
	noError(t, sink.Cancel())
	noError(t, sink.Cancel())
	if err := sink.Close(); err == nil {
		t.Error("it is there though it was given up")
	}
	if _, err := s.Create(0, 8, 1, oneVoter, 1, nil); err == nil {
		t.Error("a version that there is no more")
	}
	if _, _, ok := s.Newest(); ok || len(leftovers(t, fs)) != 0 {
		t.Errorf("something is left: %q", leftovers(t, fs))
	}
}

// Wherever the stream ends, and whichever byte of it is another, nothing is received,
// and what was there is there still. Header bytes that no reader of a tar looks at are
// the exception: then all is received as it was sent.
func TestADamagedStreamIsRefused(t *testing.T) {
	m, stream := leader(t)
	snapshotSeeds(t, 2, func(t *testing.T, rng *rand.Rand) {
		fs := vfs.NewMem()
		s := openSnapshots(t, fs)
		noError(t, s.Publish(50, 2, oneVoter, 1, 50))
		before, _, _ := s.Newest()
		refused := func(what string, at int, m *raft.SnapshotMeta, stream []byte) {
			t.Helper()
			err := receive(s, m, bytes.NewReader(stream))
			now, dir, _ := s.Newest()
			if err == nil && what == "flipped" {
				holds(t, fs, dir, 120)
				t.Logf("byte %d does not matter", at)
				s.Close()
				noError(t, fs.RemoveAll(snapshotsDir))
				s = openSnapshots(t, fs)
				noError(t, s.Publish(50, 2, oneVoter, 1, 50))
				before, _, _ = s.Newest()
				return
			}
			if err == nil || !reflect.DeepEqual(now, before) || len(leftovers(t, fs)) != 0 || len(snapshotsOnDisk(t, fs)) != 1 {
				t.Fatalf("%s at %d of %d: %v, %+v, %q", what, at, len(stream), err, now, leftovers(t, fs))
			}
		}
		end := len(bytes.TrimRight(stream, "\x00")) // only zeros follow
		for range 60 {
			n := rng.IntN(end)
			refused("cut off", n, m, stream[:n])
			short := *m
			short.Size = int64(n) // and announced so
			refused("cut off and announced so", n, &short, stream[:n])
			flipped := bytes.Clone(stream)
			flipped[n] ^= 1 << rng.IntN(8)
			refused("flipped", n, m, flipped)
		}
		for _, more := range [][]byte{make([]byte, 1), make([]byte, 4096), []byte("x")} {
			long := *m
			long.Size += int64(len(more))
			refused("longer", len(more), &long, append(bytes.Clone(stream), more...))
		}
		failing := io.MultiReader(bytes.NewReader(stream[:rng.IntN(len(stream))]), errorReader{})
		if err := receive(s, m, failing); !errors.Is(err, errSender) {
			t.Errorf("a sender that dies: %v", err)
		}
		refused("empty", 0, m, nil)
	})
}

var errSender = errors.New("the sender has died")

type errorReader struct{}

func (errorReader) Read([]byte) (int, error) { return 0, errSender }

// streamOf is a stream with these files.
func streamOf(t testing.TB, index uint64, files map[string][]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := backup.NewWriter(&out, backup.Manifest{CreatedAt: time.Unix(1, 0), Index: index})
	noError(t, err)
	for name, b := range files {
		noError(t, w.Add(name, int64(len(b)), bytes.NewReader(b)))
	}
	noError(t, w.Close())
	return out.Bytes()
}

// filesOf are the files of a stream.
func filesOf(t testing.TB, stream []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	_, err := backup.Read(bytes.NewReader(stream), func(name string) (io.WriteCloser, error) {
		return &keptFile{files: files, name: name}, nil
	})
	noError(t, err)
	return files
}

type keptFile struct {
	bytes.Buffer
	files map[string][]byte
	name  string
}

func (f *keptFile) Close() error { f.files[f.name] = f.Bytes(); return nil }

// A stream that is whole, and of which the sums are right, is refused when it would
// write where it must not, or when what it brings is no state that can be used.
func TestAHostileStreamIsRefused(t *testing.T) {
	m, stream := leader(t)
	fs := vfs.NewMem()
	s := openSnapshots(t, fs)
	refused := func(what string, m raft.SnapshotMeta, stream []byte, text string) {
		t.Helper()
		m.Size = int64(len(stream))
		err := receive(s, &m, bytes.NewReader(stream))
		if _, _, ok := s.Newest(); err == nil || !strings.Contains(err.Error(), text) || ok || len(leftovers(t, fs)) != 0 {
			t.Errorf("%s: %v, and %q is left", what, err, leftovers(t, fs))
		}
	}
	for _, name := range []string{"state/../../evil", "../evil", "/evil", "state/.hidden", "state/sub/evil", "evil", "wal/evil", "meta.json"} {
		files := filesOf(t, stream)
		files[name] = []byte("evil")
		refused(name, *m, streamOf(t, 120, files), "")
	}
	for name := range filesOf(t, stream) {
		files := filesOf(t, stream)
		if strings.Contains(name, "OPTIONS") || strings.HasSuffix(name, ".log") {
			continue // Pebble can do without, and its log is empty
		}
		delete(files, name)
		refused("without "+name, *m, streamOf(t, 120, files), "")
		if strings.Contains(name, "marker.") {
			continue // has no content
		}
		files = filesOf(t, stream)
		files[name] = files[name][:len(files[name])/2]
		refused("half of "+name, *m, streamOf(t, 120, files), "")
	}
	refused("without anything", *m, streamOf(t, 120, nil), "")
	refused("behind what its sender says", *m, streamOf(t, 121, filesOf(t, stream)), "holds everything up to 120")
	if names, err := fs.List("data"); err != nil || len(names) != 1 {
		t.Errorf("written elsewhere: %q, %v", names, err)
	}
}

// A log that has what a snapshot has and more is not thrown away for it: raft would,
// and what this node has acknowledged would be gone.
func TestALateSnapshotIsRefused(t *testing.T) {
	m, stream := leader(t)
	for what, c := range map[string]struct {
		first, last, term uint64
		refused           bool
	}{
		"the log has more":         {90, 105, 3, true},
		"the log ends there":       {90, 100, 3, false},
		"the log ends before":      {90, 99, 3, false},
		"the log has another past": {90, 105, 2, false},
		"the log begins behind it": {101, 105, 3, false},
		"the log is empty":         {0, 0, 0, false},
	} {
		s := openSnapshots(t, vfs.NewMem())
		log := raft.NewInmemStore()
		for i := c.first; i <= c.last && i > 0; i++ {
			noError(t, log.StoreLog(&raft.Log{Index: i, Term: c.term}))
		}
		s.SetLog(log)
		if err := receive(s, m, bytes.NewReader(stream)); (err != nil) != c.refused {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A crash at any operation of the disk leaves the snapshot that was there, or the new
// one whole; so does an operation that fails.
func TestACrashLeavesOneWholeSnapshot(t *testing.T) {
	m, stream := leader(t)
	snapshotSeeds(t, 1, func(t *testing.T, rng *rand.Rand) {
		for own := range 2 {
			act := func(s *SnapshotStore) error {
				if own == 1 {
					return s.Publish(100, 3, oneVoter, 1, 100)
				}
				return receive(s, m, bytes.NewReader(stream))
			}
			for at := 0; ; at++ {
				fs := crashable(t)
				s := openSnapshots(t, fs)
				noError(t, s.Publish(50, 2, oneVoter, 1, 50))
				var crashed *vfs.MemFS
				var mu sync.Mutex // Pebble's goroutines write, too
				n := 0
				hook := func(fail bool) vfs.FS {
					n = 0
					return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
						mu.Lock()
						defer mu.Unlock()
						if op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
							return nil
						}
						if n++; n-1 != at {
							return nil
						}
						if fail {
							return syscall.ENOSPC
						}
						crashed = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
						return nil
					}))
				}
				// An operation fails.
				failed := false
				o := snapshotOptions(t, hook(true))
				o.Failed = func(error) { failed = true }
				s, err := OpenSnapshots(o)
				if err == nil {
					err = act(s)
					noError(t, s.Close())
				}
				if n > at {
					whole(t, fs, err == nil, err != nil && !failed)
				}
				// The power is cut.
				fs = crashable(t)
				noError(t, openSnapshots(t, fs).Publish(50, 2, oneVoter, 1, 50))
				s = openSnapshotsWith(t, snapshotOptions(t, hook(false)))
				noError(t, act(s))
				noError(t, s.Close())
				if crashed == nil { // all operations were tried
					whole(t, fs.CrashClone(vfs.CrashCloneCfg{}), true, false)
					t.Logf("own %d: %d operations", own, at)
					break
				}
				whole(t, crashed, false, false)
			}
		}
	})
}

// crashable is a disk with the data directory, which is not the store's to make.
func crashable(t *testing.T) *vfs.MemFS {
	t.Helper()
	fs := vfs.NewCrashableMem()
	noError(t, fs.MkdirAll("data", 0o755))
	noError(t, wal.SyncDir(fs, ""))
	return fs
}

// whole opens the store as a start would, and looks whether it has the snapshot at 50
// or the one at 100.
func whole(t *testing.T, fs vfs.FS, mustNew, mustOld bool) {
	t.Helper()
	s := openSnapshots(t, fs)
	defer s.Close()
	m, dir, ok := s.Newest()
	switch {
	case !ok:
		t.Fatal("no snapshot is left")
	case m.Index == 50 && !mustNew:
	case m.Index == 100 && !mustOld:
		if m.Received {
			holds(t, fs, dir, 120)
		}
	default:
		t.Fatalf("the snapshot at %d is left; the new one must be: %t, the old one must be: %t", m.Index, mustNew, mustOld)
	}
	if ids := snapshotsOnDisk(t, fs); len(ids) != 1 || len(leftovers(t, fs)) != 0 {
		t.Fatalf("%q and %q are left", ids, leftovers(t, fs))
	}
}

// A damaged meta.json, or one of a later version, is refused with a text that says
// what to do. Nothing is removed.
func TestADamagedMetaIsRefused(t *testing.T) {
	fs := vfs.NewMem()
	s := openSnapshots(t, fs)
	noError(t, s.Publish(50, 2, oneVoter, 1, 48))
	m, _, _ := s.Newest()
	name := s.path(m.ID, snapshotMetaName)
	good, err := readFile(fs, name)
	noError(t, err)
	try := func(what string, b []byte, text string) {
		t.Helper()
		noError(t, writeFile(fs, name, bytes.Clone(b))) // a disk of a test may change what it is given
		if _, err := OpenSnapshots(snapshotOptions(t, fs)); (err == nil) != (text == "") || err != nil && !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", what, err)
		}
	}
	const remedy = "serve --join"
	for i := range good {
		bad := bytes.Clone(good)
		if bad[i] ^= 1; bytes.Equal(bytes.TrimSpace(bad), bytes.TrimSpace(good)) {
			continue
		}
		noError(t, writeFile(fs, name, bytes.Clone(bad)))
		if s, err := OpenSnapshots(snapshotOptions(t, fs)); err == nil {
			if got, _, _ := s.Newest(); !reflect.DeepEqual(got, m) { // space between the words
				t.Errorf("byte %d: %+v", i, got)
			}
		} else if !strings.Contains(err.Error(), remedy) && !strings.Contains(err.Error(), "later version") {
			t.Errorf("byte %d: %v", i, err)
		}
	}
	try("empty", nil, remedy)
	try("half", good[:len(good)/2], remedy)
	try("a number", []byte("7"), remedy)
	try("of the future", bytes.Replace(good, []byte(`"format": 1`), []byte(`"format": 2`), 1), "later version of harepost")
	try("of the past", bytes.Replace(good, []byte(`"format": 1`), []byte(`"format": 0`), 1), remedy)
	try("formatted by a person", bytes.ReplaceAll(good, []byte("  "), []byte("\t")), "")
	noError(t, fs.Remove(name))
	if _, err := OpenSnapshots(snapshotOptions(t, fs)); err == nil || !strings.Contains(err.Error(), remedy) {
		t.Errorf("missing: %v", err)
	}
	noError(t, writeFile(fs, name, bytes.Clone(good)))
	noError(t, fs.Rename(s.path(m.ID), s.path("50-2-9")))
	if _, err := OpenSnapshots(snapshotOptions(t, fs)); err == nil || !strings.Contains(err.Error(), "calls itself") {
		t.Errorf("renamed: %v", err)
	}
}

// While a state that lies behind its own snapshot, or cannot be copied, is not sent,
// and nobody tries again at once.
func TestWhatCannotBeCopiedIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := vfs.NewMem()
		s := openSnapshots(t, fs)
		noError(t, s.Publish(50, 2, oneVoter, 1, 50))
		calls := 0
		result := errors.New("no room")
		s.SetCheckpoint(func(_ context.Context, dir string) (uint64, error) {
			calls++
			return 49, errors.Join(fs.MkdirAll(dir, 0o755), result)
		})
		m, _, _ := s.Newest()
		for range 5 {
			if _, _, err := s.Open(m.ID); !errors.Is(err, result) {
				t.Errorf("%v", err)
			}
		}
		if calls != 1 {
			t.Errorf("it was tried %d times", calls)
		}
		time.Sleep(checkpointPause)
		result = nil
		if _, _, err := s.Open(m.ID); err == nil || calls != 2 || !strings.Contains(err.Error(), "49") {
			t.Errorf("a state that is behind: %v after %d", err, calls)
		}
		if len(leftovers(t, fs)) != 0 {
			t.Errorf("%q are left", leftovers(t, fs))
		}
	})
}

// Only so many copies are kept; closing one makes room.
func TestSendersAreBounded(t *testing.T) {
	fs := vfs.NewMem()
	st := newState(t, fs, "data/state")
	st.grow(10)
	s := openSnapshots(t, fs)
	s.SetCheckpoint(st.checkpoint)
	publishOwn(t, s, st)
	var readers []io.ReadCloser
	for range mostSending {
		_, r := opened(t, s)
		readers = append(readers, r)
	}
	m, _, _ := s.Newest()
	if _, _, err := s.Open(m.ID); err == nil {
		t.Error("one more is opened")
	}
	st.grow(20)
	publishOwn(t, s, st) // takes nothing away from who reads
	for i, r := range readers {
		var b bytes.Buffer
		if i%2 == 0 { // others stop in the middle
			_, err := io.Copy(&b, r)
			noError(t, err)
			if n := len(filesOf(t, b.Bytes())); n == 0 {
				t.Error("nothing was sent")
			}
		}
		noError(t, r.Close())
		noError(t, r.Close())
	}
	if len(leftovers(t, fs)) != 0 {
		t.Errorf("%q are left", leftovers(t, fs))
	}
	_, r := opened(t, s)
	noError(t, s.Close())
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, ErrSnapshotsClosed) {
		t.Errorf("a read after the store was closed: %v", err)
	}
	noError(t, r.Close())
	m, _, _ = s.Newest()
	if _, _, err := s.Open(m.ID); !errors.Is(err, ErrSnapshotsClosed) {
		t.Errorf("open: %v", err)
	}
	if err := s.Publish(99, 9, oneVoter, 1, 20); !errors.Is(err, ErrSnapshotsClosed) {
		t.Errorf("publish: %v", err)
	}
}

// What is being received ends with the store, and nothing stays of it.
func TestCloseEndsReceiving(t *testing.T) {
	m, stream := leader(t)
	fs := vfs.NewMem()
	s := openSnapshots(t, fs)
	sink, err := s.create(m.Index, m.Term, m.Configuration, m.ConfigurationIndex)
	noError(t, err)
	_, err = sink.Write(stream[:len(stream)/2])
	noError(t, err)
	noError(t, s.Close())
	if _, err := sink.Write(stream[len(stream)/2:]); !errors.Is(err, ErrSnapshotsClosed) {
		t.Errorf("%v", err)
	}
	if err := sink.Close(); err == nil || err != sink.Close() || len(leftovers(t, fs)) != 0 {
		t.Errorf("%v, and %q is left", err, leftovers(t, fs))
	}
}

// A bound of so many bytes a second is kept to.
func TestSendingIsPaced(t *testing.T) {
	m, stream := leader(t)
	synctest.Test(t, func(t *testing.T) {
		p := pace{perSecond: 100_000}
		began := time.Now()
		for left := len(stream); left > 0; left -= 4096 {
			noError(t, p.wait(t.Context(), min(left, 4096)))
		}
		if took, want := time.Since(began).Seconds(), float64(m.Size)/100_000; took < want*.99 || took > want*1.01 {
			t.Errorf("%d bytes took %.2f s, not %.2f", m.Size, took, want)
		}
		time.Sleep(time.Hour)
		began = time.Now()
		noError(t, p.wait(t.Context(), 100_000))
		if took := time.Since(began); took != time.Second {
			t.Errorf("what was not used is made up for: %v", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.wait(ctx, 1<<30); err == nil {
			t.Error("it waits for ever")
		}
	})
}
