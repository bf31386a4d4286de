package report

import (
	"fmt"
	"slices"
	"strings"
)

// sayGroups says the numbers of a bar plot.
func sayGroups(m measure, groups []Group, s scale) string {
	var parts []string
	for _, g := range groups {
		if v, ok := g.Values[m.Name]; ok {
			parts = append(parts, fmt.Sprintf("%s, %s: %s%s", g.System, g.Load, s.rangeText(v), suffix(s.Unit)))
		}
	}
	return strings.Join(parts, "; ") + "."
}

// saySeries says where each line begins and ends.
func saySeries(all []series, y, x scale) string {
	var parts []string
	for _, s := range all {
		if len(s.points) == 0 {
			continue
		}
		first, last := s.points[0], s.points[len(s.points)-1]
		parts = append(parts, fmt.Sprintf("%s: %s%s at %s, %s%s at %s", s.name,
			y.text(first.y), suffix(y.Unit), x.text(first.x)+suffix(x.Unit), y.text(last.y), suffix(y.Unit), x.text(last.x)+suffix(x.Unit)))
	}
	return strings.Join(parts, "; ") + "."
}

// groupSheet has a row for each load and a column for each system.
func groupSheet(m measure, groups []Group, s scale) sheet {
	t := sheet{Caption: s.title(m.Title), Heads: []string{"load"}}
	for _, g := range groups {
		if !slices.Contains(t.Heads[1:], g.System) {
			t.Heads = append(t.Heads, g.System)
		}
	}
	var at Load
	for i, g := range groups {
		if i == 0 || g.Load != at {
			at = g.Load
			t.Rows = append(t.Rows, append([]string{at.String()}, slices.Repeat([]string{missing}, len(t.Heads)-1)...))
		}
		if v, ok := g.Values[m.Name]; ok {
			t.Rows[len(t.Rows)-1][1+slices.Index(t.Heads[1:], g.System)] = s.rangeText(v)
		}
	}
	return t
}
