package report

import (
	_ "embed" // the page and its style
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
)

//go:embed page.html.tmpl
var pageText string

// Everything that comes from a report passes the escaping of this template, the
// plots as well.
var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"place": func(v float64) string { return fmt.Sprintf("%.1f", v) },
}).Parse(pageText))

// pageData is what the template shows.
type pageData struct {
	Title    string
	Command  string
	Facts    []fact
	Warnings []string
	Findings []card
	Sections []section
	Sheets   []sheet
	FewLoads bool // their tables are open
	Notes    []string
	Remarks  []string
}

// A card is a number that a reader came for.
type card struct{ Name, Value, Range string }

// WriteHTML writes the report as one page that needs nothing else: no script, no
// style, no picture of another place.
func (r *Report) WriteHTML(w io.Writer) error {
	data := pageData{
		Title:    r.title(),
		Facts:    r.facts(),
		Warnings: r.Warnings(),
		Findings: r.cards(),
		Sections: r.sections(),
		Sheets:   r.sheets(),
		FewLoads: len(r.loads()) < manyLoads,
		Notes:    r.Notes,
		Remarks:  r.remarks(),
	}
	if len(r.Command) > 0 {
		data.Command = commandLine(r.Command)
	}
	var b strings.Builder
	if err := page.Execute(&b, data); err != nil {
		return fmt.Errorf("report: make the page: %w", err)
	}
	if _, err := io.WriteString(w, printable(b.String())); err != nil {
		return fmt.Errorf("report: write as HTML: %w", err)
	}
	return nil
}

// cards are the findings, and of few loads the ratios of rates and CPU.
func (r *Report) cards() []card {
	var cards []card
	for _, f := range r.Findings {
		cards = append(cards, card{f.Name, quantity(f.Value, f.Unit), ""})
	}
	loads := r.loads()
	if len(loads) >= manyLoads {
		return cards
	}
	for _, ratio := range r.Ratios() {
		if ratio.Against != Forwarder || ratio.Metric != DeliveredRate && ratio.Metric != CPU {
			continue
		}
		title := ratio.Metric
		for _, m := range r.measures() {
			if m.Name == ratio.Metric {
				title = m.Title
			}
		}
		name := fmt.Sprintf("%s, %s / %s", title, ratio.System, ratio.Against)
		if len(loads) > 1 {
			name += ", " + ratio.Load.String()
		}
		s := scale{Factor: 1}
		spread := ""
		if ratio.Ratio.Rounds > 1 {
			spread = s.text(ratio.Ratio.Min) + " to " + s.text(ratio.Ratio.Max)
		}
		cards = append(cards, card{name, s.text(ratio.Ratio.Median), spread})
	}
	return cards
}

// sheets have all numbers: a table for each load, a row for each measure.
func (r *Report) sheets() []sheet {
	var sheets []sheet
	measures, loads, of := r.measures(), r.loads(), r.rows()
	for _, load := range loads {
		rows := of[load]
		if len(loads) >= manyLoads {
			rows = slices.DeleteFunc(rows, row.minor)
		}
		t := sheet{Caption: fmt.Sprintf("%s; %s", load, caption(rows)), Heads: []string{""}}
		for _, row := range rows {
			t.Heads = append(t.Heads, row.label)
		}
		for _, m := range measures {
			if c, ok := measureColumn(m, rows, false); ok {
				t.Rows = append(t.Rows, append([]string{c.title}, c.cells...))
			}
		}
		sheets = append(sheets, t)
	}
	return sheets
}
