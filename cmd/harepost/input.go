package main

import (
	"context"
	"errors"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// errInterrupted is what a command ends with that the user ended.
var errInterrupted = errors.New("interrupted")

// input is the standard input for whoever reads it: a read ends when the user
// wants the command to end. A terminal or a pipe may say nothing for ever, and
// the system's read is not to be interrupted.
func (sh *shell) input() io.Reader { return interruptible{sh.ctx, sh.in} }

// An interruptible reader reads r until ctx ends. A read that is under way then
// goes on in a goroutine that nobody waits for: the program is about to end, and
// what it still reads is lost, so ctx may end once and for all only.
type interruptible struct {
	ctx context.Context
	r   io.Reader
}

// Read reads into a buffer of its own: p is the caller's again when it returns.
func (i interruptible) Read(p []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	type result struct {
		b   []byte
		err error
	}
	done := make(chan result, 1)
	size := len(p)
	go func() {
		b := make([]byte, size)
		n, err := i.r.Read(b)
		done <- result{b[:n], err}
	}()
	select {
	case got := <-done:
		return copy(p, got.b), got.err
	case <-i.ctx.Done():
		return 0, i.ctx.Err()
	}
}

// An endingFS lets nothing be read any more when ctx has ended: log and state
// know of no context when they are verified, which takes minutes of a large one.
type endingFS struct {
	vfs.FS
	ctx context.Context
}

// Open opens a file for reading.
func (fs endingFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := fs.FS.Open(name, opts...)
	if err != nil {
		return nil, err
	}
	return endingFile{f, fs.ctx}, nil
}

type endingFile struct {
	vfs.File
	ctx context.Context
}

// Read reads on.
func (f endingFile) Read(p []byte) (int, error) {
	if err := f.ctx.Err(); err != nil {
		return 0, err
	}
	return f.File.Read(p)
}

// ReadAt reads at a place.
func (f endingFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.ctx.Err(); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}
