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
	of := r.rows()
	if len(loads) < manyLoads {
		for _, load := range loads {
			fmt.Fprintf(b, "\n%s; %s\n", load, caption(of[load]))
			r.layOut(of[load], false).write(b)
		}
		return
	}
	var rows []row
	for _, load := range loads {
		rows = append(rows, slices.DeleteFunc(of[load], row.minor)...)
	}
	fmt.Fprintf(b, "\n%s; medians, ranges in the other forms of this report\n", plural(len(loads), "load"))
	r.layOut(rows, true).write(b)
}
