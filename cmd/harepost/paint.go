package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/harepost/harepost/client"
	"github.com/harepost/harepost/engine"
)

// A painter colours words for a terminal, or leaves them as they are. Only
// the sixteen ANSI colours are used, so that the reader's own theme decides.
type painter bool

// painterFor paints where a person reads and NO_COLOR (no-color.org) is unset
// or empty.
func painterFor(w io.Writer) painter {
	return painter(isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb")
}

func (p painter) code(sgr, s string) string {
	if !p || s == "" {
		return s
	}
	return "\x1b[" + sgr + "m" + s + "\x1b[0m"
}

func (p painter) bold(s string) string   { return p.code("1", s) }
func (p painter) dim(s string) string    { return p.code("2", s) }
func (p painter) red(s string) string    { return p.code("31", s) }
func (p painter) green(s string) string  { return p.code("32", s) }
func (p painter) yellow(s string) string { return p.code("33", s) }

// status colours the status of a delivery, a domain, a bulk operation or an
// account, or an attempt's outcome, by what it means for the reader.
func (p painter) status(s string) string {
	switch s {
	case engine.StatusDelivered.String(), "verified", client.JobDone, "active":
		return p.green(s)
	case engine.StatusRejected.String(), engine.StatusDeadLetter.String(), "suspended":
		return p.red(s)
	case engine.StatusQueued.String(), engine.StatusRetrying.String(), engine.OutcomeFailed.String(), "pending", "running":
		return p.yellow(s)
	}
	return s
}

// A cell is one field of a table: its text and how to paint it.
type cell struct {
	text  string
	paint func(string) string
}

func plain(text string) cell { return cell{text: text} }

// A table aligns its columns. The widths are counted before painting, which
// is what text/tabwriter cannot do.
type table struct {
	head     []string
	rows     [][]cell
	least    []int // widths that columns have at least; nil: none
	headless bool  // without the line of heads
}

// next is an empty table that goes on below t, with columns at least as wide.
func (t *table) next() *table {
	return &table{head: t.head, least: t.widths(), headless: true}
}

func newTable(head ...string) *table { return &table{head: head} }
func (t *table) add(cells ...cell)   { t.rows = append(t.rows, cells) }
func (t *table) widths() []int {
	w := make([]int, len(t.head))
	for i, h := range t.head {
		w[i] = utf8.RuneCountInString(h)
		if i < len(t.least) {
			w[i] = max(w[i], t.least[i])
		}
	}
	for _, row := range t.rows {
		for i, c := range row {
			w[i] = max(w[i], utf8.RuneCountInString(c.text))
		}
	}
	return w
}

// write prints the table, each line after indent. Without rows it prints
// only the head: an empty answer is an answer. On a terminal the last column is
// cut where the line would be broken.
func (t *table) write(w io.Writer, p painter, indent string) {
	t.writeWithin(terminalWidth(w), w, p, indent)
}

// leastLastColumn is what is left of the last column at least.
const leastLastColumn = 12

// fit cuts the cells of the last column so that lines have at most width
// characters; 0 is no bound.
func (t *table) fit(width, indent int) {
	last := len(t.head) - 1
	if width == 0 || last < 0 {
		return
	}
	room := width - indent
	for _, w := range t.widths()[:last] {
		room -= w + 2
	}
	room = max(room, leastLastColumn)
	for _, row := range t.rows {
		if last < len(row) && utf8.RuneCountInString(row[last].text) > room {
			row[last].text = string([]rune(row[last].text)[:room-1]) + "…"
		}
	}
}

func (t *table) writeWithin(width int, w io.Writer, p painter, indent string) {
	t.fit(width, len(indent))
	widths := t.widths()
	head := make([]cell, len(t.head))
	for i, h := range t.head {
		head[i] = cell{h, p.dim}
	}
	rows := t.rows
	if !t.headless {
		rows = append([][]cell{head}, rows...)
	}
	for _, row := range rows {
		var line strings.Builder
		for i, c := range row {
			text := c.text
			if c.paint != nil {
				text = c.paint(text)
			}
			line.WriteString(text)
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text)+2))
			}
		}
		fmt.Fprintln(w, indent+strings.TrimRight(line.String(), " "))
	}
}

// shortDuration shows a duration as a person would say it: three digits and a
// unit.
func shortDuration(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return "<1 ms"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%.1f min", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.1f h", d.Hours())
	}
	return fmt.Sprintf("%.1f days", d.Hours()/24)
}

// bytesText shows a size in binary units.
func bytesText(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}

// bodyText shows at most limit bytes of a body, each line after indent; bytes
// that are no text are counted, not printed.
func bodyText(p painter, indent string, body []byte, limit int) string {
	if len(body) == 0 {
		return indent + p.dim("(no body)")
	}
	if !utf8.Valid(body) {
		return indent + p.dim(fmt.Sprintf("(%s, not text)", bytesText(int64(len(body)))))
	}
	shown := body[:min(limit, len(body))]
	for !utf8.Valid(shown) { // cut inside a character
		shown = shown[:len(shown)-1]
	}
	var text strings.Builder
	for line := range strings.Lines(string(shown)) {
		text.WriteString(indent + printable(strings.TrimRight(line, "\r\n")) + "\n")
	}
	if n := len(body) - len(shown); n > 0 {
		text.WriteString(indent + p.dim(fmt.Sprintf("(and %s more)", bytesText(int64(n)))) + "\n")
	}
	return strings.TrimRight(text.String(), "\n")
}

// printable replaces what could move the cursor or colour the terminal: what
// is printed here came from the network.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || (r >= ' ' && r != 0x7f && !(r >= 0x80 && r < 0xa0)) {
			return r
		}
		return '\uFFFD'
	}, s)
}
