package report

import (
	"bytes"
	"errors"
	"flag"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files instead of reading them")

// golden compares text with a file of testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (go test ./bench/report -update writes it); got:\n%s", path, got)
	}
}

var sweepRates = []float64{500, 1000, 2000, 5000, 10_000, 20_000, 30_000, 40_000}

// samples are reports of every shape.
func samples() map[string]*Report {
	broken := sampleThroughput(4)
	broken.Quick = true
	broken.Machine.Filesystem = "tmpfs"
	broken.Machine.LoadAverage = "1.70"
	broken.Ceiling.RequestsPerSecond = 50_000
	broken.Rounds = broken.Rounds[:3]
	broken.Rounds[1].Values[Lost] = 12
	broken.Rounds[1].Values[Failed] = 3
	broken.Rounds[1].FirstFailure = "dial 127.0.0.1:9000: connection refused"
	delete(broken.Rounds[0].Values, CPU)
	broken.Rounds[2].Values[WrittenPerByte] = math.NaN()
	broken.Rounds[2].Latencies = nil
	return map[string]*Report{
		"throughput": sampleThroughput(1),
		"sweep":      sampleSweep(2, sweepRates, 5),
		"outage":     sampleOutage(3),
		"broken":     broken,
		"empty":      {Scenario: "throughput"},
	}
}

func TestText(t *testing.T) {
	for name, r := range samples() {
		t.Run(name, func(t *testing.T) {
			var text bytes.Buffer
			if err := r.WriteText(&text); err != nil {
				t.Fatal(err)
			}
			golden(t, name+".txt", text.Bytes())
			for line := range strings.Lines(text.String()) {
				if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 140 {
					t.Errorf("a line of %d columns: %s", n, line)
				}
			}
		})
	}
}

// What WriteJSON writes, Read reads as it was, less what is not finite.
func TestJSONThereAndBack(t *testing.T) {
	for name, r := range samples() {
		t.Run(name, func(t *testing.T) {
			var first, second bytes.Buffer
			if err := r.WriteJSON(&first); err != nil {
				t.Fatal(err)
			}
			read, err := Read(bytes.NewReader(first.Bytes()))
			if err != nil {
				t.Fatal(err)
			}
			if err := read.WriteJSON(&second); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(first.Bytes(), second.Bytes()) {
				t.Error("read and written again, it is another one")
			}
			if got, want := read.Groups(), r.Groups(); !reflect.DeepEqual(got, want) {
				t.Errorf("groups are %+v, want %+v", got, want)
			}
		})
	}
}

// The JSON of this format stays as it is: reports are kept and compared for years.
func TestJSONOfTheFormat(t *testing.T) {
	var text bytes.Buffer
	if err := samples()["broken"].WriteJSON(&text); err != nil {
		t.Fatal(err)
	}
	golden(t, "format-1.json", text.Bytes())
}

func TestReadNamesWhatIsWrong(t *testing.T) {
	check := func(text string, wants ...string) {
		t.Helper()
		_, err := Read(strings.NewReader(text))
		if err == nil {
			t.Errorf("%s was taken", text)
			return
		}
		for _, want := range wants {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v; want %q in it", text, err, want)
			}
		}
	}
	check(``, "at byte 0")
	check(`{"format": 1,`, "at byte 13")
	check(`[]`, "array")
	check(`{}`, `"format"`, "missing")
	check(`{"format": "1"}`, `"format"`, "string")
	check(`{"format": 2, "scenario": 7}`, `"format" is 2`, "reads 1")
	check(`{"format": 1}`, `"scenario"`)
	check(`{"format": 1, "scenario": 7}`, `"scenario"`, "number")
	check(`{"format": 1, "scenario": "x", "rounds": [{"number": 1}]}`, `"rounds[0].system"`)
	check(`{"format": 1, "scenario": "x", "rounds": [{"system": "engine"}]}`, `"rounds[0].number"`)
	check(`{"format": 1, "scenario": "x", "rounds": [{"system": "engine", "number": 1, "values": {"accepted": "many"}}]}`, "values")
	check(`{"format": 1, "scenario": "x", "rounds": [{"system": "engine", "number": 1, "latencies": {"answer": {"quantiles": [{"percent": 99}, {"percent": 50}]}}}]}`,
		`"rounds[0].latencies["answer"]"`, "quantiles[1]")
	const small = `{"format": 1, "scenario": "x"}`
	if _, err := read(strings.NewReader(small), len(small)); err != nil {
		t.Errorf("as many bytes as allowed: %v", err)
	}
	if _, err := read(strings.NewReader(small), len(small)-1); err == nil || !strings.Contains(err.Error(), "more than 29 B") {
		t.Errorf("a byte too many: %v", err)
	}
	r, err := Read(strings.NewReader(`{"format": 1, "scenario": "x", "of_tomorrow": {"a": 1}}`))
	if err != nil || r.Scenario != "x" {
		t.Errorf("with an unknown field: %+v, %v", r, err)
	}
}

func FuzzRead(f *testing.F) {
	// A small seed: what is made of it is minimised byte by byte.
	f.Add([]byte(`{"format":1,"scenario":"x","quick":true,"machine":{"load_average":"2"},"ceiling":{"requests_per_second":9},"rounds":[` +
		`{"system":"engine","load":{"axis":"rate","value":5,"unit":"/s"},"number":1,"values":{"lost":1,"rss_bytes":5},` +
		`"latencies":{"answer":{"count":1,"quantiles":[{"percent":50,"ms":1}]}},"timeline":[{"at_ms":1,"values":{"pending":2}}]},` +
		`{"system":"direct","load":{"axis":"rate","value":5,"unit":"/s"},"number":1,"latencies":{"answer":{"quantiles":[{"percent":50,"ms":2}]}}}],` +
		`"findings":[{"name":"n","value":3,"unit":"ms"}],"notes":["n"]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := Read(bytes.NewReader(text))
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := r.WriteText(&out); err != nil {
			t.Fatal(err)
		}
		if err := r.WriteHTML(&out); err != nil {
			t.Fatal(err)
		}
		var again bytes.Buffer
		if err := r.WriteJSON(&again); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(&again); err != nil {
			t.Errorf("what was written cannot be read: %v", err)
		}
		if c, err := Compare(r, r); err == nil {
			if err := errors.Join(c.WriteText(&out), c.WriteJSON(&out)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestMediansAndPairedRatios(t *testing.T) {
	if got := rangeOf([]float64{3, 1, 2}); got != (Range{2, 1, 3, 3}) {
		t.Errorf("of three: %+v", got)
	}
	if got := rangeOf([]float64{4, 1}); got != (Range{2.5, 1, 4, 2}) {
		t.Errorf("of two: %+v", got)
	}
	var r Report
	add := func(system string, number int, delivered, p50 float64) {
		r.Rounds = append(r.Rounds, Round{
			System: system, Number: number, Load: Load{Axis: "connections", Value: 64},
			Values:    map[string]float64{DeliveredRate: delivered, Lost: 1},
			Latencies: map[string]Distribution{"answer": {Quantiles: []Quantile{{50, p50}}}},
		})
	}
	// The machine doubles its speed in the second round, the ratio stays. The
	// third round has no partner and is in no pair.
	add(Forwarder, 1, 100, 1)
	add(Direct, 1, 300, 0.5)
	add(Engine, 1, 80, 2)
	add(Engine, 2, 160, 1)
	add(Forwarder, 2, 200, 0.5)
	add(Engine, 3, 1000, 9)
	groups := r.Groups()
	if len(groups) != 3 || groups[2].System != Engine || groups[2].Values[DeliveredRate] != (Range{160, 80, 1000, 3}) || groups[2].Values["answer_p50_ms"].Median != 2 {
		t.Errorf("%+v", groups)
	}
	find := func(system, against, metric string) Ratio {
		for _, ratio := range r.Ratios() {
			if ratio.System == system && ratio.Against == against && ratio.Metric == metric {
				return ratio
			}
		}
		t.Errorf("no ratio of %s to %s in %s", system, against, metric)
		return Ratio{}
	}
	if got := find(Engine, Forwarder, DeliveredRate); got.Ratio != (Range{0.8, 0.8, 0.8, 2}) || got.Added != nil {
		t.Errorf("%+v", got)
	}
	if got := find(Engine, Direct, "answer_p50_ms"); got.Ratio != (Range{4, 4, 4, 1}) || got.Added == nil || got.Added.Median != 1.5 {
		t.Errorf("%+v", got)
	}
	if got := find(Forwarder, Direct, "answer_p50_ms"); got.Ratio.Median != 2 {
		t.Errorf("%+v", got)
	}
	for _, ratio := range r.Ratios() {
		if ratio.Metric == Lost || ratio.System == Direct || ratio.Against == Direct && ratio.Added == nil {
			t.Errorf("an idle ratio: %+v", ratio)
		}
	}
}

func TestNumbersReadWell(t *testing.T) {
	check := func(v float64, unit, want string) {
		t.Helper()
		if got := quantity(v, unit); got != want {
			t.Errorf("%v %s is written %q, want %q", v, unit, got, want)
		}
	}
	check(12345, "/s", "12,345/s")
	check(1234567, "", "1,234,567")
	check(-1234, "", "-1,234")
	check(0, "ms", "0 ms")
	check(0.43, "ms", "0.430 ms")
	check(0.0123, "ms", "12.3 µs")
	check(9.999, "ms", "10.0 ms")
	check(99.96, "ms", "100 ms")
	check(14200, "ms", "14.2 s")
	check(1.2*(1<<30), "B", "1.20 GiB")
	check(512, "B", "512 B")
	check(300<<10, "B", "300 KiB")
	check(0.84, "", "0.840")
	check(99.9, "%", "99.9%")
	check(math.NaN(), "", "-")
	check(math.Inf(1), "ms", "- ms")
	check(1e18, "", "1e+18")
}

func TestCommandLineReadsBack(t *testing.T) {
	got := commandLine([]string{"harepost", "bench", "--note=it's $5", "", "a-b=c"})
	if want := `harepost bench '--note=it'\''s $5' '' a-b=c`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// A name from a file must not speak to the terminal.
func TestTextHasNoControls(t *testing.T) {
	r := sampleThroughput(1)
	for i := range r.Rounds {
		r.Rounds[i].System = "\x1b[2Jengine\r\u202e"
	}
	var text bytes.Buffer
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(text.String(), "\x1b\r\u202e") {
		t.Errorf("%q", text.String())
	}
}
