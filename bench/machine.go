package bench

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/harepost/harepost/bench/report"
)

// inMemory are the file systems whose sync costs nothing.
var inMemory = map[string]bool{"tmpfs": true, "ramfs": true}

// describeMachine fills in what it can find out; what it cannot stays empty,
// since no measurement depends on it.
func describeMachine(dir string) report.Machine {
	m := report.Machine{CPUs: runtime.NumCPU(), CPU: runtime.GOARCH, Filesystem: filesystem(dir), Disk: findDisk(dir).name}
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
