package api

import (
	"strconv"
	"time"

	"github.com/valyala/fasthttp"
)

// getCluster is GET /v1/cluster: what the node that is asked knows.
func (s *Server) getCluster(c *call) error {
	if s.o.Cluster == nil {
		return errNotClustered
	}
	st := s.o.Cluster.Status()
	writeJSON(c.http, fasthttp.StatusOK, append(s.appendStatus(nil, &st), '\n'))
	return nil
}

// snapshotCluster is POST /v1/cluster/snapshot, of the node that is asked.
func (s *Server) snapshotCluster(c *call) error {
	if s.o.Cluster == nil {
		return errNotClustered
	}
	w, err := s.noMember(c)
	if err != nil {
		return err
	}
	index, err := s.o.Cluster.Snapshot(s.ctx)
	if err != nil {
		return err
	}
	b := append([]byte(nil), `{"node_id":`...)
	b = appendString(b, s.o.NodeID)
	b = append(b, `,"index":`...)
	b = strconv.AppendUint(b, index, 10)
	b = w.appendWarnings(b)
	writeJSON(c.http, fasthttp.StatusOK, append(b, '}', '\n'))
	return nil
}

// transferCluster is POST /v1/cluster/transfer. Who leads then may not be known
// yet.
func (s *Server) transferCluster(c *call) error {
	if s.o.Cluster == nil {
		return errNotClustered
	}
	to := ""
	w, err := s.optionalMembers(c.http.PostBody(), func(d *decoder, name []byte) error {
		if string(name) != "node_id" {
			return d.skipUnknown(name)
		}
		v, _, err := d.str("node_id")
		to = string(v)
		return err
	})
	if err != nil {
		return err
	}
	if err := s.handOver(s.ctx, to, 1); err != nil { // one: this request
		return err
	}
	st := s.o.Cluster.Standing()
	b := append([]byte(nil), `{"leader_id":`...)
	b = appendStringOrNull(b, st.Leader)
	b = w.appendWarnings(b)
	writeJSON(c.http, fasthttp.StatusOK, append(b, '}', '\n'))
	return nil
}

// removeNode is DELETE /v1/cluster/nodes/{id}: 204.
func (s *Server) removeNode(c *call) error {
	if s.o.Cluster == nil {
		return errNotClustered
	}
	force := false
	switch v := string(c.http.QueryArgs().Peek("force")); v {
	case "", "false":
	case "true":
		force = true
	default:
		return invalid("force", strconv.Quote(clip([]byte(v))), "true or false")
	}
	if err := s.o.Cluster.Remove(s.ctx, c.param, force); err != nil {
		return err
	}
	c.http.SetStatusCode(fasthttp.StatusNoContent)
	return nil
}

// appendStanding opens a node's object and leaves it open.
func appendStanding(b []byte, st *Standing) []byte {
	b = append(b, `{"node_id":`...)
	b = appendString(b, st.Node)
	b = append(b, `,"role":`...)
	b = appendString(b, st.Role)
	b = append(b, `,"term":`...)
	b = strconv.AppendUint(b, st.Term, 10)
	b = append(b, `,"leader_id":`...)
	b = appendStringOrNull(b, st.Leader)
	b = append(b, `,"commit_index":`...)
	b = strconv.AppendUint(b, st.Commit, 10)
	b = append(b, `,"applied_index":`...)
	b = strconv.AppendUint(b, st.Applied, 10)
	b = append(b, `,"lag_entries":`...)
	b = strconv.AppendUint(b, st.Lag(), 10)
	b = append(b, `,"leader_contact_ms":`...)
	return appendMillis(b, st.Contact.Truncate(time.Millisecond))
}

func (s *Server) appendStatus(b []byte, st *ClusterStatus) []byte {
	b = appendStanding(b, &st.Standing)
	b = append(b, `,"cluster_id":`...)
	b = appendString(b, st.ClusterID)
	b = append(b, `,"version":`...)
	b = appendString(b, s.o.Version)
	b = append(b, `,"last_index":`...)
	b = strconv.AppendUint(b, st.Last, 10)
	b = append(b, `,"snapshot_index":`...)
	b = strconv.AppendUint(b, st.SnapshotIndex, 10)
	b = append(b, `,"snapshot_at":`...)
	b = appendTimeOrNull(b, st.SnapshotAt)
	b = append(b, `,"nodes":[`...)
	for i := range st.Members {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendMember(b, &st.Members[i])
	}
	return append(b, ']', '}')
}

func appendMember(b []byte, m *Member) []byte {
	b = append(b, `{"node_id":`...)
	b = appendString(b, m.ID)
	b = append(b, `,"address":`...)
	b = appendString(b, m.Address)
	b = append(b, `,"api_url":`...)
	b = appendStringOrNull(b, m.API)
	b = append(b, `,"version":`...)
	b = appendStringOrNull(b, m.Version)
	b = append(b, `,"voter":`...)
	b = strconv.AppendBool(b, m.Voter)
	if !m.Known {
		return append(b, `,"reachable":null,"contact_ms":null,"lag_entries":null,"lag_bytes":null}`...)
	}
	b = append(b, `,"reachable":`...)
	b = strconv.AppendBool(b, m.Reachable)
	b = append(b, `,"contact_ms":`...)
	if m.Contact < 0 {
		b = append(b, "null"...)
	} else {
		b = appendMillis(b, m.Contact.Truncate(time.Millisecond))
	}
	b = append(b, `,"lag_entries":`...)
	b = strconv.AppendUint(b, m.LagEntries, 10)
	b = append(b, `,"lag_bytes":`...)
	b = strconv.AppendInt(b, m.LagBytes, 10)
	return append(b, '}')
}
