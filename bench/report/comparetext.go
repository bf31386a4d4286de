package report

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// WriteJSON writes the comparison for programs, with what did not move too.
func (c Comparison) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(c); err != nil {
		return fmt.Errorf("report: write the comparison as JSON: %w", err)
	}
	return nil
}

// WriteText writes what moved, ratios first, and what was worse before what was
// better.
func (c Comparison) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: what moved from A to B\n\n", c.Scenario)
	wrap(&b, "A", c.A.Started+", "+c.A.Versions.String())
	wrap(&b, "B", c.B.Started+", "+c.B.Versions.String())
	wrap(&b, "rule", fmt.Sprintf("a median moved by more than %.0f %%, and the rounds are apart: p below %.2f in the "+
		"rank-sum test of Mann and Whitney (exact, two sides) with %d rounds or more each, ranges that do not overlap with fewer",
		100*leastShift, chanceBelow, enoughRounds))
	if len(c.Warnings) > 0 {
		b.WriteByte('\n')
	}
	for _, text := range c.Warnings {
		wrap(&b, "WARNING", text)
	}
	writeChanges(&b, "against the yardsticks of the same run", c.Ratios)
	writeChanges(&b, "the numbers themselves, which drift with the machine", c.Values)
	fmt.Fprintf(&b, "\nOf %s judged, chance alone may move up to %.1f.\n",
		plural(judged(c.Ratios)+judged(c.Values), "number"), c.ByChance)
	if len(c.Findings) > 0 {
		b.WriteString("\nfindings, which are one number each and not judged\n")
		for _, f := range c.Findings {
			fmt.Fprintf(&b, "  %s: %s, %s\n", f.Name, quantity(f.A, f.Unit), quantity(f.B, f.Unit))
		}
	}
	if len(c.OnlyIn) > 0 {
		b.WriteByte('\n')
	}
	for _, text := range c.OnlyIn {
		wrap(&b, "NOTE", text)
	}
	if _, err := io.WriteString(w, printable(b.String())); err != nil {
		return fmt.Errorf("report: write the comparison as text: %w", err)
	}
	return nil
}

// writeChanges makes a table of those that moved in a direction that counts, and
// says how many did not.
func writeChanges(b *strings.Builder, title string, changes []Change) {
	if len(changes) == 0 {
		return
	}
	fmt.Fprintf(b, "\n%s\n", title)
	of := map[Verdict][]Change{}
	for _, c := range changes {
		of[c.Verdict] = append(of[c.Verdict], c)
	}
	if moved := slices.Concat(of[Worsened], of[Improved]); len(moved) > 0 {
		changeTable(moved).write(b)
	}
	fmt.Fprintf(b, "  %d worse, %d better, %d within the noise", len(of[Worsened]), len(of[Improved]), len(of[Same]))
	if n := len(of[Moved]); n > 0 {
		fmt.Fprintf(b, ", %d moved of which no direction is better", n)
	}
	if n := len(of[Unjudged]); n > 0 {
		fmt.Fprintf(b, ", %d of one round only and not judged", n)
	}
	b.WriteByte('\n')
}

// changeWidth is that of the table of changes, which reads badly when its two
// sides are not beside each other.
const changeWidth = 138

func changeTable(changes []Change) table {
	verdict, load, what, metric := column{}, column{title: "load"}, column{title: "system"}, column{title: "metric"}
	shift, p, from, to := column{title: "change"}, column{title: "p"}, column{title: "A"}, column{title: "B"}
	for _, c := range changes {
		s := scaleFor(c.Unit, []float64{c.A.Median, c.A.Max, c.B.Median, c.B.Max})
		verdict.cells = append(verdict.cells, strings.ToUpper(string(c.Verdict)))
		load.cells = append(load.cells, c.Load.String())
		what.cells = append(what.cells, c.what())
		metric.cells = append(metric.cells, s.title(c.Title))
		shift.cells = append(shift.cells, c.shiftText())
		p.cells = append(p.cells, fmt.Sprintf("%.3f", c.P))
		from.cells = append(from.cells, s.rangeText(c.A))
		to.cells = append(to.cells, s.rangeText(c.B))
	}
	return table{[]column{verdict, load, what, metric}, []column{shift, p, from, to}, changeWidth}
}

// what is the system, or what it is compared with as well.
func (c Change) what() string {
	switch {
	case c.Against == "":
		return c.System
	case c.Added:
		return c.System + " - " + c.Against
	default:
		return c.System + " / " + c.Against
	}
}

func (c Change) shiftText() string {
	if c.Shift == nil {
		return "from 0"
	}
	return fmt.Sprintf("%+.1f %%", 100**c.Shift)
}

func judged(changes []Change) (n int) {
	for _, c := range changes {
		if c.Verdict != Unjudged {
			n++
		}
	}
	return n
}
