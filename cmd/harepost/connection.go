package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/harepost/harepost/client"
)

// A connection is the flags of every command that talks to a server.
type connection struct {
	URL     string        `name:"url" env:"HAREPOST_URL" default:"http://127.0.0.1:8080" help:"The server."`
	Timeout time.Duration `name:"timeout" env:"HAREPOST_TIMEOUT" default:"30s" help:"How long one request to the server may take."`
	JSON    bool          `name:"json" env:"HAREPOST_JSON" help:"Print the server's answer as JSON."`
}

// A keyed connection acts for an account.
type keyed struct {
	connection `embed:""`
	APIKey     string `name:"api-key" env:"HAREPOST_API_KEY" placeholder:"hp_live_..." help:"The account's key. Better given as the variable: command lines are visible to other users."`
}

func (k keyed) dial() (*client.Client, error) {
	if k.APIKey == "" {
		return nil, usagef("no API key: set HAREPOST_API_KEY or give --api-key (`harepost accounts create NAME` makes an account with one; `harepost serve --dev` prints one)")
	}
	return k.connection.dial(k.APIKey, "")
}

func (c connection) dial(apiKey, adminToken string) (*client.Client, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, usagef("--url %q is not a URL like http://127.0.0.1:8080", c.URL)
	}
	if c.Timeout <= 0 {
		return nil, usagef("--timeout must be above 0, not %s", c.Timeout)
	}
	return client.New(c.URL, apiKey, client.Options{AdminToken: adminToken, Timeout: c.Timeout})
}

// explain says what to do about a failed call, and gives it its exit status.
func (c connection) explain(err error) error {
	refused, ok := errors.AsType[*client.Error](err)
	if !ok {
		return c.explainSilence(err)
	}
	switch refused.Status {
	case http.StatusUnauthorized:
		return exitWith(exitRefused, fmt.Errorf("%w: the key or token is not one of this server's (HAREPOST_API_KEY, HAREPOST_ADMIN_TOKEN)", err))
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		if refused.RetryAfter > 0 {
			err = fmt.Errorf("%w; try again in %s", err, refused.RetryAfter)
		}
		return exitWith(exitNotNow, err)
	}
	if refused.Status >= 500 {
		return exitWith(exitNotNow, err)
	}
	return exitWith(exitRefused, err)
}

// explainSilence is about calls that got no answer, or none of ours.
func (c connection) explainSilence(err error) error {
	if errors.Is(err, context.Canceled) {
		return exitWith(exitFailed, errors.New("interrupted"))
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = fmt.Errorf("no answer from %s: %w (is a server running there? see --url)", c.URL, e.Err)
	}
	return exitWith(exitNotNow, err)
}
