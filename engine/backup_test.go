package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/harepost/harepost/engine/backup"
)

// unpack writes a backup's files into a directory of fs.
func unpack(t testing.TB, fs vfs.FS, dir string, from io.Reader) backup.Summary {
	t.Helper()
	for _, sub := range []string{backup.StateDir, backup.LogDir} {
		if err := fs.MkdirAll(fs.PathJoin(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	seen, err := backup.Read(from, func(name string) (io.WriteCloser, error) {
		return fs.Create(fs.PathJoin(dir, name), vfs.WriteCategoryUnspecified)
	})
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

// acknowledged is the ids of sends that were answered.
type acknowledged struct {
	mu   sync.Mutex
	ids  []DeliveryID
	more chan struct{} // a signal, for one
}

func (a *acknowledged) add(id DeliveryID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ids = append(a.ids, id)
	select {
	case a.more <- struct{}{}:
	default:
	}
}

// wait returns what there is once it is n of them.
func (a *acknowledged) wait(n int) []DeliveryID {
	for range a.more {
		a.mu.Lock()
		ids := slices.Clone(a.ids)
		a.mu.Unlock()
		if len(ids) >= n {
			return ids
		}
	}
	return nil
}

// Sends, attempts and retries go on while backups are made. Each backup opens, and
// has everything that was acknowledged before it began; so has what a power cut in
// the middle of one leaves of the engine itself.
func TestBackupUnderLoad(t *testing.T) {
	target := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		if b, _ := io.ReadAll(r.Body); len(b)%3 == 0 {
			w.WriteHeader(http.StatusServiceUnavailable) // some stay pending
		}
	})
	fs := vfs.NewCrashableMem()
	e := openEngine(t, testOptions(t, fs))
	a := newAccount(t, e)
	ctx, cancel := context.WithCancel(context.Background())
	acked := acknowledged{more: make(chan struct{}, 1)}
	var load sync.WaitGroup
	defer load.Wait()
	defer cancel()
	for worker := range 4 {
		load.Go(func() {
			body := bytes.Repeat([]byte("x"), 600)
			for i := 0; ctx.Err() == nil; i++ {
				s := sendTo(target, string(body[:100+(7*worker+i)%500]))
				s.Policy.MaxAttempts = 25
				r, err := e.Send(ctx, a, s)
				if ctx.Err() != nil {
					return // it was given up at the gate, or is not looked for
				}
				if err != nil {
					t.Errorf("send during backups: %v", err)
					return
				}
				acked.add(r.ID)
			}
		})
	}
	for round := range 3 {
		before := acked.wait(100 * (round + 1))
		b, err := e.Backup(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Backup(ctx); !errors.Is(err, ErrBackupRunning) {
			t.Fatalf("a second backup: %v", err)
		}
		var out bytes.Buffer
		if err := b.Write(ctx, &out); err != nil {
			t.Fatal(err)
		}
		cut := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(uint64(round), 1))})
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		restored := vfs.NewMem()
		seen := unpack(t, restored, "data", &out)
		if seen.Manifest.Index == 0 || seen.Manifest.Encrypted || seen.Bytes != b.Bytes() {
			t.Errorf("%+v, %d bytes", seen, b.Bytes())
		}
		holdsAll(t, restored, a, before)
		holdsAll(t, cut, a, before)
		if names, _ := cut.List("data"); slices.Contains(names, backupDir) {
			t.Errorf("a start leaves %s of a life that was cut short", backupDir)
		}
	}
	if names, err := fs.List("data"); err != nil || slices.Contains(names, backupDir) {
		t.Errorf("%s is left: %q, %v", backupDir, names, err)
	}
}

// holdsAll opens the engine in fs and looks for the deliveries.
func holdsAll(t *testing.T, fs vfs.FS, a AccountID, ids []DeliveryID) {
	t.Helper()
	e, err := Open("data", testOptions(t, fs))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, id := range ids {
		d, err := e.Delivery(context.Background(), a, id, ReadOptions{Payload: true})
		if err != nil || len(d.Body) == 0 {
			t.Fatalf("%s was acknowledged before the backup: %d bytes, %v", id, len(d.Body), err)
		}
	}
}

// While a backup is put together the log keeps what the state says it need not,
// and afterwards lets go of it.
func TestBackupHoldsTheLogBack(t *testing.T) {
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	o := testOptions(t, vfs.NewMem())
	o.LogSegmentBytes = 64 << 10
	e := openEngine(t, o)
	a := newAccount(t, e)
	e.backups.hold()
	noise := make([]byte, 8<<10)
	rand.NewChaCha8([32]byte{}).Read(noise) // does not compress
	for range 100 {
		r, err := e.Send(context.Background(), a, sendTo(target, string(noise)))
		if err != nil {
			t.Fatal(err)
		}
		await(t, e, a, r.ID)
	}
	for e.backups.lowNow() < 50 { // until a flush has let go of half of it
		if err := e.state().Flush(); err != nil {
			t.Fatal(err)
		}
	}
	held := e.log.Bytes()
	if held < 100*8<<10 {
		t.Errorf("the log has %d bytes: it let go of some", held)
	}
	e.letGo()
	if now := e.log.Bytes(); now > held/2+2*o.LogSegmentBytes {
		t.Errorf("the log has %d bytes of %d, which it need not keep any more", now, held)
	}
}

func (b *backups) lowNow() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.low
}

// With a key file nothing in a backup is in clear text, and it opens with the key
// only.
func TestBackupStaysSealed(t *testing.T) {
	const secret = "the quick brown payload"
	target := receiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	o := testOptions(t, vfs.NewMem())
	o.Keyring = newKeyring(t, newKeyLine(t, "k1"))
	e := openEngine(t, o)
	a := newAccount(t, e)
	r, err := e.Send(context.Background(), a, sendTo(target, secret))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	b, err := e.Backup(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Write(context.Background(), &out), b.Close()); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(out.Bytes(), []byte(secret)) {
		t.Error("the payload is in the backup in clear text")
	}
	restored := vfs.NewMem()
	if seen := unpack(t, restored, "data", &out); !seen.Manifest.Encrypted {
		t.Errorf("%+v", seen.Manifest)
	}
	if e, err := Open("data", testOptions(t, restored)); err == nil {
		t.Error("it opens without the key")
		e.Close()
	}
	again := testOptions(t, restored)
	again.Keyring = o.Keyring
	e = openEngine(t, again)
	d, err := e.Delivery(context.Background(), a, r.ID, ReadOptions{Payload: true})
	if err != nil || string(d.Body) != secret {
		t.Errorf("%q, %v", d.Body, err)
	}
}

// Whoever takes the backup goes away: the error is theirs, and nothing is left.
func TestBackupWhoseReaderGoesAway(t *testing.T) {
	fs := vfs.NewMem()
	e := openEngine(t, testOptions(t, fs))
	newAccount(t, e)
	gone := errors.New("gone")
	for room := range 20 {
		b, err := e.Backup(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Write(context.Background(), &shortWriter{room * 512, gone}); !errors.Is(err, gone) {
			t.Errorf("room for %d bytes: %v", room*512, err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	b, err := e.Backup(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := b.Write(ctx, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	b.Close()
	if names, _ := fs.List("data"); slices.Contains(names, backupDir) {
		t.Errorf("%s is left", fmt.Sprint(names))
	}
}

// shortWriter takes so many bytes and no more.
type shortWriter struct {
	room int
	err  error
}

func (n *shortWriter) Write(p []byte) (int, error) {
	if n.room -= len(p); n.room < 0 {
		return 0, n.err
	}
	return len(p), nil
}
