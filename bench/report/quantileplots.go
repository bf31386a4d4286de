package report

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
)

// quantilePlots draw every latency by percentile, under the first load, the last
// and one between.
func (r *Report) quantilePlots() []plot {
	var plots []plot
	cells := r.cells()
	for _, name := range r.latencyNames() {
		for _, load := range spread(r.loads(), maxQuantileLoads) {
			var all []series
			for _, system := range r.systems() {
				of := r.looks()[system]
				if points := quantilePoints(name, cells[cell{system, load}]); len(points) > 0 {
					all = append(all, series{name: system, style: of.style, points: points})
				}
			}
			if len(all) > 0 {
				plots = append(plots, quantilePlot(name, load, all))
			}
		}
	}
	return plots
}

func (r *Report) latencyNames() []string {
	names := map[string]bool{}
	for _, round := range r.Rounds {
		for name, d := range round.Latencies {
			names[name] = names[name] || len(d.Quantiles) > 0
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// quantilePoints are the medians over the rounds of each percentile, at the
// number of nines it has.
func quantilePoints(name string, rounds []Round) []point {
	values := map[float64][]float64{}
	for _, round := range rounds {
		for _, q := range round.Latencies[name].Quantiles {
			if q.Percent >= 0 && q.Percent < 100 && finite(q.MS) {
				values[q.Percent] = append(values[q.Percent], q.MS)
			}
		}
	}
	var points []point
	for _, percent := range slices.Sorted(maps.Keys(values)) {
		v := rangeOf(values[percent])
		points = append(points, point{nines(percent), v.Median, v.Min, v.Max, percentText(percent)})
	}
	return points
}

// nines is the place of a percentile on an axis where each step to the right is
// ten times rarer: 90 % is at 1, 99 % at 2.
func nines(percent float64) float64 { return -math.Log10(1 - percent/100) }

func quantilePlot(name string, load Load, all []series) plot {
	p := newPlot(fmt.Sprintf("%s latency, %s", name, load))
	var values []float64
	rightmost := 2.0
	for _, s := range all {
		for _, pt := range s.points {
			values = append(values, pt.low, pt.y, pt.high)
			rightmost = max(rightmost, pt.x)
		}
	}
	var s scale
	p.Y, s = valueAxis(name+" latency", "ms", values, true, yFrom, yTo)
	p.X = axis{Title: "percent of the sends that were not slower", From: xFrom, To: xTo, high: rightmost}
	p.X.mark(0, "0")
	for _, percent := range []float64{50, 90, 99, 99.9, 99.99, 99.999} {
		if at := nines(percent); at <= rightmost+1e-6 {
			p.X.mark(at, strconv.FormatFloat(percent, 'f', -1, 64))
		}
	}
	p.draw(all)
	p.Table = quantileSheet(p.Title, all, s)
	p.Description = "Line chart of " + p.Title + " by percentile. "
	for _, row := range p.Table.Rows {
		if row[0] == "p50" || row[0] == "p99" {
			for i, text := range row[1:] {
				p.Description += fmt.Sprintf("%s, %s: %s%s; ", all[i].name, row[0], text, suffix(s.Unit))
			}
		}
	}
	return p
}

// quantileSheet has a row for each percentile and a column for each system.
func quantileSheet(title string, all []series, s scale) sheet {
	t := sheet{Caption: s.title(title), Heads: []string{"percentile"}}
	names := map[float64]string{} // of the percentiles, by their place
	for _, line := range all {
		t.Heads = append(t.Heads, line.name)
		for _, pt := range line.points {
			names[pt.x] = pt.title
		}
	}
	for _, x := range slices.Sorted(maps.Keys(names)) {
		row := []string{names[x]}
		for _, line := range all {
			text := missing
			if i := slices.IndexFunc(line.points, func(pt point) bool { return pt.x == x }); i >= 0 {
				pt := line.points[i]
				text = s.rangeText(Range{pt.y, pt.low, pt.high, 2})
			}
			row = append(row, text)
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}
