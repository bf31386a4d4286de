package report

import (
	"cmp"
	"fmt"
	"slices"
)

// The bounds of what is drawn: beyond them a page is no longer looked at.
const (
	maxBars          = 24
	maxTimelineLoads = 4
	maxQuantileLoads = 4
)

// A section is a heading with its plots.
type section struct {
	Title string
	Text  string
	Plots []plot
}

// sections are all plots that the rounds have numbers for.
func (r *Report) sections() []section {
	var out []section
	add := func(title, text string, plots []plot) {
		if len(plots) > 0 {
			out = append(out, section{title, text, plots})
		}
	}
	add("By system", "Bars are medians, lines reach from the least round to the greatest, dots are the rounds.", r.barPlots())
	for _, axis := range r.axes() {
		over := cmp.Or(axis, "load")
		add("Over "+over, "Lines are medians, bands reach from the least round to the greatest.", r.loadPlots(axis))
		add("Latency over "+over, "One plot for each percentile, all on the same scale.", r.latencyPlots(axis))
	}
	add("Latency by percentile", "Lines are medians. Each step to the right is ten times rarer."+r.some(maxQuantileLoads), r.quantilePlots())
	add("Over time", "A line for each round, since its load began."+r.some(maxTimelineLoads), r.timelinePlots())
	for i := range out {
		for j := range out[i].Plots {
			out[i].Plots[j].ID = fmt.Sprintf("plot-%d-%d", i+1, j+1)
		}
	}
	return out
}

// barMetrics are worth a bar for each system.
var barMetrics = []string{DeliveredRate, AcceptedRate, CPU, PeakRSS, WrittenPerByte, DrainTime}

func (r *Report) barPlots() []plot {
	groups := r.Groups()
	if len(groups) > maxBars || len(r.loads()) >= manyLoads && len(r.axes()) > 0 {
		return nil // lines over the load show the same, and more
	}
	var plots []plot
	for _, m := range r.measures() {
		if m.latency == "" && slices.Contains(barMetrics, m.Name) {
			if p, ok := r.barPlot(m, groups); ok {
				plots = append(plots, p)
			}
		}
	}
	return plots
}

const (
	barLeft   = 118
	barRight  = 84
	barHeight = 18
	barStep   = 32
	barTop    = 8
)

// barPlot has a row for each group, below a line that names their load if there
// are several.
func (r *Report) barPlot(m measure, groups []Group) (plot, bool) {
	var values []float64
	for _, g := range groups {
		if v, ok := g.Values[m.Name]; ok {
			values = append(values, v.Median, v.Max)
		}
	}
	if low, high := bounds(values); low == 0 && high == 0 {
		return plot{}, false
	}
	s := scaleFor(m.Unit, values)
	p := newPlot(m.Title)
	p.Top = 0
	p.X = linear(s.title(shorten(m.Title, maxAxisRunes)), values, s, barLeft, plotWidth-barRight)
	looks, cells := r.looks(), r.cells()
	several := len(r.loads()) > 1
	y := float64(barTop)
	for i, g := range groups {
		if several && (i == 0 || groups[i-1].Load != g.Load) {
			p.Texts = append(p.Texts, label{place{8, y + 15}, "start", "head", shorten(g.Load.String(), 48)})
			y += 24
		}
		p.Texts = append(p.Texts, label{place{barLeft - 8, y + 14}, "end", "name", shorten(g.System, 12)})
		if v, ok := g.Values[m.Name]; ok {
			p.addBar(looks[g.System].style, y, v, m.over(cells[cell{g.System, g.Load}]), s, g)
		}
		y += barStep
	}
	p.Height = y + bottomMargin
	p.Description = "Bar chart of " + m.Title + ". " + sayGroups(m, groups, s)
	p.Table = groupSheet(m, groups, s)
	return p, true
}

func (p *plot) addBar(style string, y float64, v Range, rounds []float64, s scale, g Group) {
	b := bar{Style: style, Y: y, Height: barHeight, Middle: y + barHeight/2, Whisker: v.Max > v.Min}
	b.From, _ = p.X.at(0)
	b.To, _ = p.X.at(v.Median)
	b.Low, _ = p.X.at(v.Min)
	b.High, _ = p.X.at(v.Max)
	b.Title = fmt.Sprintf("%s, %s: %s%s", g.System, g.Load, s.rangeText(v), suffix(s.Unit))
	if len(rounds) > 1 {
		for _, value := range rounds {
			x, _ := p.X.at(value)
			b.Dots = append(b.Dots, place{x, b.Middle})
		}
	}
	p.Bars = append(p.Bars, b)
	p.Texts = append(p.Texts, label{place{max(b.To, b.High) + 8, y + 14}, "start", "value", s.text(v.Median)})
}

// axes are the axes of the loads that have more than one value.
func (r *Report) axes() []string {
	values := map[string][]float64{}
	var order []string
	for _, load := range r.loads() {
		if !slices.Contains(order, load.Axis) {
			order = append(order, load.Axis)
		}
		if finite(load.Value) && !slices.Contains(values[load.Axis], load.Value) {
			values[load.Axis] = append(values[load.Axis], load.Value)
		}
	}
	return slices.DeleteFunc(order, func(axis string) bool { return len(values[axis]) < 2 })
}

// loadMetrics are worth a line over the load.
var loadMetrics = []string{DeliveredRate, AcceptedRate, CPU, PeakRSS, HeapBytes, WrittenPerByte, EntriesPerSync, DrainTime}

func (r *Report) loadPlots(axis string) []plot {
	var plots []plot
	for _, m := range r.measures() {
		if m.latency != "" || !slices.Contains(loadMetrics, m.Name) {
			continue
		}
		values := r.valuesOver(axis, m)
		if low, high := bounds(values); low != 0 || high != 0 {
			plots = append(plots, r.loadPlot(axis, m, values))
		}
	}
	return plots
}

func (r *Report) latencyPlots(axis string) []plot {
	var plots []plot
	shared := map[string][]float64{} // the values of all percentiles of a latency
	for _, m := range r.measures() {
		if m.latency != "" {
			shared[m.latency] = append(shared[m.latency], r.valuesOver(axis, m)...)
		}
	}
	for _, m := range r.measures() {
		if m.latency != "" && len(r.valuesOver(axis, m)) > 0 {
			plots = append(plots, r.loadPlot(axis, m, shared[m.latency]))
		}
	}
	return plots
}

// valuesOver are the bounds of all groups of that axis.
func (r *Report) valuesOver(axis string, m measure) []float64 {
	var values []float64
	for _, g := range r.Groups() {
		if v, ok := g.Values[m.Name]; ok && g.Load.Axis == axis {
			values = append(values, v.Min, v.Median, v.Max)
		}
	}
	return values
}

// loadPlot draws a measure of every system over the values of a load's axis.
func (r *Report) loadPlot(axis string, m measure, values []float64) plot {
	p := newPlot(m.Title)
	var s scale
	p.Y, s = valueAxis(m.Title, m.Unit, values, m.latency != "", yFrom, yTo)
	var xs []float64
	unit := ""
	groups := slices.DeleteFunc(r.Groups(), func(g Group) bool { return g.Load.Axis != axis || !finite(g.Load.Value) })
	for _, g := range groups {
		xs = append(xs, g.Load.Value)
		unit = g.Load.Unit
	}
	xScale := scaleFor(unit, xs)
	p.X = measured(xScale.title(shorten(cmp.Or(axis, "load"), maxAxisRunes)), xs, xScale, xFrom, xTo)
	if p.X.log {
		p.X.Title += " (logarithmic)"
	}
	all := r.seriesOver(groups, m, s)
	p.draw(all)
	p.Description = fmt.Sprintf("Line chart of %s over %s. %s", m.Title, cmp.Or(axis, "load"), saySeries(all, s, xScale))
	p.Table = groupSheet(m, groups, s)
	return p
}

// seriesOver are the lines of each system and variant, in the order of the load.
func (r *Report) seriesOver(groups []Group, m measure, s scale) []series {
	looks := r.looks()
	var all []series
	var variants []string
	for _, g := range groups {
		v, ok := g.Values[m.Name]
		if !ok {
			continue
		}
		if !slices.Contains(variants, g.Load.Variant) {
			variants = append(variants, g.Load.Variant)
		}
		name := g.System
		if g.Load.Variant != "" {
			name += ", " + g.Load.Variant
		}
		at := slices.IndexFunc(all, func(s series) bool { return s.name == name })
		if at < 0 {
			of := looks[g.System]
			at = len(all)
			all = append(all, series{name: name, style: of.style + dashes(slices.Index(variants, g.Load.Variant)), mark: of.mark})
		}
		title := fmt.Sprintf("%s, %s: %s%s", g.System, g.Load, s.rangeText(v), suffix(s.Unit))
		all[at].points = append(all[at].points, point{g.Load.Value, v.Median, v.Min, v.Max, title})
	}
	for _, s := range all {
		slices.SortStableFunc(s.points, func(a, b point) int { return cmp.Compare(a.x, b.x) })
	}
	return all
}

// some says that not every load has a plot.
func (r *Report) some(most int) string {
	if n := len(r.loads()); n > most {
		return fmt.Sprintf(" Shown are %d of %d loads.", most, n)
	}
	return ""
}

// spread chooses at most n loads: the first, the last, and some between.
func spread(loads []Load, n int) []Load {
	if len(loads) <= n {
		return loads
	}
	var out []Load
	for i := range n {
		out = append(out, loads[i*(len(loads)-1)/(n-1)])
	}
	return out
}

// shorten keeps a name within the place that a plot has for it.
func shorten(text string, runes int) string {
	if r := []rune(text); len(r) > runes {
		return string(r[:runes-1]) + "…"
	}
	return text
}
