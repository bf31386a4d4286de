package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/harepost/harepost/client"
)

// A job is a bulk operation, as the API shows it.
type job struct {
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
}

// jobDone is the status of a job that has done all it was to do.
const jobDone = "done"

func (j *job) tally() tally {
	t := tally{matched: -1, done: j.Done, skipped: j.Skipped, status: j.Status}
	if j.Matched != nil {
		t.matched = *j.Matched
	}
	return t
}

// A bulkCall is one way to start a job, or to count what it would do.
type bulkCall func(ctx context.Context, f client.Filter, rate int, dryRun bool, out any) error

// filterFields are the fields of a filter that are set.
func filterFields(f client.Filter) map[string]string {
	fields := make(map[string]string)
	for name, value := range map[string]string{
		"status": f.Status, "target": f.Target, "host": f.Host, "label": f.Label, "idempotency_key": f.IdempotencyKey,
		"since": filterTime(f.Since), "until": filterTime(f.Until),
	} {
		if value != "" {
			fields[name] = value
		}
	}
	return fields
}

func filterTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func (r *remote) replayDeadLetters(ctx context.Context, f client.Filter, rate int, dryRun bool, out any) error {
	return r.bulk(ctx, "/v1/dead-letters/replay", f, rate, dryRun, out)
}

func (r *remote) cancelDeliveries(ctx context.Context, f client.Filter, rate int, dryRun bool, out any) error {
	return r.bulk(ctx, "/v1/deliveries/cancel", f, rate, dryRun, out)
}

func (r *remote) bulk(ctx context.Context, path string, f client.Filter, rate int, dryRun bool, out any) error {
	body := map[string]any{"filter": filterFields(f)} // {} is everything, and has to be said
	if dryRun {
		body["dry_run"] = true
	}
	if rate > 0 {
		body["rate_per_second"] = rate
	}
	return r.do(ctx, r.key, http.MethodPost, path, body, out)
}

// purgeDeadLetters says what it means in the query: a body of a DELETE may be
// lost on the way.
func (r *remote) purgeDeadLetters(ctx context.Context, f client.Filter, rate int, dryRun bool, out any) error {
	q := url.Values{}
	for name, value := range filterFields(f) {
		q.Set(name, value)
	}
	if len(q) == 0 {
		q.Set("all", "true")
	}
	if dryRun {
		q.Set("dry_run", "true")
	}
	if rate > 0 {
		q.Set("rate_per_second", strconv.Itoa(rate))
	}
	return r.do(ctx, r.key, http.MethodDelete, "/v1/dead-letters?"+q.Encode(), nil, out)
}

func (r *remote) jobs(ctx context.Context) ([]job, error) {
	var list struct {
		Data []job `json:"data"`
	}
	err := r.do(ctx, r.key, http.MethodGet, "/v1/jobs", nil, &list)
	return list.Data, err
}

func (r *remote) job(ctx context.Context, id string) (job, error) {
	var j job
	err := r.do(ctx, r.key, http.MethodGet, "/v1/jobs/"+url.PathEscape(id), nil, &j)
	return j, err
}

func (r *remote) cancelJob(ctx context.Context, id string) (job, error) {
	var j job
	err := r.do(ctx, r.key, http.MethodPost, "/v1/jobs/"+url.PathEscape(id)+"/cancel", nil, &j)
	return j, err
}

func (r *remote) replay(ctx context.Context, queueID string) (client.Delivery, error) {
	return r.control(ctx, queueID, "replay")
}

func (r *remote) cancel(ctx context.Context, queueID string) (client.Delivery, error) {
	return r.control(ctx, queueID, "cancel")
}

func (r *remote) control(ctx context.Context, queueID, what string) (client.Delivery, error) {
	var d client.Delivery
	err := r.do(ctx, r.key, http.MethodPost, "/v1/deliveries/"+url.PathEscape(queueID)+"/"+what, nil, &d)
	return d, err
}

func (r *remote) deadLetters(ctx context.Context, f client.Filter) (client.Page, error) {
	q := url.Values{}
	for name, value := range filterFields(f) {
		q.Set(name, value)
	}
	q.Set("limit", strconv.Itoa(f.Limit))
	if f.Cursor != "" {
		q.Set("cursor", f.Cursor)
	}
	var page client.Page
	err := r.do(ctx, r.key, http.MethodGet, "/v1/dead-letters?"+q.Encode(), nil, &page)
	return page, err
}

// A batchResult is what became of one line: a receipt, or why it was refused.
type batchResult struct {
	QueueID    string `json:"queue_id"`
	Duplicate  bool   `json:"duplicate"`
	Error      string `json:"error"`
	Detail     string `json:"detail"`
	RetryAfter int64  `json:"retry_after"` // seconds
}

// refusal is why a line was refused, in one line.
func (r batchResult) refusal() string {
	text := r.Error
	if r.Detail != "" {
		text += ": " + r.Detail
	}
	if r.RetryAfter > 0 {
		text += fmt.Sprintf("; try again in %ds", r.RetryAfter)
	}
	return text
}

// sendBatch posts lines of sends as they are, so that every byte of a body
// arrives. It returns the results as JSON, in the order of the lines.
func (r *remote) sendBatch(ctx context.Context, ndjson []byte) ([]json.RawMessage, error) {
	var answer struct {
		Results []json.RawMessage `json:"results"`
	}
	err := r.doBytes(ctx, r.key, http.MethodPost, "/v1/send/batch", "application/x-ndjson", ndjson, &answer)
	return answer.Results, err
}
