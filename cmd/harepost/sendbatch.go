package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/harepost/harepost/client"
)

// A batch goes out in requests of so many sends and so many bytes at most: well
// below the server's 10,000 and 16 MiB, so that progress can be shown and
// little is in doubt when a request gets no answer. A line that is longer goes
// out alone, for the server to say whether it takes it; what is above
// batchLineBytes is not even read.
const (
	batchSends     = 1000
	batchBytes     = 4 << 20
	batchLineBytes = sendBodyBytes
)

// A batchLine is one send of a file.
type batchLine struct {
	number int    // in the file, from 1
	text   []byte // with a newline; nil: it is above batchLineBytes
}

// A batchReader cuts a file of one send in a line into requests.
type batchReader struct {
	in   *bufio.Reader
	line int        // number of the last that was read, from 1
	seen bool       // a line with something in it
	held *batchLine // was read, and did not fit into the request before
	err  error      // ended the reading; io.EOF: the file's end
}

// errBatchArray says that a file is the API's other form of a batch.
var errBatchArray = errors.New("it is a JSON array, and not one send in a line; jq -c '.[]' makes lines of it")

func newBatchReader(r io.Reader) *batchReader {
	return &batchReader{in: bufio.NewReaderSize(r, 64<<10)}
}

// next returns the lines of the next request; none with the error that ended
// the reading, which is io.EOF where all was read.
func (b *batchReader) next() ([]batchLine, error) {
	var lines []batchLine
	size := 0
	for len(lines) < batchSends {
		if b.held == nil {
			b.held = b.read()
		}
		if b.held == nil {
			break
		}
		size += len(b.held.text)
		if len(lines) > 0 && (size > batchBytes || b.held.text == nil) {
			break
		}
		lines = append(lines, *b.held)
		b.held = nil
		if lines[0].text == nil {
			break
		}
	}
	if len(lines) == 0 {
		return nil, b.err
	}
	return lines, nil
}

// read returns the next line with something in it; nil at an error. A line that
// an error cuts off is no line.
func (b *batchReader) read() *batchLine {
	for b.err == nil {
		var text []byte
		tooLong := false
		for more := true; more; {
			var part []byte
			part, b.err = b.in.ReadSlice('\n')
			more = errors.Is(b.err, bufio.ErrBufferFull)
			if more {
				b.err = nil
			}
			if tooLong = tooLong || len(text)+len(part) > batchLineBytes; tooLong {
				text = nil
			} else {
				text = append(text, part...)
			}
		}
		b.line++
		if b.err != nil && !errors.Is(b.err, io.EOF) {
			return nil
		}
		if tooLong {
			return &batchLine{b.line, nil}
		}
		if text = bytes.TrimSpace(text); len(text) == 0 {
			continue
		}
		if !b.seen && text[0] == '[' {
			b.err = errBatchArray
			return nil
		}
		b.seen = true
		return &batchLine{b.line, append(text, '\n')}
	}
	return nil
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
	reasons  refusals
	last     int // line that has a result, and so have all before it; 0: none
}

// runBatch sends the file that --batch names.
func (c *sendCmd) runBatch(sh *shell, api *client.Client) error {
	in := sh.input()
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
	b.reasons.sum(sh.err)
	fmt.Fprintf(sh.err, "accepted %s, duplicates %s, refused %s\n", countText(b.accepted), countText(b.repeated), countText(b.refused))
	switch {
	case err != nil:
		return err
	case b.refused > 0:
		return exitWith(exitRefused, nil)
	}
	return nil
}

// sendAll stops at the first request that is not answered, and says which lines
// are in doubt; and at the first of which some were turned away for now: what
// else there is would be too.
func (b *batchSender) sendAll(ctx context.Context, lines *batchReader, share func() tally) error {
	for {
		next, err := lines.next()
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("--batch: %w; %s", errInterrupted, b.sentText())
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, errBatchArray):
			return usagef("--batch: %w", err)
		case err != nil:
			return fmt.Errorf("--batch: line %d: %w; %s", lines.line, err, b.sentText())
		}
		if err := b.send(ctx, next); err != nil {
			return err
		}
		if t := share(); t.matched >= 0 { // of a stream, nobody knows
			b.bar.show(t, time.Now())
		}
	}
}

// sentText is for who has to go on where a file broke off.
func (b *batchSender) sentText() string {
	if b.last == 0 {
		return "nothing was sent"
	}
	return fmt.Sprintf("up to line %d all were sent", b.last)
}

// send sends some lines and tells what came of them. What is too large for one
// request goes out in halves: a proxy in front of the server may let less
// through. A single line that is too large is refused as the API refuses one.
func (b *batchSender) send(ctx context.Context, lines []batchLine) error {
	results, err := b.request(ctx, lines)
	switch {
	case errors.Is(err, client.ErrTooLarge) && len(lines) > 1:
		half := len(lines) / 2
		if err := b.send(ctx, lines[:half]); err != nil {
			return err
		}
		return b.send(ctx, lines[half:])
	case err != nil:
		explained := b.c.explain(err)
		doubt := ""
		if _, answered := errors.AsType[*client.Error](err); !answered {
			doubt = ", and these lines are in doubt"
		}
		return exitWith(statusOf(explained), fmt.Errorf("%s: %w; %s%s", spanText(lines), explained, b.sentText(), doubt))
	case len(results) != len(lines):
		return exitWith(exitFailed, fmt.Errorf("%s: %d results for %d sends", spanText(lines), len(results), len(lines)))
	}
	for i, r := range results {
		if err := b.tell(lines[i].number, r); err != nil {
			return err
		}
	}
	b.last = lines[len(lines)-1].number
	return whereToGoOn(lines, results)
}

// whereToGoOn is nil unless some of the lines were turned away for now. Then it
// says from which line on none was taken, and which before that.
func whereToGoOn(lines []batchLine, results []client.BatchResult) error {
	var away []int // indexes of lines that were turned away for now
	tail := 0      // in away: behind it nothing was taken
	var wait time.Duration
	for i, r := range results {
		switch {
		case r.Err == nil:
			tail = len(away)
		case isForNow(r.Err):
			away, wait = append(away, i), max(wait, waitAsked(r.Err))
		}
	}
	if len(away) == 0 {
		return nil
	}
	text := fmt.Sprintf("stopped: the server takes no more for now; go on after line %d", lines[len(lines)-1].number)
	if tail < len(away) {
		text = fmt.Sprintf("stopped: the server takes no more for now; go on with line %d", lines[away[tail]].number)
	}
	if wait > 0 {
		text += fmt.Sprintf(" in %s", wait)
	}
	if tail > 0 {
		numbers := make([]int, tail)
		for i := range numbers {
			numbers[i] = lines[away[i]].number
		}
		text += "; of what is before it, turned away too: " + numbersText(numbers)
	}
	return exitWith(exitNotNow, errors.New(text))
}

// numbersText is growing numbers of lines, with those that follow each other
// taken together, up to a length that can still be read.
func numbersText(numbers []int) string {
	const most = 20
	var spans []string
	for i := 0; i < len(numbers); {
		end := i + 1
		for end < len(numbers) && numbers[end] == numbers[end-1]+1 {
			end++
		}
		if len(spans) == most {
			return strings.Join(spans, ", ") + fmt.Sprintf(" and %d more, which --json tells", len(numbers)-i)
		}
		span := strconv.Itoa(numbers[i])
		if last := numbers[end-1]; last > numbers[i] {
			span += " to " + strconv.Itoa(last)
		}
		spans = append(spans, span)
		i = end
	}
	return strings.Join(spans, ", ")
}

func spanText(lines []batchLine) string {
	return fmt.Sprintf("lines %d to %d", lines[0].number, lines[len(lines)-1].number)
}

func (b *batchSender) request(ctx context.Context, lines []batchLine) ([]client.BatchResult, error) {
	var text []byte
	for _, line := range lines {
		text = append(text, line.text...)
	}
	if len(text) == 0 { // one alone that is above batchLineBytes
		return tooLarge("send is too large", fmt.Sprintf("it may have %d bytes", batchLineBytes))
	}
	results, err := b.api.SendLines(ctx, text)
	if e, ok := errors.AsType[*client.Error](err); ok && len(lines) == 1 && errors.Is(e, client.ErrTooLarge) {
		return tooLarge(e.Message, e.Detail)
	}
	return results, err
}

// tooLarge is the result of a batch of one send that is.
func tooLarge(message, detail string) ([]client.BatchResult, error) {
	text, err := json.Marshal(map[string]any{"error": message, "detail": detail, "status": http.StatusRequestEntityTooLarge})
	if err != nil {
		return nil, err
	}
	results := make([]client.BatchResult, 1)
	return results, json.Unmarshal(text, &results[0])
}

// tell counts one result. A person is told of what was refused, a program of all.
func (b *batchSender) tell(line int, r client.BatchResult) error {
	switch {
	case r.Err != nil:
		b.refused++
	case r.Receipt.Duplicate:
		b.repeated++
	default:
		b.accepted++
	}
	if b.c.JSON {
		return printJSONLine(b.sh.out, batchOutcome{line, r})
	}
	if r.Err != nil {
		if text := refusalText(r.Err); b.reasons.tell(line, text) {
			b.bar.end()
			fmt.Fprintf(b.sh.err, "line %d: %s\n", line, printable(text))
		}
		return nil
	}
	_, err := fmt.Fprintln(b.sh.out, r.Receipt.QueueID)
	return err
}

// Refusals are told line by line, those with the same text the first few times
// only: a file of a thousand sends to a domain that is not verified is one thing
// to tell. Of texts as many are known as fit a screen many times over; what
// comes beyond is told each time.
const (
	refusalsTold  = 3
	refusalsKnown = 1000
)

// A refusal is why some lines were refused.
type refusal struct {
	text        string
	lines       int
	first, last int // of those that were not told
}

// refusals are the reasons that came up, in their order.
type refusals struct {
	all    []*refusal
	byText map[string]*refusal
}

// tell counts a refusal and reports whether it is to be told.
func (r *refusals) tell(line int, text string) bool {
	known := r.byText[text]
	if known == nil {
		if len(r.all) == refusalsKnown {
			return true
		}
		if r.byText == nil {
			r.byText = make(map[string]*refusal)
		}
		known = &refusal{text: text}
		r.byText[text] = known
		r.all = append(r.all, known)
	}
	if known.lines++; known.lines <= refusalsTold {
		return true
	}
	if known.first == 0 {
		known.first = line
	}
	known.last = line
	return false
}

// sum tells how many were not told.
func (r *refusals) sum(w io.Writer) {
	for _, known := range r.all {
		switch more := known.lines - refusalsTold; {
		case more == 1:
			fmt.Fprintf(w, "line %d: %s\n", known.first, printable(known.text))
		case more > 1:
			fmt.Fprintf(w, "%s more from line %d to %d: %s\n", countText(int64(more)), known.first, known.last, printable(known.text))
		}
	}
}

// isForNow tells whether what was refused so may be taken later.
func isForNow(err error) bool {
	e, ok := errors.AsType[*client.Error](err)
	return ok && (e.Temporary() || e.RetryAfter > 0)
}

// waitAsked is how long the server wants to be left alone before another try.
func waitAsked(err error) time.Duration {
	if e, ok := errors.AsType[*client.Error](err); ok {
		return e.RetryAfter
	}
	return 0
}

// batchIndex is how the API names a send of a batch: by its place in a request,
// which is not that in the file.
var batchIndex = regexp.MustCompile(`batch\[\d+\]`)

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
	return batchIndex.ReplaceAllLiteralString(text, "line")
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
