package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// forwardTimeout bounds one forwarded request, a little above the longest that
// an attempt may take.
const forwardTimeout = 35 * time.Second

// hopByHop are the headers that belong to one connection.
var hopByHop = []string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// A forwarder passes requests on to a local program.
type forwarder struct {
	to     *url.URL
	client http.Client
}

func parseForward(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.User != nil || u.Fragment != "" {
		return nil, fmt.Errorf("--forward %q is not a URL like http://127.0.0.1:3000/webhook", text)
	}
	return u, nil
}

func newForwarder(text string) (*forwarder, error) {
	u, err := parseForward(text)
	if err != nil {
		return nil, err
	}
	return &forwarder{to: u, client: http.Client{
		Timeout: forwardTimeout,
		// No proxy: the program is near. No compression of our own: what it
		// answers is passed on as it is.
		Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

func (f *forwarder) close() { f.client.CloseIdleConnections() }

// refuseLoop is an error where requests would come back to own, the address that
// they came to. A host that is not found is no loop, whatever else it is.
func (f *forwarder) refuseLoop(ctx context.Context, own net.Addr) error {
	bound, ok := own.(*net.TCPAddr)
	port := cmp.Or(f.to.Port(), map[string]string{"http": "80", "https": "443"}[f.to.Scheme])
	if !ok || port != strconv.Itoa(bound.Port) {
		return nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", f.to.Hostname())
	if err != nil {
		return nil
	}
	for _, ip := range ips {
		ip = ip.Unmap()
		to := ip.WithZone("").String()
		if to == bound.IP.String() || (bound.IP.IsUnspecified() || ip.IsUnspecified()) && ofThisMachine(ip) {
			return fmt.Errorf("--forward %s leads back to %s, where it listens: that would go round for ever", f.to, own)
		}
	}
	return nil
}

// ofThisMachine tells whether ip is an address that this machine has. The
// unspecified one connects to it too.
func ofThisMachine(ip netip.Addr) bool {
	if ip.IsLoopback() || ip.IsUnspecified() {
		return true
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(addresses, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.Equal(net.IP(ip.AsSlice()))
	})
}

// forward passes r on; where that fails, the answer is 502 and r says why.
func (f *forwarder) forward(ctx context.Context, r *received) fullAnswer {
	answer, err := f.exchange(ctx, r)
	if err == nil {
		return answer
	}
	r.ForwardError = err
	text, err := json.Marshal(map[string]string{"error": "forwarding failed", "detail": r.ForwardError.Error()})
	if err != nil {
		text = []byte(`{"error":"forwarding failed"}`)
	}
	return fullAnswer{Status: http.StatusBadGateway, Header: http.Header{"Content-Type": {"application/json"}}, Body: append(text, '\n')}
}

func (f *forwarder) exchange(ctx context.Context, r *received) (fullAnswer, error) {
	target, err := f.target(r.URI)
	if err != nil {
		return fullAnswer{}, err
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, target, bytes.NewReader(r.Body))
	if err != nil {
		return fullAnswer{}, err
	}
	req.Header = endToEnd(r.Header)
	if _, given := req.Header["User-Agent"]; !given {
		req.Header["User-Agent"] = nil // none of ours
	}
	resp, err := f.client.Do(req)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // the URL is the user's own flag
		}
		return fullAnswer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, receivedBodyBytes+1))
	if err != nil {
		return fullAnswer{}, fmt.Errorf("read the answer: %w", err)
	}
	if len(body) > receivedBodyBytes {
		return fullAnswer{}, fmt.Errorf("the answer is larger than %s", bytesText(receivedBodyBytes))
	}
	header := endToEnd(resp.Header)
	header.Set("Content-Length", strconv.Itoa(len(body)))
	return fullAnswer{Status: resp.StatusCode, Header: header, Body: body}, nil
}

// target is where a request to uri goes: to the path that --forward names or,
// where it names none, to its own; its query goes along.
func (f *forwarder) target(uri string) (string, error) {
	own, err := url.ParseRequestURI(uri)
	if err != nil {
		return "", err
	}
	to := *f.to
	if to.Path == "" || to.Path == "/" {
		to.Path, to.RawPath = own.Path, own.RawPath
	}
	if own.RawQuery != "" {
		to.RawQuery = strings.TrimPrefix(to.RawQuery+"&"+own.RawQuery, "&")
	}
	return to.String(), nil
}

// endToEnd is h without what belongs to one connection, as RFC 9110 7.6.1 has
// it.
func endToEnd(h http.Header) http.Header {
	h = h.Clone()
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
	for _, name := range hopByHop {
		h.Del(name)
	}
	return h
}

func forwardErrorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// wholeSeconds is a flag in seconds, as 5 or 5s.
type wholeSeconds time.Duration

// UnmarshalText reads the flag.
func (s *wholeSeconds) UnmarshalText(text []byte) error {
	d, err := time.ParseDuration(string(text))
	if n, bare := strconv.ParseUint(string(text), 10, 31); bare == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d < 0 || d%time.Second != 0 {
		return fmt.Errorf("%q is not in whole seconds, as 5 or 5s", text)
	}
	*s = wholeSeconds(d)
	return nil
}
