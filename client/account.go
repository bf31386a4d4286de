package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"time"
)

// A NewAccount is an account as it is shown once, when it is created.
type NewAccount struct {
	AccountID     string    `json:"account_id"`
	Name          string    `json:"name"`
	APIKey        string    `json:"api_key"`
	SigningSecret string    `json:"signing_secret"`
	CreatedAt     time.Time `json:"created_at"`
}

// CreateAccount makes an account. Where sign-up is open it needs no
// Options.AdminToken.
func (c *Client) CreateAccount(ctx context.Context, name string) (NewAccount, error) {
	var a NewAccount
	err := c.doAdmin(ctx, http.MethodPost, "/v1/accounts", map[string]string{"name": name}, &a)
	return a, err
}

// An Account is an account as the server's operator sees it.
type Account struct {
	AccountID          string    `json:"account_id"`
	Name               string    `json:"name"`
	RateLimitPerMinute *int      `json:"rate_limit_per_minute"` // 0: no limit; nil: the server's default
	Suspended          bool      `json:"suspended"`
	CreatedAt          time.Time `json:"created_at"`
}

// An AccountPage is a part of the list of accounts.
type AccountPage struct {
	Data       []Account `json:"data"`
	NextCursor *string   `json:"next_cursor"` // where the next page begins; nil: this is the last
}

// AccountsPage returns one page of the server's accounts, from a cursor on;
// empty: from the first. It shows Options.AdminToken, as all calls about
// accounts do.
func (c *Client) AccountsPage(ctx context.Context, limit int, cursor string) (AccountPage, error) {
	var p AccountPage
	err := c.doAdmin(ctx, http.MethodGet, "/v1/accounts"+pageQuery(url.Values{}, limit, cursor), nil, &p)
	return p, err
}

// Accounts goes through the server's accounts, a page at a time. An error is
// the last element.
func (c *Client) Accounts(ctx context.Context) iter.Seq2[Account, error] {
	return paged("", func(cursor string) ([]Account, *string, error) {
		p, err := c.AccountsPage(ctx, MaxPage, cursor)
		return p.Data, p.NextCursor, err
	})
}

// Account returns one account.
func (c *Client) Account(ctx context.Context, id string) (Account, error) {
	var a Account
	err := c.doAdmin(ctx, http.MethodGet, "/v1/accounts/"+url.PathEscape(id), nil, &a)
	return a, err
}

// An AccountChange says what is to change about an account. What is nil stays.
type AccountChange struct {
	Name      *string
	Suspended *bool // its sends are refused, and what is pending waits

	RateLimitPerMinute *int // 0: no limit
	DefaultRateLimit   bool // back to the server's default, instead
}

// MarshalJSON is the request as the API takes it: null is the way back to the
// default.
func (a AccountChange) MarshalJSON() ([]byte, error) {
	fields := make(map[string]any)
	if a.Name != nil {
		fields["name"] = *a.Name
	}
	if a.Suspended != nil {
		fields["suspended"] = *a.Suspended
	}
	switch {
	case a.DefaultRateLimit && a.RateLimitPerMinute != nil:
		return nil, errors.New("both a rate limit and the default one")
	case a.DefaultRateLimit:
		fields["rate_limit_per_minute"] = nil
	case a.RateLimitPerMinute != nil:
		fields["rate_limit_per_minute"] = *a.RateLimitPerMinute
	}
	return encode(fields)
}

// ChangeAccount changes an account and returns it as it is then.
func (c *Client) ChangeAccount(ctx context.Context, id string, change AccountChange) (Account, error) {
	var a Account
	err := c.doAdmin(ctx, http.MethodPatch, "/v1/accounts/"+url.PathEscape(id), change, &a)
	return a, err
}

// DeleteAccount deletes an account with everything it has. Its keys end at
// once.
func (c *Client) DeleteAccount(ctx context.Context, id string) error {
	return c.doAdmin(ctx, http.MethodDelete, "/v1/accounts/"+url.PathEscape(id), nil, nil)
}

// SigningSecret returns the account's signing secret, "whsec_" and base64.
func (c *Client) SigningSecret(ctx context.Context) (string, error) {
	var s struct {
		SigningSecret string `json:"signing_secret"`
	}
	err := c.do(ctx, http.MethodGet, "/v1/signing-secret", nil, &s)
	return s.SigningSecret, err
}

// A Rotation is a new signing secret.
type Rotation struct {
	SigningSecret    string    `json:"signing_secret"`
	PreviousExpireAt time.Time `json:"previous_expire_at"` // until then, earlier secrets sign too
}

// RotateSigningSecret makes a new signing secret. Deliveries are signed with
// the earlier ones too until the overlap, in whole seconds, is over: time to
// give receivers the new one. With an overlap of 0 the old ones end at once,
// as is right for one that has leaked.
func (c *Client) RotateSigningSecret(ctx context.Context, overlap time.Duration) (Rotation, error) {
	if overlap < 0 || overlap%time.Second != 0 {
		return Rotation{}, fmt.Errorf("client: rotate signing secret: overlap %s is not in whole seconds from 0", overlap)
	}
	var r Rotation
	in := map[string]int64{"overlap_seconds": int64(overlap / time.Second)}
	err := c.do(ctx, http.MethodPost, "/v1/signing-secret/rotate", in, &r)
	return r, err
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
