package bench

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"time"
)

// A usage is what a process has used since its start, from /proc.
type usage struct {
	CPU          time.Duration // user and system, of all threads
	RSSBytes     uint64
	PeakRSSBytes uint64
}

// clockTick is the unit of the CPU times in /proc/<pid>/stat: USER_HZ, which
// Linux fixes at 100 on every architecture Go runs on.
const clockTick = time.Second / 100

func readUsage(pid int) (usage, error) {
	u, err := readProc(pid)
	if err != nil {
		return u, fmt.Errorf("bench: usage of process %d: %w", pid, err)
	}
	return u, nil
}

func readProc(pid int) (u usage, err error) {
	dir := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return u, err
	}
	if u.CPU, err = cpuOfStat(stat); err != nil {
		return u, err
	}
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return u, err
	}
	rss, err := lineValue(status, "VmRSS:")
	if err != nil {
		return u, err
	}
	peak, err := lineValue(status, "VmHWM:")
	if err != nil {
		return u, err
	}
	u.RSSBytes, u.PeakRSSBytes = rss<<10, peak<<10 // both are in KiB
	return u, nil
}

// cpuOfStat reads utime and stime, fields 14 and 15 of proc_pid_stat(5). The
// second field is the program's name, which may hold anything, so fields are
// counted from the last bracket.
func cpuOfStat(stat []byte) (time.Duration, error) {
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("stat has %d fields after the name", len(fields))
	}
	var ticks uint64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseUint(string(field), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("stat: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// lineValue returns the number that follows name at the start of a line.
func lineValue(text []byte, name string) (uint64, error) {
	for line := range bytes.Lines(text) {
		if value, ok := bytes.CutPrefix(line, []byte(name)); ok {
			return strconv.ParseUint(string(bytes.Fields(value)[0]), 10, 64)
		}
	}
	return 0, fmt.Errorf("no %s", name)
}

// settle waits until the process has used next to no CPU for half a second, at
// most limit. So compaction and other work that a system puts off is part of its
// bill.
func settle(ctx context.Context, pid int, limit time.Duration) error {
	const step = 250 * time.Millisecond
	ticker := time.NewTicker(step)
	defer ticker.Stop()
	last, err := readUsage(pid)
	idle := 0
	for waited := time.Duration(0); err == nil && waited < limit && idle < 2; waited += step {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		var u usage
		if u, err = readUsage(pid); err != nil {
			break
		}
		if u.CPU-last.CPU <= clockTick {
			idle++
		} else {
			idle = 0
		}
		last = u
	}
	return err
}
