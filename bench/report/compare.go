package report

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// The rule of Compare. A number moved when its median did by more than leastShift
// and, with enoughRounds on both sides, chance alone would rank the rounds as far
// apart in less than chanceBelow of all runs (rankSum); with fewer rounds, when
// the ranges of the rounds do not overlap. Of a single round nothing is known of
// the noise, and nothing is said.
//
// leastShift is there because enough rounds show any difference, also those that
// nobody would notice.
const (
	leastShift   = 0.03
	chanceBelow  = 0.05
	enoughRounds = 4
)

// A Comparison says what moved from report A to report B beyond the noise.
type Comparison struct {
	Scenario string   `json:"scenario"`
	A        Side     `json:"a"`
	B        Side     `json:"b"`
	Warnings []string `json:"warnings,omitempty"`

	// Ratios are those to the yardsticks of the same run, and the differences
	// from Direct. They come first: a machine that is faster today is in both
	// halves of them. Values are the numbers themselves, where it is not.
	Ratios []Change `json:"ratios"`
	Values []Change `json:"values"`

	Findings []FindingChange `json:"findings,omitempty"` // not judged: one number each
	OnlyIn   []string        `json:"only_in,omitempty"`  // what one of the reports lacks
	// ByChance is how many of the judged numbers chance alone may call moved, at
	// most, though nothing changed.
	ByChance float64 `json:"by_chance"`
}

// A Side is which run a report is of.
type Side struct {
	Started  string   `json:"started"`
	Versions Versions `json:"versions"`
}

// A Change is one number of both reports.
type Change struct {
	System  string `json:"system"`
	Against string `json:"against,omitempty"` // empty: the number itself
	// Added: the difference from Against, not the ratio to it.
	Added  bool      `json:"added,omitempty"`
	Load   Load      `json:"load"`
	Metric string    `json:"metric"`
	Title  string    `json:"title"`
	Unit   string    `json:"unit,omitempty"`
	Better Direction `json:"better,omitempty"`

	A Range `json:"a"`
	B Range `json:"b"`
	// Shift is that of the median, as a share of A's; nil where that is zero.
	Shift   *float64 `json:"shift,omitempty"`
	P       float64  `json:"p"` // of rankSum
	Verdict Verdict  `json:"verdict"`
}

// A FindingChange is a finding of both reports.
type FindingChange struct {
	Name string  `json:"name"`
	Unit string  `json:"unit,omitempty"`
	A    float64 `json:"a"`
	B    float64 `json:"b"`
}

// A Verdict says what became of a number.
type Verdict string

// The verdicts.
const (
	Improved Verdict = "better"
	Worsened Verdict = "worse"
	Moved    Verdict = "moved" // a number of which neither direction is better
	Same     Verdict = "same"  // not beyond the noise
	Unjudged Verdict = "unjudged"
)

// Compare says what moved from a to b. It refuses reports of different scenarios,
// and those that have no load of a system in common.
func Compare(a, b *Report) (Comparison, error) {
	if a.Scenario != b.Scenario {
		return Comparison{}, fmt.Errorf("report: compare: one is of %q, the other of %q", a.Scenario, b.Scenario)
	}
	c := Comparison{Scenario: a.Scenario, A: a.side(), B: b.side(), Warnings: differences(a, b)}
	ofA, ofB := a.subjects(), b.subjects()
	for _, s := range ofA.order {
		if other, ok := ofB.values[s.key]; ok {
			c.add(judge(s, ofA.values[s.key], other))
		}
	}
	if len(c.Values) == 0 {
		return Comparison{}, errors.New("report: compare: no system has a load in both of them")
	}
	c.Warnings = append(c.Warnings, c.driftWarnings()...)
	c.OnlyIn = append(onlyIn("A", a, b), onlyIn("B", b, a)...)
	for _, f := range a.Findings {
		i := slices.IndexFunc(b.Findings, func(g Finding) bool { return f.Name == g.Name && f.Unit == g.Unit })
		if i >= 0 && finite(f.Value) && finite(b.Findings[i].Value) {
			c.Findings = append(c.Findings, FindingChange{f.Name, f.Unit, f.Value, b.Findings[i].Value})
		}
	}
	return c, nil
}

func (r *Report) side() Side {
	return Side{r.Started.UTC().Format("2006-01-02 15:04 UTC"), r.Versions}
}

func (c *Comparison) add(change Change) {
	if change.Against != "" {
		c.Ratios = append(c.Ratios, change)
	} else {
		c.Values = append(c.Values, change)
	}
	if change.Verdict != Unjudged {
		c.ByChance += chance(change.A.Rounds, change.B.Rounds)
	}
}

// chance is at most how often the rule finds rounds of the same distribution to
// be apart.
func chance(n, m int) float64 {
	if min(n, m) >= enoughRounds {
		return chanceBelow
	}
	ways := 1.0 // to choose n of n+m; two of them do not overlap
	for i := 1; i <= n; i++ {
		ways = ways * float64(m+i) / float64(i)
	}
	return min(1, 2/ways)
}

// A key names a number that both reports may have.
type key struct {
	system, against string
	added           bool
	load            Load
	metric          string
}

type subject struct {
	key
	measure measure
}

// subjects are the numbers of a report in their order, with those of each round.
type subjects struct {
	order  []subject
	values map[key][]float64
}

func (r *Report) subjects() subjects {
	s := subjects{values: map[key][]float64{}}
	add := func(k key, m measure, values []float64) {
		if len(values) > 0 {
			s.order = append(s.order, subject{k, m})
			s.values[k] = values
		}
	}
	r.pairs(func(system, against string, load Load, m measure, ratios, added []float64) {
		if against == Direct {
			add(key{system, against, true, load, m.Name}, m, added)
		}
		add(key{system, against, false, load, m.Name}, m, ratios)
	})
	cells, measures := r.cells(), r.measures()
	for _, load := range r.loads() {
		for _, system := range r.systems() {
			for _, m := range measures {
				add(key{system, "", false, load, m.Name}, m, m.over(cells[cell{system, load}]))
			}
		}
	}
	return s
}

// judge applies the rule.
func judge(s subject, a, b []float64) Change {
	c := Change{
		System: s.system, Against: s.against, Added: s.added, Load: s.load,
		Metric: s.metric, Title: s.measure.Title, Unit: s.measure.Unit, Better: s.measure.Better,
		A: rangeOf(a), B: rangeOf(b), P: rankSum(a, b),
	}
	if s.against != "" && !s.added {
		c.Unit = ""
	}
	if c.A.Median != 0 {
		shift := (c.B.Median - c.A.Median) / math.Abs(c.A.Median)
		c.Shift = &shift
	}
	c.Verdict = c.verdict()
	return c
}

func (c Change) verdict() Verdict {
	if c.Metric == Lost && c.Against == "" {
		return c.verdictOfLosses()
	}
	apart := c.A.Max < c.B.Min || c.B.Max < c.A.Min
	switch rounds := min(c.A.Rounds, c.B.Rounds); {
	case rounds < 2:
		return Unjudged
	case rounds >= enoughRounds:
		apart = c.P < chanceBelow
	}
	if !apart || c.A.Median == c.B.Median || c.Shift != nil && math.Abs(*c.Shift) <= leastShift {
		return Same
	}
	return c.direction()
}

// verdictOfLosses is another one: a lost send is never noise.
func (c Change) verdictOfLosses() Verdict {
	switch {
	case c.A.Max == 0 && c.B.Max > 0:
		return Worsened
	case c.A.Max > 0 && c.B.Max == 0:
		return Improved
	default:
		return Same
	}
}

func (c Change) direction() Verdict {
	up := c.B.Median > c.A.Median
	switch {
	case c.Better == Neither:
		return Moved
	case up == (c.Better == Higher):
		return Improved
	default:
		return Worsened
	}
}

func (c Change) moved() bool {
	return c.Verdict == Improved || c.Verdict == Worsened || c.Verdict == Moved
}
