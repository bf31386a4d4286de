package report

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// manyLoads is from how many loads on one table with a row per load reads better
// than a block for each.
const manyLoads = 4

// WriteText writes the report for a terminal.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	r.writeHead(&b)
	r.writeTables(&b)
	if len(r.Findings) > 0 {
		b.WriteString("\nfindings\n")
		for _, f := range r.Findings {
			fmt.Fprintf(&b, "  %s: %s\n", f.Name, quantity(f.Value, f.Unit))
		}
	}
	remarks := r.remarks()
	if len(remarks)+len(r.Notes) > 0 {
		b.WriteByte('\n')
	}
	for _, text := range slices.Concat(r.Notes, remarks) {
		wrap(&b, "NOTE", text)
	}
	if _, err := io.WriteString(w, printable(b.String())); err != nil {
		return fmt.Errorf("report: write as text: %w", err)
	}
	return nil
}

// A fact is a line of the head.
type fact struct{ Name, Text string }

// facts say what was measured, where, and how.
func (r *Report) facts() []fact {
	facts := []fact{{"measured", r.Started.UTC().Format(time.DateTime) + " UTC"}}
	if r.Started.IsZero() {
		facts[0].Text = "at an unknown time"
	}
	add := func(name, text string) {
		if text != "" {
			facts = append(facts, fact{name, text})
		}
	}
	add("versions", r.Versions.String())
	add("machine", r.Machine.String())
	add("durability", r.Durability)
	var settings []string
	for _, s := range r.Settings {
		settings = append(settings, s.Name+" "+s.Value)
	}
	add("load", strings.Join(settings, "; "))
	if c := r.Ceiling; c != nil {
		text := "at most " + quantity(c.RequestsPerSecond, "/s") + " to a trivial server"
		if c.Connections > 0 {
			text += fmt.Sprintf(" over %s", plural(c.Connections, "connection"))
		}
		if c.CPUSecondsPerMillion > 0 {
			text += ", " + quantity(c.CPUSecondsPerMillion, "µs") + " of CPU each"
		}
		add("generator", text)
	}
	return facts
}

// title is the scenario in a line.
func (r *Report) title() string {
	title := cmp.Or(r.Scenario, "unnamed scenario")
	if r.Quick {
		title += " (quick)"
	}
	return title
}

func (r *Report) writeHead(b *strings.Builder) {
	b.WriteString(r.title() + "\n")
	if len(r.Command) > 0 {
		b.WriteString("$ " + commandLine(r.Command) + "\n")
	}
	b.WriteByte('\n')
	for _, f := range r.facts() {
		wrap(b, f.Name, f.Text)
	}
	warnings := r.Warnings()
	if len(warnings) > 0 {
		b.WriteByte('\n')
	}
	for _, text := range warnings {
		wrap(b, "WARNING", text)
	}
}

// String is the versions in a line.
func (v Versions) String() string {
	text := "harepost " + cmp.Or(v.Harepost, "of unknown version")
	if v.Commit != "" {
		text += " (" + v.Commit + ")"
	}
	return text + ", " + cmp.Or(v.Go, "unknown Go")
}

// String is the machine in a line.
func (m Machine) String() string {
	memory := "memory unknown"
	if m.MemoryBytes > 0 {
		memory = quantity(float64(m.MemoryBytes), "B")
	}
	return fmt.Sprintf("%s, %s, %s, %s, data on %s (%s), load average before %s",
		cmp.Or(m.CPU, "unknown CPU"), plural(m.CPUs, "CPU"), memory, cmp.Or(m.Kernel, "unknown kernel"),
		cmp.Or(m.Filesystem, "unknown filesystem"), cmp.Or(m.Disk, "unknown disk"), cmp.Or(m.LoadAverage, "unknown"))
}

// commandLine quotes a command so that a shell reads it back as it was.
func commandLine(args []string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=+,./:@%"
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = arg
		if arg == "" || strings.Trim(arg, plain) != "" {
			quoted[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}

func (r *Report) writeTables(b *strings.Builder) {
	loads := r.loads()
	if len(loads) == 0 {
		return
	}
	if len(loads) < manyLoads {
		for _, load := range loads {
			rows := r.rowsOf(load)
			fmt.Fprintf(b, "\n%s; %s\n", load, r.caption(rows))
			r.layOut(rows, false).write(b)
		}
		return
	}
	var rows []row
	for _, load := range loads {
		rows = append(rows, slices.DeleteFunc(r.rowsOf(load), row.minor)...)
	}
	fmt.Fprintf(b, "\n%s; medians, ranges in the other forms of this report\n", plural(len(loads), "load"))
	r.layOut(rows, true).write(b)
}

// A row is a group, or the ratios or differences of two.
type row struct {
	load   Load
	label  string
	rounds int
	values map[string]Range
	plain  bool // its values have no unit: they are ratios
}

// minor rows are left out of a terse table: yardsticks among each other, and
// ratios to Direct beside the differences from it.
func (r row) minor() bool {
	return strings.HasPrefix(r.label, Forwarder+" ") || strings.HasSuffix(r.label, " / "+Direct)
}

// rowsOf are the rows of one load: its groups, and below them their ratios.
func (r *Report) rowsOf(load Load) []row {
	var rows []row
	for _, g := range r.Groups() {
		if g.Load == load {
			rows = append(rows, row{load, g.System, g.Rounds, g.Values, false})
		}
	}
	for _, ratio := range r.Ratios() {
		if ratio.Load != load {
			continue
		}
		rows = addTo(rows, row{load: load, label: ratio.System + " / " + ratio.Against, plain: true}, ratio.Metric, ratio.Ratio)
		if ratio.Added != nil {
			rows = addTo(rows, row{load: load, label: ratio.System + " - " + ratio.Against}, ratio.Metric, *ratio.Added)
		}
	}
	return rows
}

// addTo puts a value into the row of that label, which it appends if need be.
func addTo(rows []row, to row, name string, value Range) []row {
	at := slices.IndexFunc(rows, func(r row) bool { return r.label == to.label })
	if at < 0 {
		to.values = map[string]Range{}
		at, rows = len(rows), append(rows, to)
	}
	rows[at].values[name] = value
	return rows
}

func (r *Report) caption(rows []row) string {
	least, most := 0, 0
	for _, row := range rows {
		if row.rounds > 0 {
			most = max(most, row.rounds)
			if least == 0 || row.rounds < least {
				least = row.rounds
			}
		}
	}
	switch {
	case most == 1:
		return "1 round"
	case least == most:
		return fmt.Sprintf("medians (least to greatest) of %d rounds", most)
	default:
		return fmt.Sprintf("medians (least to greatest) of %d to %d rounds", least, most)
	}
}

// withoutRange have the range of their rates: it is not said twice.
var withoutRange = map[string]bool{Accepted: true, Arrived: true}

// alwaysShown are worth a column even when they are zero everywhere.
var alwaysShown = map[string]bool{Lost: true, Duplicates: true}

// layOut makes a table of rows with a column for each measure that they have.
func (r *Report) layOut(rows []row, terse bool) table {
	t := table{width: textWidth}
	if terse {
		t.labels = append(t.labels, loadColumn(rows))
	}
	system := column{title: "system"}
	for _, row := range rows {
		system.cells = append(system.cells, row.label)
	}
	t.labels = append(t.labels, system)
	for _, m := range r.measures() {
		if m.percent == 90 {
			continue // a terminal is narrow
		}
		if c, ok := measureColumn(m, rows, terse); ok {
			t.columns = append(t.columns, c)
		}
	}
	return t
}

// loadColumn names each load once, on the first of its rows.
func loadColumn(rows []row) column {
	c := column{title: "load"}
	for i, row := range rows {
		text := row.load.String()
		if i > 0 && rows[i-1].load == row.load {
			text = ""
		}
		c.cells = append(c.cells, text)
	}
	return c
}

// measureColumn is false where there is nothing to see.
func measureColumn(m measure, rows []row, terse bool) (column, bool) {
	var values []float64
	for _, row := range rows {
		if v, ok := row.values[m.Name]; ok && !row.plain {
			values = append(values, v.Median, v.Min, v.Max)
		}
	}
	something := slices.ContainsFunc(values, func(v float64) bool { return v != 0 })
	if len(values) == 0 || !something && !alwaysShown[m.Name] {
		return column{}, false
	}
	s := scaleFor(m.Unit, values)
	c := column{title: m.Title, family: m.latency}
	if s.Unit != "" {
		c.title += ", " + s.Unit
	}
	for _, row := range rows {
		v, ok := row.values[m.Name]
		in := s
		if row.plain {
			in = scale{Factor: 1}
		}
		switch {
		case !ok && row.rounds == 0:
			c.cells = append(c.cells, "")
		case !ok:
			c.cells = append(c.cells, missing)
		case terse || withoutRange[m.Name]:
			c.cells = append(c.cells, in.text(v.Median))
		default:
			c.cells = append(c.cells, in.rangeText(v))
		}
	}
	return c, true
}
