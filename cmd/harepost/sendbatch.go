package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/harepost/harepost/client"
)

// A batch goes out in requests of so many sends and so many bytes at most: well
// below the server's 10,000 and 16 MiB, so that progress can be shown and
// little is in doubt when a request gets no answer.
const (
	batchSends     = 1000
	batchBytes     = 4 << 20
	batchLineBytes = sendBodyBytes
)

// A batchReader cuts a file of one send in a line into requests.
type batchReader struct {
	lines *bufio.Scanner
	line  int // number of the last that was read, from 1
}

func newBatchReader(r io.Reader) *batchReader {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), batchLineBytes)
	return &batchReader{lines: lines}
}

// next returns the lines of the next request, and their numbers; none at the
// end. Empty lines are skipped.
func (b *batchReader) next() (text []byte, numbers []int, err error) {
	for len(numbers) < batchSends && len(text) < batchBytes && b.lines.Scan() {
		b.line++
		line := bytes.TrimSpace(b.lines.Bytes())
		if len(line) == 0 {
			continue
		}
		text, numbers = append(append(text, line...), '\n'), append(numbers, b.line)
	}
	if err := b.lines.Err(); err != nil {
		return nil, nil, fmt.Errorf("line %d: %w", b.line+1, err)
	}
	return text, numbers, nil
}

// A batchOutcome is one line of send --batch --json.
type batchOutcome struct {
	Line   int                `json:"line"`
	Result client.BatchResult `json:"result"` // as POST /v1/send/batch answers
}

// A batchSender sends a file and counts what came of it.
type batchSender struct {
	sh       *shell
	c        connection
	api      *client.Client
	bar      *progress
	accepted int64
	repeated int64
	refused  int64
	later    int64 // of the refused: may be tried again
}

// runBatch sends the file that --batch names.
func (c *sendCmd) runBatch(sh *shell, api *client.Client) error {
	in := sh.in
	size := int64(-1)
	if c.Batch != "-" {
		f, err := os.Open(c.Batch)
		if err != nil {
			return usagef("--batch: %w", err)
		}
		defer f.Close()
		in = f
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			size = info.Size()
		}
	}
	read := &countingReader{r: in}
	b := &batchSender{sh: sh, c: c.connection, api: api, bar: newProgress(sh.err, "bytes sent", time.Now())}
	err := b.sendAll(sh.ctx, newBatchReader(read), func() tally {
		return tally{matched: size, done: min(read.n, max(size, 0))}
	})
	b.bar.end()
	fmt.Fprintf(sh.err, "accepted %s, duplicates %s, refused %s\n", countText(b.accepted), countText(b.repeated), countText(b.refused))
	switch {
	case err != nil:
		return err
	case b.refused > b.later:
		return exitWith(exitRefused, nil)
	case b.refused > 0:
		return exitWith(exitNotNow, nil)
	}
	return nil
}

// sendAll stops at the first request that is not answered, and says which lines
// are in doubt.
func (b *batchSender) sendAll(ctx context.Context, lines *batchReader, share func() tally) error {
	for {
		text, numbers, err := lines.next()
		if err != nil {
			return usagef("--batch: %w; earlier lines were sent", err)
		}
		if len(numbers) == 0 {
			return nil
		}
		span := fmt.Sprintf("lines %d to %d", numbers[0], numbers[len(numbers)-1])
		results, err := b.api.SendLines(ctx, text)
		if err != nil {
			return b.c.explain(fmt.Errorf("%s: %w", span, err))
		}
		if len(results) != len(numbers) {
			return exitWith(exitFailed, fmt.Errorf("%s: %d results for %d sends", span, len(results), len(numbers)))
		}
		for i, r := range results {
			if err := b.tell(numbers[i], r); err != nil {
				return err
			}
		}
		if t := share(); t.matched >= 0 { // of a stream, nobody knows
			b.bar.show(t, time.Now())
		}
	}
}

// tell counts one result. A person is told of what was refused, a program of all.
func (b *batchSender) tell(line int, r client.BatchResult) error {
	switch {
	case r.Err != nil:
		b.refused++
		if waitAsked(r.Err) > 0 {
			b.later++
		}
	case r.Receipt.Duplicate:
		b.repeated++
	default:
		b.accepted++
	}
	if b.c.JSON {
		return printJSONLine(b.sh.out, batchOutcome{line, r})
	}
	if r.Err != nil {
		b.bar.end()
		fmt.Fprintf(b.sh.err, "line %d: %s\n", line, printable(refusalText(r.Err)))
		return nil
	}
	_, err := fmt.Fprintln(b.sh.out, r.Receipt.QueueID)
	return err
}

// waitAsked is how long the server wants to be left alone before another try.
func waitAsked(err error) time.Duration {
	if e, ok := errors.AsType[*client.Error](err); ok {
		return e.RetryAfter
	}
	return 0
}

// refusalText is why a line was refused, without the status, which is not that
// of the request.
func refusalText(err error) string {
	text := err.Error()
	if e, ok := errors.AsType[*client.Error](err); ok {
		text = e.Message
		if e.Detail != "" {
			text += ": " + e.Detail
		}
	}
	if d := waitAsked(err); d > 0 {
		text += fmt.Sprintf("; try again in %s", d)
	}
	return text
}

// A countingReader knows how far a file has been read.
type countingReader struct {
	r io.Reader
	n int64
}

// Read reads on.
func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
