package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// A ClusterStatus is what a node knows of its cluster.
type ClusterStatus struct {
	NodeID          string        `json:"node_id"` // of the node that was asked
	Role            string        `json:"role"`    // leader, follower, candidate, learner, stopped
	Term            uint64        `json:"term"`
	LeaderID        *string       `json:"leader_id"` // nil: not known
	ClusterID       string        `json:"cluster_id"`
	Version         string        `json:"version"`
	LastIndex       uint64        `json:"last_index"`
	CommitIndex     uint64        `json:"commit_index"`
	AppliedIndex    uint64        `json:"applied_index"`
	LagEntries      uint64        `json:"lag_entries"`       // of the node's state behind what it knows to be committed
	LeaderContactMS float64       `json:"leader_contact_ms"` // since it heard of the leader
	SnapshotIndex   uint64        `json:"snapshot_index"`    // 0: there is none
	SnapshotAt      *time.Time    `json:"snapshot_at"`       // nil: there is none
	Nodes           []ClusterNode `json:"nodes"`             // by id
}

// A ClusterNode is a member of a cluster, as another one knows it. How far it is
// only the node that leads knows; elsewhere that is nil.
type ClusterNode struct {
	NodeID     string   `json:"node_id"`
	Address    string   `json:"address"`
	APIURL     *string  `json:"api_url"`
	Version    *string  `json:"version"`
	Voter      bool     `json:"voter"`
	Reachable  *bool    `json:"reachable"`
	ContactMS  *float64 `json:"contact_ms"` // since it last answered
	LagEntries *uint64  `json:"lag_entries"`
	LagBytes   *int64   `json:"lag_bytes"` // about what those entries take in the log
}

// Cluster returns what the node that is asked knows of its cluster. It shows
// Options.AdminToken, as all calls about the cluster do; a server that runs alone
// answers ErrNotFound.
func (c *Client) Cluster(ctx context.Context) (ClusterStatus, error) {
	var s ClusterStatus
	err := c.doAdmin(ctx, http.MethodGet, "/v1/cluster", nil, &s)
	return s, err
}

// RemoveNode takes a node out of the cluster for good. Without force that is
// ErrConflict where those that are left and answer would be no majority.
func (c *Client) RemoveNode(ctx context.Context, id string, force bool) error {
	query := ""
	if force {
		query = "?force=true"
	}
	return c.doAdmin(ctx, http.MethodDelete, "/v1/cluster/nodes/"+url.PathEscape(id)+query, nil, nil)
}

// TransferLeadership has another node lead: the one with that id, or with an empty
// one that which is furthest. It returns who leads then, empty if that was not
// known yet.
func (c *Client) TransferLeadership(ctx context.Context, id string) (leader string, err error) {
	var in any
	if id != "" {
		in = map[string]string{"node_id": id}
	}
	var out struct {
		LeaderID *string `json:"leader_id"`
	}
	if err := c.doAdmin(ctx, http.MethodPost, "/v1/cluster/transfer", in, &out); err != nil || out.LeaderID == nil {
		return "", err
	}
	return *out.LeaderID, nil
}

// SnapshotNode shortens the log of the node that is asked, and returns its id and
// the index up to which it did.
func (c *Client) SnapshotNode(ctx context.Context) (node string, index uint64, err error) {
	var out struct {
		NodeID string `json:"node_id"`
		Index  uint64 `json:"index"`
	}
	err = c.doAdmin(ctx, http.MethodPost, "/v1/cluster/snapshot", nil, &out)
	return out.NodeID, out.Index, err
}
