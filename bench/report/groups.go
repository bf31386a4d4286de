package report

import (
	"maps"
	"slices"
	"strings"
)

// A Group is one system under one load, over its rounds.
type Group struct {
	System string `json:"system"`
	Load   Load   `json:"load"`
	Rounds int    `json:"rounds"`
	// Values by the name of a metric, and the percentiles of latencies as
	// arrival_p99_ms. Of what no round measured there is none.
	Values map[string]Range `json:"values"`
}

// A Ratio compares a system with a yardstick under the same load. Rounds are
// compared in pairs of the same number: they ran one after the other, so the
// machine's drift from one pair to the next is in both halves of each.
type Ratio struct {
	System  string `json:"system"`
	Against string `json:"against"`
	Load    Load   `json:"load"`
	Metric  string `json:"metric"` // as in Group.Values
	Ratio   Range  `json:"ratio"`
	// Added is the difference, of latencies against Direct only.
	Added *Range `json:"added_ms,omitempty"`
}

// The percentiles of a latency that tables show.
var tablePercents = []float64{50, 90, 99, 99.9}

// A measure is a number that a round may have: a metric or a percentile.
type measure struct {
	Metric
	latency string // of which it is a percentile; empty: it is a metric
	percent float64
}

func percentile(latency string, percent float64) measure {
	name := latency + "_" + percentText(percent) + "_ms"
	title := latency + " " + percentText(percent)
	return measure{Metric{name, title, "ms", Lower, true}, latency, percent}
}

// of returns the round's number; false where it has none.
func (m measure) of(r Round) (float64, bool) {
	if m.latency == "" {
		v, ok := r.Values[m.Name]
		return v, ok && finite(v)
	}
	for _, q := range r.Latencies[m.latency].Quantiles {
		if q.Percent == m.percent {
			return q.MS, finite(q.MS)
		}
	}
	return 0, false
}

// over collects the numbers that the rounds have.
func (m measure) over(rounds []Round) []float64 {
	var values []float64
	for _, r := range rounds {
		if v, ok := m.of(r); ok {
			values = append(values, v)
		}
	}
	return values
}

// measures are what any round has: the known metrics in their order with the
// latencies after the rated ones, then what only a newer program has a title for.
func (r *Report) measures() []measure {
	names, latencies := map[string]bool{}, map[string]bool{}
	for _, round := range r.Rounds {
		for name := range round.Values {
			names[name] = true
		}
		for name, d := range round.Latencies {
			latencies[name] = latencies[name] || len(d.Quantiles) > 0
		}
	}
	var rated, rest, quantiles []measure
	for _, m := range Metrics {
		switch {
		case !names[m.Name]:
		case m.Rated:
			rated = append(rated, measure{Metric: m})
		default:
			rest = append(rest, measure{Metric: m})
		}
		delete(names, m.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		rest = append(rest, measure{Metric: Metric{Name: name, Title: strings.ReplaceAll(name, "_", " ")}})
	}
	for _, name := range slices.Sorted(maps.Keys(latencies)) {
		for _, p := range tablePercents {
			if m := percentile(name, p); len(m.over(r.Rounds)) > 0 {
				quantiles = append(quantiles, m)
			}
		}
	}
	return slices.Concat(rated, quantiles, rest)
}

// loads are the loads in the order in which they were first measured.
func (r *Report) loads() []Load {
	return firsts(r.Rounds, func(round Round) Load { return round.Load })
}

// systems are the systems in the order in which they were first measured.
func (r *Report) systems() []string {
	return firsts(r.Rounds, func(round Round) string { return round.System })
}

func firsts[T comparable](rounds []Round, of func(Round) T) []T {
	seen := map[T]bool{}
	var out []T
	for _, round := range rounds {
		if v := of(round); !seen[v] {
			seen[v] = true
			out = append(out, v)
		}
	}
	return out
}

// A cell says which rounds belong together.
type cell struct {
	System string
	Load   Load
}

func (r *Report) cells() map[cell][]Round {
	cells := map[cell][]Round{}
	for _, round := range r.Rounds {
		c := cell{round.System, round.Load}
		cells[c] = append(cells[c], round)
	}
	return cells
}

// Groups are the medians and ranges: load by load, and in each the systems, all
// in the order in which they were first measured.
func (r *Report) Groups() []Group {
	cells, measures := r.cells(), r.measures()
	var groups []Group
	for _, load := range r.loads() {
		for _, system := range r.systems() {
			rounds := cells[cell{system, load}]
			if len(rounds) == 0 {
				continue
			}
			g := Group{System: system, Load: load, Rounds: len(rounds), Values: map[string]Range{}}
			for _, m := range measures {
				if values := m.over(rounds); len(values) > 0 {
					g.Values[m.Name] = rangeOf(values)
				}
			}
			groups = append(groups, g)
		}
	}
	return groups
}

// Ratios are those of every system against each yardstick of the same run: all
// rated metrics against Forwarder, latencies against Direct, and a cluster also
// against one Engine, and, if it has settings of its own, against one that has none.
func (r *Report) Ratios() []Ratio {
	var ratios []Ratio
	r.pairs(func(system, against string, load Load, m measure, of, added []float64) {
		ratio := Ratio{System: system, Against: against, Load: load, Metric: m.Name, Ratio: rangeOf(of)}
		if against == Direct {
			more := rangeOf(added)
			ratio.Added = &more
		}
		ratios = append(ratios, ratio)
	})
	return ratios
}

// pairs calls each with the ratios and the differences of every system to each
// of its yardsticks, round by round, where there are any.
func (r *Report) pairs(each func(system, against string, load Load, m measure, ratios, added []float64)) {
	cells, measures := r.cells(), r.measures()
	for _, load := range r.loads() {
		for _, system := range r.systems() {
			for _, against := range yardsticks(system) {
				for _, m := range measures {
					if !m.Rated || against == Direct && m.latency == "" {
						continue
					}
					ratios, added := pair(m, cells[cell{system, load}], cells[cell{against, load}])
					if len(ratios) > 0 {
						each(system, against, load, m, ratios, added)
					}
				}
			}
		}
	}
}

// yardsticks are what a system is compared with.
func yardsticks(system string) []string {
	switch system {
	case Direct:
		return nil
	case Forwarder:
		return []string{Direct}
	case Cluster:
		return []string{Engine, Forwarder, Direct}
	case Engine, Server:
		return []string{Forwarder, Direct}
	default: // a cluster of other settings
		return []string{Cluster, Engine, Forwarder, Direct}
	}
}

// pair compares rounds of the same number: the ratios, and the differences.
func pair(m measure, rounds, against []Round) (ratios, added []float64) {
	other := map[int]float64{}
	for _, r := range against {
		if v, ok := m.of(r); ok {
			other[r.Number] = v
		}
	}
	for _, r := range rounds {
		v, ok := m.of(r)
		if y := other[r.Number]; ok && y > 0 {
			ratios = append(ratios, v/y)
			added = append(added, v-y)
		}
	}
	return ratios, added
}

// String is the load in a few words: 256 connections, rate 2,000/s.
func (l Load) String() string {
	value := scale{Factor: 1, Whole: true}.text(l.Value)
	text := value + " " + l.Axis
	if l.Unit != "" {
		text = l.Axis + " " + quantity(l.Value, l.Unit)
	}
	if l.Axis == "" {
		text = value + suffix(l.Unit)
	}
	if l.Variant != "" {
		text += ", " + l.Variant
	}
	return text
}
