package main

import (
	"fmt"
	"time"

	"github.com/harepost/harepost/raftstore"
)

type clusterCertsCmd struct {
	Out     string        `required:"" placeholder:"DIR" help:"The directory for the files. Where it has a CA of an earlier call, that one signs."`
	Nodes   []string      `name:"node" required:"" placeholder:"ID" help:"A node's id, as in serve --node-id. Give it once for every node."`
	Hosts   []string      `name:"host" placeholder:"HOST" help:"A name or an address that the certificates are valid for too. Nodes do not need it: they know each other by id."`
	Valid   time.Duration `default:"8760h" help:"How long the nodes' certificates are valid."`
	CAValid time.Duration `name:"ca-valid" default:"87600h" help:"How long a new CA is valid."`
	Force   bool          `help:"Replace certificates of nodes that are there. The CA is never replaced."`
}

// Help is shown by kong under the usage line.
func (c *clusterCertsCmd) Help() string {
	return `Every node gets its own certificate and key, and the CA's certificate:

    harepost cluster certs --out certs --node n1 --node n2 --node n3
    harepost serve --node-id n1 --cluster-cert n1.pem --cluster-key n1-key.pem --cluster-ca ca.pem ...

ca-key.pem stays with you, away from the nodes: whoever has it can join the cluster as any node. It is needed again to add a node, or to renew a certificate: call this again with the same directory (and --force to renew), and copy the new files over the old. A server that runs notices.`
}

// Run writes the certificates.
func (c *clusterCertsCmd) Run(sh *shell) error {
	if c.Valid <= 0 || c.CAValid <= 0 {
		return usagef("--valid and --ca-valid are positive")
	}
	for _, id := range c.Nodes {
		if err := raftstore.ValidNodeID(id); err != nil {
			return usagef("--node: %w", err)
		}
	}
	made, err := raftstore.MakeCerts(raftstore.CertOptions{
		Dir:     c.Out,
		Nodes:   c.Nodes,
		Hosts:   c.Hosts,
		Valid:   c.Valid,
		CAValid: c.CAValid,
		Force:   c.Force,
		Now:     time.Now(),
	})
	caKey := ""
	for _, m := range made {
		what := "node " + m.NodeID
		if m.NodeID == "" {
			what, caKey = "CA", m.Key
		}
		fmt.Fprintf(sh.out, "%s: %s and %s, until %s\n", what, m.Cert, m.Key, m.NotAfter.UTC().Format(time.DateOnly))
	}
	if caKey != "" {
		fmt.Fprintf(sh.err, "Keep %s away from the nodes: whoever has it can join the cluster as any of them.\n", caKey)
	}
	return err
}
