package main

import "github.com/harepost/harepost/bench"

type benchSoakCmd struct {
	benchFlags  `embed:""`
	Rate        float64 `name:"rate" placeholder:"N" help:"Sends a second. Default: 1,000; with --quick 300."`
	Hosts       int     `name:"hosts" default:"100" help:"Destinations, each of which behaves in several ways."`
	Accounts    int     `name:"accounts" default:"10" help:"Accounts that send in turns."`
	Connections int     `name:"connections" default:"64" help:"Connections of the generator."`
	Seed        uint64  `name:"seed" default:"1" help:"Of random arrivals and failures."`
}

// Run measures and prints the report.
func (c *benchSoakCmd) Run(sh *shell) error {
	return bench.Run(sh.ctx, &bench.Soak{
		Options: c.options(sh), Rate: c.Rate, Hosts: c.Hosts, Accounts: c.Accounts, Connections: c.Connections, Seed: c.Seed,
	}, sh.out)
}
