package main

type clusterCmd struct {
	Certs clusterCertsCmd `cmd:"" help:"Make a CA and the certificates by which the nodes of a cluster know each other."`
}
