package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/harepost/harepost/client"
)

// A remote is the client with the routes that only the command line needs of a
// server: those of its operator, and those for a bad day.
type remote struct {
	*client.Client
	http       *http.Client
	base       string
	key, admin string
}

// remoteAnswerBytes bounds an answer: results of a batch are the largest.
const remoteAnswerBytes = 16 << 20

// do makes one call. An answer other than 2xx is a *client.Error, as it is of
// the client's own calls.
func (r *remote) do(ctx context.Context, bearer, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	return r.doBytes(ctx, bearer, method, path, "application/json", body, out)
}

// doBytes is do for a body that is ready; nil is none.
func (r *remote) doBytes(ctx context.Context, bearer, method, path, contentType string, body []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, r.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", contentType)
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	req.Header.Set("User-Agent", commandUserAgent())
	resp, err := r.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, remoteAnswerBytes))
	if err != nil {
		return fmt.Errorf("read answer %d: %w", resp.StatusCode, err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return refusalOf(resp, answer)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("%s %s: answer %d: %w", method, path, resp.StatusCode, err)
	}
	return nil
}

func refusalOf(resp *http.Response, answer []byte) *client.Error {
	e := &client.Error{Status: resp.StatusCode, Message: http.StatusText(resp.StatusCode), RequestID: resp.Header.Get("X-Request-Id"), Body: answer}
	if seconds, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 31); err == nil {
		e.RetryAfter = time.Duration(seconds) * time.Second
	}
	var text struct{ Error, Detail string }
	if json.Unmarshal(answer, &text) == nil && text.Error != "" {
		e.Message, e.Detail = text.Error, text.Detail
	}
	return e
}

// An accountInfo is an account as its operator sees it.
type accountInfo struct {
	AccountID          string    `json:"account_id"`
	Name               string    `json:"name"`
	RateLimitPerMinute *int      `json:"rate_limit_per_minute"` // 0: no limit; nil: the server's default
	Suspended          bool      `json:"suspended"`
	CreatedAt          time.Time `json:"created_at"`
}

type accountPage struct {
	Data       []accountInfo `json:"data"`
	NextCursor *string       `json:"next_cursor"`
}

func (r *remote) accounts(ctx context.Context, cursor string) (accountPage, error) {
	q := url.Values{"limit": {strconv.Itoa(largestPage)}}
	if cursor != "" {
		q.Set("cursor", cursor)
	}
	var page accountPage
	err := r.do(ctx, r.admin, http.MethodGet, "/v1/accounts?"+q.Encode(), nil, &page)
	return page, err
}

func (r *remote) account(ctx context.Context, id string) (accountInfo, error) {
	var a accountInfo
	err := r.do(ctx, r.admin, http.MethodGet, "/v1/accounts/"+url.PathEscape(id), nil, &a)
	return a, err
}

// changeAccount sets the named fields; nil as the rate limit is the way back to
// the server's default.
func (r *remote) changeAccount(ctx context.Context, id string, change map[string]any) (accountInfo, error) {
	var a accountInfo
	err := r.do(ctx, r.admin, http.MethodPatch, "/v1/accounts/"+url.PathEscape(id), change, &a)
	return a, err
}

func (r *remote) deleteAccount(ctx context.Context, id string) error {
	return r.do(ctx, r.admin, http.MethodDelete, "/v1/accounts/"+url.PathEscape(id), nil, nil)
}

// A rotation is a new signing secret, and when the ones before it end.
type rotation struct {
	SigningSecret    string    `json:"signing_secret"`
	PreviousExpireAt time.Time `json:"previous_expire_at"`
}

func (r *remote) rotateSecret(ctx context.Context, overlap time.Duration) (rotation, error) {
	var made rotation
	err := r.do(ctx, r.key, http.MethodPost, "/v1/signing-secret/rotate", map[string]int64{"overlap_seconds": int64(overlap / time.Second)}, &made)
	return made, err
}
