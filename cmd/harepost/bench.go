package main

import (
	"time"

	"github.com/harepost/harepost/bench"
)

type benchCmd struct {
	Throughput  benchThroughputCmd  `cmd:"" help:"Deliveries a second, and what each costs, beside a forwarder that keeps nothing."`
	DeadLetters benchDeadLettersCmd `cmd:"" help:"Count, replay, stop and purge a million dead letters, and what fresh sends notice of it."`
	Child       benchChildCmd       `cmd:"" hidden:"" help:"A part of the harness, which starts it itself."`
}

type benchThroughputCmd struct {
	Systems      []string      `name:"systems" sep:"," default:"forwarder,engine" help:"What is measured, in turns: forwarder, engine."`
	Connections  []int         `name:"connections" sep:"," default:"256,64" help:"Connections of the generator; each number is measured on its own."`
	Rounds       int           `name:"rounds" default:"3" help:"Rounds of every system at every number of connections."`
	Warmup       time.Duration `name:"warmup" default:"2s" help:"Load before the measuring."`
	Duration     time.Duration `name:"duration" default:"10s" help:"Length of the measuring."`
	PayloadBytes int           `name:"payload-bytes" default:"300" help:"Size of a payload."`
	Targets      int           `name:"targets" default:"1" help:"Destinations."`
	EngineFlags  []string      `name:"engine-flag" sep:"none" placeholder:"FLAG" help:"A further flag for serve, as in --engine-flag=--lane-concurrency=128; may be repeated."`
	Dir          string        `name:"dir" default:"." help:"Where data directories are made, and removed: on the disk that is to be measured."`
	ProfileDir   string        `name:"profile-dir" placeholder:"DIR" help:"Write a CPU profile of each system there, from one more round."`
	JSON         bool          `name:"json" env:"HAREPOST_JSON" help:"Print the report as JSON."`
}

// Run measures and prints the report.
func (c *benchThroughputCmd) Run(sh *shell) error {
	warmup := c.Warmup
	if warmup == 0 {
		warmup = -1 // none; 0 is bench's word for its default
	}
	return bench.Run(sh.ctx, bench.Options{
		Systems: c.Systems, Connections: c.Connections, Rounds: c.Rounds,
		Warmup: warmup, Duration: c.Duration, PayloadBytes: c.PayloadBytes, Targets: c.Targets,
		EngineFlags: c.EngineFlags, Dir: c.Dir, ProfileDir: c.ProfileDir, JSON: c.JSON, Progress: sh.err,
	}, sh.out)
}

type benchDeadLettersCmd struct {
	Count       int           `name:"count" default:"1000000" help:"Dead letters."`
	Quick       bool          `name:"quick" help:"20,000 dead letters: under half a minute."`
	ReplayRate  int           `name:"replay-rate" default:"5000" help:"Replays a second."`
	FreshRate   int           `name:"fresh-rate" default:"1000" help:"Fresh sends a second beside everything."`
	Alone       time.Duration `name:"alone" default:"10s" help:"How long the fresh sends are measured alone."`
	EngineFlags []string      `name:"engine-flag" sep:"none" placeholder:"FLAG" help:"A further flag for serve; may be repeated."`
	Dir         string        `name:"dir" default:"." help:"Where the data directory is made, and removed."`
	JSON        bool          `name:"json" env:"HAREPOST_JSON" help:"Print the report as JSON."`
}

// Run measures and prints the report.
func (c *benchDeadLettersCmd) Run(sh *shell) error {
	if c.Quick {
		c.Count, c.Alone = 20_000, 3*time.Second
	}
	return bench.RunDeadLetters(sh.ctx, bench.DeadLetterOptions{
		Count: c.Count, ReplayRate: c.ReplayRate, FreshRate: c.FreshRate, Alone: c.Alone,
		EngineFlags: c.EngineFlags, Dir: c.Dir, JSON: c.JSON, Progress: sh.err,
	}, sh.out)
}

type benchChildCmd struct {
	Role string `arg:""`
}

// Run plays the role until the standard input ends.
func (c *benchChildCmd) Run(sh *shell) error { return bench.Child(sh.ctx, c.Role, sh.in, sh.out) }
