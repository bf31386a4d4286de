// Package report holds what the harness found: its numbers, their medians and
// ranges, and the forms a person or a program reads them in.
//
// A scenario fills a [Report]: one [Round] for each time that one system was
// measured under one load. Everything else (medians, ratios, tables, plots,
// comparisons) follows from the rounds and from [Metrics], which says of each
// metric what it is called, its unit, and which direction is better. So a new
// scenario needs no new form.
package report

import "time"

// The systems that a scenario measures, as named in a [Round].
const (
	Engine    = "engine"    // harepost serve, started by the harness
	Forwarder = "forwarder" // the yardstick that keeps nothing
	Direct    = "direct"    // the generator's own POST to the receiver
	Cluster   = "cluster"   // three nodes of harepost serve on this machine, started by the harness
	Server    = "server"    // a running server or cluster named by its URL
)

// FormatVersion is the version of the JSON form. It changes when a reader of the
// last one would misread the next.
const FormatVersion = 1

// A Report is what one run of a scenario found.
type Report struct {
	Format   int       `json:"format"` // FormatVersion
	Scenario string    `json:"scenario"`
	Quick    bool      `json:"quick"` // the laptop's size: its numbers are a smoke test
	Started  time.Time `json:"started"`
	Command  []string  `json:"command"` // as it was typed

	Versions   Versions  `json:"versions"`
	Machine    Machine   `json:"machine"`
	Durability string    `json:"durability"` // what a 202 of the measured engine means
	Settings   []Setting `json:"settings"`   // of the load, in the order they are to be read

	// Ceiling is what the generator reached against a trivial server, in the same
	// run: a system near it was not measured, the generator was. Nil: not measured.
	Ceiling *Ceiling `json:"ceiling,omitempty"`

	Rounds   []Round   `json:"rounds"` // in the order they ran
	Findings []Finding `json:"findings,omitempty"`
	Notes    []string  `json:"notes,omitempty"` // what a reader must know, in sentences
}

// Versions of what was measured.
type Versions struct {
	Harepost string `json:"harepost"`
	Commit   string `json:"commit,omitempty"`
	Go       string `json:"go"`
}

// A Machine says where a Report was made. Numbers without it mean nothing.
type Machine struct {
	CPU         string `json:"cpu"`
	CPUs        int    `json:"cpus"`
	MemoryBytes uint64 `json:"memory_bytes"`
	Kernel      string `json:"kernel"`
	Filesystem  string `json:"filesystem"` // of the data directories
	Disk        string `json:"disk"`       // below it; empty: not known, and nothing is said of bytes written
	// LoadAverage is that of the minute before: above a few tenths, somebody else
	// was at work and the numbers are worth less.
	LoadAverage string `json:"load_average"`
}

// A Setting is one choice that shaped the load.
type Setting struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// A Ceiling is the limit of the generator itself.
type Ceiling struct {
	RequestsPerSecond    float64 `json:"requests_per_second"`
	CPUSecondsPerMillion float64 `json:"cpu_seconds_per_million"` // of the generator
	Connections          int     `json:"connections"`
}

// A Load is the point of the scenario's axis at which a round was taken:
// {"connections", 256, ""}, {"rate", 2000, "/s"}, {"payload", 65536, "B"}.
type Load struct {
	Axis  string  `json:"axis"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit,omitempty"`
	// Variant tells loads apart that share a value, as "solo" and "beside black
	// holes" do. Usually empty.
	Variant string `json:"variant,omitempty"`
}

// A Round is one system under one load, once.
type Round struct {
	System string `json:"system"`
	Load   Load   `json:"load"`
	Number int    `json:"number"` // of this system under this load, from 1

	Values    map[string]float64      `json:"values"`              // by the name of a Metric
	Latencies map[string]Distribution `json:"latencies,omitempty"` // by name: "answer", "arrival", …
	Timeline  []Sample                `json:"timeline,omitempty"`  // in order of time

	// FirstFailure is why the first request failed that did, if one did.
	FirstFailure string `json:"first_failure,omitempty"`
}

// A Distribution is a histogram in milliseconds, by its quantiles.
type Distribution struct {
	Count     int64      `json:"count"`
	MeanMS    float64    `json:"mean_ms"`
	MaxMS     float64    `json:"max_ms"`
	Quantiles []Quantile `json:"quantiles"` // ascending; at least 50, 90, 99 and 99.9
}

// A Quantile is the value that Percent of a distribution do not exceed.
type Quantile struct {
	Percent float64 `json:"percent"`
	MS      float64 `json:"ms"`
}

// A Sample is what was so, or what happened since the sample before, at a moment
// of a round.
type Sample struct {
	AtMS   int64              `json:"at_ms"`  // since the round's load began
	Values map[string]float64 `json:"values"` // by the name of a Metric
}

// A Finding is a number of the scenario as a whole: the time an outage took to
// drain, a ratio of two percentiles.
type Finding struct {
	Name   string    `json:"name"`
	Value  float64   `json:"value"`
	Unit   string    `json:"unit,omitempty"`
	Better Direction `json:"better,omitempty"`
}

// A Direction says which way a number is better.
type Direction string

// The directions.
const (
	Neither Direction = ""
	Higher  Direction = "higher"
	Lower   Direction = "lower"
)

// A Metric describes the values of one name.
type Metric struct {
	Name   string // in Round.Values and Sample.Values
	Title  string // for people
	Unit   string
	Better Direction
	// Rated metrics are those worth a ratio against a yardstick.
	Rated bool
}

// The names of the metrics.
const (
	Accepted         = "accepted"             // sends answered 202
	Refused          = "refused"              // answered 429 or 503
	Failed           = "failed"               // any other answer, or none
	Unadvised        = "refused_unadvised"    // refused without a Retry-After
	Unsent           = "unsent"               // due in an open loop, and never sent for want of a connection
	Repeated         = "repeated"             // sent again on purpose, with the same idempotency key
	Arrived          = "arrived"              // distinct sends that the receiver saw
	Lost             = "lost"                 // acknowledged, and not arrived
	Duplicates       = "duplicates"           // arrivals beyond a send's first
	Reordered        = "reordered"            // arrivals earlier than one sent before them on their lane
	Unacknowledged   = "unacknowledged"       // arrived, though not answered 202
	Strangers        = "strangers"            // arrivals that are no send of the round
	AcceptedRate     = "accepted_per_second"  // after the warm-up
	DeliveredRate    = "delivered_per_second" // arrived, after the warm-up
	AttemptRate      = "attempts_per_second"  // that the receiver saw, failed ones too
	DrainTime        = "drain_ms"             // last arrival after the end of the load
	CPU              = "cpu_us_per_delivery"  // of the system, until it is idle
	GeneratorCPU     = "generator_cpu_us_per_send"
	RSS              = "rss_bytes"
	PeakRSS          = "peak_rss_bytes"
	HeapBytes        = "heap_bytes" // Go's live heap
	WrittenBytes     = "written_bytes"
	WrittenPerByte   = "written_per_payload_byte"
	SyncRate         = "syncs_per_second"
	EntriesPerSync   = "entries_per_sync"      // of the log
	Pending          = "pending"               // accepted and not ended
	Open             = "open_connections"      // of the receiver
	GeneratorLateMax = "generator_late_max_ms" // worst lag of an open loop behind its schedule
	RefusedRate      = "refused_by_receiver_per_second"
	Lookups          = "dns_questions" // that the receiver's name server was asked
	LookupRate       = "dns_questions_per_second"
	Goroutines       = "goroutines"            // of the system
	Descriptors      = "file_descriptors"      // open, of the system
	BesideP99        = "beside_arrival_p99_ms" // of another flow through the same engine
)

// Metrics are all metrics, in the order in which a table has them.
var Metrics = []Metric{
	{DeliveredRate, "delivered/s", "", Higher, true},
	{AcceptedRate, "accepted/s", "", Higher, true},
	{AttemptRate, "attempts/s", "", Neither, false},
	{RefusedRate, "refused by the receiver/s", "", Lower, false},
	{BesideP99, "arrival p99 of the host beside it", "ms", Lower, false},
	{CPU, "CPU per delivery", "µs", Lower, true},
	{WrittenPerByte, "written per payload byte", "", Lower, false},
	{SyncRate, "syncs/s", "", Neither, false},
	{EntriesPerSync, "entries per sync", "", Neither, false},
	{RSS, "RSS", "B", Lower, false},
	{PeakRSS, "peak RSS", "B", Lower, false},
	{HeapBytes, "Go heap", "B", Lower, false},
	{DrainTime, "drain", "ms", Lower, false},
	{Accepted, "accepted", "", Neither, false},
	{Refused, "refused", "", Neither, false},
	{Failed, "failed", "", Lower, false},
	{Unadvised, "refused without Retry-After", "", Lower, false},
	{Unsent, "due, never sent", "", Lower, false},
	{Repeated, "repeated keys", "", Neither, false},
	{Arrived, "arrived", "", Neither, false},
	{Lost, "lost", "", Lower, false},
	{Duplicates, "duplicates", "", Lower, false},
	{Reordered, "reordered", "", Neither, false},
	{Unacknowledged, "arrived without a 202", "", Neither, false},
	{Strangers, "strangers", "", Lower, false},
	{Pending, "pending", "", Neither, false},
	{Open, "open connections", "", Neither, false},
	{Lookups, "DNS questions", "", Lower, false},
	{LookupRate, "DNS questions/s", "", Lower, false},
	{Goroutines, "goroutines", "", Lower, false},
	{Descriptors, "file descriptors", "", Lower, false},
	{WrittenBytes, "written", "B", Lower, false},
	{GeneratorCPU, "generator CPU per send", "µs", Neither, false},
	{GeneratorLateMax, "generator's worst lag", "ms", Lower, false},
}
