package api

import "github.com/valyala/fasthttp"

// healthz is GET /healthz: the process is alive.
func (s *Server) healthz(c *call) error {
	writeJSON(c.http, fasthttp.StatusOK, []byte(`{"status":"ok"}`+"\n"))
	return nil
}

// readyz is GET /readyz: sends are accepted.
func (s *Server) readyz(c *call) error {
	if s.draining.Load() {
		return s.notReady("the server is shutting down")
	}
	if err := s.engine.Ready(); err != nil {
		return s.notReady(err.Error())
	}
	writeJSON(c.http, fasthttp.StatusOK, []byte(`{"status":"ready"}`+"\n"))
	return nil
}

func (s *Server) notReady(detail string) *problem {
	return &problem{
		status:     fasthttp.StatusServiceUnavailable,
		message:    "not ready",
		detail:     detail,
		retryAfter: s.o.OverloadedRetryAfter,
	}
}
