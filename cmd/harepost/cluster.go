package main

type clusterCmd struct {
	Status   clusterStatusCmd   `cmd:"" help:"Show the nodes, who leads, and how far the others are."`
	Remove   clusterRemoveCmd   `cmd:"" help:"Take a node out of the cluster for good."`
	Transfer clusterTransferCmd `cmd:"" aliases:"transfer-leader" help:"Have another node lead."`
	Snapshot clusterSnapshotCmd `cmd:"" help:"Shorten the log of the node that is asked."`
	Certs    clusterCertsCmd    `cmd:"" help:"Make a CA and the certificates by which the nodes of a cluster know each other."`

	clusterOfflineCmds `embed:""`
}
