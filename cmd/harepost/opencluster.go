package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/engine"
	"github.com/harepost/harepost/raftstore"
)

// openCluster opens the node's port and everything that talks over it. It returns
// when the node belongs to a cluster, or ctx ends.
func openCluster(_ context.Context, p *program) (_ *clusterNode, err error) {
	cfg := &p.cfg
	if cfg.BootstrapExpect != 1 {
		return nil, errors.New("nodes cannot find each other yet: only --bootstrap-expect 1 is there")
	}
	o := raftstore.StreamOptions{Bind: cfg.ClusterAddr, Advertise: cfg.ClusterAdvertise, NodeID: cfg.NodeID, Logger: p.log}
	if cfg.ClusterCert != "" {
		files := raftstore.ClusterTLSFiles{Cert: cfg.ClusterCert, Key: cfg.ClusterKey, CA: cfg.ClusterCA}
		if o.TLS, err = raftstore.LoadClusterTLS(files, p.log); err != nil {
			return nil, exitWith(exitUsage, err)
		}
	}
	layer, err := raftstore.Listen(o)
	if err != nil {
		return nil, fmt.Errorf("--cluster-addr: %w", err)
	}
	address := raft.ServerAddress(layer.Addr().String())
	transport := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: layer, MaxPool: 3, MaxRPCsInFlight: 2, Timeout: raftTimeout, Logger: hclog.NewNullLogger(),
	})
	node := raftstore.NewNode(raftstore.Config{
		ID: raft.ServerID(cfg.NodeID), Transport: transport, ElectionTimeout: cfg.ElectionTimeout, Logger: p.log,
		Bootstrap: []raft.Server{{ID: raft.ServerID(cfg.NodeID), Address: address}},
	})
	client := raftstore.NewInternalClient(layer, raftstore.InternalClientOptions{})
	c := &clusterNode{
		replica: node, address: layer.BoundAddr().(*net.TCPAddr).AddrPort(),
		metrics: func(w io.Writer) { node.WriteMetrics(w) }, leave: func() {},
	}
	c.door = &clusterDoor{
		id: cfg.NodeID, log: node, ask: client.Do,
		about:   func(string) (api, version string) { return "", "" },
		cluster: func() string { return "" },
		remove:  func(context.Context, string, bool) error { return engine.ErrNotLeader },
		transfer: func(ctx context.Context, id string) error {
			return node.Transfer(ctx, raft.ServerID(id), "")
		},
		explain: func(err error) error { return err },
	}
	server := raftstore.ServeInternal(layer.HTTPListener(), func(ctx *fasthttp.RequestCtx) { c.answer(ctx) }, raftstore.InternalServerOptions{Logger: p.log})
	c.close = func() error {
		ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
		defer cancel()
		return errors.Join(client.Close(), server.Shutdown(ctx), transport.Close(), layer.Close())
	}
	return c, nil
}
