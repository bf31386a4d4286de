package raftstore

import (
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// Peer is a member of the cluster as its configuration has it.
type Peer struct {
	ID      raft.ServerID
	Address raft.ServerAddress
	Voter   bool
}

var _ hclog.Logger
