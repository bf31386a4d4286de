package bench

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"text/tabwriter"
)

// A Report is what Measure found.
type Report struct {
	Machine      Machine `json:"machine"`
	WarmupMS     int64   `json:"warmup_ms"`
	DurationMS   int64   `json:"duration_ms"`
	PayloadBytes int     `json:"payload_bytes"`
	Targets      int     `json:"targets"`
	Workers      int     `json:"forwarder_workers"` // 0: as many as connections

	Rounds    []Round   `json:"rounds"` // in the order they ran
	Summaries []Summary `json:"summaries"`
}

// A Summary holds the medians and ranges over the rounds of one number of
// connections.
type Summary struct {
	Connections int             `json:"connections"`
	Systems     []SystemSummary `json:"systems"`
	// Ratios of the engine to the forwarder, paired round by round; nil unless
	// both were measured.
	Ratios *Ratios `json:"ratios,omitempty"`
}

// A SystemSummary summarises the rounds of one system.
type SystemSummary struct {
	System               string `json:"system"`
	AcceptedPerSecond    Range  `json:"accepted_per_second"`
	DeliveredPerSecond   Range  `json:"delivered_per_second"`
	CPUSecondsPerMillion Range  `json:"cpu_seconds_per_million"`
	AnswerP50MS          Range  `json:"answer_p50_ms"`
	AnswerP99MS          Range  `json:"answer_p99_ms"`
	ArrivalP50MS         Range  `json:"arrival_p50_ms"`
	ArrivalP99MS         Range  `json:"arrival_p99_ms"`
	PeakRSSBytes         Range  `json:"peak_rss_bytes"`
	WrittenPerPayload    Range  `json:"written_per_payload_byte"`
	Lost                 uint64 `json:"lost"`       // in all rounds
	Duplicates           uint64 `json:"duplicates"` // in all rounds
}

// Ratios compare the engine with the forwarder.
type Ratios struct {
	DeliveredPerSecond   Range `json:"delivered_per_second"`
	CPUSecondsPerMillion Range `json:"cpu_seconds_per_million"`
}

// A Range is a median with the least and the greatest value.
type Range struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// rangeOf summarises values; of an even number the median is the middle of the
// two in the middle.
func rangeOf(values []float64) Range {
	if len(values) == 0 {
		return Range{}
	}
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return Range{Median: (v[(n-1)/2] + v[n/2]) / 2, Min: v[0], Max: v[n-1]}
}

// summarize fills the Summaries from the Rounds.
func (r *Report) summarize() {
	r.Summaries = nil
	var connections []int
	for _, round := range r.Rounds {
		if !slices.Contains(connections, round.Connections) {
			connections = append(connections, round.Connections)
		}
	}
	for _, c := range connections {
		s := Summary{Connections: c}
		for _, system := range []string{SystemForwarder, SystemEngine} {
			if rounds := r.rounds(c, system); len(rounds) > 0 {
				s.Systems = append(s.Systems, summarizeSystem(system, rounds))
			}
		}
		s.Ratios = pair(r.rounds(c, SystemEngine), r.rounds(c, SystemForwarder))
		r.Summaries = append(r.Summaries, s)
	}
}

func (r *Report) rounds(connections int, system string) []Round {
	var of []Round
	for _, round := range r.Rounds {
		if round.Connections == connections && round.System == system {
			of = append(of, round)
		}
	}
	return of
}

// over summarises one number of several rounds.
func over(rounds []Round, number func(Round) float64) Range {
	var values []float64
	for _, r := range rounds {
		values = append(values, number(r))
	}
	return rangeOf(values)
}

func summarizeSystem(system string, rounds []Round) SystemSummary {
	s := SystemSummary{
		System:               system,
		AcceptedPerSecond:    over(rounds, func(r Round) float64 { return r.AcceptedPerSecond }),
		DeliveredPerSecond:   over(rounds, func(r Round) float64 { return r.DeliveredPerSecond }),
		CPUSecondsPerMillion: over(rounds, func(r Round) float64 { return r.CPUSecondsPerMillion }),
		AnswerP50MS:          over(rounds, func(r Round) float64 { return r.AnswerLatency.P50MS }),
		AnswerP99MS:          over(rounds, func(r Round) float64 { return r.AnswerLatency.P99MS }),
		ArrivalP50MS:         over(rounds, func(r Round) float64 { return r.ArrivalLatency.P50MS }),
		ArrivalP99MS:         over(rounds, func(r Round) float64 { return r.ArrivalLatency.P99MS }),
		PeakRSSBytes:         over(rounds, func(r Round) float64 { return float64(r.PeakRSSBytes) }),
		WrittenPerPayload:    over(rounds, func(r Round) float64 { return r.WrittenPerPayloadBytes }),
	}
	for _, r := range rounds {
		s.Lost += r.Lost
		s.Duplicates += r.Duplicates
	}
	return s
}

// pair compares the systems round by round: the machine's drift from one round
// to the next is in both halves of a pair.
func pair(engine, forwarder []Round) *Ratios {
	var delivered, cpu []float64
	for i := range min(len(engine), len(forwarder)) {
		e, f := engine[i], forwarder[i]
		if f.DeliveredPerSecond > 0 && f.CPUSecondsPerMillion > 0 {
			delivered = append(delivered, e.DeliveredPerSecond/f.DeliveredPerSecond)
			cpu = append(cpu, e.CPUSecondsPerMillion/f.CPUSecondsPerMillion)
		}
	}
	if len(delivered) == 0 {
		return nil
	}
	return &Ratios{DeliveredPerSecond: rangeOf(delivered), CPUSecondsPerMillion: rangeOf(cpu)}
}

// lost is the number of acknowledged sends that did not arrive, in all rounds.
func (r *Report) lost() (lost uint64) {
	for _, round := range r.Rounds {
		lost += round.Lost
	}
	return lost
}

func (r *Report) write(w io.Writer, asJSON bool) error {
	if !asJSON {
		return r.WriteText(w)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// WriteText writes the summary for people.
func (r *Report) WriteText(w io.Writer) error {
	fmt.Fprintf(w, "machine  %s\n", r.Machine)
	workers := "a worker for each connection"
	if r.Workers > 0 {
		workers = strconv.Itoa(r.Workers) + " workers"
	}
	fmt.Fprintf(w, "load     closed loop, %d-byte payloads, %d target(s), %.1f s measured after %.1f s; the forwarder has %s\n",
		r.PayloadBytes, r.Targets, float64(r.DurationMS)/1000, float64(r.WarmupMS)/1000, workers)
	if inMemory[r.Machine.Filesystem] {
		fmt.Fprintln(w, "WARNING  the data directories are in memory: syncs cost nothing here, and these numbers show nothing about a disk")
	}
	for _, s := range r.Summaries {
		s.writeText(w, r.Machine.Disk != "")
	}
	for _, round := range r.Rounds {
		if round.Refused+round.Failed+round.Lost+round.Duplicates+round.Unacknowledged+round.Strangers > 0 {
			fmt.Fprintf(w, "\nNOTE  %s, %d connections, round %d: %d refused, %d failed (%s), %d lost, %d duplicates, %d arrived without a 202, %d strangers",
				round.System, round.Connections, round.Round, round.Refused, round.Failed, cmp.Or(round.FirstFailure, "no reason"),
				round.Lost, round.Duplicates, round.Unacknowledged, round.Strangers)
		}
	}
	_, err := fmt.Fprintln(w)
	return err
}

func (s Summary) writeText(w io.Writer, diskKnown bool) {
	fmt.Fprintf(w, "\n%d connections; medians (least to greatest)\n", s.Connections)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  system\tdelivered/s\taccepted/s\tCPU s/million\tanswer p50, p99 ms\tarrival p50, p99 ms\tpeak RSS MiB\twritten/payload\tlost\tduplicates")
	for _, y := range s.Systems {
		written := "unknown"
		if diskKnown {
			written = fmt.Sprintf("%.2f", y.WrittenPerPayload.Median)
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%.2f, %.2f\t%.2f, %.2f\t%.0f\t%s\t%d\t%d\n",
			y.System, y.DeliveredPerSecond.text("%.0f"), y.AcceptedPerSecond.text("%.0f"), y.CPUSecondsPerMillion.text("%.1f"),
			y.AnswerP50MS.Median, y.AnswerP99MS.Median, y.ArrivalP50MS.Median, y.ArrivalP99MS.Median,
			y.PeakRSSBytes.Median/(1<<20), written, y.Lost, y.Duplicates)
	}
	t.Flush()
	if s.Ratios != nil {
		fmt.Fprintf(w, "  engine / forwarder: delivered/s %s, CPU per delivery %s\n",
			s.Ratios.DeliveredPerSecond.text("%.2f"), s.Ratios.CPUSecondsPerMillion.text("%.2f"))
	}
}

// text writes the range with a format for one number.
func (r Range) text(format string) string {
	return fmt.Sprintf(format+" ("+format+" to "+format+")", r.Median, r.Min, r.Max)
}
