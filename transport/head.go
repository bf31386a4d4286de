package transport

import (
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// appendHead appends the request head to b, byte for byte what goes on the
// wire. It is written here rather than by fasthttp because fasthttp adds a
// Content-Type and a User-Agent of its own, changes the case of names, and
// repairs what it should refuse. now is what the signatures are of.
func appendHead(b []byte, req *Request, dest destination, userAgent string, signers *signers, now time.Time) []byte {
	b = append(b, req.Method...)
	b = append(b, ' ')
	if req.URI == "" || req.URI[0] != '/' {
		b = append(b, '/') // also before a bare "?query"
	}
	b = append(b, req.URI...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = appendHost(b, dest)
	b = append(b, "\r\n"...)
	b = appendHeader(b, "User-Agent", agentOf(req, userAgent))
	for i := range req.Headers {
		h := &req.Headers[i]
		if !reserved(h.Name) && validHeader(h.Name, h.Value) {
			b = appendHeader(b, h.Name, h.Value)
		}
	}
	if req.DeliveryID != "" && validHeader("X-Harepost-Delivery", req.DeliveryID) {
		b = appendHeader(b, "X-Harepost-Delivery", req.DeliveryID)
	}
	b = append(b, "X-Harepost-Attempt: "...)
	b = strconv.AppendInt(b, int64(req.Attempt), 10)
	b = append(b, "\r\n"...)
	if req.IdempotencyKey != "" && validHeader("X-Harepost-Idempotency-Key", req.IdempotencyKey) {
		b = appendHeader(b, "X-Harepost-Idempotency-Key", req.IdempotencyKey)
	}
	body := bodyOf(req)
	if len(req.Secrets) > 0 {
		b = signers.appendHeaders(b, req.Secrets, req.DeliveryID, body, now)
	}
	if !bodyless(req.Method) {
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, int64(len(body)), 10)
		b = append(b, "\r\n"...)
	}
	return append(b, "\r\n"...)
}

func appendHeader(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, "\r\n"...)
}

func appendHost(b []byte, dest destination) []byte {
	if strings.IndexByte(dest.host, ':') >= 0 {
		b = append(b, '[')
		b = append(b, dest.host...)
		b = append(b, ']')
	} else {
		b = append(b, dest.host...)
	}
	if dest.tls && dest.port == 443 || !dest.tls && dest.port == 80 {
		return b
	}
	b = append(b, ':')
	return strconv.AppendUint(b, uint64(dest.port), 10)
}

// agentOf returns the caller's User-Agent, the first if there are several, or
// else ours: some targets let in only the agents they know, and who sent the
// request still stands in X-Harepost-Delivery.
func agentOf(req *Request, ours string) string {
	for i := range req.Headers {
		h := &req.Headers[i]
		if len(h.Name) == len("User-Agent") && strings.EqualFold(h.Name, "User-Agent") && validHeader(h.Name, h.Value) {
			return h.Value
		}
	}
	return ours
}

// bodyless reports whether a method is sent without a body, and so without
// Content-Length.
func bodyless(method string) bool { return method == "GET" || method == "HEAD" }

// bodyOf returns the bytes that are sent, and so signed, as the body.
func bodyOf(req *Request) []byte {
	if bodyless(req.Method) {
		return nil
	}
	return req.Body
}

// reservedHeaders are never copied from a caller: they belong to the
// connection, carry credentials that were not meant for the target, or are
// ours. The API strips them with a warning; this is the last door. User-Agent
// has a place of its own in the head, see agentOf.
var reservedHeaders = []string{
	"Host", "Content-Length", "Connection", "Keep-Alive", "TE", "Trailer",
	"Transfer-Encoding", "Upgrade", "Expect", "Authorization", "Cookie", "User-Agent",
}

var reservedPrefixes = []string{"X-Harepost-", "Webhook-", "Proxy-"}

func reserved(name string) bool {
	for _, r := range reservedHeaders {
		if len(name) == len(r) && strings.EqualFold(name, r) {
			return true
		}
	}
	for _, p := range reservedPrefixes {
		if len(name) >= len(p) && strings.EqualFold(name[:len(p)], p) {
			return true
		}
	}
	return false
}

// validHeader reports whether a header can be sent without changing the
// meaning of what follows it.
func validHeader(name, value string) bool {
	return httpguts.ValidHeaderFieldName(name) && httpguts.ValidHeaderFieldValue(value)
}

// sendable reports whether the request line of req can be written down: a
// scheme we speak, a host and a port, a method that is a token, and a URI
// without white space or control bytes.
func sendable(req *Request) bool {
	if req.Scheme != "https" && req.Scheme != "http" || req.Host == "" || req.Port == 0 {
		return false
	}
	if !httpguts.ValidHeaderFieldName(req.Method) || req.Method == "CONNECT" {
		return false
	}
	for i := 0; i < len(req.URI); i++ {
		if c := req.URI[i]; c <= ' ' || c == 0x7f {
			return false
		}
	}
	return true
}
