package report

import (
	"fmt"
	"slices"
	"strings"
)

// The size of a plot in its own units. It is small so that its letters can still
// be read when it is shrunk to a telephone.
const (
	plotWidth  = 560
	plotHeight = 314

	leftMargin   = 80
	rightMargin  = 30
	topMargin    = 38
	bottomMargin = 52
)

// A plot is an SVG figure and the table of its numbers. The template draws it,
// so that every text in it is escaped.
type plot struct {
	ID          string
	Title       string
	Description string // what one would say of it on the telephone
	Width       float64
	Height      float64
	Top         float64 // where the lines of the grid begin
	X, Y        axis
	Lines       []line
	Bars        []bar
	Texts       []label
	Legend      []legend
	Table       sheet
}

// A line is one series.
type line struct {
	Style string // classes: the colour of the system, the dashes of the variant
	Band  string // path of the range around it; may be empty
	Path  string
	Dots  []dot
}

type dot struct{ Path, Title string }

// A bar is a row of a bar plot: the median, the range, and the rounds.
type bar struct {
	Style             string
	Y, Height, Middle float64
	From, To          float64
	Low, High         float64
	Whisker           bool
	Dots              []place
	Title             string
}

type place struct{ X, Y float64 }

type label struct {
	place
	Anchor string // start, middle, end
	Style  string
	Text   string
}

type legend struct{ Style, Path, Text string }

// A sheet is a table of an HTML page: the first column holds the row's names.
type sheet struct {
	Caption string
	Heads   []string
	Rows    [][]string
}

// newPlot is an empty plot of the usual size.
func newPlot(title string) plot {
	return plot{Title: title, Width: plotWidth, Height: plotHeight, Top: topMargin}
}

// The places at which the axes of a usual plot end.
const (
	xFrom, xTo = leftMargin, plotWidth - rightMargin
	yFrom, yTo = plotHeight - bottomMargin, topMargin
)

// Where the template puts what is at the edges.

// Bottom is the place of the x axis.
func (p plot) Bottom() float64 { return p.Height - bottomMargin }

// TickY is that of the labels below it.
func (p plot) TickY() float64 { return p.Bottom() + 22 }

// TitleX and TitleY are the place of the x axis's title.
func (p plot) TitleX() float64 { return (p.X.From + p.X.To) / 2 }

// TitleY is the other half of it.
func (p plot) TitleY() float64 { return p.Height - 6 }

// LabelX is where the labels of the y axis end.
func (p plot) LabelX() float64 { return p.X.From - 8 }

// End is the lower edge of the bar.
func (b bar) End() float64 { return b.Y + b.Height }

// WhiskerPath is a line over the range, with its ends.
func (b bar) WhiskerPath() string {
	const half = 5
	return fmt.Sprintf("M%.1f %.1fH%.1fM%.1f %.1fv%dM%.1f %.1fv%d",
		b.Low, b.Middle, b.High, b.Low, b.Middle-half, 2*half, b.High, b.Middle-half, 2*half)
}

// A point is a value with its range, and what a pointer over it says.
type point struct {
	x, y, low, high float64
	title           string
}

// A series is a line before it is drawn.
type series struct {
	name   string
	style  string
	mark   string // the shape of its points; empty: none
	points []point
	thin   bool // one of several lines of the same name
}

// maxMarks bounds the shapes on a line.
const maxMarks = 20

// draw adds the lines of series, and a legend with each name once.
func (p *plot) draw(all []series) {
	for _, s := range all {
		style := s.style
		if s.thin {
			style += " thin"
		}
		l := line{Style: style, Path: p.path(s.points), Band: p.band(s.points)}
		if s.mark != "" {
			// Of many, some: each would hide the next.
			every := (len(s.points) + maxMarks - 1) / maxMarks
			for i, pt := range s.points {
				if i%every != 0 && i != len(s.points)-1 {
					continue
				}
				x, okX := p.X.at(pt.x)
				y, okY := p.Y.at(pt.y)
				if okX && okY {
					l.Dots = append(l.Dots, dot{markPath(s.mark, x, y), pt.title})
				}
			}
		}
		p.Lines = append(p.Lines, l)
		p.addLegend(s.style, s.mark, s.name)
	}
}

func (p *plot) addLegend(style, mark, name string) {
	if slices.ContainsFunc(p.Legend, func(l legend) bool { return l.Text == name }) {
		return
	}
	path := ""
	if mark != "" {
		path = markPath(mark, 14, 7)
	}
	p.Legend = append(p.Legend, legend{style, path, name})
}

// path joins the points that have a place.
func (p *plot) path(points []point) string {
	var b strings.Builder
	for _, pt := range points {
		x, okX := p.X.at(pt.x)
		y, okY := p.Y.at(pt.y)
		if okX && okY {
			join(&b, x, y)
		}
	}
	return b.String()
}

// band is the outline of the ranges, there along the greatest and back along the
// least; empty where there is none to see.
func (p *plot) band(points []point) string {
	var there, back []place
	seen := false
	for _, pt := range points {
		x, okX := p.X.at(pt.x)
		high, okHigh := p.Y.at(pt.high)
		low, okLow := p.Y.at(pt.low)
		if okX && okHigh && okLow {
			there, back = append(there, place{x, high}), append(back, place{x, low})
			seen = seen || pt.high > pt.low
		}
	}
	if !seen {
		return ""
	}
	slices.Reverse(back)
	var b strings.Builder
	for _, at := range append(there, back...) {
		join(&b, at.X, at.Y)
	}
	return b.String() + "Z"
}

func join(b *strings.Builder, x, y float64) {
	command := "L"
	if b.Len() == 0 {
		command = "M"
	}
	fmt.Fprintf(b, "%s%.1f %.1f", command, x, y)
}

// The shapes of points, so that systems can be told apart without colours.
const (
	circle   = "circle"
	square   = "square"
	triangle = "triangle"
	diamond  = "diamond"
)

// markPath is the outline of a shape around a place.
func markPath(mark string, x, y float64) string {
	switch mark {
	case square:
		return fmt.Sprintf("M%.1f %.1fh7v7h-7Z", x-3.5, y-3.5)
	case triangle:
		return fmt.Sprintf("M%.1f %.1fl4.5 8h-9Z", x, y-4.7)
	case diamond:
		return fmt.Sprintf("M%.1f %.1fl5 5l-5 5l-5 -5Z", x, y-5)
	default:
		return fmt.Sprintf("M%.1f %.1fa4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z", x-4, y)
	}
}

// A look is the colour and the shape of a system, the same in all plots.
type look struct{ style, mark string }

// looks give the known systems theirs, and the others what is left.
func (r *Report) looks() map[string]look {
	known := map[string]look{Engine: {"c0", circle}, Forwarder: {"c1", square}, Direct: {"c2", triangle}, Server: {"c3", diamond}, Cluster: {"c4", diamond}}
	marks := []string{circle, square, triangle, diamond}
	looks := map[string]look{}
	next := 4
	for _, system := range r.systems() {
		of, ok := known[system]
		if !ok {
			of = look{fmt.Sprintf("c%d", 4+(next-4)%4), marks[next%4]}
			next++
		}
		looks[system] = of
	}
	return looks
}

// dashes are the class of the n-th variant of a load.
func dashes(n int) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf(" d%d", (n-1)%3+1)
}
