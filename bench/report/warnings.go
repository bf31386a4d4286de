package report

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

const (
	// quietLoad is the load average above which others were at work.
	quietLoad = 0.5
	// nearCeiling is the share of the generator's ceiling above which the
	// generator, on the same CPUs, shapes what is measured.
	nearCeiling = 0.7
	// fewRounds is the least number of which a range says something.
	fewRounds = 3
	// lateMS is how far an open loop may lag before its load was another one.
	lateMS = 100
	// maxRemarks bounds the rounds that are named one by one.
	maxRemarks = 20
)

// inMemory are the file systems whose sync costs nothing.
var inMemory = map[string]bool{"tmpfs": true, "ramfs": true}

// Warnings say why the numbers may not mean what they seem to, the worst first.
func (r *Report) Warnings() []string {
	var out []string
	if lost := r.total(Lost); lost > 0 {
		out = append(out, fmt.Sprintf("ACKNOWLEDGED SENDS LOST: %s", quantity(lost, "")))
	}
	if len(r.Rounds) == 0 {
		out = append(out, "nothing was measured")
	}
	if strangers := r.total(Strangers); strangers > 0 {
		out = append(out, quantity(strangers, "")+" arrivals were no send of their round: somebody else sent to the receiver")
	}
	if inMemory[r.Machine.Filesystem] {
		out = append(out, "the data directories are in memory: syncs cost nothing here, and these numbers show nothing about a disk")
	}
	if load, err := strconv.ParseFloat(r.Machine.LoadAverage, 64); err == nil && load > quietLoad {
		out = append(out, fmt.Sprintf("the load average before was %s: somebody else was at work", r.Machine.LoadAverage))
	}
	out = append(out, r.ceilingWarnings()...)
	if late := r.most(GeneratorLateMax); late > lateMS {
		out = append(out, fmt.Sprintf("the generator was up to %s behind its schedule: the load was not the one asked for", quantity(late, "ms")))
	}
	if r.Quick {
		out = append(out, "the quick size: a smoke test, not a measurement")
	} else if n := r.fewestRounds(); n > 0 && n < fewRounds {
		out = append(out, fmt.Sprintf("only %s of some systems: the ranges say little about the noise", plural(n, "round")))
	}
	return out
}

// ceilingWarnings name, once each, the systems that came near what the generator
// can send. Direct is the generator itself.
func (r *Report) ceilingWarnings() []string {
	if r.Ceiling == nil || r.Ceiling.RequestsPerSecond <= 0 {
		return nil
	}
	nearest := map[string]float64{}
	for _, g := range r.Groups() {
		rate := g.Values[AcceptedRate].Median
		if g.Load.Axis == "batch" && g.Load.Value > 1 {
			rate /= g.Load.Value // the ceiling counts requests
		}
		nearest[g.System] = max(nearest[g.System], rate/r.Ceiling.RequestsPerSecond)
	}
	var out []string
	for _, system := range r.systems() {
		if share := nearest[system]; system != Direct && share > nearCeiling {
			out = append(out, fmt.Sprintf("%s reached %.0f %% of what the generator can send: its numbers may be the generator's", system, 100*share))
		}
	}
	return out
}

// remarks name the rounds in which something went another way than it should.
func (r *Report) remarks() []string {
	var out []string
	count := 0
	for _, round := range r.Rounds {
		text := round.remark()
		if text == "" {
			continue
		}
		if count++; count <= maxRemarks {
			out = append(out, text)
		}
	}
	if count > maxRemarks {
		out = append(out, fmt.Sprintf("and %s more of these", plural(count-maxRemarks, "round")))
	}
	return out
}

func (round Round) remark() string {
	var parts []string
	tell := func(name, words string) {
		if v := round.Values[name]; v > 0 {
			parts = append(parts, quantity(v, "")+" "+words)
		}
	}
	tell(Lost, "LOST")
	tell(Refused, "refused")
	tell(Failed, "failed")
	tell(Duplicates, "duplicates")
	tell(Unacknowledged, "arrived without a 202")
	tell(Strangers, "strangers")
	if round.FirstFailure != "" || round.Values[Failed] > 0 {
		parts = append(parts, "first failure: "+cmp.Or(round.FirstFailure, "no reason known"))
	}
	if len(parts) == 0 {
		return ""
	}
	return fmt.Sprintf("%s, %s, round %d: %s", round.System, round.Load, round.Number, strings.Join(parts, ", "))
}

func (r *Report) total(name string) (sum float64) {
	for _, round := range r.Rounds {
		if v := round.Values[name]; finite(v) {
			sum += v
		}
	}
	return sum
}

func (r *Report) most(name string) (most float64) {
	for _, round := range r.Rounds {
		if v := round.Values[name]; finite(v) {
			most = max(most, v)
		}
	}
	return most
}

// fewestRounds is the least number of rounds of any group.
func (r *Report) fewestRounds() int {
	fewest := 0
	for _, rounds := range r.cells() {
		if fewest == 0 || len(rounds) < fewest {
			fewest = len(rounds)
		}
	}
	return fewest
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return group(strconv.Itoa(n)) + " " + noun + "s"
}
