package report

import (
	"cmp"
	"fmt"
	"slices"
)

// maxPoints bounds the points of a line over time: more than a plot has places
// for, and few enough for a page of many lines.
const maxPoints = 480

// timelinePlots draw what the samples have over time: for each load that has any,
// a plot for each metric, with a line for each round.
func (r *Report) timelinePlots() []plot {
	var loads []Load
	for _, load := range r.loads() {
		if slices.ContainsFunc(r.Rounds, func(round Round) bool { return round.Load == load && len(round.Timeline) > 1 }) {
			loads = append(loads, load)
		}
	}
	several := len(loads) > 1
	var plots []plot
	for _, load := range spread(loads, maxTimelineLoads) {
		for _, m := range r.timelineMetrics() {
			title := m.Title
			if several {
				title += ", " + load.String()
			}
			if p, ok := r.timelinePlot(title, m, load); ok {
				plots = append(plots, p)
			}
		}
	}
	return plots
}

// timelineMetrics are the metrics that any sample has.
func (r *Report) timelineMetrics() []Metric {
	// As if each sample were a round.
	var samples Report
	for _, round := range r.Rounds {
		for _, s := range round.Timeline {
			samples.Rounds = append(samples.Rounds, Round{Values: s.Values})
		}
	}
	var metrics []Metric
	for _, m := range samples.measures() {
		metrics = append(metrics, m.Metric)
	}
	return metrics
}

func (r *Report) timelinePlot(title string, m Metric, load Load) (plot, bool) {
	var all []series
	var values, times []float64
	looks := r.looks()
	for _, round := range r.Rounds {
		if round.Load != load {
			continue
		}
		points := timelinePoints(m.Name, round.Timeline)
		if len(points) < 2 {
			continue
		}
		all = append(all, series{name: round.System, style: looks[round.System].style, points: points, thin: true})
		for _, pt := range points {
			values, times = append(values, pt.low, pt.high), append(times, pt.x)
		}
	}
	if low, high := bounds(values); low == 0 && high == 0 {
		return plot{}, false
	}
	p := newPlot(title)
	var s scale
	p.Y, s = valueAxis(m.Title, m.Unit, values, false, yFrom, yTo)
	clock := clockScale(times)
	p.X = elapsed(times, clock, xFrom, xTo)
	p.draw(all)
	p.Description = fmt.Sprintf("Line chart of %s over time, %s for %s. ", m.Title, plural(len(all), "line"), load)
	p.Table = timelineSheet(title, r.Rounds, m, load, s)
	for _, row := range p.Table.Rows {
		p.Description += fmt.Sprintf("%s: least %s, median %s, greatest %s. ", row[0], row[1], row[2], row[3])
	}
	return p, true
}

// timelinePoints are the samples that have the metric, or of many the least and
// the greatest of each stretch: a peak of one sample must not vanish.
func timelinePoints(name string, timeline []Sample) []point {
	var points []point
	for _, s := range timeline {
		if v, ok := s.Values[name]; ok && finite(v) {
			points = append(points, point{x: float64(s.AtMS), y: v, low: v, high: v})
		}
	}
	if len(points) <= maxPoints {
		return points
	}
	var thinned []point
	stretch := (2*len(points) + maxPoints - 1) / maxPoints
	for part := range slices.Chunk(points, stretch) {
		least := slices.MinFunc(part, func(a, b point) int { return cmp.Compare(a.y, b.y) })
		greatest := slices.MaxFunc(part, func(a, b point) int { return cmp.Compare(a.y, b.y) })
		if greatest.x < least.x {
			least, greatest = greatest, least
		}
		thinned = append(thinned, least, greatest)
	}
	return thinned
}

// clockScale is for times in milliseconds.
func clockScale(times []float64) scale {
	_, high := bounds(times)
	switch {
	case high > 3*3600_000:
		return scale{"h", 1.0 / 3600_000, false}
	case high > 180_000:
		return scale{"min", 1.0 / 60_000, false}
	case high > 2000:
		return scale{"s", 1e-3, false}
	default:
		return scale{"ms", 1, false}
	}
}

// timelineSheet has a row for each round: all samples would be too many to read.
func timelineSheet(title string, rounds []Round, m Metric, load Load, s scale) sheet {
	t := sheet{Caption: s.title(title), Heads: []string{"round", "least", "median", "greatest"}}
	for _, round := range rounds {
		var values []float64
		for _, sample := range round.Timeline {
			if v, ok := sample.Values[m.Name]; ok && finite(v) {
				values = append(values, v)
			}
		}
		if round.Load == load && len(values) > 0 {
			v := rangeOf(values)
			t.Rows = append(t.Rows, []string{fmt.Sprintf("%s %d", round.System, round.Number), s.text(v.Min), s.text(v.Median), s.text(v.Max)})
		}
	}
	return t
}
