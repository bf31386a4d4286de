package api

import (
	"errors"

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
// answer, and a metric.
func (s *Server) readyz(c *call) error {
	if s.draining.Load() {
		return s.notReady("the server is shutting down")
	}
	err := s.engine.Ready()
	switch {
	case err == nil:
		writeJSON(c.http, fasthttp.StatusOK, []byte(`{"status":"ready","accepting_sends":true}`+"\n"))
	case refusesSends(err):
		b := append([]byte(nil), `{"status":"ready","accepting_sends":false,"detail":`...)
		b = appendString(b, err.Error())
		writeJSON(c.http, fasthttp.StatusOK, append(b, '}', '\n'))
	default:
		return s.notReady(err.Error())
	}
	return nil
}

// refusesSends tells an engine that takes no sends for now from one that has
// ended.
func refusesSends(err error) bool {
	return errors.Is(err, engine.ErrOverloaded) || errors.Is(err, engine.ErrStorageFull)
}

// acceptsSends is harepost_accepting_sends.
func (s *Server) acceptsSends() float64 {
	if s.draining.Load() || s.engine.Ready() != nil {
		return 0
	}
	return 1
}

func (s *Server) notReady(detail string) *problem {
	return &problem{
		status:     fasthttp.StatusServiceUnavailable,
		message:    "not ready",
		detail:     detail,
		retryAfter: s.o.OverloadedRetryAfter,
	}
}
