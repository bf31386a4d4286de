package engine

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// A disk says how large it is and what is free, whatever is written to it.
type disk struct {
	vfs.FS
	total uint64
	free  atomic.Uint64
	looks atomic.Int64 // of the engine's, not of Pebble's
}

func (d *disk) GetDiskUsage(dir string) (vfs.DiskUsage, error) {
	free := d.free.Load()
	if dir == "data" {
		d.looks.Add(1)
	}
	return vfs.DiskUsage{AvailBytes: free, TotalBytes: d.total, UsedBytes: d.total - free}, nil
}

// Sends are refused before the disk is full, so that what is dropped can become
// room again, and for as long as it takes to have some to spare.
func TestAPartOfTheDiskIsKeptFree(t *testing.T) {
	d := &disk{FS: vfs.NewMem(), total: 1 << 30}
	d.free.Store(1 << 29)
	e := openEngine(t, testOptions(t, d))
	a, ctx := newAccount(t, e), context.Background()
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	sends := func(free uint64, taken bool) {
		t.Helper()
		d.free.Store(free)
		e.watchSpace()
		r, err := e.Send(ctx, a, sendTo(target, "x"))
		if !taken && !errors.Is(err, ErrOverloaded) || taken && err != nil {
			t.Errorf("with %d bytes free: %v", free, err)
		}
		if err == nil {
			await(t, e, a, r.ID) // deliveries go on
		}
	}
	part := d.total / reservePart
	sends(part+1<<20, true)
	sends(part-1, false)
	sends(part+1<<20, false) // or it would be refused and taken in turns
	sends(part+part/4+1<<20, true)
	sends(0, false)
	sends(1<<29, true)
}

// What comes in between two looks at the disk is counted.
func TestABurstDoesNotFillTheDisk(t *testing.T) {
	d := &disk{FS: vfs.NewMem(), total: 1 << 30}
	part := d.total / reservePart
	d.free.Store(part + 6<<20)
	e := openEngine(t, testOptions(t, d))
	a, ctx := newAccount(t, e), context.Background()
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	before := d.looks.Load()
	e.watchSpace()
	var taken int
	for ; taken < 100; taken++ {
		if _, err := e.Send(ctx, a, sendTo(target, noise(taken, 100_000))); errors.Is(err, ErrOverloaded) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	// The keeper looks meanwhile, and this disk always has as much to spare.
	looks := int(d.looks.Load() - before)
	if most := looks * (6 << 20 / writtenAs / 100_000); taken == 0 || taken > most+looks {
		t.Errorf("%d sends of 100 KB were taken with 6 MiB to spare, want up to %d", taken, most+looks)
	}
}

// A send that is larger than a small log takes is refused by itself, and nobody
// has to wonder what became of it.
func TestASendThatIsTooLargeIsRefusedByItself(t *testing.T) {
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	o := testOptions(t, vfs.NewMem())
	o.LogSegmentBytes, o.MaxDataBytes = 0, 64<<20
	e := openEngine(t, o)
	a, ctx := newAccount(t, e), context.Background()
	if _, err := e.Send(ctx, a, sendTo(target, noise(1, 3<<20))); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a send of 3 MiB: %v", err)
	}
	large := sendTo(target, noise(1, 3<<20))
	large.IdempotencyKey = "large"
	results := make([]SendResult, 3)
	e.SendBatch(ctx, a, []*Send{sendTo(target, "a"), large, sendTo(target, "b")}, results)
	if results[0].Err != nil || !errors.Is(results[1].Err, ErrTooLarge) || results[2].Err != nil {
		t.Errorf("a batch of three with a large one in the middle: %v, %v, %v", results[0].Err, results[1].Err, results[2].Err)
	}
	if _, err := e.Send(ctx, a, large); !errors.Is(err, ErrTooLarge) { // its key holds nobody up
		t.Errorf("again, with its key: %v", err)
	}
}

// A backup on a full disk ends with whoever asked for it, and the next may be
// tried at once.
func TestABackupEndsOnAFullDisk(t *testing.T) {
	var full atomic.Bool
	inject := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if full.Load() && strings.HasSuffix(op.Path, ".sst") && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return syscall.ENOSPC
		}
		return nil
	})
	e := openEngine(t, testOptions(t, errorfs.Wrap(vfs.NewMem(), inject)))
	newAccount(t, e)
	full.Store(true)
	for range 2 {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		b, err := e.Backup(ctx)
		cancel()
		if err == nil {
			err = b.Close()
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("backup: %v", err)
		}
	}
	full.Store(false)
}

// While a full disk takes no table, asking for flushes again and again keeps
// nobody waiting: accounts are made, and the engine closes.
func TestFlushesOnAFullDiskKeepNobodyWaiting(t *testing.T) {
	var full atomic.Bool
	inject := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if full.Load() && strings.HasSuffix(op.Path, ".sst") && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return syscall.ENOSPC
		}
		return nil
	})
	e := openEngine(t, testOptions(t, errorfs.Wrap(vfs.NewMem(), inject)))
	full.Store(true)
	defer full.Store(false)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 10 { // more than Pebble keeps memtables for
			newAccount(t, e)
			if err := e.state().FlushSoon(); err != nil {
				t.Errorf("flush: %v", err)
			}
		}
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("a flush waits for room")
		full.Store(false)
		<-done
	}
}

// The sizes of the log and of memtables leave a small disk to the data.
func TestSizesFollowASmallDisk(t *testing.T) {
	sizes := func(total uint64, limit, segment, logBytes, reserve int64) {
		t.Helper()
		o := Options{FS: &disk{FS: vfs.NewMem(), total: total}, MaxDataBytes: limit}
		if got := o.fitSizes("data"); got != reserve || o.LogSegmentBytes != segment || o.LogBytes != logBytes || o.State.MemTableBytes != min(segment, 32<<20) ||
			o.State.YoungLogBytes > logBytes/2 {
			t.Errorf("disk of %d, limit %d: reserve %d, segments %d, log %d, %+v", total, limit, got, o.LogSegmentBytes, o.LogBytes, o.State)
		}
	}
	sizes(1<<40, 0, 64<<20, 512<<20, 1<<30)
	sizes(256<<20, 0, 8<<20, 64<<20, 256<<20/10)
	sizes(1<<40, 256<<20, 8<<20, 64<<20, 1<<30)
	sizes(7<<20, 0, 1<<20, 7<<20/4, 7<<20/10)
}
