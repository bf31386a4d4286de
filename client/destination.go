package client

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"net/http"
	"net/url"
	"time"
)

// A Destination is one lane: the account's traffic to one scheme, host and port,
// or what was sent with one flow key.
type Destination struct {
	Destination         string            `json:"destination"` // scheme://host:port, or flow: and the key
	Kind                string            `json:"kind"`        // host or flow
	Pending             int64             `json:"pending"`     // but for those that wait for another with their ordering key; also of InFlight, but for first attempts of what was never delayed
	InFlight            int               `json:"in_flight"`
	Limit               *int              `json:"limit"`       // of attempts at once, as found; nil: no traffic lately
	Parallelism         *int              `json:"parallelism"` // of attempts at once, as set
	Rate                *float64          `json:"rate"`        // attempts started per second, as set
	Pace                *float64          `json:"pace"`        // to which it holds itself
	Paused              bool              `json:"paused"`
	Breaker             string            `json:"breaker"` // closed, open or half_open
	ProbeAt             *time.Time        `json:"probe_at"`
	RetryAfterUntil     *time.Time        `json:"retry_after_until"`
	OldestDueAt         *time.Time        `json:"oldest_due_at"`
	OldestDueAgeSeconds *float64          `json:"oldest_due_age_seconds"`
	SuccessRatio        *float64          `json:"success_ratio"` // of the last minute
	P50MS               *float64          `json:"p50_ms"`
	P99MS               *float64          `json:"p99_ms"`
	FailingSince        *time.Time        `json:"failing_since"`
	LastError           *DestinationError `json:"last_error"`
	WaitingFor          *string           `json:"waiting_for"` // why the first that waits is not started
}

// A DestinationError is how the last attempt that failed did.
type DestinationError struct {
	Code       string    `json:"code"`
	HTTPStatus *int      `json:"http_status"`
	At         time.Time `json:"at"`
}

// A DestinationFilter selects destinations. What is empty selects all.
type DestinationFilter struct {
	Host      string // of the destination, without port
	Prefix    string // of the name
	State     string // paused, breaker, failing or waiting
	ByPending bool   // those with the most pending, in one page
	Limit     int    // of a page; 0: the server's, 25
	Cursor    string // where the page begins; empty: at the first
}

// A DestinationPage is a part of the list of destinations.
type DestinationPage struct {
	Data       []Destination `json:"data"`
	NextCursor *string       `json:"next_cursor"` // where the next page begins; nil: this is the last
	Warnings   []string      `json:"warnings,omitempty"`
}

// ForAccount returns a client whose calls about destinations are about those of
// an account, by its id, and show Options.AdminToken.
func (c *Client) ForAccount(id string) *Client {
	other := *c
	other.account = id
	return &other
}

// DestinationsPage returns one page of the account's destinations.
func (c *Client) DestinationsPage(ctx context.Context, f DestinationFilter) (DestinationPage, error) {
	q := url.Values{}
	for name, value := range map[string]string{"host": f.Host, "prefix": f.Prefix, "state": f.State} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if f.ByPending {
		q.Set("sort", "pending")
	}
	return c.destinations(ctx, http.MethodGet, "", q, f.Limit, f.Cursor, nil)
}

// Destinations goes through the account's destinations, a page at a time. An
// error is the last element.
func (c *Client) Destinations(ctx context.Context, f DestinationFilter) iter.Seq2[Destination, error] {
	if f.Limit == 0 {
		f.Limit = MaxPage
	}
	return paged(f.Cursor, func(cursor string) ([]Destination, *string, error) {
		f.Cursor = cursor
		p, err := c.DestinationsPage(ctx, f)
		return p.Data, p.NextCursor, err
	})
}

// Destination returns the lanes that a name stands for: a host, host:port,
// scheme://host:port, or flow: and a flow key.
func (c *Client) Destination(ctx context.Context, name string) ([]Destination, error) {
	p, err := c.destinations(ctx, http.MethodGet, "/"+url.PathEscape(name), url.Values{}, 0, "", nil)
	return p.Data, err
}

// PauseDestination lets no attempt to a destination start until it is resumed, and
// returns its lanes. Sends are accepted.
func (c *Client) PauseDestination(ctx context.Context, name string) ([]Destination, error) {
	p, err := c.destinations(ctx, http.MethodPost, "/"+url.PathEscape(name)+"/pause", url.Values{}, 0, "", nil)
	return p.Data, err
}

// ResumeDestination takes a pause back, and returns the lanes.
func (c *Client) ResumeDestination(ctx context.Context, name string) ([]Destination, error) {
	p, err := c.destinations(ctx, http.MethodPost, "/"+url.PathEscape(name)+"/resume", url.Values{}, 0, "", nil)
	return p.Data, err
}

// A DestinationChange says what is to change about the limits of a destination.
// What is nil stays.
type DestinationChange struct {
	Rate        *float64 // attempts started per second
	Parallelism *int     // attempts at once

	NoRate, NoParallelism bool // take the limit away, instead
}

// MarshalJSON is the request as the API takes it: null takes a limit away.
func (d DestinationChange) MarshalJSON() ([]byte, error) {
	if d.NoRate && d.Rate != nil || d.NoParallelism && d.Parallelism != nil {
		return nil, errors.New("both a limit and none")
	}
	fields := make(map[string]any)
	if d.NoRate || d.Rate != nil {
		fields["rate"] = d.Rate
	}
	if d.NoParallelism || d.Parallelism != nil {
		fields["parallelism"] = d.Parallelism
	}
	return json.Marshal(fields)
}

// ChangeDestination sets the limits of a destination, and returns its lanes. No
// send changes a limit that was set so.
func (c *Client) ChangeDestination(ctx context.Context, name string, change DestinationChange) ([]Destination, error) {
	p, err := c.destinations(ctx, http.MethodPatch, "/"+url.PathEscape(name), url.Values{}, 0, "", change)
	return p.Data, err
}

// destinations makes a call below /v1/destinations.
func (c *Client) destinations(ctx context.Context, method, path string, q url.Values, limit int, cursor string, in any) (p DestinationPage, err error) {
	call := c.do
	if c.account != "" {
		q.Set("account_id", c.account)
		call = c.doAdmin
	}
	err = call(ctx, method, "/v1/destinations"+path+pageQuery(q, limit, cursor), in, &p)
	return p, err
}
