package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// A Domain is a destination domain of the account. It covers its subdomains.
type Domain struct {
	Domain     string     `json:"domain"`
	Status     string     `json:"status"` // pending or verified
	CreatedAt  time.Time  `json:"created_at,omitzero"`
	VerifiedAt *time.Time `json:"verified_at"`
	Record     *Record    `json:"record,omitempty"` // what to publish; not in lists
}

// A Record is a DNS record.
type Record struct {
	Type  string `json:"type"`
	Name  string `json:"name"`
	Value string `json:"value"`
}

type domainRequest struct {
	Domain string `json:"domain"`
}

// AddDomain adds a domain and returns the record to publish. Adding one again
// returns it as it is.
func (c *Client) AddDomain(ctx context.Context, name string) (Domain, error) {
	var d Domain
	err := c.do(ctx, http.MethodPost, "/v1/domains", domainRequest{name}, &d)
	return d, err
}

// VerifyDomain looks for the published record. While it is not found, the
// error is an *Error with status 409: see its PendingDomain.
func (c *Client) VerifyDomain(ctx context.Context, name string) (Domain, error) {
	var d Domain
	err := c.do(ctx, http.MethodPost, "/v1/domains/verify", domainRequest{name}, &d)
	return d, err
}

// Domains lists the account's domains.
func (c *Client) Domains(ctx context.Context) ([]Domain, error) {
	var list struct{ Data []Domain }
	err := c.do(ctx, http.MethodGet, "/v1/domains", nil, &list)
	return list.Data, err
}

// Domain returns one of the account's domains.
func (c *Client) Domain(ctx context.Context, name string) (Domain, error) {
	var d Domain
	err := c.do(ctx, http.MethodGet, "/v1/domains/"+url.PathEscape(name), nil, &d)
	return d, err
}

// DeleteDomain removes a domain; later attempts to it are rejected.
func (c *Client) DeleteDomain(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, "/v1/domains/"+url.PathEscape(name), nil, nil)
}
