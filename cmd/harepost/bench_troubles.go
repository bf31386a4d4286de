package main

import "github.com/harepost/harepost/bench"

type benchRetryStormCmd struct {
	benchFlags  `embed:""`
	Healthy     float64 `name:"healthy-rate" placeholder:"N" help:"Healthy sends a second. Default: 1,000; with --quick 300."`
	Storm       float64 `name:"storm-rate" placeholder:"N" help:"Sends a second to the failing receiver. Default: 2,000; with --quick 500."`
	Share       float64 `name:"share" default:"0.5" help:"Of those, how many fail at first."`
	Fails       int     `name:"fails" default:"3" help:"How many first attempts of each of them fail."`
	Delivery    string  `name:"delivery" placeholder:"JSON" help:"Their policy, as in a send. Default: 10 attempts; with --quick short delays."`
	Connections int     `name:"connections" default:"64" help:"Connections of each generator."`
	Seed        uint64  `name:"seed" default:"1" help:"Of what fails."`
}

// Run measures and prints the report.
func (c *benchRetryStormCmd) Run(sh *shell) error {
	return bench.Run(sh.ctx, &bench.RetryStorm{
		Options: c.options(sh), Healthy: c.Healthy, Storm: c.Storm, Share: c.Share, Fails: c.Fails,
		Delivery: c.Delivery, Connections: c.Connections, Seed: c.Seed,
	}, sh.out)
}

type benchBlackHolesCmd struct {
	benchFlags  `embed:""`
	Healthy     float64 `name:"healthy-rate" placeholder:"N" help:"Healthy sends a second. Default: 500; with --quick 150."`
	Times       float64 `name:"times" default:"10" help:"How many times as many go to the black holes."`
	Delivery    string  `name:"delivery" placeholder:"JSON" help:"Policy of what goes to the black holes, as in a send. Default: none; with --quick, attempts end after 3 s."`
	Holes       int     `name:"holes" default:"999" help:"Black holes, each a host of its own."`
	Restart     bool    `name:"restart" help:"Then kill the server while the holes are full, start it again, and measure the healthy host once more."`
	Connections int     `name:"connections" default:"64" help:"Connections of each generator."`
}

// Run measures and prints the report.
func (c *benchBlackHolesCmd) Run(sh *shell) error {
	return bench.Run(sh.ctx, &bench.BlackHoles{
		Options: c.options(sh), Healthy: c.Healthy, Times: c.Times, Holes: c.Holes, Delivery: c.Delivery, Connections: c.Connections, Restart: c.Restart,
	}, sh.out)
}

type benchNoisyTenantCmd struct {
	benchFlags       `embed:""`
	Accounts         int     `name:"quiet-accounts" default:"10" help:"Quiet accounts."`
	Quiet            float64 `name:"quiet-rate" placeholder:"N" help:"Sends a second of each of them. Default: 50; with --quick 20."`
	Connections      int     `name:"quiet-connections" default:"16" help:"Connections of all of them."`
	Times            float64 `name:"times" default:"100" help:"How many times as much as one of them the noisy account sends."`
	NoisyConnections int     `name:"noisy-connections" default:"64" help:"Its connections."`
	Flood            int     `name:"flood-connections" placeholder:"N" help:"Connections of the noisy account when it sends all it can, a closed loop. Default: 256; with --quick 64."`
}

// Run measures and prints the report.
func (c *benchNoisyTenantCmd) Run(sh *shell) error {
	return bench.Run(sh.ctx, &bench.NoisyTenant{
		Options: c.options(sh), Accounts: c.Accounts, Quiet: c.Quiet, QuietConnections: c.Connections,
		Times: c.Times, NoisyConnections: c.NoisyConnections, Flood: c.Flood,
	}, sh.out)
}

type benchManyHostsCmd struct {
	benchFlags  `embed:""`
	Hosts       int  `name:"hosts" placeholder:"N" help:"Destinations. Default: 100,000; with --quick 2,000."`
	HTTPS       bool `name:"https" help:"Over https, with certificates that the harness makes."`
	Addresses   bool `name:"addresses" help:"Targets have addresses. Without it they have names, which a name server of the harness tells."`
	Connections int  `name:"connections" placeholder:"N" help:"Connections of the generator, a closed loop. Default: 256; with --quick 64."`
}

// Run measures and prints the report.
func (c *benchManyHostsCmd) Run(sh *shell) error {
	return bench.Run(sh.ctx, &bench.ManyHosts{Options: c.options(sh), Hosts: c.Hosts, HTTPS: c.HTTPS, Addresses: c.Addresses, Connections: c.Connections}, sh.out)
}
