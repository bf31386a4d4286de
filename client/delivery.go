package client

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
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
	FlowKey        *string         `json:"flow_key,omitempty"`
	BodyBytes      int64           `json:"body_bytes"`
	OrderingKey    string          `json:"ordering_key,omitempty"`
	OnFailure      string          `json:"on_failure,omitempty"`  // block or skip, with an ordering key
	WaitingFor     string          `json:"waiting_for,omitempty"` // why the next attempt is not under way, such as due, breaker, or order

	// Only from DeliveryWithPayload; see Payload for the body.
	Headers      map[string]string `json:"headers,omitempty"`
	Body         string            `json:"body,omitempty"`
	BodyEncoding string            `json:"body_encoding,omitempty"`
	BodyDropped  bool              `json:"body_dropped,omitempty"` // by the server's retention; it cannot be replayed
}

// ErrBodyDropped says that a delivery had a body, and that the server's retention
// has dropped it before the delivery itself.
var ErrBodyDropped = errors.New("client: the body was dropped by retention")

// Payload returns the exact bytes of the body, of a delivery that was fetched
// with its payload. One that is no longer kept is ErrBodyDropped.
func (d *Delivery) Payload() ([]byte, error) {
	if d.BodyDropped {
		return nil, ErrBodyDropped
	}
	return decodeText(d.Body, d.BodyEncoding)
}

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

// Ended tells whether a delivery is in its last status, unless it is replayed:
// delivered, rejected, dead_letter or canceled.
func (d *Delivery) Ended() bool { return d.Status != "queued" && d.Status != "retrying" }

// WaitDelivery waits until a delivery has ended, and returns it as it is then. It
// needs the id and the status of d; of a Receipt, for one, they are enough. The
// server may be away meanwhile as in WaitJob. With an error it returns the last
// state that it saw.
func (c *Client) WaitDelivery(ctx context.Context, d Delivery) (Delivery, error) {
	look := func(ctx context.Context) (Delivery, error) { return c.Delivery(ctx, d.QueueID) }
	return poll(ctx, d, look, func(d Delivery) bool { return d.Ended() })
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
	Warnings   []string  `json:"warnings,omitempty"`
}

// A Filter selects deliveries. Fields that are set must all match.
type Filter struct {
	Status         string
	Target         string // beginning of the target
	Host           string
	Label          string
	IdempotencyKey string
	OrderingKey    string
	Since          time.Time // created then or later
	Until          time.Time // created before
	Limit          int       // deliveries per page, 1 to 100; 0: the server's default, 25
	Cursor         string    // where to go on; empty: from the newest
}

// fields are the conditions that are set, by the API's names.
func (f Filter) fields() map[string]string {
	fields := make(map[string]string)
	for name, value := range map[string]string{
		"status": f.Status, "target": f.Target, "host": f.Host, "label": f.Label, "idempotency_key": f.IdempotencyKey, "ordering_key": f.OrderingKey,
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

// query is the page that the filter asks for.
func (f Filter) query() string {
	q := url.Values{}
	for name, value := range f.fields() {
		q.Set(name, value)
	}
	return pageQuery(q, f.Limit, f.Cursor)
}

func pageQuery(q url.Values, limit int, cursor string) string {
	if limit != 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	if cursor != "" {
		q.Set("cursor", cursor)
	}
	if len(q) == 0 {
		return ""
	}
	return "?" + q.Encode()
}

// MaxPage is the largest Limit of a page that the server takes. Whoever wants all
// deliveries wants few requests.
const MaxPage = 100

// DeliveriesPage returns one page of the account's deliveries.
func (c *Client) DeliveriesPage(ctx context.Context, f Filter) (Page, error) {
	var p Page
	err := c.do(ctx, http.MethodGet, "/v1/deliveries"+f.query(), nil, &p)
	return p, err
}

// Deliveries goes through the account's deliveries, newest first, from
// f.Cursor on. It fetches a page of f.Limit (0: 100) when the one before is
// used up. An error is the last element.
func (c *Client) Deliveries(ctx context.Context, f Filter) iter.Seq2[Summary, error] {
	return c.pages(ctx, f, c.DeliveriesPage)
}

// DeadLettersPage returns one page of the account's dead letters: deliveries
// that ran out of attempts, or were rejected.
func (c *Client) DeadLettersPage(ctx context.Context, f Filter) (Page, error) {
	var p Page
	err := c.do(ctx, http.MethodGet, "/v1/dead-letters"+f.query(), nil, &p)
	return p, err
}

// DeadLetters goes through the account's dead letters, as Deliveries does
// through all.
func (c *Client) DeadLetters(ctx context.Context, f Filter) iter.Seq2[Summary, error] {
	return c.pages(ctx, f, c.DeadLettersPage)
}

func (c *Client) pages(ctx context.Context, f Filter, fetch func(context.Context, Filter) (Page, error)) iter.Seq2[Summary, error] {
	f.Limit = cmp.Or(f.Limit, MaxPage)
	return paged(f.Cursor, func(cursor string) ([]Summary, *string, error) {
		f := f
		f.Cursor = cursor
		p, err := fetch(ctx, f)
		return p.Data, p.NextCursor, err
	})
}

// paged goes through pages. A page may be empty and not the last.
func paged[T any](cursor string, fetch func(cursor string) ([]T, *string, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for next := &cursor; next != nil; {
			data, after, err := fetch(*next)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, v := range data {
				if !yield(v, nil) {
					return
				}
			}
			next = after
		}
	}
}

// Replay tries a finished delivery again, with a new budget of attempts. While
// it is pending, and once its payload is no longer kept, it is ErrConflict.
func (c *Client) Replay(ctx context.Context, queueID string) (Delivery, error) {
	return c.control(ctx, queueID, "replay")
}

// Cancel ends a pending delivery. An attempt under way is not cut off, and not
// repeated. Of a delivery that has ended it is ErrConflict.
func (c *Client) Cancel(ctx context.Context, queueID string) (Delivery, error) {
	return c.control(ctx, queueID, "cancel")
}

func (c *Client) control(ctx context.Context, queueID, what string) (Delivery, error) {
	var d Delivery
	err := c.do(ctx, http.MethodPost, "/v1/deliveries/"+url.PathEscape(queueID)+"/"+what, nil, &d)
	return d, err
}
