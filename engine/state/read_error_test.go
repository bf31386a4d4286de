package state

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/command"
)

// A disk error while a key is looked for must not read as "no such key".
func TestAReadErrorIsNoAbsentKey(t *testing.T) {
	mem := vfs.NewMem()
	h := newHistory(31)
	for i := range 6000 {
		h.accept()
		_, r, err := command.Parse(h.log[len(h.log)-1].Command)
		if err != nil {
			t.Fatal(err)
		}
		c, err := command.ReadAccept(&r)
		if err != nil {
			t.Fatal(err)
		}
		c.Idempotent, c.Hash, c.Stored = true, [16]byte{byte(i), byte(i >> 8)}, false
		h.log[len(h.log)-1].Command = command.AppendAccept(nil, &c)
	}
	s := openState(t, mem, Options{})
	applyAll(t, s, h.rng, h.log, 10)
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	m := h.live[3000]
	a, at := account.ID(m.rec.Account), m.rec.ID.Time()
	for n := int64(1); n < 30; n++ {
		copied := vfs.NewMem()
		if ok, err := vfs.Clone(mem, copied, "state", "state", vfs.CloneSync); err != nil || !ok {
			t.Fatal(ok, err)
		}
		var left atomic.Int64
		left.Store(-1)
		var hit atomic.Pointer[string] // Pebble reads in the background too
		fs := errorfs.Wrap(copied, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind == errorfs.OpFileReadAt && strings.HasSuffix(op.Path, ".sst") && left.Load() > 0 && left.Add(-1) == 0 {
				hit.Store(&op.Path)
				return errors.New("EIO")
			}
			return nil
		}))
		s2, err := Open("state", Options{FS: fs, Logger: quiet, CacheBytes: 1 << 20, MemTableBytes: 256 << 10, Failed: func(err error) { t.Log("Failed:", err) }})
		if err != nil {
			t.Fatal(err)
		}
		left.Store(n)
		_, found, err := s2.Idempotent(a, [16]byte{3000 & 255, 3000 >> 8}, at.Add(time.Hour), 24*time.Hour)
		failed := hit.Load()
		if failed != nil && err == nil && !found {
			t.Errorf("read %d failed (%s): found %v, err %v: the send would be taken twice", n, *failed, found, err)
		}
		s2.Close()
		if failed == nil {
			break
		}
	}
}

// A copy that the disk does not take whole is an error, at whatever write it fails, and the state goes on.
func TestACheckpointThatTheDiskDoesNotTake(t *testing.T) {
	broken := errors.New("the disk is broken")
	var left atomic.Int64
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && strings.Contains(op.Path, "copy") && left.Add(-1) == 0 {
			return broken
		}
		return nil
	}))
	s := openState(t, fs, Options{})
	h := newHistory(1)
	for range 200 {
		h.step()
	}
	applyAll(t, s, h.rng, h.log, 10)
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	n := int64(1)
	for ; ; n++ {
		left.Store(n)
		if _, _, err := s.Checkpoint(fmt.Sprint("copy", n)); err == nil {
			break
		} else if !errors.Is(err, broken) {
			t.Fatalf("write %d fails: %v", n, err)
		}
		if _, _, err := s.Checkpoint(fmt.Sprint("another", n)); err != nil {
			t.Fatalf("after write %d has failed: %v", n, err)
		}
	}
	if n < 8 {
		t.Errorf("a copy is made of %d writes", n)
	}
}
