package main

import (
	"time"

	"github.com/harepost/harepost/bench"
)

type benchOutageCmd struct {
	benchFlags  `embed:""`
	Rate        float64       `name:"rate" placeholder:"N" help:"Sends a second until the receiver is back. Default: 2,000; with --quick 300."`
	Before      time.Duration `name:"before" placeholder:"DURATION" help:"Load before the receiver goes. Default: 10s; with --quick 2s."`
	Away        time.Duration `name:"away" placeholder:"DURATION" help:"How long it is away. Default: 60s; with --quick 3s."`
	Capacity    float64       `name:"capacity" placeholder:"N" help:"Attempts a second that it takes once it is back. Default: a quarter of --rate."`
	Excess      string        `name:"excess" default:"503" help:"What becomes of more: a status from 400 to 599, or slow: it waits for its turn."`
	After       time.Duration `name:"after" placeholder:"DURATION" help:"How long the other host has load once it is back. Default: 1.5 times what its capacity needs for the backlog."`
	Beside      float64       `name:"beside-rate" placeholder:"N" help:"Sends a second to another host, all the time. Default: 200; with --quick 50."`
	How         string        `name:"how" default:"down" help:"What it does while it is away: down (refuses connections), fail=1:503, fail=1:hole (never answers), fail=1:reset, delay=5s, …"`
	Delivery    string        `name:"delivery" placeholder:"JSON" help:"Policy of the sends. Default: 25 attempts, at most 10 s apart; with --quick 1 s."`
	Connections int           `name:"connections" default:"64" help:"Connections of each generator."`
}

// Run measures and prints the report.
func (c *benchOutageCmd) Run(sh *shell) error {
	return bench.Run(sh.ctx, &bench.Outage{
		Options: c.options(sh), Rate: c.Rate, Before: c.Before, Away: c.Away, After: c.After, Capacity: c.Capacity, Excess: c.Excess, Beside: c.Beside,
		How: c.How, Delivery: c.Delivery, Connections: c.Connections,
	}, sh.out)
}
