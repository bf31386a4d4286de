package wal

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// The real thing: ext4 on a loop device whose backing file lies on a full tmpfs. fdatasync fails with
// EIO, the second one would succeed with nothing written, and reads show what is not there. The log
// fails at the first error, and after a restart on the repaired device everything acknowledged is there.
func TestRealDiskThatLosesWrites(t *testing.T) {
	t.Run("while a segment is prepared", func(t *testing.T) {
		loseWrites(t, 24<<20, func(t *testing.T, back string) {}, false)
	})
	t.Run("while entries are committed", func(t *testing.T) {
		// The prepared zeros lose their place in the backing file, and a filler takes it. Here the disk also
		// lies: the loop driver takes a write for complete of which the backing file had room for the first
		// pages only, so that a commit may be synced, as far as anyone can tell, and be gone. That no log can
		// prevent; but it must not open as if nothing were missing.
		loseWrites(t, 2<<20, func(t *testing.T, back string) {
			run(t, false, "sync")
			run(t, true, "fallocate", "--dig-holes", back)
			run(t, false, "sh", "-c", "head -c 100M /dev/zero >"+filepath.Dir(back)+"/filler || true")
		}, true)
	})
}

func loseWrites(t *testing.T, segmentBytes int64, spoil func(t *testing.T, back string), lies bool) {
	if os.Getuid() != 0 {
		t.Skip("needs root for tmpfs and loop mounts")
	}
	for _, tool := range []string{"losetup", "mkfs.ext4", "mount", "umount"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s: %v", tool, err)
		}
	}
	base := t.TempDir()
	pool, mnt := filepath.Join(base, "pool"), filepath.Join(base, "mnt")
	for _, dir := range []string{pool, mnt} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run(t, true, "mount", "-t", "tmpfs", "-o", "size=16m", "none", pool)
	t.Cleanup(func() { run(t, false, "umount", "-l", pool) })
	back := filepath.Join(pool, "back.img")
	run(t, false, "truncate", "-s", "64M", back)
	run(t, false, "mkfs.ext4", "-q", "-J", "size=4", back)
	device := strings.TrimSpace(run(t, true, "losetup", "--find", "--show", back))
	t.Cleanup(func() { run(t, false, "losetup", "-d", device) })
	run(t, true, "mount", device, mnt)
	t.Cleanup(func() { run(t, false, "umount", "-l", mnt) })

	acked, failure := fillUntilFailure(t, filepath.Join(mnt, "wal"), segmentBytes, func() { spoil(t, back) })
	t.Logf("%d entries acknowledged, then: %v", acked, failure)
	if !errors.Is(failure, syscall.EIO) && !errors.Is(failure, syscall.ENOSPC) && !errors.Is(failure, syscall.EROFS) {
		t.Errorf("the log failed for another reason: %v", failure)
	}

	// The device gets its room back; the page cache goes, as in a power cut.
	run(t, false, "umount", mnt)
	run(t, false, "rm", "-f", filepath.Join(pool, "filler"))
	run(t, false, "mount", "-o", "remount,size=100m", pool)
	run(t, false, "mount", device, mnt)
	l, err := Open(filepath.Join(mnt, "wal"), Options{Logger: quiet, AppliedIndex: Index(acked)})
	if lies && errors.Is(err, ErrBehind) {
		t.Logf("refused: %v", err)
		return
	}
	if err != nil {
		t.Fatalf("after %d acknowledged entries: %v", acked, err)
	}
	defer mustClose(t, l)
	n := 0
	err = l.Replay(0, func(e Entry) error {
		n++
		if want := payload(1, e.Index, 200_000); string(want) != string(e.Data) {
			return fmt.Errorf("entry %d came back changed", e.Index)
		}
		return nil
	})
	if err != nil || n < acked {
		t.Errorf("%d entries were acknowledged, %d came back: %v", acked, n, err)
	}
}

func fillUntilFailure(t *testing.T, dir string, segmentBytes int64, spoil func()) (acked int, failure error) {
	w := newWitness()
	l, err := Open(dir, w.watch(Options{SegmentBytes: segmentBytes, Compression: CompressionNone}))
	if err != nil {
		t.Fatal(err)
	}
	l.Start()
	for i := Index(1); i < 1000; i++ {
		if i == 3 {
			l.waitPrepared() // nothing else writes while the disk is spoiled
			spoil()
		}
		if failure = l.AppendWait(Entry{Data: payload(1, i, 200_000)}); failure != nil {
			break
		}
		if failure = w.wait(int(i)); failure != nil {
			break
		}
	}
	if err := l.Close(); !errors.Is(err, ErrFailed) {
		t.Errorf("Close of the failed log gave %v", err)
	}
	if w.late {
		t.Error("something was acknowledged after the failure")
	}
	return w.count(), failure
}

// run gives a command's output. Where the machine may not allow it, a failure skips the test.
func run(t *testing.T, maySkip bool, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil && maySkip {
		t.Skipf("this machine does not allow %s %v: %v: %s", name, args, err, out)
	}
	if err != nil {
		t.Errorf("%s %v: %v: %s", name, args, err, out)
	}
	return string(out)
}
