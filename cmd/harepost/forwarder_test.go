package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// What arrives at listen arrives at the program, and its answer at the sender,
// less what belongs to a connection.
func TestListenForwardsToALocalProgram(t *testing.T) {
	program := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Program", "yes")
		w.Header().Set("Connection", "X-Hop")
		w.Header().Set("X-Hop", "of this connection")
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(w, "%s %s|%s|%s|%s|%s|%s", r.Method, r.URL.RequestURI(), body, r.Header.Get("X-Trace"),
			r.Header.Get("X-Mine"), r.Header.Get("Keep-Alive"), r.Header.Get("X-Harepost-Signature"))
	}))
	defer program.Close()
	f := func(forward, path, want string) {
		t.Helper()
		l := startListen(t, "--secret", testSecret, "--forward", program.URL+forward, "--count", "1")
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, l.url+path, strings.NewReader(`{"a":1}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Trace", "abc")
		req.Header.Set("Connection", "close, X-Mine")
		req.Header.Set("X-Mine", "of this connection")
		req.Header.Set("Keep-Alive", "timeout=5")
		sign(t, req.Header, []byte(`{"a":1}`), testSecret)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		want += `|{"a":1}|abc|||` + req.Header.Get("X-Harepost-Signature")
		if resp.StatusCode != http.StatusAccepted || string(text) != want {
			t.Errorf("%s, %s: %d %q, want 202 %q", forward, path, resp.StatusCode, text, want)
		}
		if resp.Header.Get("X-Program") != "yes" || resp.Header.Get("X-Hop") != "" {
			t.Errorf("headers of the answer: %v", resp.Header)
		}
		if status := <-l.ended; status != exitOK || !strings.Contains(l.stdout.String(), "answered 202") {
			t.Errorf("status %d\n%s", status, l.stdout.String())
		}
	}
	f("", "/orders?x=1", "PUT /orders?x=1")
	f("/", "/orders?x=1", "PUT /orders?x=1")
	f("/hook", "/orders?x=1", "PUT /hook?x=1")
	f("/hook?k=v", "/orders", "PUT /hook?k=v")
	f("/hook?k=v", "/orders?x=1", "PUT /hook?k=v&x=1")
}

func TestListenAnswers502WhereNobodyIs(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	l := startListen(t, "--forward", "http://"+ln.Addr().String())
	if resp := l.post(t, "/", "{}", "", 1); resp.StatusCode != http.StatusBadGateway {
		t.Errorf("answered %d", resp.StatusCode)
	}
	l.end(t)
	if !strings.Contains(l.stdout.String(), "connection refused") {
		t.Errorf("the reason is not shown:\n%s", l.stdout.String())
	}
}

// A request that comes back to where it came from would do so for ever.
func TestListenDoesNotForwardToItself(t *testing.T) {
	f := func(to, own string, loop bool) {
		t.Helper()
		forward, err := newForwarder(to)
		if err != nil {
			t.Fatal(err)
		}
		address, err := net.ResolveTCPAddr("tcp", own)
		if err != nil {
			t.Fatal(err)
		}
		if err := forward.refuseLoop(t.Context(), address); (err != nil) != loop {
			t.Errorf("%s from %s: %v, want a loop: %v", to, own, err, loop)
		}
	}
	f("http://127.0.0.1:9000", "127.0.0.1:9000", true)
	f("http://127.0.0.1:9000/hook", "127.0.0.1:9000", true)
	f("http://localhost:9000/", "127.0.0.1:9000", true)
	f("http://[::ffff:127.0.0.1]:9000/", "127.0.0.1:9000", true)
	f("http://127.0.0.1/", "127.0.0.1:80", true)
	f("https://127.0.0.1/", "127.0.0.1:443", true)
	f("http://127.0.0.1:9000/", "0.0.0.0:9000", true)
	f("http://0.0.0.0:9000/", "127.0.0.1:9000", true)
	f("http://[::1]:9000/", "[::]:9000", true)
	f("http://127.0.0.1:3000", "127.0.0.1:9000", false)
	f("http://127.0.0.2:9000", "127.0.0.1:9000", false)
	f("http://[::1]:9000", "127.0.0.1:9000", false)
	f("http://192.0.2.1:9000", "0.0.0.0:9000", false)

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	ln.Close()
	if status, _, stderr := runHere(t, "listen", "--addr", address, "--forward", "http://"+address); status != exitUsage || !strings.Contains(stderr, "leads back") {
		t.Errorf("status %d: %s", status, stderr)
	}
}

// A redirect is the sender's business, and a failure on purpose reaches nobody.
func TestListenForwardsNeitherFailuresNorFollowsRedirects(t *testing.T) {
	asked := make(chan string, 4)
	program := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	}))
	defer program.Close()
	l := startListen(t, "--forward", program.URL, "--fail-first", "1", "--retry-after", "5")
	if resp := l.post(t, "/failed", "{}", "", 1); resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "5" {
		t.Errorf("answered %d, Retry-After %q", resp.StatusCode, resp.Header.Get("Retry-After"))
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, l.url+"/passed", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Harepost-Attempt", "2")
	resp, err := http.DefaultTransport.RoundTrip(req) // which follows nothing itself
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusFound || resp.Header.Get("Location") != "/elsewhere" {
		t.Errorf("answered %d, Location %q", resp.StatusCode, resp.Header.Get("Location"))
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	l.end(t)
	if got := <-asked; got != "/passed" || len(asked) > 0 {
		t.Errorf("the program was asked for %s, and %d more", got, len(asked))
	}
}

func TestListenAnswersEveryRequestWithItsStatus(t *testing.T) {
	l := startListen(t, "--status", "503", "--retry-after", "5")
	for attempt := range 2 {
		resp := l.post(t, "/", "{}", "", attempt+1)
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "5" {
			t.Errorf("answered %d, Retry-After %q", resp.StatusCode, resp.Header.Get("Retry-After"))
		}
	}
	l.end(t)
}
