package client_test

import (
	"errors"
	"testing"

	"github.com/harepost/harepost/client"
)

func TestCluster(t *testing.T) {
	s := serve(t,
		answer{200, "", `{"node_id":"n1","role":"leader","term":3,"leader_id":"n1","nodes":[{"node_id":"n1","reachable":null},{"node_id":"n2","reachable":true,"lag_entries":7}]}`},
		answer{404, "", `{"error":"not found","detail":"this server is not part of a cluster"}`},
		answer{204, "", ""}, answer{409, "", `{"error":"refused"}`},
		answer{200, "", `{"leader_id":"n2"}`}, answer{200, "", `{"leader_id":null}`},
		answer{200, "", `{"node_id":"n1","index":42}`})
	c := s.client(client.Options{AdminToken: "t"})
	status, err := c.Cluster(t.Context())
	if err != nil || *status.LeaderID != "n1" || status.Nodes[0].Reachable != nil || *status.Nodes[1].LagEntries != 7 {
		t.Errorf("%+v, %v", status, err)
	}
	if _, err := c.Cluster(t.Context()); !errors.Is(err, client.ErrNotFound) {
		t.Error(err)
	}
	if err := c.RemoveNode(t.Context(), "n/2", false); err != nil {
		t.Error(err)
	}
	if err := c.RemoveNode(t.Context(), "n2", true); !errors.Is(err, client.ErrConflict) {
		t.Error(err)
	}
	leader, err := c.TransferLeadership(t.Context(), "n2")
	same(t, leader, err, "n2")
	leader, err = c.TransferLeadership(t.Context(), "")
	same(t, leader, err, "")
	if node, index, err := c.SnapshotNode(t.Context()); node != "n1" || index != 42 || err != nil {
		t.Error(node, index, err)
	}
	s.wants(asked{"GET /v1/cluster", "Bearer t", ""}, asked{"GET /v1/cluster", "Bearer t", ""},
		asked{"DELETE /v1/cluster/nodes/n%2F2", "Bearer t", ""}, asked{"DELETE /v1/cluster/nodes/n2?force=true", "Bearer t", ""},
		asked{"POST /v1/cluster/transfer", "Bearer t", `{"node_id":"n2"}`}, asked{"POST /v1/cluster/transfer", "Bearer t", ""},
		asked{"POST /v1/cluster/snapshot", "Bearer t", ""})
}
