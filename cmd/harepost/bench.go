package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/harepost/harepost/bench"
	"github.com/harepost/harepost/bench/report"
)

type benchCmd struct {
	Throughput  benchThroughputCmd  `cmd:"" help:"Deliveries a second, and what each costs, beside a forwarder that keeps nothing."`
	Batch       benchBatchCmd       `cmd:"" help:"The batch API beside the single one and beside the forwarder."`
	Latency     benchLatencyCmd     `cmd:"" help:"Latency and cost in an open loop: at a fixed rate, at shares of saturation, and beyond it."`
	Payload     benchPayloadCmd     `cmd:"" help:"Throughput and cost for payloads of 0.1 to 256 KiB."`
	DeadLetters benchDeadLettersCmd `cmd:"" help:"Count, replay, stop and purge a million dead letters, and what fresh sends notice of it."`
	RetryStorm  benchRetryStormCmd  `cmd:"" help:"A receiver fails first attempts: what that costs it, and healthy traffic beside it."`
	BlackHoles  benchBlackHolesCmd  `cmd:"" help:"One healthy lane beside hosts that take connections and never answer."`
	NoisyTenant benchNoisyTenantCmd `cmd:"" help:"One account sends a hundred times what others do, or all it can: what those notice."`
	ManyHosts   benchManyHostsCmd   `cmd:"" help:"A hundred thousand destinations."`
	Outage      benchOutageCmd      `cmd:"" help:"A receiver goes away and comes back while the load goes on."`
	Backlog     benchBacklogCmd     `cmd:"" help:"Millions pending to dead and slow hosts: memory, a restart, and the drain."`
	Soak        benchSoakCmd        `cmd:"" help:"A mixed load for an hour: what grows."`
	StoreSize   benchStoreSizeCmd   `cmd:"" help:"What a delivery costs beside ten million finished ones, against an empty store; and a page of those."`
	Cluster     benchClusterCmd     `cmd:"" help:"Three nodes on this machine beside one, and how soon another leads when the leader is killed."`
	Compare     benchCompareCmd     `cmd:"" help:"Say what moved from one report to another, beyond the noise of their rounds."`
	Stages      benchStagesCmd      `cmd:"" help:"Say where the CPU of a delivery goes, from CPU profiles, side by side."`
	Child       benchChildCmd       `cmd:"" hidden:"" help:"A part of the harness, which starts it itself."`
}

// benchFlags are what all scenarios have in common.
type benchFlags struct {
	Quick       bool           `name:"quick" help:"A size that ends within half a minute: a smoke test, not a measurement."`
	Rounds      int            `name:"rounds" placeholder:"N" help:"Rounds of every system under every load. Default: 3; with --quick 1 or 2."`
	Warmup      *time.Duration `name:"warmup" placeholder:"DURATION" help:"Load before the measuring. Default: 2s; with --quick 500ms."`
	Duration    time.Duration  `name:"duration" placeholder:"DURATION" help:"Length of the measuring. Default: 10s; with --quick 2s."`
	Systems     []string       `name:"systems" sep:"," placeholder:"NAME" help:"What is measured, in turns: engine (started for it), cluster (three nodes of it), forwarder (keeps nothing), direct (no system between), server (the one of --url)."`
	EngineFlags []string       `name:"engine-flag" sep:"none" placeholder:"FLAG" help:"A further flag for serve, as in --engine-flag=--lane-concurrency=128; may be repeated."`
	Dir         string         `name:"dir" default:"." help:"Where data directories are made, and removed: on the disk that is to be measured."`

	URL            string   `name:"url" placeholder:"URL" help:"Measure this running server instead of one that is started for it. It must be able to reach the receiver."`
	APIKeys        []string `name:"api-key" sep:"," placeholder:"KEY" help:"API keys of accounts of that server; sends take turns."`
	CA             []byte   `name:"ca" type:"filecontent" placeholder:"FILE" help:"PEM file of certificate authorities that server may have, beside the system's."`
	ReceiverListen string   `name:"receiver-listen" placeholder:"HOST[:PORT]" help:"Where that server reaches the receiver. Default: 127.0.0.1."`
	ReceiverURL    string   `name:"receiver-url" placeholder:"URL" help:"What that server is to send to, where it is not the receiver's own http address: a name that it lets its accounts send to, with what speaks TLS for the receiver behind it."`

	JSON   bool   `name:"json" env:"HAREPOST_JSON" help:"Print the report as JSON."`
	HTML   string `name:"html" placeholder:"FILE" help:"Write the report as a page with plots, too."`
	Output string `name:"output" placeholder:"FILE" help:"Write the report as JSON, too."`
}

// options are the flags in bench's words.
func (f *benchFlags) options(sh *shell) bench.Options {
	warmup := time.Duration(0) // bench's word for its default
	if f.Warmup != nil {
		if warmup = *f.Warmup; warmup <= 0 {
			warmup = -1
		}
	}
	b := readBuildInfo()
	return bench.Options{
		Quick: f.Quick, Rounds: f.Rounds, Warmup: warmup, Duration: f.Duration,
		Systems: f.Systems, EngineFlags: f.EngineFlags, Dir: f.Dir,
		URL: f.URL, Keys: f.APIKeys, CA: string(f.CA), ReceiverListen: f.ReceiverListen, ReceiverURL: f.ReceiverURL,
		JSON: f.JSON, HTML: f.HTML, Output: f.Output,
		Versions: report.Versions{Harepost: b.Version, Commit: b.Revision, Go: b.Go},
		Command:  commandLine(os.Args[1:]), Progress: sh.err, Terminal: isTerminal(sh.err),
	}
}

// commandLine is how the program was called, without what is secret in it.
func commandLine(args []string) []string {
	words := append([]string{"harepost"}, args...)
	for i, word := range words {
		if word == "--api-key" && i+1 < len(words) {
			words[i+1] = "…"
		} else if strings.HasPrefix(word, "--api-key=") {
			words[i] = "--api-key=…"
		}
	}
	return words
}

// trafficFlags say what the sends of a scenario are like.
type trafficFlags struct {
	laneFlags `embed:""`
	Payload   bench.Sizes `name:"payload" default:"300" help:"Bytes of a payload: 300, uniform:100-10000, lognormal:300,p99=64KiB (median first), mix:300x90,64KiBx10 (sizes and weights)."`
	Rate      bench.Rate  `name:"rate" placeholder:"RATE" help:"Open loop: sends a second whatever the answers take. 2000, or a ramp 100..10000, or steps 1000,2000,4000. Default: a closed loop."`
	Poisson   bool        `name:"poisson" help:"Open loop: arrivals at random instead of evenly."`
	Repeat    float64     `name:"repeat" default:"0" help:"Share of requests that repeat the one before, with its idempotency key: 0 to below 1."`
	Ordered   int         `name:"ordering-keys" default:"0" help:"Ordering keys, which the sends have in turns; 0: none."`
	Seed      uint64      `name:"seed" default:"1" help:"Of random arrivals."`
}

// laneFlags say how many lanes there are.
type laneFlags struct {
	Accounts int `name:"accounts" default:"1" help:"Accounts that send in turns."`
	Hosts    int `name:"hosts" default:"1" help:"Destinations. Each is a lane of each account."`
}

func (f *trafficFlags) traffic() bench.Traffic {
	return bench.Traffic{
		Payload: f.Payload, Accounts: f.Accounts, Hosts: f.Hosts,
		Rate: f.Rate, Poisson: f.Poisson, Repeat: f.Repeat, Ordered: f.Ordered, Seed: f.Seed,
	}
}

type benchThroughputCmd struct {
	benchFlags   `embed:""`
	trafficFlags `embed:""`
	Connections  []int  `name:"connections" sep:"," placeholder:"N" help:"Connections of the generator; each number is measured on its own. Default: 256,64; with --quick 64."`
	ProfileDir   string `name:"profile-dir" placeholder:"DIR" help:"Write a CPU profile of each system there, from one more round."`
}

// Run measures and prints the report.
func (c *benchThroughputCmd) Run(sh *shell) error {
	o := c.options(sh)
	o.ProfileDir = c.ProfileDir
	return bench.Run(sh.ctx, &bench.Throughput{Options: o, Traffic: c.traffic(), Connections: c.Connections}, sh.out)
}

type benchBatchCmd struct {
	benchFlags        `embed:""`
	laneFlags         `embed:""`
	Payload           bench.Sizes `name:"payload" default:"300" help:"Bytes of a payload, as in bench throughput."`
	Sizes             []int       `name:"batch" sep:"," placeholder:"N" help:"Sends of a batch; each number is measured on its own. Default: 100,1000; with --quick 100."`
	Connections       int         `name:"connections" default:"16" help:"Connections that send batches."`
	SingleConnections int         `name:"single-connections" default:"256" help:"Connections that send single sends, to compare with."`
}

// Run measures and prints the report.
func (c *benchBatchCmd) Run(sh *shell) error {
	return bench.Run(sh.ctx, &bench.Batch{
		Options: c.options(sh), Traffic: bench.Traffic{Payload: c.Payload, Accounts: c.Accounts, Hosts: c.Hosts},
		Sizes: c.Sizes, Connections: c.Connections, SingleConnections: c.SingleConnections,
	}, sh.out)
}

type benchLatencyCmd struct {
	benchFlags          `embed:""`
	trafficFlags        `embed:""`
	Connections         int       `name:"connections" default:"256" help:"Connections, which bound what is under way at once."`
	OverloadConnections int       `name:"overload-connections" placeholder:"N" help:"Those beyond saturation. Default: 4000; with --quick 1000."`
	Saturation          float64   `name:"saturation" placeholder:"RATE" help:"Sends a second at which the system is saturated. Default: measured in a closed loop."`
	Shares              []float64 `name:"shares" sep:"," placeholder:"PERCENT" help:"Shares of the saturation to measure at. Default: 1,10,50,80,95,120; with --quick 10,80,120."`
}

// Run measures and prints the report.
func (c *benchLatencyCmd) Run(sh *shell) error {
	return bench.Run(sh.ctx, &bench.Latency{
		Options: c.options(sh), Traffic: c.traffic(), Connections: c.Connections,
		OverloadConnections: c.OverloadConnections, Saturation: c.Saturation, Shares: c.Shares,
	}, sh.out)
}

type benchPayloadCmd struct {
	benchFlags  `embed:""`
	laneFlags   `embed:""`
	Connections int   `name:"connections" default:"64" help:"Connections of the generator."`
	Sizes       []int `name:"sizes" sep:"," placeholder:"BYTES" help:"Sizes of payloads. Default: 102,307,1024,4096,16384,65536,262144; with --quick 102,4096,65536."`
}

// Run measures and prints the report.
func (c *benchPayloadCmd) Run(sh *shell) error {
	return bench.Run(sh.ctx, &bench.Payload{
		Options: c.options(sh), Traffic: bench.Traffic{Accounts: c.Accounts, Hosts: c.Hosts}, Connections: c.Connections, Sizes: c.Sizes,
	}, sh.out)
}

type benchDeadLettersCmd struct {
	Count       int           `name:"count" placeholder:"N" help:"Dead letters. Default: 1,000,000; with --quick 20,000."`
	Quick       bool          `name:"quick" help:"A size that ends within half a minute."`
	ReplayRate  int           `name:"replay-rate" default:"5000" help:"Replays a second."`
	FreshRate   int           `name:"fresh-rate" default:"1000" help:"Fresh sends a second beside everything."`
	Alone       time.Duration `name:"alone" placeholder:"DURATION" help:"How long the fresh sends are measured alone. Default: 10s; with --quick 3s."`
	EngineFlags []string      `name:"engine-flag" sep:"none" placeholder:"FLAG" help:"A further flag for serve; may be repeated."`
	Dir         string        `name:"dir" default:"." help:"Where the data directory is made, and removed."`
	JSON        bool          `name:"json" env:"HAREPOST_JSON" help:"Print the report as JSON."`
	HTML        string        `name:"html" placeholder:"FILE" help:"Write the report as a page with plots, too."`
	Output      string        `name:"output" placeholder:"FILE" help:"Write the report as JSON, too."`
}

// Run measures and prints the report.
func (c *benchDeadLettersCmd) Run(sh *shell) error {
	f := benchFlags{Quick: c.Quick, EngineFlags: c.EngineFlags, Dir: c.Dir, JSON: c.JSON, HTML: c.HTML, Output: c.Output}
	return bench.Run(sh.ctx, &bench.DeadLetters{
		Options: f.options(sh), Count: c.Count, ReplayRate: c.ReplayRate, FreshRate: c.FreshRate, Alone: c.Alone,
	}, sh.out)
}

type benchCompareCmd struct {
	Before string `arg:"" type:"existingfile" help:"Report as written with --output or --json."`
	After  string `arg:"" type:"existingfile" help:"Another one, of the same scenario."`
	JSON   bool   `name:"json" env:"HAREPOST_JSON" help:"Print JSON."`
}

// Run compares the reports. What is worse is said, and is no failure: how much
// of it matters is the reader's to decide.
func (c *benchCompareCmd) Run(sh *shell) error {
	before, err := readReport(c.Before)
	if err != nil {
		return err
	}
	after, err := readReport(c.After)
	if err != nil {
		return err
	}
	comparison, err := report.Compare(before, after)
	if err != nil {
		return err
	}
	if c.JSON {
		return comparison.WriteJSON(sh.out)
	}
	return comparison.WriteText(sh.out)
}

func readReport(path string) (*report.Report, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // nothing is written to it
	r, err := report.Read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

type benchChildCmd struct {
	Role string `arg:""`
}

// Run plays the role until the standard input ends.
func (c *benchChildCmd) Run(sh *shell) error { return bench.Child(sh.ctx, c.Role, sh.in, sh.out) }
