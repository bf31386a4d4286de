package report

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// textWidth is the width that texts are laid out for: narrow enough for half a
// screen, wide enough for six columns with ranges.
const textWidth = 118

// A table is laid out for a terminal. What does not fit beside each other goes
// below, with the labels of the rows repeated.
type table struct {
	labels  []column // repeated on every stripe, aligned left
	columns []column // aligned right
	width   int      // of the terminal
}

type column struct {
	title string
	cells []string
	// family, if set, is what columns beside each other have in common: they stay
	// on one stripe if they can.
	family string
}

// write appends the table's lines to b.
func (t table) write(b *strings.Builder) {
	for from := 0; from < len(t.columns); {
		width := indent
		for _, c := range t.labels {
			width += c.width() + gap
		}
		to := from
		for to < len(t.columns) {
			next := t.familyEnd(to)
			more := 0
			for _, c := range t.columns[to:next] {
				more += c.width() + gap
			}
			if to > from && width+more-gap > t.width {
				break
			}
			if width+more-gap > t.width { // too wide even alone
				next, more = to+1, t.columns[to].width()+gap
			}
			width, to = width+more, next
		}
		if from > 0 {
			b.WriteByte('\n')
		}
		t.stripe(b, t.columns[from:to])
		from = to
	}
}

// familyEnd is the end of the family that begins at column from.
func (t table) familyEnd(from int) int {
	to := from + 1
	for to < len(t.columns) && t.columns[from].family != "" && t.columns[to].family == t.columns[from].family {
		to++
	}
	return to
}

const (
	indent = 2
	gap    = 2
)

func (t table) stripe(b *strings.Builder, columns []column) {
	rows := 0
	for _, c := range t.labels {
		rows = max(rows, len(c.cells))
	}
	for row := -1; row < rows; row++ {
		if !slices.ContainsFunc(columns, func(c column) bool { return c.at(row) != "" }) {
			continue // a row of ratios where none of the columns has one
		}
		line := strings.Repeat(" ", indent)
		for _, c := range t.labels {
			text := c.at(row)
			line += text + spaces(c.width()-utf8.RuneCountInString(text)+gap)
		}
		for _, c := range columns {
			text := c.at(row)
			line += spaces(c.width()-utf8.RuneCountInString(text)) + text + spaces(gap)
		}
		b.WriteString(strings.TrimRight(line, " "))
		b.WriteByte('\n')
	}
}

// at is the cell of a row; row -1 is the title.
func (c column) at(row int) string {
	switch {
	case row < 0:
		return c.title
	case row < len(c.cells):
		return c.cells[row]
	default:
		return ""
	}
}

func (c column) width() int {
	width := utf8.RuneCountInString(c.title)
	for _, text := range c.cells {
		width = max(width, utf8.RuneCountInString(text))
	}
	return width
}

func spaces(n int) string { return strings.Repeat(" ", max(0, n)) }

// printable keeps what a terminal would obey, rather than show, out of a text:
// reports come from files, and their names from anywhere.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && !unicode.IsPrint(r) {
			return utf8.RuneError
		}
		return r
	}, text)
}

// wrap breaks a text into lines of the width, the later ones indented.
func wrap(b *strings.Builder, label, text string) {
	const labelWidth = 12
	line := label + spaces(labelWidth-utf8.RuneCountInString(label))
	empty := true
	for word := range strings.FieldsSeq(text) {
		if !empty && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > textWidth {
			b.WriteString(line + "\n")
			line, empty = spaces(labelWidth), true
		}
		if !empty {
			line += " "
		}
		line += word
		empty = false
	}
	b.WriteString(strings.TrimRight(line, " ") + "\n")
}
