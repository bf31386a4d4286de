package api

import (
	"strconv"

	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/engine"
)

// Bulk operations are jobs. Those that replay are also at /v1/replays, which
// knows no others.

// isAny and isReplay say which jobs a route shows.
func isAny(*engine.Job) bool      { return true }
func isReplay(j *engine.Job) bool { return j.Kind == engine.JobReplay }

// listJobs is GET /v1/jobs, newest first. The engine bounds how many it keeps,
// so they are one page.
func (s *Server) listJobs(c *call) error { return s.writeJobs(c, isAny) }

// listReplays is GET /v1/replays.
func (s *Server) listReplays(c *call) error { return s.writeJobs(c, isReplay) }

func (s *Server) writeJobs(c *call, shown func(*engine.Job) bool) error {
	jobs, err := s.engine.Jobs(s.ctx, c.account)
	if err != nil {
		return err
	}
	b := append([]byte(nil), `{"data":[`...)
	for i := range jobs {
		if !shown(&jobs[i]) {
			continue
		}
		if b[len(b)-1] != '[' {
			b = append(b, ',')
		}
		b = appendJob(b, &jobs[i])
	}
	b = s.noParameter(c).appendWarnings(append(b, ']'))
	writeJSON(c.http, fasthttp.StatusOK, append(b, '}', '\n'))
	return nil
}

// getJob is GET /v1/jobs/{id}.
func (s *Server) getJob(c *call) error { return s.writeJob(c, isAny) }

// getReplay is GET /v1/replays/{id}.
func (s *Server) getReplay(c *call) error { return s.writeJob(c, isReplay) }

func (s *Server) writeJob(c *call, shown func(*engine.Job) bool) error {
	j, err := s.findJob(c, shown)
	if err != nil {
		return err
	}
	writeJSON(c.http, fasthttp.StatusOK, append(appendJob(nil, &j), '\n'))
	return nil
}

// cancelJob is POST /v1/jobs/{id}/cancel. What the job has done stays done.
func (s *Server) cancelJob(c *call) error { return s.stopJob(c, isAny) }

// cancelReplay is POST /v1/replays/{id}/cancel.
func (s *Server) cancelReplay(c *call) error { return s.stopJob(c, isReplay) }

func (s *Server) stopJob(c *call, shown func(*engine.Job) bool) error {
	w, err := s.noMember(c)
	if err != nil {
		return err
	}
	j, err := s.findJob(c, shown)
	if err != nil {
		return err
	}
	if j, err = s.engine.CancelJob(s.ctx, c.account, j.ID); err != nil {
		return err
	}
	writeJSON(c.http, fasthttp.StatusOK, append(w.appendTo(appendJob(nil, &j)), '\n'))
	return nil
}

func (s *Server) findJob(c *call, shown func(*engine.Job) bool) (engine.Job, error) {
	id, err := engine.ParseJobID(c.param)
	if err != nil {
		return engine.Job{}, errNotFound
	}
	j, err := s.engine.Job(s.ctx, c.account, id)
	if err == nil && !shown(&j) {
		err = errNotFound
	}
	return j, err
}

// appendJob appends a job. While its deliveries are counted, how many there are
// and remain is null.
func appendJob(b []byte, j *engine.Job) []byte {
	b = append(b, `{"job_id":`...)
	b = appendString(b, j.ID.String())
	if isReplay(j) {
		b = append(b, `,"replay_id":`...)
		b = appendString(b, j.ID.String())
	}
	b = append(b, `,"kind":`...)
	b = appendString(b, j.Kind.String())
	b = append(b, `,"status":`...)
	b = appendString(b, j.Status.String())
	matched, remaining := j.Matched, j.Remaining()
	if matched < 0 {
		remaining = -1
	}
	b = append(b, `,"matched":`...)
	b = appendCountOrNull(b, matched)
	b = append(b, `,"done":`...)
	b = strconv.AppendInt(b, j.Done, 10)
	b = append(b, `,"skipped":`...)
	b = strconv.AppendInt(b, j.Skipped, 10)
	b = append(b, `,"remaining":`...)
	b = appendCountOrNull(b, remaining)
	b = append(b, `,"rate_per_second":`...)
	b = appendCodeOrNull(b, j.RatePerSecond)
	b = append(b, `,"filter":`...)
	b = appendFilter(b, &j.Filter)
	b = append(b, `,"created_at":`...)
	b = appendTime(b, j.CreatedAt)
	b = append(b, `,"updated_at":`...)
	b = appendTime(b, j.UpdatedAt)
	return append(b, '}')
}

// appendCountOrNull appends null for a count that is not known yet.
func appendCountOrNull(b []byte, n int64) []byte {
	if n < 0 {
		return append(b, "null"...)
	}
	return strconv.AppendInt(b, n, 10)
}
