package main

import (
	"time"

	"github.com/harepost/harepost/bench"
)

type benchBacklogCmd struct {
	benchFlags `embed:""`
	Count      int           `name:"count" placeholder:"N" help:"Pending deliveries. Default: 10,000,000; with --quick 50,000."`
	Lanes      int           `name:"lanes" placeholder:"N" help:"Hosts, half of them dead, half slow. Default: 100,000; with --quick 2,000."`
	Slow       string        `name:"slow" default:"delay=exp:5s" help:"What the slow ones do."`
	Delivery   string        `name:"delivery" placeholder:"JSON" help:"Policy of the sends. Default: 25 attempts, one or two minutes apart; with --quick 2 s."`
	Drain      time.Duration `name:"drain" placeholder:"DURATION" help:"How long it drains, the dead being back, before the server is killed. Default: 60s; with --quick 3s."`
	Finish     time.Duration `name:"finish" placeholder:"DURATION" help:"How long the rest may take after it, the slow being quick. Default: 15m; with --quick 60s."`
}

// Run measures and prints the report.
func (c *benchBacklogCmd) Run(sh *shell) error {
	return bench.Run(sh.ctx, &bench.Backlog{
		Options: c.options(sh), Count: c.Count, Lanes: c.Lanes, Slow: c.Slow, Delivery: c.Delivery, Drain: c.Drain, Finish: c.Finish,
	}, sh.out)
}
