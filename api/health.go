package api

import (
	"errors"
	"strconv"

	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/engine"
)

// healthz is GET /healthz: the process is alive.
func (s *Server) healthz(c *call) error {
	writeJSON(c.http, fasthttp.StatusOK, []byte(`{"status":"ok"}`+"\n"))
	return nil
}

// readyz is GET /readyz: the server can be asked. One whose disk is full, or
// whose data is at its limit, can: it refuses sends and says so, it shows what
// it has, and it purges what would make room. Whether it takes sends is in the
// answer, and a metric. A node of a cluster that does not lead can be asked while
// it knows who does, has nearly caught up and could lead: it hands on what it is
// asked.
func (s *Server) readyz(c *call) error {
	if s.draining.Load() {
		return s.notReady("the server is shutting down")
	}
	err := s.engine.Ready()
	switch {
	case err == nil:
		s.writeReady(c, "")
	case refusesSends(err):
		s.writeReady(c, err.Error())
	case s.o.Cluster != nil && errors.Is(err, engine.ErrNotLeader):
		if why := s.notFollowing(); why != "" {
			return s.notReady(why)
		}
		s.writeReady(c, "")
	default:
		return s.notReady(err.Error())
	}
	return nil
}

// writeReady answers that the server is ready, and whether it takes sends: why
// not, if it does not.
func (s *Server) writeReady(c *call, why string) {
	b := append([]byte(nil), `{"status":"ready","accepting_sends":`...)
	b = strconv.AppendBool(b, why == "")
	if why != "" {
		b = append(b, `,"detail":`...)
		b = appendString(b, why)
	}
	if s.o.Cluster != nil {
		st := s.o.Cluster.Standing()
		b = append(b, `,"node":`...)
		b = appendStanding(b, &st)
		b = append(b, '}')
	}
	writeJSON(c.http, fasthttp.StatusOK, append(b, '}', '\n'))
}

// notFollowing says why a node that does not lead cannot be asked, or nothing.
func (s *Server) notFollowing() string {
	st := s.o.Cluster.Standing()
	at := "; node " + st.Node + ", role " + st.Role + ", term " + strconv.FormatUint(st.Term, 10)
	switch {
	case st.Role == RoleStopped:
		return "the node has been stopped" + at
	case s.engine.Locked():
		return "the node lacks keys of the encrypted data: it follows, and ends if it is elected; start it with the key file that the other nodes have" + at
	case st.Leader == "":
		return "no leader is known" + at
	case st.Leader == st.Node:
		return "the node was elected and is not ready to lead yet" + at
	case st.Lag() > s.o.ReadyLag:
		return "the node is " + strconv.FormatUint(st.Lag(), 10) + " entries behind" + at
	}
	return ""
}

// refusesSends tells an engine that takes no sends for now from one that has
// ended.
func refusesSends(err error) bool {
	return errors.Is(err, engine.ErrOverloaded) || errors.Is(err, engine.ErrStorageFull)
}

// acceptsSends is harepost_accepting_sends.
func (s *Server) acceptsSends() float64 {
	if s.draining.Load() {
		return 0
	}
	err := s.engine.Ready()
	if err == nil || s.o.Cluster != nil && errors.Is(err, engine.ErrNotLeader) && s.notFollowing() == "" {
		return 1
	}
	return 0
}

func (s *Server) notReady(detail string) *problem {
	return &problem{
		status:     fasthttp.StatusServiceUnavailable,
		message:    "not ready",
		detail:     detail,
		retryAfter: s.o.OverloadedRetryAfter,
	}
}
