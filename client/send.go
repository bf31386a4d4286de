package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"
)

// A Send asks for one HTTP request to be delivered. Only Target is needed.
type Send struct {
	Target  string            `json:"target"`
	Method  string            `json:"method,omitempty"` // default POST
	Headers map[string]string `json:"headers,omitempty"`

	// Body is what the target receives. A string or a []byte goes out as it
	// is, and must be UTF-8. Anything else goes out as the JSON that
	// encoding/json makes of it, with a matching Content-Type unless Headers
	// has one: a type of yours that is a string, or a *string, goes out in
	// quotes. A json.RawMessage loses its insignificant white space. nil, and
	// what is null in JSON, is an empty body.
	Body any `json:"body,omitempty"`

	Delivery       *Policy         `json:"delivery,omitempty"`
	IdempotencyKey string          `json:"idempotency_key,omitempty"`
	Sign           bool            `json:"sign,omitempty"`
	Metadata       json.RawMessage `json:"metadata,omitempty"` // an object, kept for the caller
	Labels         []string        `json:"labels,omitempty"`

	DelayMS   int64     `json:"delay_ms,omitempty"`  // before the first attempt
	NotBefore time.Time `json:"not_before,omitzero"` // of the first attempt
	ExpiresAt time.Time `json:"expires_at,omitzero"` // not tried any more from then on

	// Sends with one ordering key are delivered one after another, in the order in
	// which the server accepts them: Client.SendBatch has one, concurrent calls of
	// Client.Send have none. OnFailure says what a send that ends dead means for
	// those after it: "block", the default, holds them until it is replayed and
	// delivered, or purged; "skip" lets them go on.
	OrderingKey string `json:"ordering_key,omitempty"`
	OnFailure   string `json:"on_failure,omitempty"`

	// FlowKey puts the send into one lane with all others of the same key,
	// whatever their targets. Rate, of attempts started per second, and
	// Parallelism, of attempts at once, are the flow's limits from then on; 0:
	// as they are.
	FlowKey     string  `json:"flow_key,omitempty"`
	Rate        float64 `json:"rate,omitempty"`
	Parallelism int     `json:"parallelism,omitempty"`
}

// A Policy says how often, when and for how long to try. A zero field is the
// server's default.
type Policy struct {
	MaxAttempts       int    `json:"max_attempts,omitempty"`
	Backoff           string `json:"backoff,omitempty"` // exponential or fixed
	BaseDelayMS       int64  `json:"base_delay_ms,omitempty"`
	MaxDelayMS        int64  `json:"max_delay_ms,omitempty"`
	Jitter            string `json:"jitter,omitempty"` // full or none
	TimeoutMS         int64  `json:"timeout_ms,omitempty"`
	RespectRetryAfter *bool  `json:"respect_retry_after,omitempty"`
}

// A Receipt says that a send is accepted: it is durable, and will be delivered
// or end up among the dead letters.
type Receipt struct {
	QueueID        string    `json:"queue_id"`
	Status         string    `json:"status"`
	CreatedAt      time.Time `json:"created_at"`
	IdempotencyKey string    `json:"idempotency_key,omitempty"`
	Duplicate      bool      `json:"duplicate,omitempty"` // of an earlier send; nothing new is queued
	Warnings       []string  `json:"warnings,omitempty"`
}

// errNotText is the answer to a body that a JSON string cannot carry; it
// would arrive changed.
var errNotText = errors.New("body is not UTF-8")

// MarshalJSON is the request as the API takes it.
func (s Send) MarshalJSON() ([]byte, error) {
	type plain Send // without this method
	p := plain(s)
	var err error
	switch body := s.Body.(type) {
	case nil:
	case string:
		p.Body, err = plainText(body)
	case []byte:
		p.Body, err = plainText(string(body))
	default:
		// A string in the API's body is bare text, so one that is meant as
		// JSON goes into another.
		var text json.RawMessage
		text, err = jsonText(body)
		if p.Body = text; len(text) == 0 {
			p.Body = nil
		} else if text[0] == '"' {
			p.Body, p.Headers = string(text), s.jsonHeaders()
		}
	}
	if err != nil {
		return nil, err
	}
	return encode(p)
}

func plainText(text string) (string, error) {
	if !utf8.ValidString(text) {
		return "", errNotText
	}
	return text, nil
}

// jsonText is a body in JSON. Where all of it is one string, encoding/json must
// not mend it.
func jsonText(body any) ([]byte, error) {
	if raw, ok := body.(json.RawMessage); ok && len(raw) == 0 {
		return nil, nil
	}
	switch body.(type) {
	case json.Marshaler, encoding.TextMarshaler:
	default:
		if v := reflect.Indirect(reflect.ValueOf(body)); v.Kind() == reflect.String && !utf8.ValidString(v.String()) {
			return nil, errNotText
		}
	}
	text, err := encode(body)
	if err != nil {
		return nil, err
	}
	if !utf8.Valid(text) {
		return nil, errNotText
	}
	return bytes.TrimSuffix(text, []byte("\n")), nil
}

// jsonHeaders says of a body what the server says of one that it sees to be JSON.
func (s Send) jsonHeaders() map[string]string {
	for name := range s.Headers {
		if strings.EqualFold(name, "Content-Type") {
			return s.Headers
		}
	}
	if s.Method == http.MethodGet { // which has no body
		return s.Headers
	}
	headers := map[string]string{"Content-Type": "application/json"}
	maps.Copy(headers, s.Headers)
	return headers
}

// encoded is the request of a send, which gets an idempotency key if it has
// none and Options.GenerateKeys says so. The line ends with its only newline.
func (c *Client) encoded(s Send) (line []byte, keyed bool, err error) {
	if s.IdempotencyKey == "" && c.options.GenerateKeys {
		s.IdempotencyKey = "gen_" + rand.Text()
	}
	line, err = encode(s)
	return line, s.IdempotencyKey != "", err
}

// Send asks for a delivery. It is repeated only as Options.Retries says.
func (c *Client) Send(ctx context.Context, s Send) (Receipt, error) {
	body, keyed, err := c.encoded(s)
	if err != nil {
		return Receipt{}, fmt.Errorf("client: encode send: %w", err)
	}
	var r Receipt
	err = c.roundTrip(ctx, call{method: http.MethodPost, path: "/v1/send", bearer: c.key, body: body, out: &r, repeatable: keyed})
	return r, err
}
