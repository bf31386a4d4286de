package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// ErrBackupIncomplete says that a backup ended before its end: what was written
// of it is of no use.
var ErrBackupIncomplete = errors.New("backup is incomplete")

// Backup writes a consistent copy of the server's data to w, as a tar stream
// that "harepost restore" reads. It shows Options.AdminToken. Options.Timeout
// bounds how long the server may take to begin, and only the context bounds the
// rest. It checks that the stream has its end; what is in it is for "harepost check". While another backup runs
// it is ErrConflict.
func (c *Client) Backup(ctx context.Context, w io.Writer) error {
	if err := c.backup(ctx, w); err != nil {
		if _, answered := errors.AsType[*Error](err); answered {
			return err
		}
		return fmt.Errorf("client: backup: %w", err)
	}
	return nil
}

func (c *Client) backup(ctx context.Context, w io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	resp, err := c.beginBackup(ctx, cancel)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		answer, err := readAnswer(resp.Body, maxResponseBytes)
		if err != nil {
			return fmt.Errorf("read answer %d: %w", resp.StatusCode, err)
		}
		return newError(resp, answer)
	}
	var end tarEnd
	if _, err := io.Copy(io.MultiWriter(w, &end), resp.Body); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("%w: %w", ErrBackupIncomplete, err)
		}
		return err
	}
	if !end.reached() {
		return fmt.Errorf("%w: the archive has no end", ErrBackupIncomplete)
	}
	return nil
}

// beginBackup returns when the answer has begun, within the time of a call.
func (c *Client) beginBackup(ctx context.Context, cancel func()) (*http.Response, error) {
	req, err := c.request(ctx, call{method: http.MethodGet, path: "/v1/backup", bearer: c.options.AdminToken})
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/x-tar, application/json")
	patient := *c.http
	patient.Timeout = 0
	late := func() bool { return false }
	if c.http.Timeout > 0 {
		timer := time.AfterFunc(c.http.Timeout, cancel)
		late = func() bool { return !timer.Stop() }
	}
	resp, err := patient.Do(req)
	switch {
	case late():
		if err == nil { // by a hair, and it is cut off already
			resp.Body.Close()
		}
		return nil, unanswered{fmt.Errorf("it has not begun within %s: %w", c.http.Timeout, context.DeadlineExceeded)}
	case err != nil:
		return nil, unanswered{err}
	}
	return resp, nil
}

// A tarEnd sees whether a tar stream was closed: it then ends with two blocks
// of zeros. A server that fails half way may not be able to say so otherwise.
type tarEnd struct {
	bytes int64
	zeros int64 // at the end of what was written
}

const tarBlock = 512

// Write looks at the bytes and keeps none.
func (e *tarEnd) Write(p []byte) (int, error) {
	e.bytes += int64(len(p))
	tail := len(p) - len(bytes.TrimRight(p, "\x00"))
	if tail < len(p) {
		e.zeros = 0
	}
	e.zeros += int64(tail)
	return len(p), nil
}

func (e *tarEnd) reached() bool { return e.bytes%tarBlock == 0 && e.zeros >= 2*tarBlock }
