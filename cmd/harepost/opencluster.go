package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"

	"github.com/VictoriaMetrics/metrics"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/api"
	"github.com/harepost/harepost/engine"
	"github.com/harepost/harepost/raftstore"
)

// openCluster opens the node's port and everything that talks over it. It returns
// when the node belongs to a cluster, or ctx ends.
func openCluster(ctx context.Context, p *program) (_ *clusterNode, err error) {
	cfg := &p.cfg
	used, err := isUsed(cfg)
	if err != nil {
		return nil, err
	}
	identity, err := raftstore.OpenIdentity(vfs.Default, cfg.DataDir, cfg.NodeID)
	if err == nil && used && identity.ClusterID() == "" && !identity.Converting() {
		p.log.Info("the data of a single node becomes that of the first node of a new cluster", "dir", cfg.DataDir)
		err = identity.BeginConversion()
	}
	if err != nil {
		return nil, explainNode(cfg.DataDir, err)
	}
	o := openedCluster{p: p, identity: identity, stopped: make(chan error, 1)}
	if o.layer, o.certs, err = listenCluster(p, o.nodeOf); err != nil {
		return nil, err
	}
	if err := o.open(ctx); err != nil {
		return nil, errors.Join(err, o.close())
	}
	return &o.clusterNode, nil
}

// isUsed reports whether a server has run on the directory. If it has run alone, that
// the directory is to become a cluster's has to be said.
func isUsed(cfg *config) (bool, error) {
	if used, _ := filepath.Glob(filepath.Join(cfg.DataDir, walDir, "*.wal")); len(used) == 0 {
		return false, nil
	}
	in, err := raftstore.InCluster(vfs.Default, cfg.DataDir)
	if err == nil && !in && cfg.BootstrapExpect != 1 {
		return false, usagef("--data-dir: %s was made by a server that runs alone. To make it the first node of a new cluster, which the others then join with empty directories, give --bootstrap-expect 1; else give --node-id an empty directory", cfg.DataDir)
	}
	return true, err
}

// listenCluster opens the node's port. Without certificates there are none.
func listenCluster(p *program, nodeOf func(address string) (id string, ok bool)) (*raftstore.StreamLayer, *raftstore.ClusterTLS, error) {
	cfg := &p.cfg
	o := raftstore.StreamOptions{Bind: cfg.ClusterAddr, Advertise: cfg.ClusterAdvertise, NodeID: cfg.NodeID, NodeOf: nodeOf, Logger: p.log}
	if cfg.ClusterCert != "" {
		files := raftstore.ClusterTLSFiles{Cert: cfg.ClusterCert, Key: cfg.ClusterKey, CA: cfg.ClusterCA}
		var err error
		if o.TLS, err = raftstore.LoadClusterTLS(files, p.log); err != nil {
			return nil, nil, exitWith(exitUsage, err)
		}
		if got := o.TLS.NodeID(); got != cfg.NodeID {
			return nil, nil, usagef("--cluster-cert %s is the certificate of node %s, and --node-id is %s", cfg.ClusterCert, got, cfg.NodeID)
		}
	}
	layer, err := raftstore.Listen(o)
	if err != nil {
		return nil, nil, fmt.Errorf("--cluster-addr: %w", err)
	}
	return layer, o.TLS, nil
}

// An openedCluster is a clusterNode with what it is made of.
type openedCluster struct {
	clusterNode
	p        *program
	identity *raftstore.Identity
	layer    *raftstore.StreamLayer
	certs    *raftstore.ClusterTLS // nil without
	client   *raftstore.InternalClient
	server   *raftstore.InternalServer
	members  *raftstore.Membership
	node     *raftstore.Node
	stopped  chan error // room for one
}

// nodeOf is for raft, which connects to others when members is there.
func (o *openedCluster) nodeOf(address string) (id string, ok bool) { return o.members.NodeOf(address) }

func (o *openedCluster) open(ctx context.Context) (err error) {
	cfg, log := &o.p.cfg, o.p.log
	address := o.layer.Addr().String()
	o.client = raftstore.NewInternalClient(o.layer, raftstore.InternalClientOptions{})
	o.members, err = raftstore.NewMembership(raftstore.MembershipOptions{
		FS: vfs.Default, Dir: cfg.DataDir, Identity: o.identity, Caller: raftstore.NewCaller(o.client.Do),
		Address: address, API: o.p.advertisedAPI(), Version: readBuildInfo().Version,
		Join: cfg.Join, Expect: cfg.BootstrapExpect, Token: cfg.joinToken,
		Stopped: func(err error) { o.stopped <- err },
		Logger:  log,
	})
	if err != nil {
		return err
	}
	o.server = raftstore.ServeInternal(o.layer.HTTPListener(), o.hear, raftstore.InternalServerOptions{Logger: log})
	if o.identity.ClusterID() == "" {
		log.Info("waiting for other nodes", "node", cfg.NodeID, "address", address, "join", cfg.Join, "expect", cfg.BootstrapExpect)
	}
	if err := o.members.Form(ctx); err != nil {
		return clusterError(err)
	}
	o.node = raftstore.NewNode(raftstore.Config{
		ID: raft.ServerID(cfg.NodeID),
		Transport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream: o.layer, MaxPool: raftstore.KeptConnections, MaxRPCsInFlight: 2, Timeout: raftTimeout, Logger: hclog.NewNullLogger(),
			ServerAddressProvider: o.members,
		}),
		ElectionTimeout: cfg.ElectionTimeout,
		EntryBytes:      cfg.EntryBytes,
		EntriesInFlight: cfg.EntriesInFlight,
		Members:         o.members,
		Single:          o.identity.Converting(),
		Begin: func(ctx context.Context, m engine.Machine, s *raftstore.Store, snapshots *raftstore.SnapshotStore) error {
			if err := raftstore.ConvertSingle(ctx, o.identity, m, s, snapshots, address); err != nil {
				return err
			}
			return o.identity.Found(s, s, snapshots)
		},
		Logger: log,
	})
	o.clusterNode.replica = o.node
	o.clusterNode.door = o.newDoor()
	o.clusterNode.address = o.layer.BoundAddr().(*net.TCPAddr).AddrPort()
	o.clusterNode.metrics = func(w io.Writer) {
		o.node.WriteMetrics(w)
		if o.certs != nil {
			metrics.WriteGaugeUint64(w, "harepost_cluster_certificate_not_after_timestamp_seconds", uint64(max(o.certs.NotAfter().Unix(), 0)))
		}
	}
	o.clusterNode.look = func() {
		if o.certs != nil {
			o.certs.WarnOfEnd()
		}
	}
	o.clusterNode.stopped = o.stopped
	o.clusterNode.start = func(fit func() error) { o.members.Start(o.node.Consensus(), fit) }
	o.clusterNode.leave = func() {
		if err := o.members.Close(); err != nil {
			log.Warn("what is known of other nodes was not written down", "error", err)
		}
	}
	o.clusterNode.close = o.close
	return nil
}

// hear answers a request of another node. What a client says in the path of a request
// that is handed on is not to be taken for the word of that node: the path is looked at
// as it came, since a decoded one may be any.
func (o *openedCluster) hear(ctx *fasthttp.RequestCtx) {
	path := string(ctx.URI().PathOriginal())
	if api.HandedOn(ctx) || !raftstore.OwnPath(path) {
		o.answer(ctx)
		return
	}
	status, answer := o.members.Handle(context.Background(), path, raftstore.PeerOf(ctx), ctx.PostBody())
	ctx.SetStatusCode(status)
	ctx.SetContentType("application/json")
	ctx.SetBody(answer)
}

// clusterError gives an error that starting the node again does not mend its status:
// others do not want it, or its directory does not say who it is.
func clusterError(err error) error {
	for _, final := range []error{raftstore.ErrRefused, raftstore.ErrIdentity, raftstore.ErrDamaged, raftstore.ErrFuture} {
		if errors.Is(err, final) {
			return exitWith(exitExpelled, err)
		}
	}
	return err
}

// explainNode is explainOpen for the directory of a node. A clusterError says itself what
// can be done.
func explainNode(dir string, err error) error {
	if final := clusterError(err); final != err {
		return final
	}
	return explainOpen(dir, err)
}

func (o *openedCluster) newDoor() *clusterDoor {
	return &clusterDoor{
		id: o.p.cfg.NodeID, log: o.node, ask: o.client.Do, cluster: o.identity.ClusterID,
		about: func(id string) (api, version string) {
			for _, m := range o.members.Members() {
				if m.ID == id {
					return m.API, m.Version
				}
			}
			return "", ""
		},
		remove:   o.members.Remove,
		transfer: o.members.Transfer,

		transferable: o.members.Transferable,
		explain:      explainMembership,
	}
}

// explainMembership is an error of a Membership as the API has it.
func explainMembership(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raftstore.ErrNotLeading):
		return fmt.Errorf("%w: %w", engine.ErrNotLeader, err)
	case errors.Is(err, raftstore.ErrNoMember):
		return fmt.Errorf("%w: %w", api.ErrNoNode, err)
	case errors.Is(err, raftstore.ErrUnsafe), errors.Is(err, raftstore.ErrNoHeir):
		return fmt.Errorf("%w: %w", api.ErrRefused, err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrEnqueueTimeout):
		return fmt.Errorf("%w: %w", engine.ErrUnknown, err)
	}
	return err
}

// close closes what the engine has not: raft's transport is the node's.
func (o *openedCluster) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	var errs []error
	if o.members != nil {
		errs = append(errs, o.members.Close())
	}
	if o.server != nil {
		errs = append(errs, o.server.Shutdown(ctx))
	}
	if o.client != nil {
		errs = append(errs, o.client.Close())
	}
	return errors.Join(append(errs, o.layer.Close())...)
}
