package bench

import (
	"encoding/json"
	"math"
	"slices"
	"testing"
)

// sizesOf are the sizes of the first sends.
func sizesOf(s Sizes, count int) []int {
	sizes := make([]int, count)
	for i := range sizes {
		sizes[i] = s.of(uint32(i))
	}
	slices.Sort(sizes)
	return sizes
}

func TestPayloadSizes(t *testing.T) {
	const count = 100_000
	check := func(text string, least, median, p99, most float64) {
		t.Helper()
		s, err := ParseSizes(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			return
		}
		d := sizesOf(s, count)
		near := func(name string, got int, want float64) {
			if math.Abs(float64(got)-want) > want/20+1 {
				t.Errorf("%s: the %s is %d, want about %.0f", text, name, got, want)
			}
		}
		near("least", d[0], least)
		near("median", d[count/2], median)
		near("99th percentile", d[count*99/100], p99)
		near("greatest", d[count-1], most)
	}
	check("300", 300, 300, 300, 300)
	check("64KiB", 65536, 65536, 65536, 65536)
	check("0.1KiB", 102, 102, 102, 102)
	check("20", float64(minPayloadBytes), float64(minPayloadBytes), float64(minPayloadBytes), float64(minPayloadBytes))
	check("uniform:100-10000", 100, 5050, 9901, 10000)
	check("lognormal:300,p99=64KiB", float64(minPayloadBytes), 300, 65536, maxPayloadBytes)
	check("mix:300x90,65536x10", 300, 300, 65536, 65536)
	check("mix:4KiBx1", 4096, 4096, 4096, 4096)
}

func TestAMixHasItsWeights(t *testing.T) {
	s, err := ParseSizes("mix:100x1,200x2,400x7")
	if err != nil {
		t.Fatal(err)
	}
	counts := map[int]float64{}
	for _, size := range sizesOf(s, 100_000) {
		counts[size]++
	}
	for size, want := range map[int]float64{100: 10_000, 200: 20_000, 400: 70_000} {
		if math.Abs(counts[size]-want) > want/20 {
			t.Errorf("%g of 100,000 have %d bytes, want about %g", counts[size], size, want)
		}
	}
	if len(counts) != 3 {
		t.Errorf("sizes that nobody asked for: %v", counts)
	}
}

func TestPayloadSizesThatMakeNoSense(t *testing.T) {
	for _, bad := range []string{
		"", "0", "-5", "big", "300B", "1MiB", "NaN", "uniform:", "uniform:5", "uniform:500-100", "uniform:0-100",
		"lognormal:300", "lognormal:300,p99=100", "lognormal:300,p90=4000", "lognormal:,p99=10",
		"mix:", "mix:300", "mix:300x", "mix:300x0", "mix:300x-1", "mix:300xNaN", "mix:300x1,", "zipf:1-2",
	} {
		if s, err := ParseSizes(bad); err == nil {
			t.Errorf("%q is read as %s", bad, s)
		}
	}
}

func TestBytes(t *testing.T) {
	for _, text := range []string{"1", "300", "1KiB", "1025", "64KiB", "2MiB"} {
		var b Bytes
		if err := b.UnmarshalText([]byte(text)); err != nil || b.String() != text {
			t.Errorf("%s is read as %s, %v", text, b, err)
		}
	}
	for _, bad := range []string{"", "0", "-1KiB", "NaN", "4000MiB", "3GiB", "1KiBMiB", "1MiBKiB"} {
		if err := new(Bytes).UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}

// The options of a generator go to its process as text.
func TestSizesAndRatesSurviveTheWayBetweenProcesses(t *testing.T) {
	sizes, err := ParseSizes("lognormal:300,p99=64KiB")
	if err != nil {
		t.Fatal(err)
	}
	rate, err := ParseRate("100..200")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []GeneratorOptions{{Payload: sizes, Rate: rate}, {}} {
		text, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		var back GeneratorOptions
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatal(err)
		}
		if back.Payload.String() != o.Payload.String() || back.Rate.String() != o.Rate.String() {
			t.Errorf("%s became %s and %s", text, back.Payload, back.Rate)
		}
		if o.Payload.at != nil && back.Payload.of(5) != o.Payload.of(5) {
			t.Error("the same send has another size in another process")
		}
	}
}
