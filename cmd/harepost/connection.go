package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/harepost/harepost/client"
)

// A connection is the flags of every command that talks to a server.
type connection struct {
	URL     string        `name:"url" env:"HAREPOST_URL" default:"http://127.0.0.1:8080" help:"The server: http://, https://, or unix:///path/to/socket."`
	CAFile  string        `name:"tls-ca" env:"HAREPOST_CA_FILE" placeholder:"FILE" type:"path" help:"PEM file of certificate authorities that the server may have, beside the system's."`
	Timeout time.Duration `name:"timeout" env:"HAREPOST_TIMEOUT" default:"30s" help:"How long one request to the server may take."`
	JSON    bool          `name:"json" env:"HAREPOST_JSON" help:"Print the server's answer as JSON."`
}

// A keyed connection acts for an account.
type keyed struct {
	connection `embed:""`
	APIKey     string `name:"api-key" env:"HAREPOST_API_KEY" placeholder:"hp_live_..." help:"The account's key. Better given as the variable: command lines are visible to other users."`
}

func (k keyed) dial() (*session, error) {
	if k.APIKey == "" {
		return nil, usagef("no API key: set HAREPOST_API_KEY or give --api-key (`harepost accounts create NAME` makes an account with one; `harepost serve --dev` prints one)")
	}
	return k.connection.dial(k.APIKey, "")
}

// A session is a client, and the server's last answer, which --json prints as it
// is: there may be more in it than this program knows.
type session struct {
	*client.Client
	answer []byte
}

func (c connection) dial(apiKey, adminToken string) (*session, error) {
	base, h, err := c.http()
	if err != nil {
		return nil, err
	}
	var s session
	s.Client, err = client.New(base, apiKey, client.Options{
		AdminToken: adminToken, HTTPClient: h, UserAgent: "harepost-cli/" + readBuildInfo().Version,
		Answered: func(body []byte) { s.answer = body },
	})
	if e, ok := errors.AsType[*client.KeyError](err); ok {
		return nil, usagef("the %s has a line break or another control character in it: set %s again, without that", e.What, keySources[e.What])
	}
	if err != nil {
		return nil, exitWith(exitUsage, err)
	}
	return &s, nil
}

// keySources are where the commands have from what the client shows.
var keySources = map[string]string{
	"API key":     "HAREPOST_API_KEY (--api-key)",
	"admin token": "HAREPOST_ADMIN_TOKEN (--admin-token)",
}

// raw is the last answer; {} where it was done and nothing was said.
func (s *session) raw() json.RawMessage {
	if !json.Valid(s.answer) {
		return json.RawMessage("{}")
	}
	return s.answer
}

// rows are the elements of a last answer that is a page of a list.
func (s *session) rows() ([]json.RawMessage, error) {
	var page struct{ Data []json.RawMessage }
	err := json.Unmarshal(s.raw(), &page)
	return page.Data, err
}

// http is what the flags say about reaching the server: the base of its URLs, and
// the client for them.
func (c connection) http() (base string, h *http.Client, err error) {
	if c.Timeout <= 0 {
		return "", nil, usagef("--timeout must be above 0, not %s", c.Timeout)
	}
	base, dialer, err := c.endpoint()
	if err != nil {
		return "", nil, err
	}
	cas, err := readCAs("--tls-ca", c.CAFile)
	if err != nil {
		return "", nil, exitWith(exitUsage, err)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{RootCAs: cas}
	if dialer != nil {
		t.DialContext, t.Proxy = dialer, nil
	}
	return base, &http.Client{Transport: t, Timeout: c.Timeout}, nil
}

// A dialContext is http.Transport's field of this name.
type dialContext func(ctx context.Context, network, address string) (net.Conn, error)

// endpoint takes --url apart: the base of the API, and for a Unix socket how to
// connect to it.
func (c connection) endpoint() (base string, dialer dialContext, err error) {
	u, err := url.Parse(c.URL)
	switch {
	case err != nil:
	case u.Scheme == "unix" && u.Host == "" && u.Path != "":
		return "http://localhost", func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", u.Path)
		}, nil
	case u.Host != "" && (u.Scheme == "http" || u.Scheme == "https"):
		return c.URL, nil, nil
	}
	return "", nil, usagef("--url %q is not a URL like http://127.0.0.1:8080, https://harepost.example or unix:///run/harepost.sock", c.URL)
}

// explain says what to do about a failed call, and gives it its exit status.
func (c connection) explain(err error) error {
	refused, ok := errors.AsType[*client.Error](err)
	if !ok {
		return c.explainSilence(err)
	}
	status, named := refusalStatuses[refused.Status]
	switch {
	case named:
	case refused.Status >= 500:
		status = exitNotNow
	default:
		status = exitRefused
	}
	switch {
	case refused.Status == http.StatusUnauthorized:
		err = fmt.Errorf("%w: %s", err, adviceOnKeys)
	case status == exitNotNow && refused.RetryAfter > 0:
		err = fmt.Errorf("%w; try again in %s", err, refused.RetryAfter)
	}
	return exitWith(status, err)
}

// explainOf is explain for a call about one thing, which it names where the
// server does not have it.
func (c connection) explainOf(kind, id string, err error) error {
	if errors.Is(err, client.ErrNotFound) {
		err = fmt.Errorf("%s %s: %w", kind, id, err)
	}
	return c.explain(err)
}

const adviceOnKeys = "the key or token is not one of this server's, or was revoked (HAREPOST_API_KEY, HAREPOST_ADMIN_TOKEN); " +
	"`harepost keys create` makes another key with one that works, `harepost accounts create NAME` an account with its first"

// mayBeHTTPS tells whether a call in plain HTTP ended as it does where TLS is
// spoken: the connection was closed, or the answer was a TLS alert.
func (c connection) mayBeHTTPS(err error) bool {
	plain := len(c.URL) > len("http://") && strings.EqualFold(c.URL[:len("http://")], "http://")
	return plain && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || strings.Contains(err.Error(), `malformed HTTP response "\x15\x03`))
}

// explainSilence is about calls that got no answer, or none of ours.
func (c connection) explainSilence(err error) error {
	if errors.Is(err, context.Canceled) {
		return exitWith(exitFailed, errInterrupted)
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return exitWith(exitNotNow, fmt.Errorf("%s is not trusted: %w (a private authority is given with --tls-ca or HAREPOST_CA_FILE)", c.URL, err))
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		hint := "is a server running there? see --url"
		if c.mayBeHTTPS(e.Err) {
			hint = "if the server speaks HTTPS, its URL begins with https://, see --url"
		}
		err = fmt.Errorf("no answer from %s: %w (%s)", c.URL, e.Err, hint)
	}
	return exitWith(exitNotNow, err)
}
