package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// maxResponseBytes bounds what is read of an answer. The largest is a delivery
// with its payload: 1 MiB of body, in base64, and 25 attempts.
const maxResponseBytes = 8 << 20

// ErrResponseTooLarge says that an answer was longer than 8 MiB.
var ErrResponseTooLarge = errors.New("response is larger than 8 MiB")

// Options are what New need not be told.
type Options struct {
	// AdminToken is what CreateAccount shows instead of the API key. Default
	// none, which a server with open sign-up accepts.
	AdminToken string

	// Timeout bounds one request, from the dial to the end of the answer.
	// Default 30 s. Negative: none but the context's.
	Timeout time.Duration

	// Retries is how often Send is repeated after 429 or 503, if the send
	// has an idempotency key and the answer a Retry-After of at most
	// MaxRetryAfter. Default 0: never.
	Retries int

	// MaxRetryAfter is the longest that a retry waits. Default 30 s.
	MaxRetryAfter time.Duration

	// HTTPClient makes the requests, and then Timeout may not be set. It is
	// copied; redirects are not followed whatever it says. Default one with
	// a transport of its own.
	HTTPClient *http.Client

	// UserAgent is sent with every request. Default "harepost-go".
	UserAgent string
}

// A Client calls the API of one server for one account.
type Client struct {
	base    string // without a slash at the end
	key     string
	options Options
	http    *http.Client
}

// New returns a client for the server at baseURL, such as
// https://harepost.example, acting for the account of apiKey. Without a key
// only CreateAccount is allowed by the server.
func New(baseURL, apiKey string, o Options) (*Client, error) {
	u, err := url.Parse(baseURL)
	switch {
	case err != nil:
		return nil, fmt.Errorf("client: base URL: %w", err)
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, fmt.Errorf("client: base URL %q is not like https://host", u.Redacted())
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, fmt.Errorf("client: base URL %q has more than scheme, host and path", u.Redacted())
	case o.Retries < 0:
		return nil, fmt.Errorf("client: %d retries", o.Retries)
	case o.HTTPClient != nil && o.Timeout != 0:
		return nil, errors.New("client: Timeout belongs into the HTTPClient that is given")
	}
	if o.MaxRetryAfter == 0 {
		o.MaxRetryAfter = 30 * time.Second
	}
	if o.UserAgent == "" {
		o.UserAgent = "harepost-go"
	}
	return &Client{
		base:    strings.TrimRight(baseURL, "/"),
		key:     apiKey,
		options: o,
		http:    httpClient(o),
	}, nil
}

func httpClient(o Options) *http.Client {
	var c http.Client
	if o.HTTPClient != nil {
		c = *o.HTTPClient
	} else {
		c.Timeout = 30 * time.Second
		if o.Timeout != 0 {
			c.Timeout = max(o.Timeout, 0)
		}
		if t, ok := http.DefaultTransport.(*http.Transport); ok {
			t = t.Clone()
			t.MaxIdleConnsPerHost = t.MaxIdleConns // they all go to one host
			c.Transport = t
		}
	}
	// A redirect could take the key, or turn a POST into a GET.
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &c
}

// CloseIdleConnections closes the connections that are not in use. The client
// may be used further.
func (c *Client) CloseIdleConnections() { c.http.CloseIdleConnections() }

// A call is one request and where its answer goes.
type call struct {
	method, path string
	bearer       string
	in           any // JSON request body; nil: none
	out          any // what a 2xx answer is decoded into; nil: nothing
}

// do makes a call with the API key.
func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	return c.roundTrip(ctx, call{method: method, path: path, bearer: c.key, in: in, out: out})
}

func (c *Client) roundTrip(ctx context.Context, k call) error {
	var body []byte
	if k.in != nil {
		var err error
		if body, err = encode(k.in); err != nil {
			return fmt.Errorf("client: %s %s: %w", k.method, k.path, err)
		}
	}
	return c.roundTripBody(ctx, k, body)
}

// roundTripBody makes a call whose request body is encoded.
func (c *Client) roundTripBody(ctx context.Context, k call, body []byte) error {
	resp, answer, err := c.exchange(ctx, k, body)
	if err != nil {
		return fmt.Errorf("client: %s %s: %w", k.method, k.path, err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return newError(resp, answer)
	}
	if k.out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, k.out); err != nil {
		return fmt.Errorf("client: %s %s: answer %d: %w", k.method, k.path, resp.StatusCode, err)
	}
	return nil
}

// exchange sends a request and reads the whole answer.
func (c *Client) exchange(ctx context.Context, k call, body []byte) (*http.Response, []byte, error) {
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, k.method, c.base+k.path, r)
	if err != nil {
		return nil, nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if k.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+k.bearer)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", c.options.UserAgent)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxResponseBytes+1))
	if err != nil {
		return nil, nil, fmt.Errorf("read answer %d: %w", resp.StatusCode, err)
	}
	if len(answer) > maxResponseBytes {
		return nil, nil, fmt.Errorf("read answer %d: %w", resp.StatusCode, ErrResponseTooLarge)
	}
	return resp, answer, nil
}

// encode leaves <, > and & as they are: what a JSON body of a send looks like
// is what its receiver gets.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
