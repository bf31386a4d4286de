package report

import (
	"math"
	"slices"
	"strconv"
	"unicode/utf8"
)

// An axis maps values to places on a plot.
type axis struct {
	Title    string
	Ticks    []tick
	From, To float64 // the places of Low and High

	low, high float64
	log       bool
}

type tick struct {
	At   float64
	Text string // empty: a line only
}

// at is the place of a value; false where it has none, as zero on a logarithmic
// axis.
func (a axis) at(v float64) (float64, bool) {
	if !finite(v) || a.log && v < least {
		return 0, false
	}
	low, high := a.low, a.high
	if a.log {
		v, low, high = math.Log(v), math.Log(low), math.Log(high)
	}
	return a.From + (v-low)/(high-low)*(a.To-a.From), true
}

// least is the value below which a plot shows none: nothing measured is so small.
const least = 1e-12

// linear is an axis from zero, or from below where values are, in steps that
// people count in.
func linear(title string, values []float64, s scale, from, to float64) axis {
	low, high := bounds(values)
	low, high = min(low, 0), max(high, 0)
	if high-low < least {
		high = low + 1/s.Factor
	}
	step := niceStep((high-low)*s.Factor/5) / s.Factor
	low, high = math.Floor(low/step)*step, math.Ceil(high/step)*step
	a := axis{Title: title, From: from, To: to, low: low, high: high}
	for i := range int(math.Round((high-low)/step)) + 1 {
		v := low + float64(i)*step
		a.mark(v, tickText(v*s.Factor, step*s.Factor))
	}
	return a
}

// logarithmic is an axis over the decades of the values that are above zero, of
// which there is one.
func logarithmic(title string, values []float64, s scale, from, to float64) axis {
	low, high := bounds(slices.DeleteFunc(slices.Clone(values), func(v float64) bool { return v < least }))
	low, high = low*s.Factor, high*s.Factor
	first, last := int(math.Floor(math.Log10(low))), int(math.Ceil(math.Log10(high)))
	var marks []float64
	for decade := first; decade <= last; decade++ {
		for _, step := range []float64{1, 2, 5} {
			marks = append(marks, step*math.Pow10(decade))
		}
	}
	// The axis ends at the marks around the values.
	begin := max(0, slices.IndexFunc(marks, func(m float64) bool { return m > low*(1+1e-9) })-1)
	end := max(begin+1, slices.IndexFunc(marks, func(m float64) bool { return m >= high*(1-1e-9) }))
	a := axis{Title: title, From: from, To: to, low: marks[begin] / s.Factor, high: marks[end] / s.Factor, log: true}
	crowded := end-begin > 7
	for i, m := range marks[begin : end+1] {
		text := ""
		if !crowded || (begin+i)%3 == 0 {
			text = tickText(m, m)
		}
		a.mark(m/s.Factor, text)
	}
	return a
}

// elapsed is a linear axis of times, from zero to the last of them.
func elapsed(times []float64, s scale, from, to float64) axis {
	a := linear(s.title("time"), times, s, from, to)
	_, last := bounds(times)
	if last <= a.low {
		return a
	}
	full := axis{Title: a.Title, From: from, To: to, low: a.low, high: last}
	for _, t := range a.Ticks {
		at := from + (t.At-from)*(a.high-a.low)/(last-a.low)
		if at <= to+0.5 {
			full.Ticks = append(full.Ticks, tick{at, t.Text})
		}
	}
	return full
}

// measured is an axis whose ticks are at the values themselves, where there is
// room: those of a load are chosen by somebody, and of interest.
func measured(title string, values []float64, s scale, from, to float64) axis {
	low, high := bounds(values)
	a := axis{Title: title, From: from, To: to, low: low, high: high, log: low > 0 && high > 10*low}
	if high-low < least {
		around := max(1, math.Abs(low)/10)
		a.low, a.high, a.log = low-around, high+around, false
	}
	sorted := slices.Compact(slices.Sorted(slices.Values(values)))
	last := sorted[len(sorted)-1]
	end := a.labelFrom(last, s)
	free := math.Inf(-1)
	for _, v := range sorted {
		text := s.text(v)
		place, _ := a.at(v)
		half := tickWidth(text)/2 + 4
		if place-half >= free && (v == last || place+half <= end) {
			free = place + half
		} else if text = ""; len(sorted) > maxMarks {
			continue // lines without a label would be a hatching
		}
		a.mark(v, text)
	}
	return a
}

// labelFrom is where the label of v begins.
func (a axis) labelFrom(v float64, s scale) float64 {
	place, _ := a.at(v)
	return place - tickWidth(s.text(v))/2 - 4
}

func (a *axis) mark(v float64, text string) {
	if at, ok := a.at(v); ok {
		a.Ticks = append(a.Ticks, tick{at, text})
	}
}

// tickWidth estimates the width of a label in the units of a plot.
func tickWidth(text string) float64 { return 9 * float64(utf8.RuneCountInString(text)) }

// niceStep rounds up to 1, 2 or 5 times a power of ten.
func niceStep(v float64) float64 {
	power := math.Pow10(int(math.Floor(math.Log10(v))))
	for _, step := range []float64{1, 2, 5} {
		if v <= step*power*(1+1e-9) {
			return step * power
		}
	}
	return 10 * power
}

// tickText writes v with the digits that a step needs.
func tickText(v, step float64) string {
	decimals := max(0, -int(math.Floor(math.Log10(step)+1e-9)))
	if math.Abs(v) >= 1e7 || decimals > 5 {
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
	return group(strconv.FormatFloat(v, 'f', decimals, 64))
}

// bounds are the least and the greatest finite value; 0 and 0 of none.
func bounds(values []float64) (low, high float64) {
	low, high = math.Inf(1), math.Inf(-1)
	for _, v := range values {
		if finite(v) {
			low, high = min(low, v), max(high, v)
		}
	}
	if low > high {
		return 0, 0
	}
	return low, high
}

// valueAxis is logarithmic where the values ask for it: latencies that span more
// than a decade.
func valueAxis(title, unit string, values []float64, mayLog bool, from, to float64) (axis, scale) {
	s := scaleFor(unit, values)
	title = s.title(shorten(title, maxAxisRunes))
	low, high := bounds(slices.DeleteFunc(slices.Clone(values), func(v float64) bool { return v < least }))
	if mayLog && low > 0 && high > 10*low {
		return logarithmic(title+" (logarithmic)", values, s, from, to), s
	}
	short := s
	if high*s.Factor >= 1e6 {
		short.Factor *= 1e-6
		title += " (millions)"
	}
	return linear(title, values, short, from, to), s
}

// maxAxisRunes bounds a title beside a plot, which does not wrap.
const maxAxisRunes = 28
