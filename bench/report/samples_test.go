package report

import (
	"math"
	"math/rand/v2"
	"time"
)

// The samples are made of nothing but their seeds, and look like what the
// scenarios measure: noise of a few percent, a machine that drifts from round to
// round, latencies with a long tail.

func sampleReport(scenario string) *Report {
	return &Report{
		Format:   FormatVersion,
		Scenario: scenario,
		Started:  time.Date(2026, 11, 25, 9, 30, 0, 0, time.UTC),
		Command:  []string{"harepost", "bench", scenario, "--dir", "out", "--rounds", "5", "--engine-flag=--lane-concurrency=128"},
		Versions: Versions{Harepost: "v0.9.0", Commit: "1a2b3c4", Go: "go1.26.8"},
		Machine: Machine{
			CPU: "AMD EPYC", CPUs: 2, MemoryBytes: 24 << 30, Kernel: "Linux 6.18",
			Filesystem: "ext4", Disk: "vda", LoadAverage: "0.12",
		},
		Durability: "a 202 is sent when the log is synced",
		Settings:   []Setting{{"mode", "closed loop"}, {"payload", "300 B"}, {"measured", "10 s after 2 s"}, {"targets", "1"}},
		Ceiling:    &Ceiling{RequestsPerSecond: 84_210, CPUSecondsPerMillion: 9.4, Connections: 256},
	}
}

// A sampler draws the noise of one report.
type sampler struct{ *rand.Rand }

func newSampler(seed uint64) sampler { return sampler{rand.New(rand.NewPCG(seed, seed))} }

// near is v with a noise of share.
func (s sampler) near(v, share float64) float64 { return v * math.Exp(share*s.NormFloat64()) }

// latency is a distribution around a median, with a tail of that weight.
func (s sampler) latency(count int64, p50, tail float64) Distribution {
	d := Distribution{Count: count, MeanMS: p50 * (1 + tail/4)}
	for _, p := range []float64{1, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99} {
		nines := math.Log10(1/(1-p/100)) - math.Log10(2)
		ms := p50 * math.Exp(tail*nines)
		if n := len(d.Quantiles); n > 0 {
			ms = max(ms, d.Quantiles[n-1].MS)
		}
		d.Quantiles = append(d.Quantiles, Quantile{p, s.near(ms, 0.02)})
	}
	for i := 1; i < len(d.Quantiles); i++ {
		d.Quantiles[i].MS = max(d.Quantiles[i].MS, d.Quantiles[i-1].MS)
	}
	d.MaxMS = d.Quantiles[len(d.Quantiles)-1].MS * 1.3
	return d
}

// sampleThroughput is one load, five rounds of two systems.
func sampleThroughput(seed uint64) *Report {
	r, s := sampleReport("throughput"), newSampler(seed)
	for number := 1; number <= 5; number++ {
		drift := s.near(1, 0.08)
		for _, system := range []string{Forwarder, Engine} {
			rate, cpu, p50, rss := 43_800.0, 21.6, 5.5, 47.0
			if system == Engine {
				rate, cpu, p50, rss = 36_700, 31.8, 6.9, 162
			}
			rate = s.near(rate/drift, 0.03)
			r.Rounds = append(r.Rounds, Round{
				System: system, Number: number, Load: Load{Axis: "connections", Value: 256},
				Values: map[string]float64{
					DeliveredRate: rate, AcceptedRate: rate * 1.002, CPU: s.near(cpu*drift, 0.03),
					PeakRSS: math.Round(s.near(rss, 0.04) * (1 << 20)), WrittenPerByte: s.near(2.6, 0.02),
					Accepted: math.Round(rate * 10), Arrived: math.Round(rate * 10), Lost: 0, Duplicates: 0,
				},
				Latencies: map[string]Distribution{
					"answer":  s.latency(int64(rate*10), p50*drift, 0.6),
					"arrival": s.latency(int64(rate*10), 2*p50*drift, 0.5),
				},
			})
		}
	}
	r.Findings = []Finding{{Name: "delivered/s against the forwarder", Value: 0.84, Better: Higher}}
	return r
}

// sampleSweep is a rate sweep up to saturation: three systems, rounds of each.
func sampleSweep(seed uint64, rates []float64, rounds int) *Report {
	r, s := sampleReport("latency"), newSampler(seed)
	r.Settings[0] = Setting{"mode", "open loop, Poisson arrivals"}
	for _, rate := range rates {
		for number := 1; number <= rounds; number++ {
			drift := s.near(1, 0.05)
			for _, system := range []string{Direct, Forwarder, Engine} {
				r.Rounds = append(r.Rounds, s.sweepRound(system, rate, number, drift))
			}
		}
	}
	r.Notes = []string{"Latency counts from the moment at which a send was due, so waiting is not hidden."}
	return r
}

func (s sampler) sweepRound(system string, rate float64, number int, drift float64) Round {
	base, cpu, limit := 0.12, 0.0, 60_000.0
	switch system {
	case Forwarder:
		base, cpu, limit = 0.2, 20, 42_000
	case Engine:
		base, cpu, limit = 0.45, 30, 36_000
	}
	delivered := min(rate, limit/drift)
	load := min(delivered/limit*drift, 0.985)
	p50 := base * drift / (1 - load)
	values := map[string]float64{
		DeliveredRate: s.near(delivered, 0.004), AcceptedRate: s.near(delivered, 0.004),
		Accepted: math.Round(delivered * 10), Refused: math.Round((rate - delivered) * 10), Lost: 0,
	}
	if system != Direct {
		values[CPU] = s.near(cpu*(1+400/rate)*drift, 0.03)
		values[PeakRSS] = math.Round(s.near(60+rate/200, 0.03)) * (1 << 20)
	}
	return Round{
		System: system, Number: number, Load: Load{Axis: "rate", Value: rate, Unit: "/s"}, Values: values,
		Latencies: map[string]Distribution{
			"answer":  s.latency(int64(delivered*10), p50, 0.9+load/2),
			"arrival": s.latency(int64(delivered*10), p50*1.1, 0.9+load/2),
		},
	}
}

// sampleOutage is the timeline of a receiver that is away for 20 s of 90.
func sampleOutage(seed uint64) *Report {
	r, s := sampleReport("outage"), newSampler(seed)
	for number := 1; number <= 3; number++ {
		round := Round{
			System: Engine, Number: number, Load: Load{Axis: "rate", Value: 5000, Unit: "/s"},
			Values: map[string]float64{Accepted: 450_000, Arrived: 450_000, Lost: 0, Duplicates: 31, DrainTime: s.near(14_200, 0.05), PeakRSS: s.near(310<<20, 0.02)},
		}
		pending := 0.0
		for at := int64(0); at < 90_000; at += 250 {
			delivered := 5000.0
			switch {
			case at >= 30_000 && at < 50_000:
				delivered = 0
			case pending > 3000:
				delivered = 12_000
			}
			delivered = s.near(delivered, 0.04)
			pending = max(0, pending+(5000-delivered)/4)
			round.Timeline = append(round.Timeline, Sample{AtMS: at, Values: map[string]float64{
				AcceptedRate: s.near(5000, 0.01), DeliveredRate: delivered, Pending: math.Round(pending),
				RSS: math.Round(s.near(140e6+pending*900, 0.004)),
			}})
		}
		r.Rounds = append(r.Rounds, round)
	}
	r.Findings = []Finding{{"time to drain", 14_200, "ms", Lower}, {"peak rate to the receiver", 12_600, "/s", Neither}}
	return r
}

// sampleLongSweep is a sweep of sixty loads.
func sampleLongSweep() *Report {
	var rates []float64
	for i := range 60 {
		rates = append(rates, float64(600*(i+1)))
	}
	return sampleSweep(8, rates, 3)
}

// sampleVariants has loads of the same value, told apart by their variant, and one
// that only a newer program knows the metric of.
func sampleVariants() *Report {
	r, s := sampleReport("noisy-tenant"), newSampler(12)
	for number := 1; number <= 3; number++ {
		for _, rate := range []float64{1000, 2000} {
			for _, variant := range []string{"solo", "beside black holes"} {
				p50 := 0.5
				if variant != "solo" {
					p50 = 0.6
				}
				r.Rounds = append(r.Rounds, Round{
					System: Engine, Number: number, Load: Load{"healthy rate", rate, "/s", variant},
					Values:    map[string]float64{DeliveredRate: s.near(rate, 0.01), "moon_phase": s.near(3, 0.2)},
					Latencies: map[string]Distribution{"arrival": s.latency(10_000, p50, 1.1)},
				})
			}
		}
	}
	return r
}

// hostileText is in every text of hostileReport.
const hostileText = `"'><script>alert(1)</script><svg onload=alert(2)>{{.}}</title></style>` + "\x1b[2J\u202e"

// hostileReport has names that would be markup, and numbers beyond all measure.
func hostileReport() *Report {
	x := hostileText
	r := sampleVariants()
	r.Scenario, r.Durability, r.Command = x, x, []string{x, x}
	r.Versions = Versions{x, x, x}
	r.Machine = Machine{CPU: x, Kernel: x, Filesystem: x, Disk: x, LoadAverage: x}
	r.Settings = []Setting{{x, x}}
	r.Findings = []Finding{{x, 1, x, Neither}, {"no number", math.Inf(1), "", Neither}}
	r.Notes = []string{x}
	for i := range r.Rounds {
		round := &r.Rounds[i]
		round.System += x
		round.Load.Axis, round.Load.Unit, round.Load.Variant = x, x, round.Load.Variant+x
		round.FirstFailure = x
		round.Values[x] = 1
		round.Values[CPU] = []float64{-5, 1e308, math.NaN(), 0, 5e-324}[i%5]
		round.Latencies[x] = Distribution{Quantiles: []Quantile{{50, 1e-300}, {100, math.Inf(1)}}}
		round.Timeline = []Sample{{-1 << 63, map[string]float64{x: 1}}, {1, map[string]float64{x: 1e18}}, {1<<63 - 1, map[string]float64{x: -1e18}}}
	}
	r.Rounds = append(r.Rounds, Round{System: "", Number: 1, Load: Load{Axis: x, Value: math.NaN()}, Values: map[string]float64{DeliveredRate: 5}})
	return r
}
