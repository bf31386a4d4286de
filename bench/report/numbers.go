package report

import (
	"math"
	"slices"
	"strconv"
	"strings"
)

// A Range is the median of some rounds, with the least and the greatest value.
type Range struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	Rounds int     `json:"rounds"`
}

// rangeOf summarises values; of an even number the median is the middle of the
// two in the middle.
func rangeOf(values []float64) Range {
	if len(values) == 0 {
		return Range{}
	}
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return Range{Median: v[(n-1)/2]/2 + v[n/2]/2, Min: v[0], Max: v[n-1], Rounds: n}
}

// greatest is beyond what anything measured can be. It keeps sums, scales and
// axes within what a float64 can say, whatever a file holds.
const greatest = 1e18

// finite reports whether v is a number to reckon with.
func finite(v float64) bool { return math.Abs(v) <= greatest }

// A scale is the unit in which a column or an axis is read, chosen so that its
// numbers are short.
type scale struct {
	Unit   string
	Factor float64 // what a value is multiplied with
	Whole  bool    // all values are whole numbers: they are counts
}

// scaleFor chooses the scale of values, which have unit.
func scaleFor(unit string, values []float64) scale {
	largest, whole := 0.0, unit == "" || unit == "B"
	for _, v := range values {
		if finite(v) {
			largest = max(largest, math.Abs(v))
			whole = whole && v == math.Trunc(v)
		}
	}
	switch {
	case unit == "B" && largest >= 1<<30:
		return scale{"GiB", 1.0 / (1 << 30), false}
	case unit == "B" && largest >= 1<<20:
		return scale{"MiB", 1.0 / (1 << 20), false}
	case unit == "B" && largest >= 1<<10:
		return scale{"KiB", 1.0 / (1 << 10), false}
	case unit == "ms" && largest >= 10_000:
		return scale{"s", 1e-3, false}
	case unit == "ms" && largest > 0 && largest < 0.1:
		return scale{"µs", 1e3, false}
	case unit == "µs" && largest >= 10_000:
		return scale{"ms", 1e-3, false}
	default:
		return scale{unit, 1, whole}
	}
}

// title adds the unit to the title of a column or an axis.
func (s scale) title(title string) string {
	if s.Unit == "" {
		return title
	}
	return title + ", " + shorten(s.Unit, 12)
}

// text writes a value in the scale, without its unit.
func (s scale) text(v float64) string {
	if s.Whole && math.Abs(v) < 1e15 && v == math.Trunc(v) {
		return group(strconv.FormatFloat(v, 'f', 0, 64))
	}
	return number(v * s.Factor)
}

// rangeText writes a range in the scale: 43,826 (37,499 to 48,367).
func (s scale) rangeText(r Range) string {
	switch {
	case r.Rounds == 0:
		return missing
	case r.Rounds == 1 || r.Min == r.Max:
		return s.text(r.Median)
	default:
		return s.text(r.Median) + " (" + s.text(r.Min) + " to " + s.text(r.Max) + ")"
	}
}

// missing stands where there is no number.
const missing = "-"

// number writes a value with three digits that mean something, and those before
// the point always: 0.0431, 0.430, 15.7, 157, 43,826.
func number(v float64) string {
	if !finite(v) {
		return missing
	}
	a := math.Abs(v)
	switch {
	case a == 0:
		return "0"
	case a >= 1e15 || a < 1e-6:
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
	// The exponent after rounding: 9.999 is 10.0, not 10.00.
	_, e, _ := strings.Cut(strconv.FormatFloat(v, 'e', 2, 64), "e")
	exponent, err := strconv.Atoi(e)
	if err != nil {
		panic("report: exponent of a number: " + e) // FormatFloat writes it
	}
	return group(strconv.FormatFloat(v, 'f', max(0, 2-exponent), 64))
}

// quantity writes one value with its unit: 1.20 GiB, 0.430 ms, 12,345/s.
func quantity(v float64, unit string) string {
	s := scaleFor(unit, []float64{v})
	return s.text(v) + suffix(s.Unit)
}

// suffix is a unit as it follows its number.
func suffix(unit string) string {
	if unit == "" || strings.HasPrefix(unit, "/") || unit == "%" {
		return unit
	}
	return " " + unit
}

// group puts a comma between thousands.
func group(digits string) string {
	whole, fraction, point := strings.Cut(digits, ".")
	sign := ""
	if strings.HasPrefix(whole, "-") {
		sign, whole = "-", whole[1:]
	}
	for at := len(whole) - 3; at > 0; at -= 3 {
		whole = whole[:at] + "," + whole[at:]
	}
	if point {
		whole += "." + fraction
	}
	return sign + whole
}

// percentText writes a percentile as people say it: p50, p99, p99.9.
func percentText(percent float64) string {
	return "p" + strconv.FormatFloat(percent, 'f', -1, 64)
}
