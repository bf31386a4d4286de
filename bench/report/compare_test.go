package report

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestRankSum(t *testing.T) {
	check := func(want float64, a, b []float64) {
		t.Helper()
		if got := rankSum(a, b); math.Abs(got-want) > 1e-9 {
			t.Errorf("%v against %v: p is %v, want %v", a, b, got, want)
		}
		if got := rankSum(b, a); math.Abs(got-want) > 1e-9 {
			t.Errorf("%v against %v: p is %v, want %v", b, a, got, want)
		}
	}
	check(2.0/70, []float64{1, 2, 3, 4}, []float64{5, 6, 7, 8})
	check(2.0/252, []float64{1, 2, 3, 4, 5}, []float64{6, 7, 8, 9, 10})
	check(4.0/70, []float64{1, 2, 3, 5}, []float64{4, 6, 7, 8})
	check(1, []float64{1, 1, 1, 1}, []float64{1, 1, 1, 1})
	// Of the ten choices of two of {1, 2.5, 2.5, 4, 5}, the rank sum 3.5 or less
	// comes up twice.
	check(4.0/10, []float64{1, 2}, []float64{2, 3, 4})
	check(1, nil, []float64{1})
}

// Every choice counted one by one must say the same as the counting of sums.
func TestRankSumIsThatOfAllPermutations(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		values := make([]float64, 4+random.IntN(7))
		for i := range values {
			values[i] = float64(random.IntN(6)) // so that there are ties
		}
		n := 1 + random.IntN(len(values)-1)
		if got, want := rankSum(values[:n], values[n:]), permuted(values, n); math.Abs(got-want) > 1e-9 {
			t.Errorf("%v, the first %d against the others: p is %v, want %v", values, n, got, want)
		}
	}
}

func permuted(values []float64, n int) float64 {
	ranks := doubledRanks(values)
	sumOf := func(chosen uint) (sum, count int) {
		for i, rank := range ranks {
			if chosen>>i&1 == 1 {
				sum, count = sum+rank, count+1
			}
		}
		return sum, count
	}
	observed, _ := sumOf(1<<n - 1)
	var below, above, all float64
	for chosen := range uint(1) << len(values) {
		sum, count := sumOf(chosen)
		if count != n {
			continue
		}
		all++
		if sum <= observed {
			below++
		}
		if sum >= observed {
			above++
		}
	}
	return min(1, 2*min(below, above)/all)
}

func TestNormalRankSumIsNearTheExactOne(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	for range 20 {
		a, b := make([]float64, 18), make([]float64, 22)
		for i := range a {
			a[i] = math.Round(10*random.NormFloat64()) + 3
		}
		for i := range b {
			b[i] = math.Round(10 * random.NormFloat64())
		}
		ranks := doubledRanks(slices.Concat(a, b))
		observed := 0
		for _, rank := range ranks[:len(a)] {
			observed += rank
		}
		if exact, normal := rankSum(a, b), normalRankSum(ranks, len(a), observed); math.Abs(exact-normal) > 0.02 {
			t.Errorf("exact %v, normal %v", exact, normal)
		}
	}
}

// With nothing changed, the rule may not call more changes than it says.
func TestRuleKeepsToItsChance(t *testing.T) {
	random := rand.New(rand.NewPCG(9, 10))
	for _, rounds := range []int{2, 3, 4, 5} {
		const runs = 4000
		moved := 0
		for range runs {
			a, b := make([]float64, rounds), make([]float64, rounds)
			for i := range a {
				a[i], b[i] = 100*math.Exp(random.NormFloat64()), 100*math.Exp(random.NormFloat64())
			}
			if judge(subject{measure: measure{Metric: Metric{Better: Higher}}}, a, b).moved() {
				moved++
			}
		}
		// Four deviations of a coin of that chance.
		if want := chance(rounds, rounds); float64(moved) > runs*want+4*math.Sqrt(runs*want) {
			t.Errorf("%d rounds: %d of %d moved, at most a share of %.3f should", rounds, moved, runs, want)
		}
	}
}

func TestVerdicts(t *testing.T) {
	check := func(want Verdict, metric Metric, a, b []float64) {
		t.Helper()
		if got := judge(subject{key: key{metric: metric.Name}, measure: measure{Metric: metric}}, a, b); got.Verdict != want {
			t.Errorf("%s from %v to %v: %+v, want %s", metric.Name, a, b, got, want)
		}
	}
	rate, cpu := Metric{Name: DeliveredRate, Better: Higher}, Metric{Name: CPU, Better: Lower}
	check(Improved, rate, []float64{100, 101, 102, 103}, []float64{110, 111, 112, 113})
	check(Worsened, cpu, []float64{100, 101, 102, 103}, []float64{110, 111, 112, 113})
	check(Moved, Metric{Name: SyncRate}, []float64{100, 101, 102, 103}, []float64{110, 111, 112, 113})
	check(Same, rate, []float64{100, 101, 102, 103}, []float64{102, 103, 104, 120}) // not apart
	check(Same, rate, []float64{100, 100, 100, 100}, []float64{102, 102, 102, 102}) // less than 3 %
	check(Worsened, rate, []float64{100, 101}, []float64{90, 91})
	check(Same, rate, []float64{100, 101}, []float64{90, 100.5})
	check(Unjudged, rate, []float64{100}, []float64{50, 51})
	check(Worsened, Metric{Name: Duplicates, Better: Lower}, []float64{0, 0}, []float64{5, 6})
	check(Worsened, Metric{Name: Lost, Better: Lower}, []float64{0, 0, 0, 0, 0}, []float64{0, 0, 1, 0, 0})
	check(Improved, Metric{Name: Lost, Better: Lower}, []float64{1}, []float64{0})
}

// The machine slows down by a fifth and the engine by a tenth more: the ratios
// show the engine's part, and the comparison says that the yardstick moved.
func slowerThroughput() *Report {
	b := sampleThroughput(11)
	for _, round := range b.Rounds {
		slower := 0.8
		if round.System == Engine {
			slower = 0.7
		}
		round.Values[DeliveredRate] *= slower
		round.Values[AcceptedRate] *= slower
	}
	b.Versions.Go = "go1.26.9"
	b.Settings[1].Value = "400 B"
	b.Machine.CPUs = 4
	b.Findings[0].Value = 0.74
	b.Rounds = append(b.Rounds, Round{System: Engine, Number: 1, Load: Load{Axis: "connections", Value: 64}})
	return b
}

func TestComparison(t *testing.T) {
	c, err := Compare(sampleThroughput(1), slowerThroughput())
	if err != nil {
		t.Fatal(err)
	}
	var text, asJSON bytes.Buffer
	if err := c.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	golden(t, "compare.txt", text.Bytes())
	for _, want := range []string{"Go differs: go1.26.8, go1.26.9", "setting payload differs", "number of CPUs differs: 2, 4", "the yardstick moved", "only in B"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the text lacks %q:\n%s", want, text.String())
		}
	}
	if err := c.WriteJSON(&asJSON); err != nil {
		t.Fatal(err)
	}
	var read Comparison
	if err := json.Unmarshal(asJSON.Bytes(), &read); err != nil {
		t.Fatal(err)
	}
	if len(read.Ratios) != len(c.Ratios) || len(read.Values) != len(c.Values) {
		t.Errorf("of %d and %d changes, %d and %d are in the JSON", len(c.Ratios), len(c.Values), len(read.Ratios), len(read.Values))
	}
	first := read.Ratios[0]
	if first.Metric != DeliveredRate || first.Against != Forwarder || first.Verdict != Worsened {
		t.Errorf("the first ratio is %+v", first)
	}
}

func TestCompareRefuses(t *testing.T) {
	if _, err := Compare(sampleThroughput(1), sampleOutage(1)); err == nil || !strings.Contains(err.Error(), `"throughput", the other of "outage"`) {
		t.Errorf("other scenarios: %v", err)
	}
	other := sampleThroughput(1)
	for i := range other.Rounds {
		other.Rounds[i].Load.Value = 64
	}
	if _, err := Compare(sampleThroughput(1), other); err == nil || !strings.Contains(err.Error(), "no system has a load in both") {
		t.Errorf("other loads: %v", err)
	}
}

// A report compared with itself moved nowhere.
func TestNothingMovesByItself(t *testing.T) {
	for name, r := range samples() {
		if len(r.Rounds) == 0 {
			continue
		}
		c, err := Compare(r, r)
		if err != nil {
			t.Fatal(err)
		}
		for _, change := range slices.Concat(c.Ratios, c.Values) {
			if change.moved() {
				t.Errorf("%s: %+v", name, change)
			}
		}
	}
}
