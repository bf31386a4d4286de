package main

import (
	"time"

	"github.com/harepost/harepost/bench"
)

type benchOutageCmd struct {
	benchFlags  `embed:""`
	Rate        float64       `name:"rate" placeholder:"N" help:"Sends a second. Default: 1,000; with --quick 300."`
	Before      time.Duration `name:"before" placeholder:"DURATION" help:"Load before the receiver goes. Default: 10s; with --quick 2s."`
	Away        time.Duration `name:"away" placeholder:"DURATION" help:"How long it is away. Default: 30s; with --quick 3s."`
	After       time.Duration `name:"after" placeholder:"DURATION" help:"Load once it is back. Default: 30s; with --quick 5s."`
	How         string        `name:"how" default:"down" help:"What it does meanwhile: down (refuses connections), fail=1:503, fail=1:hole (never answers), fail=1:reset, delay=5s, …"`
	Delivery    string        `name:"delivery" placeholder:"JSON" help:"Policy of the sends. Default: 25 attempts, at most 10 s apart; with --quick 1 s."`
	Connections int           `name:"connections" default:"64" help:"Connections of the generator."`
}

// Run measures and prints the report.
func (c *benchOutageCmd) Run(sh *shell) error {
	return bench.Run(sh.ctx, &bench.Outage{
		Options: c.options(sh), Rate: c.Rate, Before: c.Before, Away: c.Away, After: c.After,
		How: c.How, Delivery: c.Delivery, Connections: c.Connections,
	}, sh.out)
}
