package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// twice is a policy under which a failure is soon known to be final.
const twice = `"delivery":{"max_attempts":2,"base_delay_ms":100,"jitter":"none","timeout_ms":1000}`

// ofHistory writes a delivery's end in one line, such as
//
//	dead_letter: failed 500 http_status, failed - timeout
func ofHistory(h history) string {
	var b strings.Builder
	b.WriteString(h.Status + ":")
	for i, a := range h.Attempts {
		if i > 0 {
			b.WriteString(",")
		}
		status, code := "-", ""
		if a.HTTPStatus != nil {
			status = fmt.Sprint(*a.HTTPStatus)
		}
		if a.Error != nil {
			code, _, _ = strings.Cut(*a.Error, ":")
			code = " " + code
		}
		b.WriteString(" " + a.Outcome + " " + status + code)
	}
	return b.String()
}

// What a target's statuses make of a delivery.
func TestOutcomesByStatus(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	f := func(want string, statuses ...int) {
		host := strings.ReplaceAll(strings.Trim(fmt.Sprint(statuses), "[]"), " ", "-") + ".your-app.com"
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			in := w.inbox(t, host, answers(statuses...))
			h := acme.final(t, acme.queue(t, in.url, twice))
			if got := ofHistory(h); got != want {
				t.Errorf("%s\nwant %s\n%s", got, want, h.text)
			}
			for range h.Attempts {
				in.next(t)
			}
			in.empty(t) // every attempt on record was made once, and no other
		})
	}
	f("delivered: delivered 200", 200)
	f("delivered: delivered 201", 201)
	f("delivered: delivered 204", 204)
	f("delivered: delivered 299", 299)

	f("delivered: failed 500 http_status, delivered 200", 500, 200)
	f("delivered: failed 502 http_status, delivered 202", 502, 202)
	f("delivered: failed 503 http_status, delivered 200", 503, 200)
	f("delivered: failed 599 http_status, delivered 200", 599, 200)
	f("delivered: failed 408 http_status, delivered 200", 408, 200)
	f("delivered: failed 429 http_status, delivered 200", 429, 200)
	f("dead_letter: failed 500 http_status, failed 504 http_status", 500, 504)
	f("rejected: failed 500 http_status, rejected 404 http_status", 500, 404)

	for _, status := range []int{400, 401, 403, 404, 405, 409, 410, 413, 422, 451, 499} {
		f(fmt.Sprintf("rejected: rejected %d http_status", status), status)
	}
}

// A redirect is a failure like another. Nobody goes where it points.
func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	trap := w.inbox(t, "trap.your-app.com", answers(200))
	for _, status := range []int{300, 301, 302, 303, 304, 307, 308} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			in := w.inbox(t, fmt.Sprintf("r%d.your-app.com", status), func(_ int, rw http.ResponseWriter, _ *http.Request) {
				rw.Header().Set("Location", trap.url+"/elsewhere")
				rw.WriteHeader(status)
			})
			want := fmt.Sprintf("dead_letter: failed %d http_status, failed %d http_status", status, status)
			if h := acme.final(t, acme.queue(t, in.url, twice)); ofHistory(h) != want {
				t.Errorf("%s\nwant %s", ofHistory(h), want)
			}
			trap.empty(t)
		})
	}
}

// Targets that cannot be reached or do not keep to the protocol. None of them
// is given up before the attempts are used up.
func TestOutcomesWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	f := func(code, host string, url func(t *testing.T, host string) string) {
		host += ".your-app.com"
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			h := acme.final(t, acme.queue(t, url(t, host), twice))
			want := fmt.Sprintf("dead_letter: failed - %s, failed - %s", code, code)
			if ofHistory(h) != want {
				t.Errorf("%s\nwant %s\n%s", ofHistory(h), want, h.text)
			}
			if h.LastStatus != nil {
				t.Errorf("last_status is %d, and there was none", *h.LastStatus)
			}
			for _, a := range h.Attempts {
				if took := time.Duration(a.LatencyMillis) * time.Millisecond; code == "timeout" && took < 900*time.Millisecond || took > 5*time.Second {
					t.Errorf("attempt %d took %s of a second's timeout", a.Attempt, took)
				}
			}
		})
	}
	speaks := func(serve func(*tls.Conn)) func(*testing.T, string) string {
		return func(t *testing.T, host string) string { return w.target(t, host, serve) }
	}
	f("connection_refused", "refused", func(t *testing.T, host string) string { return w.name(host, closedPort(t)) })
	f("connection_reset", "closed-before", speaks(say("")))
	f("connection_reset", "reset-before", speaks(sayAndReset("")))
	f("connection_reset", "closed-within", speaks(say("HTTP/1.1 200 OK\r\nContent-Le")))
	f("connection_reset", "reset-within", speaks(sayAndReset("HTTP/1.1 200 OK\r\nContent-Le")))
	f("timeout", "silent", speaks(sayAndStay("")))
	f("timeout", "stalled-head", speaks(sayAndStay("HTTP/1.1 200 OK\r\n")))
	f("invalid_response", "hints", speaks(sayForever("", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")))
	f("invalid_response", "long-head", speaks(sayForever("HTTP/1.1 200 OK\r\n", "X-More: and more\r\n")))
	f("invalid_response", "not-http", speaks(sayAndStay("220 mail.your-app.com ESMTP\r\n")))
	f("tls_failure", "unknown-ca", func(t *testing.T, host string) string {
		return w.targetWith(t, host, newAuthority(t).valid(host), say("HTTP/1.1 200 OK\r\n\r\n"))
	})
	f("tls_failure", "wrong-name", func(t *testing.T, host string) string {
		return w.targetWith(t, host, w.ca.valid("right.your-app.com"), say("HTTP/1.1 200 OK\r\n\r\n"))
	})
	f("tls_failure", "expired", func(t *testing.T, host string) string {
		return w.targetWith(t, host, w.ca.sign(host, time.Now().Add(-time.Hour)), say("HTTP/1.1 200 OK\r\n\r\n"))
	})
	f("tls_failure", "no-tls", func(t *testing.T, host string) string {
		return w.name(host, serveConns(t, "127.0.0.1:0", func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 400 This is http\r\nContent-Length: 0\r\n\r\n")
		}))
	})
	f("dns_failure", "no-such-name", func(_ *testing.T, host string) string { return "https://" + host })
	f("dns_failure", "servfail", func(_ *testing.T, host string) string {
		w.names.fail(host, dns.RcodeServerFailure)
		return "https://" + host
	})
	f("dns_failure", "no-address", func(_ *testing.T, host string) string {
		w.names.txt(host, "a name without an address")
		return "https://" + host
	})
}

// The status line decides. What the body does after it undoes nothing.
func TestBodiesDoNotUndoTheStatus(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	const ok, failed = "HTTP/1.1 200 OK\r\n", "HTTP/1.1 500 No\r\n"
	f := func(host, want string, serve func(*tls.Conn), check func(*testing.T, attemptOnFile)) {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			url := w.target(t, host+".your-app.com", serve)
			h := acme.final(t, acme.queue(t, url, twice))
			if ofHistory(h) != want {
				t.Errorf("%s\nwant %s", ofHistory(h), want)
			}
			check(t, h.Attempts[0])
		})
	}
	nothing := func(t *testing.T, a attemptOnFile) {
		if a.ResponseBody != nil {
			t.Errorf("%d bytes of a success were kept", len(*a.ResponseBody))
		}
	}
	const deadTwice = "dead_letter: failed 500 http_status, failed 500 http_status"
	f("endless-200", "delivered: delivered 200", sayForever(ok+"\r\n", "and so on "), nothing)
	f("chunks-200", "delivered: delivered 200", sayForever(ok+"Transfer-Encoding: chunked\r\n\r\n", "4\r\nmore\r\n"), nothing)
	f("stalled-200", "delivered: delivered 200", sayAndStay(ok+"Content-Length: 10\r\n\r\nabc"), nothing)
	f("broken-200", "delivered: delivered 200", sayAndReset(ok+"Content-Length: 10\r\n\r\nabc"), nothing)
	f("hints-then-200", "delivered: delivered 200",
		say("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"+ok+"Content-Length: 0\r\n\r\n"), nothing)
	f("endless-500", deadTwice, sayForever(failed+"\r\n", "and so on "), func(t *testing.T, a attemptOnFile) {
		if a.ResponseBody == nil || len(*a.ResponseBody) != 4096 || !a.BodyTruncated || !strings.HasPrefix(*a.ResponseBody, "and so on and") {
			t.Errorf("kept of an endless failure: %+v", a)
		}
	})
	f("short-500", deadTwice, say(failed+"Content-Length: 9\r\n\r\nno \xc3\xa4 \x00\n\""), func(t *testing.T, a attemptOnFile) {
		if a.ResponseBody == nil || *a.ResponseBody != "no ä \x00\n\"" || a.BodyTruncated {
			t.Errorf("kept of a short failure: %+v", a)
		}
	})
}

// The address is checked again at every attempt: a name that was innocent when
// the send was accepted does not lead inside later.
func TestRebindingOpensNoConnection(t *testing.T) {
	t.Parallel()
	w := startWorld(t, "--egress-allow", "127.0.0.1/32")
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	in := w.inbox(t, "your-app.com", answers(200))
	_, port, err := net.SplitHostPort(strings.TrimPrefix(in.url, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	trapped := make(chan struct{}, 16)
	serveConns(t, "127.0.0.2:"+port, func(net.Conn) { trapped <- struct{}{} })

	// Accepted while the name is innocent; it moves before the attempt, which
	// comes when the answer of the acceptance is no longer good.
	late := acme.queue(t, in.url, `"delay_ms":1200`)
	w.names.address("your-app.com", "127.0.0.2")
	h := acme.final(t, late)
	if got, want := ofHistory(h), "rejected: rejected - address_blocked"; got != want {
		t.Errorf("%s\nwant %s\n%s", got, want, h.text)
	}
	if h.Attempts[0].RemoteIP != nil || strings.Contains(h.text, "127.0.0.2") {
		t.Errorf("the answer is a map of what is inside: %s", h.text)
	}
	// A new send is refused at once, with no hint either.
	refusal := acme.call(t, "POST", "/v1/send", sendBody(in.url, ""))
	refusal.refused(400, "not allowed")
	if strings.Contains(string(refusal.body), "127.") {
		t.Errorf("the refusal says where the name leads: %s", refusal.body)
	}
	in.empty(t)
	select {
	case <-trapped:
		t.Error("a connection was made to an address that is not allowed")
	default:
	}
}

// Every field that the contract names on an attempt is there, on one that
// failed and on one that did not.
func TestEveryAttemptFieldIsThere(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	in := w.inbox(t, "your-app.com", func(n int, rw http.ResponseWriter, _ *http.Request) {
		if n == 1 {
			rw.WriteHeader(503)
			io.WriteString(rw, "come back later")
		}
	})
	id := acme.queue(t, in.url, `"body":"four","metadata":{"order":[1,2, 3]},"labels":["red","blau"],`+twice)
	h := acme.final(t, id)
	whole := acme.call(t, "GET", "/v1/deliveries/"+id, "").want(200)
	wantKeys(t, "a delivery", whole, "queue_id", "target", "method", "status", "last_status", "idempotency_key",
		"created_at", "updated_at", "attempts", "metadata", "labels", "max_attempts", "next_attempt_at", "expires_at", "body_bytes", "flow_key")
	attempts := whole["attempts"].([]any)
	if len(attempts) != 2 {
		t.Fatalf("attempts: %s", h.text)
	}
	always := []string{"attempt", "outcome", "http_status", "latency_ms", "error", "created_at", "started_at", "next_attempt_at", "timing", "remote_ip"}
	first, second := attempts[0].(map[string]any), attempts[1].(map[string]any)
	wantKeys(t, "a failed attempt", first, append([]string{"response_body", "response_body_truncated"}, always...)...)
	wantKeys(t, "the attempt that delivered", second, always...)
	wantKeys(t, "timing", first["timing"].(map[string]any), "dns_ms", "connect_ms", "tls_ms", "first_byte_ms", "reused")
	if first["error"] != "http_status: 503 Service Unavailable" || first["response_body"] != "come back later" || first["remote_ip"] != "127.0.0.1" {
		t.Errorf("the failed attempt: %v", first)
	}
	if second["error"] != nil || second["next_attempt_at"] != nil || second["attempt"] != 2.0 || second["outcome"] != "delivered" {
		t.Errorf("the attempt that delivered: %v", second)
	}
	if timing := first["timing"].(map[string]any); timing["tls_ms"].(float64) <= 0 || timing["connect_ms"].(float64) <= 0 || timing["reused"] != false {
		t.Errorf("timing of a first attempt: %v", timing)
	}
	if timing := second["timing"].(map[string]any); timing["reused"] != true || timing["tls_ms"] != 0.0 {
		t.Errorf("timing on a connection that was there: %v", timing)
	}
	if string(h.Metadata) != `{"order":[1,2, 3]}` || strings.Join(h.Labels, " ") != "red blau" || h.MaxAttempts != 2 || h.BodyBytes != 4 || h.NextAttemptAt != nil {
		t.Errorf("on record: %s", h.text)
	}
}
