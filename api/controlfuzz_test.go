package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/engine"
)

// badRequest checks that an error of a decoder is a 400 with bounded words.
func badRequest(t *testing.T, err error) {
	t.Helper()
	var p *problem
	if !errors.As(err, &p) || p.status != 400 || p.message == "" || len(p.Error()) > 1000 {
		t.Fatalf("refused with %v", err)
	}
}

// FuzzBulk: no body or query of a bulk operation panics, and what is accepted
// comes back as the same filter, never as a wider one.
func FuzzBulk(f *testing.F) {
	f.Add([]byte(`{"filter":{"status":"rejected","target":"https://a.example/\"","host":"a.example"},"dry_run":true}`), "label=a&all=false", false)
	f.Add([]byte(`{"filter":{"since":"2026-01-01T00:00:00.5+01:00","until":"2027-01-01T00:00:00Z"},"rate_per_second":1e3}`), "all=true&dry_run=true", true)
	f.Add([]byte(``), "host=%5B::1%25e%1b%d7%5D", true) // a zone
	f.Add([]byte(`{"filter":{},"x":1}`), "host=%5B::1%5D&status=dead_letter&rate_per_second=5", false)
	f.Add([]byte(`{"filter":{"label":"\u00e9","idempotency_key":"k"}}`), "label=%ff&since=0000-01-01T00:00:00-01:00", true)
	s, err := New(nil, Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte, query string, cancel bool) {
		kind := engine.JobPurge
		if cancel {
			kind = engine.JobCancel
		}
		again := func(was *bulk) {
			t.Helper()
			text := appendFilter(nil, &was.filter)
			if !json.Valid(text) {
				t.Fatalf("not JSON: %s", text)
			}
			is := newBulk(kind)
			if _, err := s.members([]byte(`{"filter":`+string(text)+`}`), is.member); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			is.filter.Since, was.filter.Since = is.filter.Since.UTC(), was.filter.Since.UTC()
			is.filter.Until, was.filter.Until = is.filter.Until.UTC(), was.filter.Until.UTC()
			if !reflect.DeepEqual(is.filter, was.filter) {
				t.Fatalf("%+v came back as %+v", was.filter, is.filter)
			}
			if was.rate < 0 || was.rate > maxRatePerSecond {
				t.Fatalf("rate %d", was.rate)
			}
		}
		var ctx fasthttp.RequestCtx
		ctx.Request.SetBodyRaw(body)
		ofBody := newBulk(kind)
		if err := ofBody.body(s, &call{http: &ctx}); err != nil {
			badRequest(t, err)
		} else {
			again(ofBody)
		}
		ctx.Request.SetBodyRaw(nil)
		ctx.URI().SetQueryString(query)
		ofQuery := newBulk(kind)
		if err := ofQuery.query(&call{http: &ctx}); err != nil {
			badRequest(t, err)
			return
		}
		if ofQuery.allDead == (ofQuery.filter != newBulk(kind).filter) {
			t.Fatalf("all is %v with the filter %+v", ofQuery.allDead, ofQuery.filter)
		}
		if f := ofQuery.filter; strings.Contains(f.TargetPrefix+f.Label+f.IdempotencyKey, "\ufffd") || !bytes.Equal(bytes.ToValidUTF8([]byte(f.TargetPrefix+f.Label+f.IdempotencyKey), nil), []byte(f.TargetPrefix+f.Label+f.IdempotencyKey)) {
			return // shown with U+FFFD for what is not UTF-8
		}
		again(ofQuery)
	})
}

// FuzzSmallBodies: no body of the routes that take a few members panics them,
// and what is accepted keeps to its bounds.
func FuzzSmallBodies(f *testing.F) {
	for _, seed := range []string{
		`{"name":"a","rate_limit_per_minute":5,"suspended":true}`, `{"rate_limit_per_minute":null}`, `{"name":"\u0000"}`,
		`{"overlap_seconds":1e9}`, `{"domain":"xn--bcher-kva.example"}`, `{"a":{"a":1,"a":1},"a":2}`, `{}`, ``, `[]`,
	} {
		f.Add([]byte(seed))
	}
	s, err := New(nil, Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var change engine.AccountChange
		w, err := s.members(body, func(d *decoder, name []byte) error { return accountField(d, name, &change) })
		switch {
		case err != nil:
			badRequest(t, err)
		case change.Name != nil && checkAccountName(*change.Name) != nil:
			t.Fatalf("name %q", *change.Name)
		case change.RatePerMinute != nil && (*change.RatePerMinute < engine.NoRateLimit || *change.RatePerMinute > engine.MaxRatePerMinute):
			t.Fatalf("rate %d", *change.RatePerMinute)
		case !json.Valid(append(w.appendWarnings([]byte(`{"x":0`)), '}')):
			t.Fatalf("warnings %q", w.list)
		}
		var ctx fasthttp.RequestCtx
		ctx.Request.SetBodyRaw(body)
		c := &call{http: &ctx}
		if _, err := s.noMember(c); err != nil {
			badRequest(t, err)
		}
		if _, _, err := s.domainOfBody(c); err != nil {
			badRequest(t, err)
		}
	})
}

// FuzzHeaders: whatever is in the headers that we read, in the path and in the
// query, of any route, the answer is as documented and not a 5xx.
func FuzzHeaders(f *testing.F) {
	s := startServer(f, Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}, nil)
	key := s.account()
	var operations []string
	for _, r := range s.routes {
		for method := range r.methods {
			operations = append(operations, method+" "+r.path)
		}
	}
	slices.Sort(operations)
	f.Add(uint(0), "Bearer "+key, "x", "limit=1", "k", `"x"`, "{}")
	f.Add(uint(3), "bearer  "+adminToken, "%00", "cursor=acc_0", "\u00e9", "*", `{"name":"x"}`)
	f.Add(uint(9), "Bearer "+key, "..", "all=true&dry_run=true", "", "", "")
	f.Add(uint(14), "Basic eDp5", "%2F", "?&=", "null", "W/", "[")
	f.Add(uint(9), "Bearer "+key, "x", "all=tru\x00\x00", "", "", "") // was a 404
	// A stream, which sets deadlines on its connection.
	f.Add(uint(slices.Index(operations, "GET /v1/backup")), "Bearer "+adminToken, "x", "", "", "", "")
	c, err := theDocument()
	if err != nil {
		f.Fatal(err)
	}
	conn, other := net.Pipe()
	f.Cleanup(func() {
		if err := errors.Join(conn.Close(), other.Close()); err != nil {
			f.Error(err)
		}
	})
	f.Fuzz(func(t *testing.T, n uint, authorization, param, query, idempotencyKey, tag, body string) {
		method, path, _ := strings.Cut(operations[n%uint(len(operations))], " ")
		if method == "POST" && strings.HasSuffix(path, "/verify") {
			return // it would ask a name server
		}
		if authorization == "" {
			authorization = "Bearer " + key // the fuzzer would not guess it
		}
		target := strings.NewReplacer("{id}", param, "{domain}", param).Replace(path)
		if strings.ContainsAny(target, "?#") {
			return
		}
		var ctx fasthttp.RequestCtx
		ctx.Init2(conn, nil, false)
		h := &ctx.Request.Header
		h.SetMethod(method)
		h.SetRequestURI(target + "?" + query)
		h.Set("Host", "x")
		h.Set("Authorization", authorization)
		h.Set(headerIdempotencyKey, idempotencyKey)
		h.Set(headerRequestID, tag)
		h.Set("If-None-Match", tag)
		ctx.Request.SetBodyString(body)
		s.serve(&ctx)
		status := ctx.Response.StatusCode()
		if status >= 500 {
			t.Fatalf("%s %s: %d %s", method, target, status, ctx.Response.Body())
		}
		if !isRequestID(ctx.Response.Header.Peek(headerRequestID)) {
			t.Fatalf("X-Request-Id %q", ctx.Response.Header.Peek(headerRequestID))
		}
		header := http.Header{}
		for k, v := range ctx.Response.Header.All() {
			header.Add(string(k), string(v))
		}
		if err := c.Check(method, target, status, header, ctx.Response.Body()); err != nil {
			t.Fatal(err)
		}
	})
}
