package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/harepost/harepost/bench/report"
)

// Cluster is the scenario "cluster": three nodes on this machine beside one. In a
// closed loop, and in an open one at a rate; then the node that leads is killed,
// again and again, with next to no load.
//
// The machine's processors and disk are shared by the three, so that the ratio says
// what replication costs and not what three machines can do.
type Cluster struct {
	Options
	Traffic           // its Rate is that of the open loop. Default: 1,000/s; quick: 200/s
	Connections []int // of the closed loops. Default: 256, 64; quick: 32
	Failovers   int   // of the node that leads; negative: none. Default: 10; quick: 1
}

func (c *Cluster) name() string { return "cluster" }

func (c *Cluster) complete() error {
	if c.URL != "" {
		return errors.New("bench: a cluster is started for the scenario, and a URL names one that runs")
	}
	c.measures(report.Engine, report.Cluster)
	if !slices.Contains(c.Systems, report.Cluster) {
		return fmt.Errorf("bench: no cluster is among %v", c.Systems)
	}
	if c.Rate.IsZero() {
		c.Rate = ConstantRate(sized(&c.Options, 200.0, 1000))
	}
	if len(c.Connections) == 0 {
		c.Connections = sized(&c.Options, []int{32}, []int{256, 64})
	}
	setDefault(&c.Failovers, sized(&c.Options, 1, 10))
	if c.Failovers > 1000 {
		return fmt.Errorf("bench: %d failovers, want 1,000 at most", c.Failovers)
	}
	c.defaultPayload()
	if err := c.Traffic.complete(); err != nil {
		return err
	}
	if err := checkConnections(c.Connections...); err != nil {
		return err
	}
	return c.Options.complete()
}

func (c *Cluster) play(ctx context.Context, s *session) error {
	c.describe(s)
	s.note("Three nodes and the generator and the receiver share this machine. Sends go to the node that leads.")
	if err := s.measureCeiling(ctx, c.plan(&c.Options, "", report.Load{}, c.Connections[0]).generator); err != nil {
		return err
	}
	for _, connections := range c.Connections {
		at := report.Load{Axis: "connections", Value: float64(connections)}
		var plans []plan
		for _, system := range c.Systems {
			p := c.plan(&c.Options, system, at, connections)
			p.generator.Rate, p.generator.Poisson = Rate{}, false
			plans = append(plans, p)
		}
		if err := s.interleave(ctx, plans...); err != nil {
			return err
		}
		c.findShares(s, at)
	}
	rate := report.Load{Axis: "rate", Unit: "/s", Value: c.Rate.steps[0]}
	var plans []plan
	for _, system := range c.Systems {
		plans = append(plans, c.plan(&c.Options, system, rate, c.Connections[0]))
	}
	if err := s.interleave(ctx, plans...); err != nil {
		return err
	}
	return c.failOver(ctx, s)
}

// findShares adds what of one node's rates three reach.
func (c *Cluster) findShares(s *session, at report.Load) {
	one, three := s.rounds(report.Engine, at), s.rounds(report.Cluster, at)
	for _, of := range []struct{ name, rate string }{{"accepted/s", report.AcceptedRate}, {"delivered/s", report.DeliveredRate}} {
		var shares []float64
		for i := range min(len(one), len(three)) {
			if alone := one[i].Values[of.rate]; alone > 0 {
				shares = append(shares, three[i].Values[of.rate]/alone)
			}
		}
		if len(shares) > 0 {
			s.find(fmt.Sprintf("%s of three nodes, against one, %s", of.name, at), median(shares), "×", report.Higher)
		}
	}
}

// failOver kills the node that leads.
func (c *Cluster) failOver(ctx context.Context, s *session) (err error) {
	if c.Failovers < 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dir, err := os.MkdirTemp(c.Dir, "bench-*")
	if err != nil {
		return fmt.Errorf("bench: make a directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	target, err := startPart(ctx, c.Child, roleReceiver, ReceiverOptions{Targets: 1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.close()) }()
	var ready receiverReady
	if err := target.hear("start", &ready); err != nil {
		return err
	}
	nodes, err := openNodes(ctx, c.Options, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, nodes.stop()) }()
	leader, err := nodes.ready(ctx)
	if err != nil {
		return err
	}
	key, err := createAccount(ctx, leader.addr)
	if err != nil {
		return leader.process.explain("create an account", err)
	}
	var took []time.Duration
	for range c.Failovers {
		d, err := nodes.fail(ctx, key, ready.Targets[0])
		if err != nil {
			return err
		}
		took = append(took, d)
	}
	slices.Sort(took)
	s.set("failovers", c.Failovers)
	s.find("accepted again after the leader was killed, median", millis(took[(len(took)-1)/2]), "ms", report.Lower)
	s.find("accepted again after the leader was killed, longest", millis(took[len(took)-1]), "ms", report.Lower)
	return nil
}
