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
// With EntryBytes or InFlight it compares settings of a cluster instead: one of the
// defaults, which is what the ratios are against, and one of each combination, in closed
// loops. Of the rest there is only what is asked for.
//
// The machine's processors and disk are shared by the three, so that the ratio says
// what replication costs and not what three machines can do.
type Cluster struct {
	Options
	Traffic           // its Rate is that of the open loop. Default: 1,000/s; quick: 200/s
	Connections []int // of the closed loops. Default: 256, 64; quick: 32
	Failovers   int   // of the node that leads; negative: none. Default: 10; quick: 1

	EntryBytes []Bytes // --cluster-entry-bytes to compare
	InFlight   []int   // --cluster-entries-in-flight to compare
}

func (c *Cluster) name() string { return "cluster" }

func (c *Cluster) complete() error {
	if c.URL != "" {
		return errors.New("bench: a cluster is started for the scenario, and a URL names one that runs")
	}
	if c.compares() {
		c.measures(report.Cluster)
		setDefault(&c.Failovers, -1)
	} else {
		c.measures(report.Engine, report.Cluster)
		setDefault(&c.Failovers, sized(&c.Options, 1, 10))
		if c.Rate.IsZero() {
			c.Rate = ConstantRate(sized(&c.Options, 200.0, 1000))
		}
	}
	if !slices.Contains(c.Systems, report.Cluster) {
		return fmt.Errorf("bench: no cluster is among %v", c.Systems)
	}
	if len(c.Connections) == 0 {
		c.Connections = sized(&c.Options, []int{32}, []int{256, 64})
	}
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

// compares reports whether settings of a cluster are compared.
func (c *Cluster) compares() bool { return len(c.EntryBytes)+len(c.InFlight) > 0 }

// plans are those of a load: of the systems, and of a cluster with each of the settings.
func (c *Cluster) plans(at report.Load, connections int) (plans []plan) {
	for _, system := range c.Systems {
		plans = append(plans, c.plan(&c.Options, system, at, connections))
	}
	if !c.compares() {
		return plans
	}
	sizes, counts := c.EntryBytes, c.InFlight
	if len(sizes) == 0 {
		sizes = []Bytes{0} // as by default
	}
	if len(counts) == 0 {
		counts = []int{0}
	}
	for _, size := range sizes {
		for _, count := range counts {
			p := c.plan(&c.Options, report.Cluster, at, connections)
			p.as, p.flags = entrySetting(size, count)
			plans = append(plans, p)
		}
	}
	return plans
}

// entrySetting is the name and the flags of a cluster with entries of a size and a
// number of them in flight; 0: as by default.
func entrySetting(size Bytes, inFlight int) (name string, flags []string) {
	if size > 0 {
		flags = append(flags, fmt.Sprintf("--cluster-entry-bytes=%d", size))
	}
	if inFlight > 0 {
		flags = append(flags, fmt.Sprintf("--cluster-entries-in-flight=%d", inFlight))
	}
	switch {
	case inFlight == 0:
		return size.String(), flags
	case size == 0:
		return fmt.Sprintf("%d in flight", inFlight), flags
	}
	return fmt.Sprintf("%s×%d", size, inFlight), flags
}

func (c *Cluster) play(ctx context.Context, s *session) error {
	c.describe(s)
	s.note("Three nodes and the generator and the receiver share this machine. Sends go to the node that leads.")
	if c.compares() {
		s.note("A system that is named by the size of an entry, the number of entries in flight, or both as in 64KiB×2, is three nodes with these settings; cluster is three nodes with those that they have by default.")
	}
	if err := s.measureCeiling(ctx, c.plan(&c.Options, "", report.Load{}, c.Connections[0]).generator); err != nil {
		return err
	}
	for _, connections := range c.Connections {
		at := report.Load{Axis: "connections", Value: float64(connections)}
		plans := c.plans(at, connections)
		for i := range plans {
			plans[i].generator.Rate, plans[i].generator.Poisson = Rate{}, false
		}
		if err := s.interleave(ctx, plans...); err != nil {
			return err
		}
		c.findShares(s, at)
	}
	if !c.Rate.IsZero() {
		rate := report.Load{Axis: "rate", Unit: "/s", Value: c.Rate.steps[0]}
		if err := s.interleave(ctx, c.plans(rate, c.Connections[0])...); err != nil {
			return err
		}
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
