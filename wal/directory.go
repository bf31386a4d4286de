package wal

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A directory is the log's place on disk, as a name; it holds nothing open.
type directory struct {
	fs  vfs.FS
	dir string
}

func (d directory) path(name string) string { return d.fs.PathJoin(d.dir, name) }

// sync makes creations, renames and removals in the directory durable.
func (d directory) sync() error { return SyncDir(d.fs, d.dir) }

// parent is the directory around it.
func (d directory) parent() string {
	if p := d.fs.PathDir(d.dir); p != "" {
		return p
	}
	return "."
}

// SyncDir makes creations, renames and removals in a directory durable.
func SyncDir(fs vfs.FS, dir string) error {
	f, err := fs.OpenDir(dir)
	if err != nil {
		return fmt.Errorf("open directory %s: %w", dir, err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}

// writeFull treats a short write as the error it is.
func writeFull(f vfs.File, b []byte, off int64) error {
	n, err := f.WriteAt(b, off)
	if err != nil {
		return err
	}
	if n != len(b) {
		return fmt.Errorf("%d of %d bytes at %d: %w", n, len(b), off, io.ErrShortWrite)
	}
	return nil
}

// fillChunkBytes is written, and synced, at a time while a segment is prepared: small enough that a
// commit beside it does not queue behind a whole segment in the disk.
const fillChunkBytes = 1 << 20

// hasRoom is ENOSPC when less than that is free. To fill the disk and then give up would take the room
// from others again and again, from those too that are about to make some.
func (d directory) hasRoom(bytes int64) error {
	usage, err := d.fs.GetDiskUsage(d.dir)
	if err != nil {
		return nil // not every file system can tell; writing will
	}
	if usage.AvailBytes < uint64(bytes) {
		return fmt.Errorf("%d bytes are free, %d are needed: %w", usage.AvailBytes, bytes, syscall.ENOSPC)
	}
	return nil
}

// createFilled makes a zero-filled, synced file of that size, ready to be overwritten: only blocks that
// were written before are overwritten without the filesystem's own journal. stop is asked now and then.
// On error no file is left, if it can be helped.
func (d directory) createFilled(name string, size int64, stop func() bool) (vfs.File, error) {
	f, err := d.fs.Create(d.path(name), vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", name, err)
	}
	if err := fillZero(f, size, stop); err != nil {
		return nil, errors.Join(fmt.Errorf("fill %s: %w", name, err), f.Close(), d.fs.Remove(d.path(name)))
	}
	return f, nil
}

var errStopped = errors.New("stopped")

func fillZero(f vfs.File, size int64, stop func() bool) error {
	if err := f.Preallocate(0, size); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	zeros := make([]byte, min(size, fillChunkBytes))
	for off := int64(0); off < size; off += int64(len(zeros)) {
		if stop() {
			return errStopped
		}
		if err := writeFull(f, zeros[:min(int64(len(zeros)), size-off)], off); err != nil {
			return err
		}
		if err := f.SyncData(); err != nil {
			return err
		}
	}
	return f.Sync()
}

// listing is what lies in the directory, sorted by what it is.
type listing struct {
	segments  []string
	spares    []string // prepared or recycled, and unfinished files: never part of the log
	strangers []string // names ending like a segment's that are none
	meta      bool
}

func (d directory) list() (listing, error) {
	names, err := d.fs.List(d.dir)
	if err != nil {
		return listing{}, err
	}
	var l listing
	for _, name := range names {
		switch {
		case name == metaName:
			l.meta = true
		case strings.HasSuffix(name, spareSuffix), strings.HasSuffix(name, tempSuffix):
			l.spares = append(l.spares, name)
		case strings.HasSuffix(name, segmentSuffix):
			if _, _, ok := parseSegmentName(name); ok {
				l.segments = append(l.segments, name)
			} else {
				l.strangers = append(l.strangers, name)
			}
		}
	}
	return l, nil
}
