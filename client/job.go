package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// A Bulk says what a bulk operation is to be done to.
type Bulk struct {
	// Filter selects the deliveries. It has no Limit and no Cursor.
	Filter Filter

	// All must be set for a filter without conditions: what selects by a
	// variable that was not set must not hit everything.
	All bool

	// RatePerSecond bounds how many are changed in a second. 0: as fast as
	// it goes without being in the way of sends.
	RatePerSecond int

	// DryRun only counts: the Job that is returned has Matched and DryRun
	// and nothing else.
	DryRun bool
}

// A Job is a bulk operation. It is carried out in small steps, and goes on
// after a restart of the server.
type Job struct {
	JobID         string          `json:"job_id"`
	Kind          string          `json:"kind"`            // replay, cancel or purge
	Status        string          `json:"status"`          // running, done or canceled
	Matched       *int64          `json:"matched"`         // nil: being counted
	Done          int64           `json:"done"`            // changed by it
	Skipped       int64           `json:"skipped"`         // had changed meanwhile
	Remaining     *int64          `json:"remaining"`       // nil: being counted
	RatePerSecond *int            `json:"rate_per_second"` // nil: as fast as it goes
	Filter        json.RawMessage `json:"filter,omitempty"`
	CreatedAt     time.Time       `json:"created_at"`
	UpdatedAt     time.Time       `json:"updated_at"`

	DryRun bool `json:"dry_run,omitempty"` // it is none: see Bulk.DryRun
}

// The statuses of a Job.
const (
	JobRunning  = "running"
	JobDone     = "done"
	JobCanceled = "canceled"
)

// StartReplay begins to try dead letters again, each with a new budget of
// attempts.
func (c *Client) StartReplay(ctx context.Context, b Bulk) (Job, error) {
	return c.startBulk(ctx, "/v1/dead-letters/replay", b)
}

// CancelAll begins to cancel pending deliveries.
func (c *Client) CancelAll(ctx context.Context, b Bulk) (Job, error) {
	return c.startBulk(ctx, "/v1/deliveries/cancel", b)
}

func (c *Client) startBulk(ctx context.Context, path string, b Bulk) (Job, error) {
	if err := b.check(); err != nil {
		return Job{}, fmt.Errorf("client: POST %s: %w", path, err)
	}
	in := struct {
		DryRun        bool              `json:"dry_run,omitempty"`
		Filter        map[string]string `json:"filter"` // {} is everything, and has to be said
		RatePerSecond int               `json:"rate_per_second,omitempty"`
	}{b.DryRun, b.Filter.fields(), b.RatePerSecond}
	var j Job
	err := c.do(ctx, http.MethodPost, path, in, &j)
	return j, err
}

// Purge begins to remove dead letters for good.
func (c *Client) Purge(ctx context.Context, b Bulk) (Job, error) {
	if err := b.check(); err != nil {
		return Job{}, fmt.Errorf("client: DELETE /v1/dead-letters: %w", err)
	}
	var j Job
	err := c.do(ctx, http.MethodDelete, "/v1/dead-letters?"+b.query(), nil, &j)
	return j, err
}

// query says all of it in the query: a body of a DELETE may be lost on the way.
func (b Bulk) query() string {
	q := url.Values{}
	for name, value := range b.Filter.fields() {
		q.Set(name, value)
	}
	if b.All {
		q.Set("all", "true")
	}
	if b.DryRun {
		q.Set("dry_run", "true")
	}
	if b.RatePerSecond > 0 {
		q.Set("rate_per_second", strconv.Itoa(b.RatePerSecond))
	}
	return q.Encode()
}

func (b Bulk) check() error {
	conditions := len(b.Filter.fields())
	switch {
	case b.Filter.Limit != 0 || b.Filter.Cursor != "":
		return errors.New("the filter of a bulk operation has no Limit and no Cursor")
	case conditions == 0 && !b.All:
		return errors.New("the filter has no conditions; Bulk.All says that everything is meant")
	case conditions > 0 && b.All:
		return errors.New("Bulk.All is set beside a filter with conditions")
	case b.RatePerSecond < 0:
		return fmt.Errorf("RatePerSecond is %d", b.RatePerSecond)
	}
	return nil
}

// Jobs lists the account's jobs, newest first.
func (c *Client) Jobs(ctx context.Context) ([]Job, error) {
	var list struct{ Data []Job }
	err := c.do(ctx, http.MethodGet, "/v1/jobs", nil, &list)
	return list.Data, err
}

// Job looks one job up.
func (c *Client) Job(ctx context.Context, id string) (Job, error) {
	var j Job
	err := c.do(ctx, http.MethodGet, "/v1/jobs/"+url.PathEscape(id), nil, &j)
	return j, err
}

// CancelJob stops a job. What it has done stays done.
func (c *Client) CancelJob(ctx context.Context, id string) (Job, error) {
	var j Job
	err := c.do(ctx, http.MethodPost, "/v1/jobs/"+url.PathEscape(id)+"/cancel", nil, &j)
	return j, err
}

// WaitJob waits until a job has ended, and returns it as it is then: done or
// canceled. It calls progress, if not nil, with each state that it sees, the
// given and the last included. The server may be away for up to a minute, for a
// restart: jobs survive that, and so does waiting. With an error it returns the
// last state that it saw; the job goes on.
func (c *Client) WaitJob(ctx context.Context, j Job, progress func(Job)) (Job, error) {
	return poll(ctx, j, func(ctx context.Context) (Job, error) { return c.Job(ctx, j.JobID) }, func(j Job) bool {
		if progress != nil {
			progress(j)
		}
		return j.Status != JobRunning
	})
}
