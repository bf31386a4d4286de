package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// An Account as it is shown once, when it is created.
type Account struct {
	AccountID     string    `json:"account_id"`
	Name          string    `json:"name"`
	APIKey        string    `json:"api_key"`
	SigningSecret string    `json:"signing_secret"`
	CreatedAt     time.Time `json:"created_at"`
}

// CreateAccount makes an account. It shows Options.AdminToken, not the API key.
func (c *Client) CreateAccount(ctx context.Context, name string) (Account, error) {
	var a Account
	err := c.roundTrip(ctx, call{
		method: http.MethodPost,
		path:   "/v1/accounts",
		bearer: c.options.AdminToken,
		in:     map[string]string{"name": name},
		out:    &a,
	})
	return a, err
}

// SigningSecret returns the account's signing secret, "whsec_" and base64.
func (c *Client) SigningSecret(ctx context.Context) (string, error) {
	var s struct {
		SigningSecret string `json:"signing_secret"`
	}
	err := c.do(ctx, http.MethodGet, "/v1/signing-secret", nil, &s)
	return s.SigningSecret, err
}

// A Key is an API key of the account, without its secret part.
type Key struct {
	ID         string     `json:"id"`
	Prefix     string     `json:"prefix"` // its first characters
	CreatedAt  time.Time  `json:"created_at"`
	LastUsedAt *time.Time `json:"last_used_at,omitempty"`
}

// A NewKey is a key as it is shown once, when it is created.
type NewKey struct {
	Key
	APIKey string `json:"api_key"`
}

// Keys lists the account's keys.
func (c *Client) Keys(ctx context.Context) ([]Key, error) {
	var list struct{ Data []Key }
	err := c.do(ctx, http.MethodGet, "/v1/keys", nil, &list)
	return list.Data, err
}

// CreateKey makes another key for the account.
func (c *Client) CreateKey(ctx context.Context) (NewKey, error) {
	var k NewKey
	err := c.do(ctx, http.MethodPost, "/v1/keys", nil, &k)
	return k, err
}

// DeleteKey makes a key invalid, from its id.
func (c *Client) DeleteKey(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, "/v1/keys/"+url.PathEscape(id), nil, nil)
}
