package bench

import (
	"crypto/rand"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestCPUOfStat(t *testing.T) {
	check := func(stat string, want time.Duration) {
		t.Helper()
		if got, err := cpuOfStat([]byte(stat)); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", stat, got, err, want)
		}
	}
	check("7 (a) S 1 7 7 0 -1 4 100 0 0 0 150 50 0 0 20", 2*time.Second)
	check("7 (a ) S 9 (b) S 1 7 7 0 -1 4 100 0 0 0 1 2 0 0 20", 30*time.Millisecond)
	for _, bad := range []string{"", "7 (a) S 1", "7 (a) S 1 7 7 0 -1 4 100 0 0 0 x 50 0 0"} {
		if got, err := cpuOfStat([]byte(bad)); err == nil {
			t.Errorf("%q: %s", bad, got)
		}
	}
}

func TestWrittenOfStat(t *testing.T) {
	got, err := writtenOfStat([]byte("  120 3 4096 50   80 20 2048 70 0 90 120 0 0 0 0 10 5\n"))
	if err != nil || got != 2048*512 {
		t.Errorf("%d, %v; want %d", got, err, 2048*512)
	}
	for _, bad := range []string{"", "1 2 3 4 5 6", "1 2 3 4 5 6 x"} {
		if got, err := writtenOfStat([]byte(bad)); err == nil {
			t.Errorf("%q: %d", bad, got)
		}
	}
}

// What is written and flushed must show in the disk's count: others may add to
// it, nobody takes away.
func TestDiskCountsWhatIsFlushed(t *testing.T) {
	d := findDisk(t.TempDir())
	if d.name == "" {
		t.Skip("no block device is known below the temporary directory")
	}
	before, err := d.writtenBytes()
	if err != nil {
		t.Fatal(err)
	}
	const size = 4 << 20
	noise := make([]byte, size)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.dir, "noise"), noise, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.flush(); err != nil {
		t.Fatal(err)
	}
	after, err := d.writtenBytes()
	if err != nil || after < before+size {
		t.Errorf("the disk wrote %d bytes more after %d were flushed, %v", after-before, size, err)
	}
}

func TestUsageOfThisProcess(t *testing.T) {
	before, err := readUsage(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	// The kernel's other account of the same is the measure of the work.
	const work = 100 * time.Millisecond
	for start, sum := ownCPU(t), 0.0; ownCPU(t)-start < work; {
		for range 1000 {
			sum += math.Sqrt(sum + 2)
		}
	}
	after, err := readUsage(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if spent := after.CPU - before.CPU; spent < work-2*clockTick || spent > work+time.Second {
		t.Errorf("%s of work cost %s", work, spent)
	}
	if after.RSSBytes < 1<<20 || after.PeakRSSBytes < after.RSSBytes/2 {
		t.Errorf("RSS %d, peak %d", after.RSSBytes, after.PeakRSSBytes)
	}
}

func ownCPU(t *testing.T) time.Duration {
	t.Helper()
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		t.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func TestMedian(t *testing.T) {
	check := func(want float64, values ...float64) {
		t.Helper()
		if got := median(values); got != want {
			t.Errorf("median of %v is %g, want %g", values, got, want)
		}
	}
	check(0)
	check(2, 3, 1, 2)
	check(2.5, 4, 1)
}

func TestLatencyHistogram(t *testing.T) {
	r := newLatencyRecorder()
	for ms := range 1000 {
		r.record(uint32(ms), time.Duration(ms+1)*time.Millisecond)
	}
	r.record(0, 0)
	r.record(0, 100*longestLatency) // counted as the longest, not dropped
	s := r.distribution()
	near := func(name string, got, want float64) {
		if math.Abs(got-want) > want/100 {
			t.Errorf("%s is %.3f ms, want %.3f", name, got, want)
		}
	}
	near("p50", quantile(s, 50), 500)
	near("p99", quantile(s, 99), 990)
	near("max", s.MaxMS, float64(longestLatency.Milliseconds()))
	if s.Count != 1002 {
		t.Errorf("%d recorded, want 1,002", s.Count)
	}
}
