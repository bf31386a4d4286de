package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/bench/report"
	"github.com/harepost/harepost/client"
)

// A pager asks an idle system for pages of an account's deliveries, one after the
// other over one connection.
type pager struct {
	http *fasthttp.HostClient
	url  string
	key  string
}

// pageSize is how many deliveries a page has: the API's default.
const pageSize = 25

// newPager connects, so that no page is waited for longer because of that.
func newPager(s *system) (*pager, error) {
	p := &pager{
		http: &fasthttp.HostClient{Addr: strings.TrimPrefix(s.url, "http://"), MaxConns: 1, MaxIdemponentCallAttempts: 1},
		url:  s.url, key: s.keys[0],
	}
	if _, _, err := p.get("/readyz"); err != nil {
		return nil, fmt.Errorf("connect for pages: %w", err)
	}
	return p, nil
}

func (p *pager) close() { p.http.CloseIdleConnections() }

// get makes one request and says how long its answer took.
func (p *pager) get(path string) (answer []byte, took time.Duration, err error) {
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.SetRequestURI(p.url + path)
	req.Header.Set(fasthttp.HeaderAuthorization, "Bearer "+p.key)
	began := now()
	err = p.http.DoTimeout(req, resp, answerWait)
	took = now().sub(began)
	if err == nil && resp.StatusCode() != fasthttp.StatusOK {
		err = fmt.Errorf("status %d: %.200s", resp.StatusCode(), resp.Body())
	}
	if err != nil {
		return nil, took, fmt.Errorf("GET %s: %w", path, err)
	}
	return append(answer, resp.Body()...), took, nil
}

// page asks for a page, which must be full.
func (p *pager) page(query string) (page client.Page, took time.Duration, err error) {
	path := fmt.Sprintf("/v1/deliveries?limit=%d%s", pageSize, query)
	answer, took, err := p.get(path)
	if err != nil {
		return page, took, err
	}
	if err := json.Unmarshal(answer, &page); err != nil {
		return page, took, fmt.Errorf("GET %s: %w", path, err)
	}
	if len(page.Data) != pageSize {
		return page, took, fmt.Errorf("GET %s: a page of %d deliveries, want %d", path, len(page.Data), pageSize)
	}
	return page, took, nil
}

// pages asks for the same page again and again. first is what the first took.
func (p *pager) pages(ctx context.Context, query string, times int) (all report.Distribution, first time.Duration, err error) {
	latency := newLatencyRecorder()
	for n := range times {
		_, took, err := p.page(query)
		if err != nil {
			return all, 0, err
		}
		latency.record(0, took)
		if n == 0 {
			first = took
		}
		if err := ctx.Err(); err != nil {
			return all, 0, err
		}
	}
	return latency.distribution(), first, nil
}

// cursorBefore is where the deliveries go on that were accepted before a moment,
// but for the newest page of them.
func (p *pager) cursorBefore(at time.Time) (string, error) {
	page, _, err := p.page("&until=" + url.QueryEscape(at.UTC().Format(time.RFC3339Nano)))
	if err != nil {
		return "", fmt.Errorf("find an older page: %w", err)
	}
	if page.NextCursor == nil {
		return "", fmt.Errorf("find an older page: none before that of %s", at)
	}
	return *page.NextCursor, nil
}
