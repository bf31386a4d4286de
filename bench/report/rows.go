package report

import (
	"fmt"
	"slices"
	"strings"
)

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

// rows are those of each load: its groups, and below them their ratios.
func (r *Report) rows() map[Load][]row {
	rows := map[Load][]row{}
	for _, g := range r.Groups() {
		rows[g.Load] = append(rows[g.Load], row{g.Load, g.System, g.Rounds, g.Values, false})
	}
	for _, of := range r.Ratios() {
		ratio := row{load: of.Load, label: of.System + " / " + of.Against, plain: true}
		rows[of.Load] = addTo(rows[of.Load], ratio, of.Metric, of.Ratio)
		if of.Added != nil {
			added := row{load: of.Load, label: of.System + " - " + of.Against}
			rows[of.Load] = addTo(rows[of.Load], added, of.Metric, *of.Added)
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

// caption says what the numbers of a block are.
func caption(rows []row) string {
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
	c := column{title: s.title(m.Title), family: m.latency}
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
