package torture

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A disk is where a node's data lies.
type disk interface {
	dir() string

	// fill leaves so many bytes free; drain frees the rest again.
	fill(leave int64) error
	drain() error

	// wear has the disk fail whatever it has to find new blocks for, as one does
	// whose last spare sector is gone; mend ends that and checks the file system.
	// Nobody may use the disk while it is mended.
	wear() error
	mend(ctx context.Context) error

	// lose removes everything.
	lose() error
}

// A plainDisk is a directory on this machine's disk. It cannot be filled or broken.
type plainDisk string

var errNoDisk = errors.New("torture: the nodes have no disks of their own")

func (d plainDisk) dir() string                { return string(d) }
func (d plainDisk) fill(int64) error           { return errNoDisk }
func (d plainDisk) drain() error               { return errNoDisk }
func (d plainDisk) wear() error                { return errNoDisk }
func (d plainDisk) mend(context.Context) error { return errNoDisk }
func (d plainDisk) lose() error                { return empty(string(d)) }

func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// A loopDisk is an ext4 in a file, as sparse as the kernel keeps it, in a memory
// file system that is as large as the ext4 at first. Made smaller, down to what
// is used, it has no room for a block that the ext4 has not had before: the block
// device then answers a write with EIO, which the ext4 reports to fsync, once.
//
//	back/      tmpfs, whose size is the screw
//	back/image
//	data/      the ext4 in it, mounted with discard, so that freed blocks go back
type loopDisk struct {
	back, data string
	mebibytes  int
}

// spareMebibytes is what the memory file system has beyond the ext4's size.
const spareMebibytes = 16

func makeLoopDisk(ctx context.Context, parent string, mebibytes int) (*loopDisk, error) {
	d := &loopDisk{back: filepath.Join(parent, "back"), data: filepath.Join(parent, "data"), mebibytes: mebibytes}
	for _, dir := range []string{d.back, d.data} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	for _, args := range [][]string{
		{"mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%dm", mebibytes+spareMebibytes), "none", d.back},
		{"truncate", "-s", fmt.Sprintf("%dM", mebibytes), d.image()},
		{"mkfs.ext4", "-q", "-m", "0", "-J", "size=16", d.image()},
	} {
		if err := output(exec.CommandContext(ctx, args[0], args[1:]...)); err != nil {
			return nil, err
		}
	}
	return d, d.mount(ctx)
}

func (d *loopDisk) image() string { return filepath.Join(d.back, "image") }
func (d *loopDisk) dir() string   { return d.data }

func (d *loopDisk) mount(ctx context.Context) error {
	return output(exec.CommandContext(ctx, "mount", "-o", "loop,discard", d.image(), d.data))
}

func (d *loopDisk) ballast() string { return filepath.Join(d.data, "ballast") }

// fill takes space in steps: the file system needs some itself to do so.
func (d *loopDisk) fill(leave int64) error {
	f, err := os.Create(d.ballast())
	if err != nil {
		return err
	}
	defer f.Close()
	size := int64(0)
	for step := int64(64 << 20); step >= 256<<10; {
		var s unix.Statfs_t
		if err := unix.Statfs(d.data, &s); err != nil {
			return fmt.Errorf("torture: size of a disk: %w", err)
		}
		if int64(s.Bfree)*s.Bsize < leave+step {
			step /= 2
			continue
		}
		switch err := unix.Fallocate(int(f.Fd()), 0, size, step); {
		case errors.Is(err, unix.ENOSPC):
			step /= 2
		case err != nil:
			return fmt.Errorf("torture: fill a disk: %w", err)
		default:
			size += step
		}
	}
	return nil
}

func (d *loopDisk) drain() error { return os.Remove(d.ballast()) }

func (d *loopDisk) wear() error {
	var s unix.Statfs_t
	if err := unix.Statfs(d.back, &s); err != nil {
		return fmt.Errorf("torture: size of a disk: %w", err)
	}
	used := int64(s.Blocks-s.Bfree) * s.Bsize
	// What is written between the two calls may take a little more.
	return d.resize(context.Background(), used>>10+256)
}

func (d *loopDisk) resize(ctx context.Context, kibibytes int64) error {
	return output(exec.CommandContext(ctx, "mount", "-o", fmt.Sprintf("remount,size=%dk", kibibytes), d.back))
}

func (d *loopDisk) mend(ctx context.Context) error {
	if err := d.resize(ctx, int64(d.mebibytes+spareMebibytes)<<10); err != nil {
		return err
	}
	if err := output(exec.CommandContext(ctx, "umount", d.data)); err != nil {
		return err
	}
	// 1 is "errors corrected".
	check := exec.CommandContext(ctx, "e2fsck", "-f", "-y", d.image())
	if err := output(check); err != nil && check.ProcessState.ExitCode() != 1 {
		return err
	}
	return d.mount(ctx)
}

func (d *loopDisk) lose() error { return empty(d.data) }
