package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/harepost/harepost/raftstore"
)

type clusterFlags struct {
	NodeID           string        `name:"node-id" placeholder:"ID" help:"Makes the server a node of a cluster, by this id: a-z, 0-9 and -. It stays with the data directory."`
	ClusterAddr      string        `name:"cluster-addr" placeholder:"HOST:PORT" help:"Address for the other nodes to connect to. On loopback only, unless the nodes have certificates."`
	ClusterAdvertise string        `name:"cluster-advertise" placeholder:"HOST:PORT" help:"How the other nodes reach --cluster-addr; the host may be a name. Default: --cluster-addr."`
	BootstrapExpect  int           `name:"bootstrap-expect" default:"0" help:"Begin a cluster when so many nodes have found each other by --join. Of no effect once there is one. 0: never."`
	Join             []string      `name:"join" sep:"," placeholder:"HOST:PORT" help:"Cluster addresses of other nodes, this one's own may be among them. Where a node finds a cluster it asks to be taken in."`
	JoinToken        string        `name:"join-token" placeholder:"TOKEN" help:"What a node has to know to be taken in. Without it a node takes in none. Better given as the variable, or by --join-token-file."`
	JoinTokenFile    string        `name:"join-token-file" placeholder:"FILE" type:"path" help:"File with that token."`
	ClusterCert      string        `name:"cluster-cert" placeholder:"FILE" type:"path" help:"PEM file of this node's certificate, see: harepost cluster certs. Read again when it changes."`
	ClusterKey       string        `name:"cluster-key" placeholder:"FILE" type:"path" help:"PEM file of its key."`
	ClusterCA        string        `name:"cluster-ca" placeholder:"FILE" type:"path" help:"PEM file of the authority that all nodes have their certificates of, and nobody else has."`
	ElectionTimeout  time.Duration `name:"election-timeout" default:"1s" help:"How long nodes hear nothing of the one that leads before they elect another. All nodes have the same."`
	EntryBytes       int           `name:"cluster-entry-bytes" default:"524288" help:"About how much of what waits is replicated as one entry, of which each costs every node a sync: 4096 to 4194304."`
	EntriesInFlight  int           `name:"cluster-entries-in-flight" default:"2" help:"Entries on their way to the other nodes at once; what comes meanwhile is the next one: 1 to 64."`
}

// clustered reports whether the server is a node of a cluster.
func (c *clusterFlags) clustered() bool { return c.NodeID != "" }

var nodeID = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// leastElectionTimeout is what a busy machine needs not to take a pause for an end.
const leastElectionTimeout = 100 * time.Millisecond

// mostNodes is the largest --bootstrap-expect. More cost more acknowledgements for
// each send, and make nothing safer.
const mostNodes = 9

// Bounds of an entry: less than the smallest is one for nearly each send, and more than
// the largest is more than a frame of the log gathers, which is one write and one sync.
const (
	leastEntryBytes     = 4 << 10
	mostEntryBytes      = 4 << 20
	mostEntriesInFlight = 64
)

func checkEntryBytes(flag string, n int) error {
	if n < leastEntryBytes || n > mostEntryBytes {
		return fmt.Errorf("%s must be from %d to %d, not %d", flag, leastEntryBytes, mostEntryBytes, n)
	}
	return nil
}

func checkEntriesInFlight(flag string, n int) error {
	if n < 1 || n > mostEntriesInFlight {
		return fmt.Errorf("%s must be from 1 to %d, not %d", flag, mostEntriesInFlight, n)
	}
	return nil
}

// checkCluster checks the flags of a cluster against each other.
func (c *clusterFlags) checkCluster() error {
	if !c.clustered() {
		return c.checkAlone()
	}
	if !nodeID.MatchString(c.NodeID) {
		return fmt.Errorf("--node-id %q must be 1 to 63 of a-z, 0-9 and -, and not begin or end with -", c.NodeID)
	}
	if c.ClusterAddr == "" {
		return errors.New("--node-id makes the server a node of a cluster: give --cluster-addr, for the other nodes to connect to")
	}
	checks := []func() error{c.checkClusterAddresses, c.checkJoin, c.checkClusterFiles}
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	if c.ElectionTimeout < leastElectionTimeout {
		return fmt.Errorf("--election-timeout must be at least %s, not %s", leastElectionTimeout, c.ElectionTimeout)
	}
	return errors.Join(checkEntryBytes("--cluster-entry-bytes", c.EntryBytes), checkEntriesInFlight("--cluster-entries-in-flight", c.EntriesInFlight))
}

// checkAlone refuses what only a node of a cluster has.
func (c *clusterFlags) checkAlone() error {
	given := []struct {
		flag  string
		given bool
	}{
		{"cluster-addr", c.ClusterAddr != ""}, {"cluster-advertise", c.ClusterAdvertise != ""},
		{"bootstrap-expect", c.BootstrapExpect != 0}, {"join", len(c.Join) > 0},
		{"join-token", c.JoinToken != ""}, {"join-token-file", c.JoinTokenFile != ""},
		{"cluster-cert", c.ClusterCert != ""}, {"cluster-key", c.ClusterKey != ""}, {"cluster-ca", c.ClusterCA != ""},
		{"cluster-entry-bytes", c.EntryBytes != raftstore.DefaultEntryBytes},
		{"cluster-entries-in-flight", c.EntriesInFlight != raftstore.DefaultEntriesInFlight},
	}
	for _, g := range given {
		if g.given {
			return fmt.Errorf("--%s is for a node of a cluster: give --node-id too", g.flag)
		}
	}
	return nil
}

func (c *clusterFlags) checkClusterAddresses() error {
	loopback, err := isLoopback("--cluster-addr", c.ClusterAddr)
	if err != nil {
		return err
	}
	if c.ClusterAdvertise != "" {
		host, port, err := splitAddress("--cluster-advertise", c.ClusterAdvertise)
		if err != nil {
			return err
		}
		if host == "" || isUnspecified(host) || port == "0" {
			return fmt.Errorf("--cluster-advertise %s: give the address or name of this node, and its port, as others reach them", c.ClusterAdvertise)
		}
		own, err := isLoopback("--cluster-advertise", c.ClusterAdvertise)
		if err != nil {
			return err
		}
		loopback = loopback && own
	} else if host, _, _ := net.SplitHostPort(c.ClusterAddr); host == "" || isUnspecified(host) {
		return fmt.Errorf("--cluster-addr %s is every address of this machine: give --cluster-advertise, the one by which others reach it", c.ClusterAddr)
	}
	if !loopback && c.ClusterCert == "" {
		return fmt.Errorf("--cluster-addr %s is not only this machine, and who reaches it can read and replace everything: give --cluster-cert, --cluster-key and --cluster-ca (harepost cluster certs makes them)", c.ClusterAddr)
	}
	return nil
}

func isUnspecified(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsUnspecified()
}

func (c *clusterFlags) checkJoin() error {
	for _, address := range c.Join {
		if _, port, err := splitAddress("--join", address); err != nil {
			return err
		} else if port == "0" {
			return fmt.Errorf("--join %s: a port is needed", address)
		}
	}
	switch {
	case c.BootstrapExpect < 0 || c.BootstrapExpect > mostNodes:
		return fmt.Errorf("--bootstrap-expect must be from 0 to %d, not %d", mostNodes, c.BootstrapExpect)
	case c.BootstrapExpect > 1 && len(c.Join) == 0:
		return fmt.Errorf("--bootstrap-expect %d waits for other nodes: give their cluster addresses with --join", c.BootstrapExpect)
	case c.JoinToken != "" && c.JoinTokenFile != "":
		return errors.New("--join-token and --join-token-file are the same token: give one of them")
	case len(c.Join) > 0 && c.BootstrapExpect == 0 && c.JoinToken == "" && c.JoinTokenFile == "":
		return errors.New("--join asks a cluster to take this node in, which needs its --join-token; for a cluster that does not exist yet give --bootstrap-expect")
	}
	return nil
}

func (c *clusterFlags) checkClusterFiles() error {
	given := 0
	for _, file := range []string{c.ClusterCert, c.ClusterKey, c.ClusterCA} {
		if file != "" {
			given++
		}
	}
	if given != 0 && given != 3 {
		return errors.New("--cluster-cert, --cluster-key and --cluster-ca belong together: give all or none")
	}
	return nil
}

// joinToken is the token of either flag.
func (c *clusterFlags) joinToken() (string, error) {
	if c.JoinTokenFile == "" {
		return c.JoinToken, nil
	}
	text, err := os.ReadFile(c.JoinTokenFile)
	if err != nil {
		return "", fmt.Errorf("--join-token-file: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" {
		return "", fmt.Errorf("--join-token-file: %s is empty", c.JoinTokenFile)
	}
	return token, nil
}

// warnings are what may be meant, and mostly is not.
func (c *clusterFlags) clusterWarnings(token string) []string {
	var list []string
	if n := c.BootstrapExpect; n > 0 && n%2 == 0 {
		list = append(list, fmt.Sprintf("--bootstrap-expect %d: a cluster of %d nodes stands still when %d of them are away, as one of %d does: one node less is as safe", n, n, n/2, n-1))
	}
	if token != "" && len(token) < 16 {
		list = append(list, "the join token is shorter than 16 characters and may be guessed")
	}
	if c.ClusterCert == "" {
		list = append(list, "the nodes have no certificates: they are not encrypted and know each other by nothing, and only this machine is listened to")
	}
	if c.ClusterAdvertise != "" && len(c.Join) > 0 && slices.Equal(c.Join, []string{c.ClusterAdvertise}) {
		list = append(list, "--join names this node alone: it finds no other")
	}
	return list
}
