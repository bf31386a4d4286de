package main

import (
	"time"

	"github.com/harepost/harepost/bench"
)

type benchStoreSizeCmd struct {
	benchFlags  `embed:""`
	Count       int           `name:"count" placeholder:"N" help:"Finished deliveries in the filled store. Default: 10,000,000; with --quick 100,000."`
	Connections int           `name:"connections" default:"256" help:"Connections of the rounds."`
	Rest        time.Duration `name:"rest" placeholder:"DURATION" help:"How long to wait at most until the filled store is at rest. Default: 5m; with --quick 5s."`
}

// Run measures and prints the report.
func (c *benchStoreSizeCmd) Run(sh *shell) error {
	return bench.Run(sh.ctx, &bench.StoreSize{
		Options: c.options(sh), Count: c.Count, Connections: c.Connections, Rest: c.Rest,
	}, sh.out)
}
