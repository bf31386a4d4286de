package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const testSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// A listening is `harepost listen` in this process.
type listening struct {
	url            string
	stop           func() // as Ctrl-C
	ended          chan int
	stdout, stderr *syncBuffer
}

// startListen runs `harepost listen` with args on a free port.
func startListen(t *testing.T, args ...string) *listening {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &listening{stop: cancel, ended: make(chan int, 1), stdout: new(syncBuffer), stderr: new(syncBuffer)}
	line := &firstLine{w: l.stderr, line: make(chan string, 1)}
	go func() {
		sh := &shell{ctx: ctx, in: strings.NewReader(""), out: l.stdout, err: line}
		l.ended <- run(sh, append([]string{"listen", "--addr", "127.0.0.1:0"}, args...))
	}()
	t.Cleanup(cancel)
	select {
	case text := <-line.line:
		l.url = regexp.MustCompile(`http://[^,]+`).FindString(text)
	case status := <-l.ended:
		t.Fatalf("listen %q ended with status %d: %s", args, status, l.stderr.String())
	}
	return l
}

// A firstLine hands the first text that is written to a channel.
type firstLine struct {
	w    io.Writer
	line chan string
}

func (f *firstLine) Write(p []byte) (int, error) {
	if strings.HasPrefix(string(p), "Listening on") {
		f.line <- string(p)
	}
	return f.w.Write(p)
}

// post sends a request as Harepost would; it is signed when secret is set.
func (l *listening) post(t *testing.T, path, body, secret string, attempt int) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, l.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Harepost-Delivery", "hr_test")
	req.Header.Set("X-Harepost-Attempt", fmt.Sprint(attempt))
	if secret != "" {
		sign(t, req.Header, []byte(body), secret)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp
}

// sign adds both signatures. The standard one comes from the reference
// library, the other is written out, as the contract states it.
func sign(t *testing.T, h http.Header, body []byte, secret string) {
	t.Helper()
	now := time.Now()
	w, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	standard, err := w.Sign("hr_test", now, body)
	if err != nil {
		t.Fatal(err)
	}
	h.Set("webhook-id", "hr_test")
	h.Set("webhook-timestamp", fmt.Sprint(now.Unix()))
	h.Set("webhook-signature", standard)
	h.Set("X-Harepost-Signature", fmt.Sprintf("t=%d,v1=%s", now.Unix(), hmacHex(secret, fmt.Sprintf("%d.%s", now.Unix(), body))))
}

func (l *listening) end(t *testing.T) int {
	t.Helper()
	l.stop()
	select {
	case status := <-l.ended:
		return status
	case <-time.After(processPatience):
		t.Fatal("listen does not end")
		return -1
	}
}

func TestListenPrintsARequestAndVerifiesBothSignatures(t *testing.T) {
	l := startListen(t, "--secret", testSecret)
	if resp := l.post(t, "/orders?id=1", `{"order":1}`, testSecret, 1); resp.StatusCode != http.StatusOK {
		t.Errorf("answered %d", resp.StatusCode)
	}
	if status := l.end(t); status != exitOK {
		t.Errorf("status %d", status)
	}
	for _, want := range []string{"POST /orders?id=1", "hr_test, attempt 1", "X-Harepost-Signature valid, webhook-signature valid", `{"order":1}`} {
		if !strings.Contains(l.stdout.String(), want) {
			t.Errorf("%q is not in\n%s", want, l.stdout.String())
		}
	}
}

func TestListenEndsWithStatusOneAfterAWrongSignature(t *testing.T) {
	f := func(name, secret string, change func(http.Header)) {
		t.Helper()
		l := startListen(t, "--secret", testSecret, "--count", "1", "--json")
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, l.url, strings.NewReader("{}"))
		req.Close = true
		if secret != "" {
			sign(t, req.Header, []byte("{}"), secret)
		}
		change(req.Header)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if status := <-l.ended; status != exitFailed {
			t.Errorf("%s: status %d, want 1\n%s", name, status, l.stdout.String())
		}
	}
	f("unsigned", "", func(http.Header) {})
	f("another secret", "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", func(http.Header) {})
	f("only the standard one", testSecret, func(h http.Header) { h.Del("X-Harepost-Signature") })
	f("only ours", testSecret, func(h http.Header) { h.Del("webhook-signature") })
	f("ours made earlier", testSecret, func(h http.Header) {
		old := time.Now().Add(-time.Hour).Unix()
		h.Set("X-Harepost-Signature", fmt.Sprintf("t=%d,v1=%s", old, hmacHex(testSecret, fmt.Sprintf("%d.{}", old))))
	})
}

func TestListenFailsTheFirstAttemptsOfEveryDelivery(t *testing.T) {
	l := startListen(t, "--fail-first", "2", "--fail-status", "429", "--retry-after", "3s", "--status", "201")
	f := func(attempt, want int, retryAfter string) {
		t.Helper()
		resp := l.post(t, "/", "", "", attempt)
		if resp.StatusCode != want || resp.Header.Get("Retry-After") != retryAfter {
			t.Errorf("attempt %d: %d, Retry-After %q", attempt, resp.StatusCode, resp.Header.Get("Retry-After"))
		}
	}
	f(1, 429, "3")
	f(2, 429, "3")
	f(3, 201, "")
	f(1, 429, "3")
	if status := l.end(t); status != exitOK {
		t.Errorf("status %d", status)
	}
}

// The same seed fails the same requests; about the share that was asked for.
func TestListenFailsAShareThatTheSeedRepeats(t *testing.T) {
	pattern := func() string {
		l := startListen(t, "--fail-rate", "0.5", "--seed", "7")
		var statuses strings.Builder
		for i := range 40 {
			fmt.Fprintf(&statuses, "%d ", l.post(t, "/", "", "", i+1).StatusCode)
		}
		l.end(t)
		return statuses.String()
	}
	first, second := pattern(), pattern()
	if first != second {
		t.Errorf("seed 7 gave\n%s, then\n%s", first, second)
	}
	if n := strings.Count(first, "503"); n < 8 || n > 32 {
		t.Errorf("%d of 40 failed: %s", n, first)
	}
}

func TestListenCountsToItsEndAndPrintsJSON(t *testing.T) {
	l := startListen(t, "--count", "2", "--json", "--secret", testSecret)
	l.post(t, "/a", "one", testSecret, 1)
	l.post(t, "/b", "two", testSecret, 2)
	if status := <-l.ended; status != exitOK {
		t.Fatalf("status %d: %s", status, l.stderr.String())
	}
	lines := bytes.Split(bytes.TrimSpace([]byte(l.stdout.String())), []byte("\n"))
	if len(lines) != 2 {
		t.Fatalf("%d lines:\n%s", len(lines), l.stdout.String())
	}
	var second struct {
		URI      string `json:"uri"`
		Body     []byte `json:"body_base64"`
		Attempt  int    `json:"attempt"`
		Harepost string `json:"harepost_signature"`
		Standard string `json:"standard_webhooks_signature"`
	}
	if err := json.Unmarshal(lines[1], &second); err != nil {
		t.Fatal(err)
	}
	if second.URI != "/b" || string(second.Body) != "two" || second.Attempt != 2 || second.Harepost != "valid" || second.Standard != "valid" {
		t.Errorf("%+v", second)
	}
}

// What came from the network must not steer the terminal.
func TestListenPrintsNoControlCharacters(t *testing.T) {
	l := startListen(t, "--body-bytes", "64")
	l.post(t, "/", "\x1b[2Jgone\r\n\u009bnext "+strings.Repeat("ü", 100), "", 1)
	l.post(t, "/", "\xff\xfe", "", 1)
	l.end(t)
	got := l.stdout.String()
	for _, r := range got {
		if r < ' ' && r != '\n' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			t.Fatalf("%q in\n%q", r, got)
		}
	}
	for _, want := range []string{"gone", "more)", "(2 B, not text)"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
}

// hmacHex is the v1 of X-Harepost-Signature.
func hmacHex(secret, signed string) string {
	m := hmac.New(sha256.New, []byte(secret))
	m.Write([]byte(signed))
	return hex.EncodeToString(m.Sum(nil))
}

// --delay holds the answer back. How much longer it takes is the machine's.
func TestListenDelaysItsAnswers(t *testing.T) {
	t.Parallel() // it mostly waits
	const delay = 2 * time.Second
	l := startListen(t, "--delay", delay.String())
	began := time.Now()
	resp := l.post(t, "/", "{}", "", 1)
	if took := time.Since(began); resp.StatusCode != http.StatusOK || took < delay {
		t.Errorf("answered %d after %s, want 200 after %s at least", resp.StatusCode, took, delay)
	}
	if status := l.end(t); status != exitOK {
		t.Errorf("status %d", status)
	}
}

// What is answered on purpose says so, and does not say that all went well.
func TestListenAnswersHonestly(t *testing.T) {
	f := func(status int, want string) {
		t.Helper()
		w := httptest.NewRecorder()
		answer{Status: status}.plain().write(w)
		if got := strings.TrimSpace(w.Body.String()); w.Code != status || got != want {
			t.Errorf("%d is answered with %d %s, want %s", status, w.Code, got, want)
		}
	}
	f(200, `{"received":true}`)
	f(202, `{"received":true}`)
	f(204, "")
	f(302, `{"error":"refused on purpose"}`)
	f(404, `{"error":"refused on purpose"}`)
	f(503, `{"error":"refused on purpose"}`)
}

// Nobody is told that an answer arrived which had nobody to go to. It waits for
// the sender to leave, not for the delay.
func TestListenSeesThatTheSenderHadGone(t *testing.T) {
	for _, args := range [][]string{{"--count", "1"}, {"--count", "1", "--json"}} {
		l := startListen(t, append(args, "--delay", "10m")...)
		conn, err := net.Dial("tcp", strings.TrimPrefix(l.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}")
		conn.Close()
		if status := <-l.ended; status != exitOK {
			t.Errorf("status %d", status)
		}
		if text := l.stdout.String(); !strings.Contains(text, "answered 200 OK, but the sender had gone") && !strings.Contains(text, `"sender_gone":true`) {
			t.Errorf("%q:\n%s", args, text)
		}
	}
}

func TestListenCountsWhatWasWrong(t *testing.T) {
	f := func(count int, want string) {
		t.Helper()
		l := startListen(t, "--secret", testSecret, "--count", fmt.Sprint(count))
		for range count {
			l.post(t, "/", "{}", "", 1)
		}
		if status := <-l.ended; status != exitFailed || !strings.Contains(l.stderr.String(), want) {
			t.Errorf("status %d\n%s\nwant %q", status, l.stderr.String(), want)
		}
	}
	f(1, "1 request was not rightly signed")
	f(2, "2 requests were not rightly signed")
}

// A person at a terminal sees at a glance what was answered; a program that
// reads from a pipe gets no escapes.
func TestListenColoursAtATerminalOnly(t *testing.T) {
	const green, red = "\x1b[32m200 OK\x1b[0m", "\x1b[31m503 Service Unavailable\x1b[0m"
	args := []string{"listen", "--addr", "127.0.0.1:0", "--fail-first", "1", "--count", "2"}
	post := func(text func() string) {
		t.Helper()
		eventually(t, "end with Ctrl-C", text)
		l := &listening{url: regexp.MustCompile(`http://[^,]+`).FindString(text())}
		l.post(t, "/", "{}", "", 1)
		l.post(t, "/", "{}", "", 2)
	}
	f := func(variable string, colours bool) {
		t.Helper()
		term := startAtTerminal(t, 120, []string{variable}, args...)
		post(term.screen.String)
		status, screen := term.end()
		if status != exitOK || strings.Contains(screen, green) != colours || strings.Contains(screen, red) != colours || strings.Contains(screen, "\x1b[") != colours {
			t.Errorf("%s: status %d, want colours %v\n%q", variable, status, colours, screen)
		}
	}
	f("NO_COLOR=", true)
	f("NO_COLOR=1", false)

	piped := startChild(t, nil, nil, args...)
	post(piped.output.String)
	select {
	case <-piped.ended:
	case <-time.After(processPatience):
		t.Fatal("it does not end")
	}
	if text := piped.output.String(); strings.Contains(text, "\x1b") || !strings.Contains(text, "503 Service Unavailable") {
		t.Errorf("in a pipe:\n%q", text)
	}
}
