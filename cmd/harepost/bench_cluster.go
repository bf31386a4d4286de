package main

import "github.com/harepost/harepost/bench"

type benchClusterCmd struct {
	benchFlags   `embed:""`
	trafficFlags `embed:""`
	Connections  []int         `name:"connections" sep:"," placeholder:"N" help:"Connections of the closed loops; each number is measured on its own. Default: 256,64; with --quick 32."`
	Failovers    int           `name:"failovers" placeholder:"N" help:"How often the node that leads is killed; negative: never. Default: 10; with --quick 1."`
	EntryBytes   []bench.Bytes `name:"entry-bytes" sep:"," placeholder:"SIZE" help:"Compare clusters of these --cluster-entry-bytes, as in 16KiB,2MiB, with one of the defaults; without an open loop and failovers unless --rate and --failovers ask for them."`
	InFlight     []int         `name:"in-flight" sep:"," placeholder:"N" help:"The same for --cluster-entries-in-flight; with --entry-bytes too, each combination is compared."`
}

// Run measures and prints the report.
func (c *benchClusterCmd) Run(sh *shell) error {
	for _, n := range c.EntryBytes {
		if err := checkEntryBytes("--entry-bytes", int(n)); err != nil {
			return exitWith(exitUsage, err)
		}
	}
	for _, n := range c.InFlight {
		if err := checkEntriesInFlight("--in-flight", n); err != nil {
			return exitWith(exitUsage, err)
		}
	}
	return bench.Run(sh.ctx, &bench.Cluster{
		Options: c.options(sh), Traffic: c.traffic(), Connections: c.Connections, Failovers: c.Failovers,
		EntryBytes: c.EntryBytes, InFlight: c.InFlight,
	}, sh.out)
}
