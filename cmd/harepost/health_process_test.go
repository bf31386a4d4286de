package main

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// What a container runtime asks: 0 or 1, and no key.
func TestHealth(t *testing.T) {
	s := startServer(t, "--dev")
	u := newUser(t, s.URL, "")
	u.prints("ready", exitOK, "health")
	u.prints(`{"status":"ready"}`, exitOK, "health", "--json")
	s.kill9()
	u.prints("refused", exitFailed, "health")
	full := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		w.Write([]byte(`{"error":"not ready","detail":"the disk is full"}`))
	}))
	defer full.Close()
	newUser(t, full.URL, "").prints("503|the disk is full", exitFailed, "health")
	u.runs(exitUsage, "health", "--timeout", "0s")
}
