package raftstore

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/hashicorp/raft"

	"github.com/harepost/harepost/wal"
)

var errDisk = errors.New("the disk is broken")

// A failingStory is a short life of a store whose disk fails at one operation. It knows what was acknowledged.
type failingStory struct {
	s     *Store
	acked uint64 // last entry that StoreLogs acknowledged
	term  uint64 // last one that SetUint64 acknowledged
	tried uint64
	maybe uint64 // term that was being set
	cut   uint64 // first entry of the suffix being deleted, 0: none
}

func (f *failingStory) play() error {
	for round := uint64(1); round <= 6; round++ {
		f.maybe = round
		if err := f.s.SetUint64([]byte("CurrentTerm"), round); err != nil {
			return err
		}
		f.term = round
		logs := entriesOf(round, f.acked+1, f.acked+6, 900)
		f.tried = f.acked + 6
		if err := f.s.StoreLogs(logs); err != nil {
			return err
		}
		f.acked += 6
		if round == 3 {
			f.cut = f.acked - 2
			if err := f.s.DeleteRange(f.cut, f.acked); err != nil {
				return err
			}
			f.acked, f.tried, f.cut = f.cut-1, f.cut-1, 0
		}
		if round == 4 {
			f.s.Hold(10)
			if err := f.s.DeleteRange(1, f.acked-1); err != nil {
				return err
			}
		}
	}
	return nil
}

// Wherever a write, a sync or a directory operation fails: Failed is called once, the call under way and all
// after it block until Close and return an error then, and what was acknowledged is there at the next start.
func TestFailureAtEveryOperation(t *testing.T) {
	ops := 0
	for n := 1; ; n++ {
		stopped := false
		synctest.Test(t, func(t *testing.T) { stopped = failAt(t, n) })
		if !stopped {
			break
		}
		ops++
	}
	t.Logf("%d operations", ops)
	if ops < 40 {
		t.Errorf("only %d operations failed: the test no longer tests much", ops)
	}
}

// failAt lets the n-th operation fail, counted from when the store is open, and tells whether there were so
// many.
func failAt(t *testing.T, n int) bool {
	mem := vfs.NewCrashableMem()
	var mu sync.Mutex
	count := -1 << 30
	arm := func(at int) {
		mu.Lock()
		defer mu.Unlock()
		count = at
	}
	fs := onChange(mem, func(errorfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if count++; count == n {
			return errDisk
		}
		return nil
	})
	failed := newFailures()
	o := smallOptions(fs)
	o.Failed = failed.failed
	s, err := OpenStore(storeDir, o)
	must(t, err)
	arm(0)
	s.Start()
	f := &failingStory{s: s}
	result := make(chan error, 1)
	go func() { result <- f.play() }()
	synctest.Wait()
	select {
	case err := <-result: // to the end; or the preparer's operation has failed, or will fail, behind its back
		must(t, err)
	default:
		if failed.calls() != 1 {
			t.Fatalf("operation %d: a call hangs, Failed was called %d times", n, failed.calls())
		}
	}
	if failed.calls() == 0 {
		err := s.Close()
		if failed.calls() == 0 {
			must(t, err)
			return false
		}
		if err := f.verify(mem); err != nil { // it was Close's own operation
			t.Fatalf("operation %d: %v", n, err)
		}
		return true
	}
	late := make(chan error, 4)
	go func() { late <- s.StoreLogs(entriesOf(9, f.acked+1, f.acked+1, 9)) }()
	go func() { late <- s.SetUint64([]byte("CurrentTerm"), 99) }()
	go func() { late <- s.DeleteRange(f.acked, f.acked) }()
	synctest.Wait()
	if len(late) > 0 {
		t.Fatalf("operation %d: a call after the failure returned: %v", n, <-late)
	}
	if err := s.Close(); !errors.Is(err, errDisk) {
		t.Fatalf("operation %d: Close gave %v", n, err)
	}
	for range 3 {
		if err := <-late; err == nil {
			t.Fatalf("operation %d: a call after the failure was acknowledged", n)
		}
	}
	if failed.calls() != 1 {
		t.Fatalf("operation %d: Failed was called %d times", n, failed.calls())
	}
	arm(-1 << 30)
	if err := f.verify(mem); err != nil {
		t.Fatalf("operation %d: %v", n, err)
	}
	return true
}

// verify opens what is on the disk and looks for all that was acknowledged.
func (f *failingStory) verify(fs vfs.FS) error {
	s, err := OpenStore(storeDir, smallOptions(fs))
	if err != nil {
		return err
	}
	last, _ := s.LastIndex()
	least := f.acked
	if f.cut > 0 {
		least = f.cut - 1 // it may have happened
	}
	if last < least || last > f.tried {
		return fmt.Errorf("the log ends with %d; acknowledged %d, tried %d", last, f.acked, f.tried)
	}
	for i := f.firstNeeded(); i <= last; i++ {
		if err := s.GetLog(i, &raft.Log{}); err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
	}
	term, err := s.GetUint64([]byte("CurrentTerm"))
	if err == ErrKeyNotFound {
		term, err = 0, nil
	}
	if err != nil || term != f.term && term != f.maybe {
		return fmt.Errorf("the term is %d (%w), set were %d and maybe %d", term, err, f.term, f.maybe)
	}
	return s.Close()
}

func (f *failingStory) firstNeeded() uint64 {
	if f.term >= 4 {
		return 10
	}
	return 1
}

// An entry that the log cannot take, or one that does not follow on, is the end as well: raft must not be told
// "no" and go on.
func TestAnImpossibleEntryIsTheEnd(t *testing.T) {
	for name, logs := range map[string][]*raft.Log{
		"too large":    {entryOf(1, 4, wal.MinSegmentBytes)},
		"a gap":        {entryOf(1, 5, 10)},
		"an old index": {entryOf(1, 3, 10)},
		"a gap in it":  {entryOf(1, 4, 10), entryOf(1, 6, 10)},
		"index 0":      {{Term: 1}},
	} {
		synctest.Test(t, func(t *testing.T) {
			failed := newFailures()
			o := smallOptions(vfs.NewMem())
			o.Failed = failed.failed
			s := mustOpenStore(t, o)
			must(t, s.StoreLogs(entriesOf(1, 1, 3, 10)))
			result := make(chan error, 1)
			go func() { result <- s.StoreLogs(logs) }()
			synctest.Wait()
			if failed.calls() != 1 || len(result) > 0 {
				t.Errorf("%s: Failed was called %d times, StoreLogs returned: %v", name, failed.calls(), len(result) > 0)
			}
			if err := s.Close(); err == nil {
				t.Errorf("%s: Close gave no error", name)
			}
			if err := <-result; err == nil {
				t.Errorf("%s: was acknowledged", name)
			}
			if first, last := bounds(t, s); first != 1 || last != 3 {
				t.Errorf("%s: the log has %d to %d", name, first, last)
			}
		})
	}
}

// More than the log's queue holds goes in as there is room.
func TestMoreThanTheQueueHolds(t *testing.T) {
	o := smallOptions(vfs.NewMem())
	o.WAL.QueueBytes = 20 << 10
	o.WAL.MaxEntryBytes = 8 << 10
	s := mustOpenStore(t, o)
	defer mustCloseStore(t, s)
	must(t, s.StoreLogs(entriesOf(1, 1, 100, 2000)))
	if first, last := bounds(t, s); first != 1 || last != 100 {
		t.Errorf("the log has %d to %d", first, last)
	}
}

// A read that fails is the end too, and so is one that meets damage: a follower must not be told that an
// entry is gone.
func TestAFailedReadIsTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		var broken atomic.Bool
		fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if broken.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsRead {
				return errDisk
			}
			return nil
		}))
		failed := newFailures()
		o := smallOptions(fs)
		o.CacheBytes, o.Failed = 1, failed.failed
		s := mustOpenStore(t, o)
		must(t, s.StoreLogs(entriesOf(1, 1, 3, 10)))
		broken.Store(true)
		result := make(chan error, 1)
		go func() { result <- s.GetLog(2, &raft.Log{}) }()
		synctest.Wait()
		if failed.calls() != 1 || len(result) > 0 {
			t.Errorf("Failed was called %d times, GetLog returned: %v", failed.calls(), len(result) > 0)
		}
		if err := s.Close(); !errors.Is(err, errDisk) {
			t.Errorf("Close gave %v", err)
		}
		if err := <-result; !errors.Is(err, errDisk) {
			t.Errorf("GetLog gave %v", err)
		}
	})
}

// Calls that Close overtakes are told so, and Failed is not called.
func TestCloseIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustOpenStore(t, smallOptions(vfs.NewMem()))
		must(t, s.StoreLogs(entriesOf(1, 1, 3, 10)))
		must(t, s.Close())
		must(t, s.Close())
		for name, err := range map[string]error{
			"StoreLogs":   s.StoreLogs(entriesOf(1, 4, 4, 10)),
			"DeleteRange": s.DeleteRange(3, 3),
			"Set":         s.Set([]byte("k"), nil),
		} {
			if !errors.Is(err, ErrClosed) {
				t.Errorf("%s gave %v", name, err)
			}
		}
	})
}
