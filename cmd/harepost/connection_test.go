package main

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A variable that was read from a file with another system's line ends is a
// mistake at this end: nobody should go and look at the server.
func TestAKeyWithALineBreakIsAMistakeInTheCommand(t *testing.T) {
	f := func(variable, flag string, args ...string) {
		t.Helper()
		t.Setenv("HAREPOST_API_KEY", "hp_live_x\r")
		t.Setenv("HAREPOST_ADMIN_TOKEN", "sesame\n")
		status, _, stderr := runHere(t, args...)
		if status != exitUsage || !strings.Contains(stderr, variable) || !strings.Contains(stderr, flag) || !strings.Contains(stderr, "line break") {
			t.Errorf("%q: status %d\n%s", args, status, stderr)
		}
		if strings.Contains(stderr, "hp_live_x") || strings.Contains(stderr, "sesame") {
			t.Errorf("%q: the key is shown\n%s", args, stderr)
		}
	}
	f("HAREPOST_API_KEY", "--api-key", "deliveries", "list")
	f("HAREPOST_API_KEY", "--api-key", "send", "https://a.example/")
	f("HAREPOST_ADMIN_TOKEN", "--admin-token", "accounts", "list")
	f("HAREPOST_ADMIN_TOKEN", "--admin-token", "accounts", "create", "shop")
	f("HAREPOST_ADMIN_TOKEN", "--admin-token", "backup", t.TempDir()+"/x.tar")
}

// Plain HTTP at a TLS port says no more than that the connection was closed.
func TestPlainHTTPAtATLSPortIsPointedToHTTPS(t *testing.T) {
	hangUp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer hangUp.Close()
	go func() {
		for {
			conn, err := hangUp.Accept()
			if err != nil {
				return
			}
			conn.Read(make([]byte, 1<<16)) // what is unread would make it a reset
			conn.Close()
		}
	}()
	alert, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer alert.Close()
	go func() {
		for {
			conn, err := alert.Accept()
			if err != nil {
				return
			}
			conn.(*tls.Conn).Handshake()
			conn.Close()
		}
	}()
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer silent.Close()
	f := func(url string, hinted bool) {
		t.Helper()
		status, _, stderr := runHere(t, "deliveries", "list", "--api-key", "k", "--url", url)
		if status != exitNotNow || strings.Contains(stderr, "begins with https://") != hinted {
			t.Errorf("%s: status %d\n%s", url, status, stderr)
		}
	}
	f("http://"+hangUp.Addr().String(), true)
	f("http://"+alert.Addr().String(), true)
	f(silent.URL, true)
	f("http://127.0.0.1:1", false)
}
