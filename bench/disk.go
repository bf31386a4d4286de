package bench

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// A disk is the block device below a directory, as far as Linux tells. What it
// counts is what reached the device, from whoever on the machine: the round of
// the forwarder, which writes nothing, shows what the others wrote meanwhile.
//
// The obvious source, write_bytes in /proc/<pid>/io, is of no use: the kernel
// adds the size of the whole folio each time one is dirtied, and with ext4's
// large folios a log that syncs 10 KiB at a time is billed megabytes for it. It
// read 230 bytes for each byte of payload where the device had got about 2.
type disk struct {
	name string // empty: not known, as below overlay file systems
	dir  string
}

// findDisk returns the disk that holds dir.
func findDisk(dir string) disk {
	d := disk{dir: dir}
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return d
	}
	link, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev))))
	if err == nil {
		d.name = filepath.Base(link)
	}
	return d
}

// writtenBytes is what the device has written since the machine started; 0
// where the device is not known.
func (d disk) writtenBytes() (uint64, error) {
	if d.name == "" {
		return 0, nil
	}
	stat, err := os.ReadFile("/sys/class/block/" + d.name + "/stat")
	if err != nil {
		return 0, fmt.Errorf("bench: what %s wrote: %w", d.name, err)
	}
	return writtenOfStat(stat)
}

// writtenOfStat reads the seventh field of a block device's stat: sectors
// written, of 512 bytes whatever the device's own size is.
func writtenOfStat(stat []byte) (uint64, error) {
	fields := bytes.Fields(stat)
	if len(fields) < 7 {
		return 0, fmt.Errorf("bench: a block device's stat has %d fields", len(fields))
	}
	sectors, err := strconv.ParseUint(string(fields[6]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("bench: a block device's stat: %w", err)
	}
	return sectors * 512, nil
}

// flush writes out everything that the file system still holds in memory, so
// that it counts now and not in a later sample.
func (d disk) flush() error {
	dir, err := os.Open(d.dir)
	if err != nil {
		return fmt.Errorf("bench: flush: %w", err)
	}
	if err := errors.Join(unix.Syncfs(int(dir.Fd())), dir.Close()); err != nil {
		return fmt.Errorf("bench: flush %s: %w", d.dir, err)
	}
	return nil
}
