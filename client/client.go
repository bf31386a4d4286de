package client

import (
	"bytes"
	"cmp"
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

// maxResponseBytes bounds what is read of an answer.
const maxResponseBytes = 16 << 20

// ErrResponseTooLarge says that an answer was longer than 16 MiB; that to a batch,
// by more than eight times the batch.
var ErrResponseTooLarge = errors.New("response is too large")

// Options are what New need not be told.
type Options struct {
	// AdminToken is what the operator's calls show instead of the API key:
	// those about accounts, and Backup. Default none, with which a server
	// with open sign-up lets CreateAccount through, and nothing else.
	AdminToken string

	// Timeout bounds one request, from the dial to the end of the answer.
	// Default 30 s. Negative: none but the context's.
	Timeout time.Duration

	// Retries is how often a call is repeated that may be: one that only
	// reads, and a send with an idempotency key. It is repeated after 429,
	// 502, 503, 504 and 507, and when no complete answer came. Default 0:
	// never.
	Retries int

	// RetryDelay is the pause before the first retry, after an answer
	// without Retry-After. It doubles from one to the next, up to
	// MaxRetryAfter; each pause is drawn between its half and the whole.
	// Default 200 ms.
	RetryDelay time.Duration

	// MaxRetryAfter is the longest that a retry waits: a call whose answer
	// asks for more is not repeated. A tenth is drawn on top of what the
	// server asks, so that not all it turned away come back at once.
	// Default 30 s.
	MaxRetryAfter time.Duration

	// GenerateKeys gives a send without an idempotency key one, drawn at
	// random, so that it may be repeated within its call. The target gets
	// it as it would yours. A program that starts anew draws another: what
	// must not be sent twice needs a key that comes from what it is about.
	GenerateKeys bool

	// HTTPClient makes the requests, and then Timeout may not be set. It is
	// copied; redirects are not followed whatever it says. Default one with
	// a transport of its own.
	HTTPClient *http.Client

	// Answered is given the body of each 2xx answer as the server sent it,
	// but for that of Backup, before the call returns: for who passes answers
	// on, in which there may be more than this package knows. It may keep
	// the bytes, and is called by the goroutine of the call. Default nil.
	Answered func(body []byte)

	// UserAgent is sent with every request. Default "harepost-go".
	UserAgent string
}

// A Client calls the API of one server for one account.
type Client struct {
	base    string // without a slash at the end
	key     string
	account string // see ForAccount
	options Options
	http    *http.Client
}

// New returns a client for the server at baseURL, such as
// https://harepost.example, acting for the account of apiKey. Without a key
// only CreateAccount is allowed by the server. A key or a token that no request
// can show is a *KeyError.
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
	case o.RetryDelay < 0 || o.MaxRetryAfter < 0:
		return nil, fmt.Errorf("client: RetryDelay %s, MaxRetryAfter %s", o.RetryDelay, o.MaxRetryAfter)
	case o.HTTPClient != nil && o.Timeout != 0:
		return nil, errors.New("client: Timeout belongs into the HTTPClient that is given")
	case !sendable(apiKey):
		return nil, &KeyError{What: "API key"}
	case !sendable(o.AdminToken):
		return nil, &KeyError{What: "admin token"}
	}
	o.RetryDelay = cmp.Or(o.RetryDelay, 200*time.Millisecond)
	o.MaxRetryAfter = cmp.Or(o.MaxRetryAfter, 30*time.Second)
	o.UserAgent = cmp.Or(o.UserAgent, "harepost-go")
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
	in           any    // JSON request body; nil: none
	body         []byte // request body that is encoded already, instead of in
	contentType  string // of body; default JSON
	out          any    // what a 2xx answer is decoded into; nil: nothing
	moreBytes    int64  // of the answer, than maxResponseBytes
	repeatable   bool   // doing it twice is as good as once
	spent        *int   // of Options.Retries, where several requests share them; nil: this one has all
}

// do makes a call with the API key.
func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	return c.roundTrip(ctx, call{method: method, path: path, bearer: c.key, in: in, out: out})
}

// doAdmin makes a call with the admin token.
func (c *Client) doAdmin(ctx context.Context, method, path string, in, out any) error {
	return c.roundTrip(ctx, call{method: method, path: path, bearer: c.options.AdminToken, in: in, out: out})
}

// roundTrip makes a call, and repeats it as the options say.
func (c *Client) roundTrip(ctx context.Context, k call) error {
	if k.in != nil {
		var err error
		if k.body, err = encode(k.in); err != nil {
			return fmt.Errorf("client: %s %s: %w", k.method, k.path, err)
		}
	}
	if k.spent == nil {
		k.spent = new(int)
	}
	return c.retry(ctx, k.repeatable || k.method == http.MethodGet, k.spent, func() error { return c.try(ctx, k) })
}

// try makes a call once.
func (c *Client) try(ctx context.Context, k call) error {
	resp, answer, err := c.exchange(ctx, k)
	if err != nil {
		return fmt.Errorf("client: %s %s: %w", k.method, k.path, err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return newError(resp, answer)
	}
	if c.options.Answered != nil {
		c.options.Answered(answer)
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
func (c *Client) exchange(ctx context.Context, k call) (*http.Response, []byte, error) {
	req, err := c.request(ctx, k)
	if err != nil {
		return nil, nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, nil, unanswered{err}
	}
	defer resp.Body.Close()
	answer, err := readAnswer(resp.Body, maxResponseBytes+k.moreBytes)
	if err != nil {
		return nil, nil, fmt.Errorf("read answer %d: %w", resp.StatusCode, err)
	}
	return resp, answer, nil
}

func (c *Client) request(ctx context.Context, k call) (*http.Request, error) {
	var r io.Reader
	if k.body != nil {
		r = bytes.NewReader(k.body)
	}
	req, err := http.NewRequestWithContext(ctx, k.method, c.base+k.path, r)
	if err != nil {
		return nil, err
	}
	if k.body != nil {
		req.Header.Set("Content-Type", cmp.Or(k.contentType, "application/json"))
	}
	if k.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+k.bearer)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", c.options.UserAgent)
	return req, nil
}

func readAnswer(r io.Reader, most int64) ([]byte, error) {
	answer, err := io.ReadAll(io.LimitReader(r, most+1))
	switch {
	case err != nil:
		return nil, unanswered{err}
	case int64(len(answer)) > most:
		return nil, ErrResponseTooLarge
	}
	return answer, nil
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
