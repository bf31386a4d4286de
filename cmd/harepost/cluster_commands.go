package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/harepost/harepost/client"
)

type clusterStatusCmd struct {
	operated `embed:""`
}

// Help is shown by kong under the usage line.
func (c *clusterStatusCmd) Help() string {
	return `The node that is asked (--url) answers. How far the others are is known to the node that leads: ask that one to see it.`
}

// Run shows what the node knows.
func (c *clusterStatusCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	s, err := api.Cluster(sh.ctx)
	if err != nil {
		return c.explain(err)
	}
	if c.JSON {
		return printJSON(sh.out, api.raw())
	}
	printCluster(sh, &s)
	return nil
}

func printCluster(sh *shell, s *client.ClusterStatus) {
	out, p := sh.out, painterFor(sh.out)
	leader := p.red("no leader")
	if s.LeaderID != nil {
		leader = "leader " + p.bold(printable(*s.LeaderID))
	}
	fmt.Fprintf(out, "cluster %s   %s, term %d\n\n", printable(s.ClusterID), leader, s.Term)
	t := newTable("NODE", "ROLE", "STATE", "BEHIND", "ADDRESS", "API", "VERSION")
	for i := range s.Nodes {
		n := &s.Nodes[i]
		state := nodeState(s, n)
		t.add(plain(printable(n.NodeID)), plain(nodeRole(s, n)), cell{state, p.node}, plain(behindText(n)),
			plain(printable(n.Address)), plain(textOr(n.APIURL, "-")), plain(textOr(n.Version, "-")))
	}
	t.write(out, p, "")
	fmt.Fprintf(out, "\nasked %s: %s, log to %s, committed to %s, %s not applied yet, snapshot %s\n", printable(s.NodeID), s.Role,
		countText(int64(s.LastIndex)), countText(int64(s.CommitIndex)), entriesText(s.LagEntries), snapshotText(s))
}

// nodeRole is what a member does, as far as the node that was asked knows.
func nodeRole(s *client.ClusterStatus, n *client.ClusterNode) string {
	switch {
	case n.NodeID == s.NodeID:
		return s.Role
	case s.LeaderID != nil && n.NodeID == *s.LeaderID:
		return "leader"
	case !n.Voter:
		return "learner"
	}
	return "follower"
}

// nodeState is whether a member answers.
func nodeState(s *client.ClusterStatus, n *client.ClusterNode) string {
	switch {
	case n.NodeID == s.NodeID:
		return "asked"
	case n.Reachable == nil:
		return "-"
	case *n.Reachable:
		return "reachable"
	case n.ContactMS == nil:
		return "silent"
	}
	return "silent for " + shortDuration(time.Duration(*n.ContactMS*float64(time.Millisecond)))
}

// node colours the state of a member.
func (p painter) node(state string) string {
	switch state {
	case "asked", "reachable":
		return p.green(state)
	case "-":
		return state
	}
	return p.red(state)
}

// behindText is how far a member's log is behind the leader's.
func behindText(n *client.ClusterNode) string {
	if n.LagEntries == nil {
		return "-"
	}
	text := entriesText(*n.LagEntries)
	if *n.LagEntries > 0 && n.LagBytes != nil {
		text += ", " + bytesText(*n.LagBytes)
	}
	return text
}

func entriesText(n uint64) string {
	if n == 1 {
		return "1 entry"
	}
	return countText(int64(n)) + " entries"
}

func snapshotText(s *client.ClusterStatus) string {
	if s.SnapshotIndex == 0 {
		return "none"
	}
	return "at " + countText(int64(s.SnapshotIndex)) + " of " + timeText(s.SnapshotAt)
}

func textOr(text *string, none string) string {
	if text == nil || *text == "" {
		return none
	}
	return printable(*text)
}

type clusterRemoveCmd struct {
	operated `embed:""`
	ID       string `arg:"" help:"Id of the node, as in serve --node-id."`
	Force    bool   `name:"force" help:"Also where the nodes that are left and answer are no majority: the cluster stands still then until enough of them are back."`
}

// Help is shown by kong under the usage line.
func (c *clusterRemoveCmd) Help() string {
	return `The node ends, and its directory is of no use any more: a node that is to come back is given an empty one, and --join.`
}

// Run removes the node.
func (c *clusterRemoveCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	if err := api.RemoveNode(sh.ctx, c.ID, c.Force); err != nil {
		return c.explainOf("node", c.ID, err)
	}
	if c.JSON {
		return printJSON(sh.out, api.raw())
	}
	_, err = fmt.Fprintf(sh.out, "%s is not part of the cluster any more\n", c.ID)
	return err
}

type clusterTransferCmd struct {
	operated `embed:""`
	ID       string `arg:"" optional:"" help:"Id of the node that is to lead. Default: the one that is furthest."`
}

// Run has another node lead.
func (c *clusterTransferCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	leader, err := api.TransferLeadership(sh.ctx, c.ID)
	if err != nil {
		return c.explainOf("node", c.ID, err)
	}
	switch {
	case c.JSON:
		return printJSON(sh.out, api.raw())
	case leader == "":
		_, err = fmt.Fprintln(sh.out, "the node that led does not any more; who does now is not known yet, see: harepost cluster status")
	default:
		_, err = fmt.Fprintf(sh.out, "%s leads\n", printable(leader))
	}
	return err
}

type clusterSnapshotCmd struct {
	operated `embed:""`
}

// Help is shown by kong under the usage line.
func (c *clusterSnapshotCmd) Help() string {
	return `Of the node that is asked (--url): its state is made durable, and its log needs to reach back only as far as nodes that are a little behind want it. Nodes do this by themselves; by hand it is of use before a node's volume is copied.`
}

// Run takes the snapshot.
func (c *clusterSnapshotCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	node, index, err := api.SnapshotNode(sh.ctx)
	if err != nil {
		return c.explain(err)
	}
	if c.JSON {
		return printJSON(sh.out, api.raw())
	}
	_, err = fmt.Fprintf(sh.out, "%s has a snapshot at %s\n", printable(node), strconv.FormatUint(index, 10))
	return err
}
