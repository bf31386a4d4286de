package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"syscall"
)

// An output is what a command prints to. It remembers the first error of a
// write, so that no command has to look at each of its own: what it was asked
// for and could not say is a failure, above all a key that is shown once.
type output struct {
	w    io.Writer
	stop context.CancelFunc // ends the command, which would go on for nobody

	mu  sync.Mutex // listen prints from many connections
	err error      // of the first write that failed; later ones are not tried
}

// Write writes, or fails as the first failed write did.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.w.Write(p)
	if err != nil {
		if e, ok := errors.AsType[*fs.PathError](err); ok {
			err = e.Err // the name is /dev/stdout, whatever it is
		}
		o.err = fmt.Errorf("the output could not be written: %w", err)
		o.stop()
	}
	return n, o.err
}

// verdict is how a command ends that returned err: as it says, unless its
// output was lost. Then err is what came of that, or says it itself. Only
// storage that failed is the worse news.
func (o *output) verdict(err error) error {
	o.mu.Lock()
	lost := o.err
	o.mu.Unlock()
	switch {
	case lost == nil || statusOf(err) == exitStorageFailed:
		return err
	case errors.Is(lost, syscall.EPIPE):
		return exitWith(exitFailed, nil) // the reader has what it wanted, as head(1)
	case errors.Is(err, lost):
		return exitWith(exitFailed, err)
	}
	return exitWith(exitFailed, lost)
}

// unwrapped is the stream behind an output, for questions about the stream.
func unwrapped(stream any) any {
	if o, ok := stream.(*output); ok {
		return o.w
	}
	return stream
}

// printJSON prints v for programs that read one answer.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// printJSONLine prints v for programs that read a stream, one value in a line.
func printJSONLine(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
