package bench

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// A Machine says where a Report was made. Numbers without it mean nothing.
type Machine struct {
	CPU         string `json:"cpu"`
	CPUs        int    `json:"cpus"`
	MemoryBytes uint64 `json:"memory_bytes"`
	Kernel      string `json:"kernel"`
	Go          string `json:"go"`
	Filesystem  string `json:"filesystem"` // of the data directories
	Disk        string `json:"disk"`       // below it; empty: not known, and nothing is said of bytes written
	// LoadAverage is that of the minute before: above a few tenths, somebody
	// else was at work and the numbers are worth less.
	LoadAverage string `json:"load_average"`
}

// String is the machine in a line.
func (m Machine) String() string {
	return fmt.Sprintf("%s, %d CPUs, %.0f GiB, %s, %s, data on %s (%s), load average before %s",
		m.CPU, m.CPUs, float64(m.MemoryBytes)/(1<<30), m.Kernel, m.Go, m.Filesystem, cmp.Or(m.Disk, "unknown disk"), cmp.Or(m.LoadAverage, "unknown"))
}

// inMemory are the file systems whose sync costs nothing.
var inMemory = map[string]bool{"tmpfs": true, "ramfs": true}

// describeMachine fills in what it can find out; what it cannot stays empty,
// since no measurement depends on it.
func describeMachine(dir string) Machine {
	m := Machine{CPUs: runtime.NumCPU(), Go: runtime.Version(), CPU: runtime.GOARCH, Filesystem: filesystem(dir), Disk: findDisk(dir).name}
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	if info, err := os.ReadFile("/proc/meminfo"); err == nil {
		if kib, err := lineValue(info, "MemTotal:"); err == nil {
			m.MemoryBytes = kib << 10
		}
	}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		m.Kernel = fmt.Sprintf("%s %s", unix.ByteSliceToString(uts.Sysname[:]), unix.ByteSliceToString(uts.Release[:]))
	}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.LoadAverage, _, _ = strings.Cut(string(bytes.TrimSpace(load)), " ")
	}
	return m
}

// filesystem names the file system that holds dir.
func filesystem(dir string) string {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return "unknown"
	}
	switch int64(fs.Type) {
	case unix.EXT4_SUPER_MAGIC:
		return "ext4"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	case unix.RAMFS_MAGIC:
		return "ramfs"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlay"
	default:
		return fmt.Sprintf("type %#x", fs.Type)
	}
}
