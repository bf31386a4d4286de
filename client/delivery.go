package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// A Delivery is an accepted send with its history.
type Delivery struct {
	QueueID        string          `json:"queue_id"`
	Target         string          `json:"target"`
	Method         string          `json:"method"`
	Status         string          `json:"status"`      // queued, retrying, delivered, rejected, dead_letter or canceled
	LastStatus     *int            `json:"last_status"` // HTTP status of the last attempt that had one
	IdempotencyKey *string         `json:"idempotency_key"`
	CreatedAt      time.Time       `json:"created_at"`
	UpdatedAt      time.Time       `json:"updated_at"`
	Attempts       []Attempt       `json:"attempts"`
	Metadata       json.RawMessage `json:"metadata,omitempty"`
	Labels         []string        `json:"labels,omitempty"`
	MaxAttempts    int             `json:"max_attempts"`
	NextAttemptAt  *time.Time      `json:"next_attempt_at"` // nil: no further attempt
	ExpiresAt      *time.Time      `json:"expires_at,omitempty"`
	BodyBytes      int64           `json:"body_bytes"`

	// Only from DeliveryWithPayload; see Payload for the body.
	Headers      map[string]string `json:"headers,omitempty"`
	Body         string            `json:"body,omitempty"`
	BodyEncoding string            `json:"body_encoding,omitempty"`
}

// Payload returns the exact bytes of the body, of a delivery that was fetched
// with its payload.
func (d *Delivery) Payload() ([]byte, error) { return decodeText(d.Body, d.BodyEncoding) }

// An Attempt is one try to deliver, as it ended.
type Attempt struct {
	Attempt       int        `json:"attempt"`     // from 1
	Outcome       string     `json:"outcome"`     // delivered, failed or rejected
	HTTPStatus    *int       `json:"http_status"` // nil: no response
	LatencyMS     int64      `json:"latency_ms"`
	Error         *string    `json:"error"` // a code, a colon and a text; nil on success
	CreatedAt     time.Time  `json:"created_at"`
	StartedAt     time.Time  `json:"started_at"`
	NextAttemptAt *time.Time `json:"next_attempt_at"`
	Timing        Timing     `json:"timing"`
	RemoteIP      *string    `json:"remote_ip"`

	// What the target answered, of a failure; see Response for the bytes.
	ResponseBody          string `json:"response_body,omitempty"`
	ResponseBodyEncoding  string `json:"response_body_encoding,omitempty"`
	ResponseBodyTruncated bool   `json:"response_body_truncated,omitempty"`
}

// Response returns the bytes that are kept of the target's answer.
func (a *Attempt) Response() ([]byte, error) {
	return decodeText(a.ResponseBody, a.ResponseBodyEncoding)
}

// Timing says where the time of an attempt went. A phase that did not happen
// is 0.
type Timing struct {
	DNSMS       float64 `json:"dns_ms"`
	ConnectMS   float64 `json:"connect_ms"`
	TLSMS       float64 `json:"tls_ms"`
	FirstByteMS float64 `json:"first_byte_ms"`
	Reused      bool    `json:"reused"` // the connection was there already
}

// decodeText is the inverse of how the API writes bytes that may not be UTF-8.
func decodeText(text, encoding string) ([]byte, error) {
	switch encoding {
	case "":
		return []byte(text), nil
	case "base64":
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf("client: decode body: %w", err)
		}
		return b, nil
	}
	return nil, fmt.Errorf("client: unknown body encoding %q", encoding)
}

// Delivery looks one delivery up.
func (c *Client) Delivery(ctx context.Context, queueID string) (Delivery, error) {
	var d Delivery
	err := c.do(ctx, http.MethodGet, "/v1/deliveries/"+url.PathEscape(queueID), nil, &d)
	return d, err
}

// DeliveryWithPayload looks one delivery up together with its headers and
// body, while they are kept.
func (c *Client) DeliveryWithPayload(ctx context.Context, queueID string) (Delivery, error) {
	var d Delivery
	err := c.do(ctx, http.MethodGet, "/v1/deliveries/"+url.PathEscape(queueID)+"?include=payload", nil, &d)
	return d, err
}

// A Summary is a delivery in a list: it has the number of its attempts only.
type Summary struct {
	QueueID        string    `json:"queue_id"`
	Target         string    `json:"target"`
	Method         string    `json:"method"`
	Status         string    `json:"status"`
	LastStatus     *int      `json:"last_status"`
	IdempotencyKey *string   `json:"idempotency_key"`
	CreatedAt      time.Time `json:"created_at"`
	UpdatedAt      time.Time `json:"updated_at"`
	Attempts       int       `json:"attempts"`
}

// A Page is a part of a list, newest first. It may have fewer deliveries than
// were asked for, even none, and still not be the last.
type Page struct {
	Data       []Summary `json:"data"`
	NextCursor *string   `json:"next_cursor"` // Filter.Cursor of the next page; nil: this is the last
}

// A Filter selects deliveries. Fields that are set must all match.
type Filter struct {
	Status         string
	Target         string // beginning of the target
	Host           string
	Label          string
	IdempotencyKey string
	Since          time.Time // created then or later
	Until          time.Time // created before
	Limit          int       // deliveries per page, 1 to 100; 0: the server's default, 25
	Cursor         string    // where to go on; empty: from the newest
}

func (f Filter) query() string {
	q := url.Values{}
	set := func(name, value string) {
		if value != "" {
			q.Set(name, value)
		}
	}
	setTime := func(name string, t time.Time) {
		if !t.IsZero() {
			q.Set(name, t.UTC().Format(time.RFC3339Nano))
		}
	}
	set("status", f.Status)
	set("target", f.Target)
	set("host", f.Host)
	set("label", f.Label)
	set("idempotency_key", f.IdempotencyKey)
	set("cursor", f.Cursor)
	setTime("since", f.Since)
	setTime("until", f.Until)
	if f.Limit != 0 {
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	if len(q) == 0 {
		return ""
	}
	return "?" + q.Encode()
}

// Deliveries returns one page of the account's deliveries.
func (c *Client) Deliveries(ctx context.Context, f Filter) (Page, error) {
	var p Page
	err := c.do(ctx, http.MethodGet, "/v1/deliveries"+f.query(), nil, &p)
	return p, err
}

// AllDeliveries goes through all pages from f.Cursor on, fetching each when
// the one before is used up. An error ends it.
func (c *Client) AllDeliveries(ctx context.Context, f Filter) iter.Seq2[Summary, error] {
	return func(yield func(Summary, error) bool) {
		for {
			p, err := c.Deliveries(ctx, f)
			if err != nil {
				yield(Summary{}, err)
				return
			}
			for _, d := range p.Data {
				if !yield(d, nil) {
					return
				}
			}
			if p.NextCursor == nil {
				return
			}
			f.Cursor = *p.NextCursor
		}
	}
}
