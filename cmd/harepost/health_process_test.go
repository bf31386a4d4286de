package main

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

// What a container runtime asks: 0 or 1, and no key.
func TestHealth(t *testing.T) {
	s := startServer(t, "--dev")
	u := newUser(t, s.URL, "")
	u.prints("ready", exitOK, "health")
	u.prints(`{"status":"ready","accepting_sends":true}`, exitOK, "health", "--json")
	s.kill9()
	u.prints("refused", exitFailed, "health")
	u.runs(exitUsage, "health", "--timeout", "0s")

	answers := func(wants string, exit, status int, body string) {
		t.Helper()
		other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			w.Write([]byte(body))
		}))
		defer other.Close()
		newUser(t, other.URL, "").prints(wants, exit, "health")
	}
	answers("503|shutting down", exitFailed, 503, `{"error":"not ready","detail":"the server is shutting down"}`)
	// Nobody is helped when such a server is ended.
	answers("ready, but takes no sends|the disk is full", exitOK, 200, `{"status":"ready","accepting_sends":false,"detail":"the disk is full"}`)
	answers("ready", exitOK, 200, `{"status":"ready"}`)
}

// Beside a server, health finds it by the server's own variables.
func TestHealthGoesByServesVariables(t *testing.T) {
	asks := func(env ...string) {
		t.Helper()
		user{t, env}.prints("ready", exitOK, "health")
	}
	plain := startServer(t, "--dev")
	address := strings.TrimPrefix(plain.URL, "http://")
	port := address[strings.LastIndexByte(address, ':'):]
	asks("HAREPOST_LISTEN=" + address)
	asks("HAREPOST_LISTEN=0.0.0.0" + port)
	asks("HAREPOST_LISTEN=" + port)
	asks("HAREPOST_LISTEN=127.0.0.1:1", "HAREPOST_URL="+plain.URL)

	files := newMounted(t)
	cert, key, _ := newAuthority(t).pair()
	files.put(cert, key)
	secure := startServer(t, "--dev", "--tls-cert", files.cert, "--tls-key", files.key)
	asks("HAREPOST_LISTEN="+strings.TrimPrefix(secure.URL, "https://"), "HAREPOST_TLS_CERT="+files.cert)
	newUser(t, secure.URL, "").prints("certificate", exitFailed, "health")

	socket := filepath.Join(socketDir(t), "api.sock")
	startServer(t, "--dev", "--listen", "", "--unix-socket", socket)
	asks("HAREPOST_LISTEN=", "HAREPOST_UNIX_SOCKET="+socket)

	for listen, want := range map[string]string{"[::]:81": "http://127.0.0.1:81", "192.0.2.7:81": "http://192.0.2.7:81", "none": "http://127.0.0.1:8080"} {
		got, err := ownURL(func(name string) (string, bool) {
			if name != "HAREPOST_LISTEN" || listen == "none" {
				return "", false
			}
			return listen, true
		})
		if got != want || err != nil {
			t.Errorf("%s: %s, %v; want %s", listen, got, err, want)
		}
	}
	user{t, []string{"HAREPOST_LISTEN=8080"}}.prints("HAREPOST_LISTEN|HOST:PORT", exitUsage, "health")
}
