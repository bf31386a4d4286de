package raftstore

import (
	"fmt"

	"github.com/hashicorp/raft"
)

// ServerAddr implements raft.ServerAddressProvider: where a node is, as it has said itself in its present life. The
// configuration has a new address only when a leader has written it there, and there may be none before nodes
// that have moved have asked each other for their votes. An error has raft take the address of the configuration.
func (m *Membership) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	if k, ok := m.peers.get(string(id)); ok && k.admitted && k.Address != "" {
		return raft.ServerAddress(k.Address), nil
	}
	return "", fmt.Errorf("raftstore: node %s has not said yet where it is", id)
}

// NodeOf is the node that was met and says that it is at an address, which no two are, see misplaced. It is for
// StreamOptions.NodeOf.
func (m *Membership) NodeOf(address string) (id string, ok bool) {
	m.peers.mu.Lock()
	defer m.peers.mu.Unlock()
	for id, k := range m.peers.known {
		if k.admitted && k.Address == address {
			return id, true
		}
	}
	return "", false
}
