package main

import "github.com/harepost/harepost/bench"

type benchClusterCmd struct {
	benchFlags   `embed:""`
	trafficFlags `embed:""`
	Connections  []int `name:"connections" sep:"," placeholder:"N" help:"Connections of the closed loops; each number is measured on its own. Default: 256,64; with --quick 32."`
	Failovers    int   `name:"failovers" placeholder:"N" help:"How often the node that leads is killed; negative: never. Default: 10; with --quick 1."`
}

// Run measures and prints the report.
func (c *benchClusterCmd) Run(sh *shell) error {
	return bench.Run(sh.ctx, &bench.Cluster{Options: c.options(sh), Traffic: c.traffic(), Connections: c.Connections, Failovers: c.Failovers}, sh.out)
}
