package main

import (
	"crypto/tls"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/harepost/harepost/bench/report"
)

// Any server can be measured, also one that sends to verified names over https
// only: the harness names what leads to its receiver. A load of which the server
// takes nothing is an error.
func TestBenchMeasuresAServerAsItRunsElsewhere(t *testing.T) {
	t.Parallel()
	const host = "bench.example.net"
	w := startWorld(t)
	key := w.tenant(t, "bench").verified(t, host).key

	// The receiver's port is free now, and the harness takes it soon.
	free := listenLoopback(t, "127.0.0.1:0")
	receiver := free.Addr().String()
	free.Close()
	front := listenLoopback(t, "127.0.0.1:0")
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: receiver})
	wires := &http.Transport{}
	proxy.Transport = wires
	srv := &http.Server{Handler: proxy}
	var done sync.WaitGroup
	done.Go(func() {
		srv.Serve(tls.NewListener(front, &tls.Config{Certificates: []tls.Certificate{w.ca.valid(host)}}))
	})
	t.Cleanup(func() { srv.Close(); done.Wait(); wires.CloseIdleConnections() })

	file := filepath.Join(t.TempDir(), "report.json")
	bench := func(key string) processResult {
		return runProcess(t, nil, "bench", "throughput", "--quick", "--rounds", "1", "--warmup", "50ms", "--duration", "200ms",
			"--connections", "4", "--systems", "server", "--dir", t.TempDir(), "--output", file, "--url", w.server.URL, "--api-key", key,
			"--receiver-listen", receiver, "--receiver-url", w.name(host, front.Addr())+"/in")
	}
	if r := bench(key); r.Status != exitOK {
		t.Fatalf("status %d\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	found, err := readReport(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, round := range found.Rounds {
		if v := round.Values; v[report.Accepted] == 0 || v[report.Arrived] != v[report.Accepted] || v[report.Lost] > 0 {
			t.Errorf("%v, first failure %q", v, round.FirstFailure)
		}
	}
	if r := bench("hp_live_nobody"); r.Status == exitOK || !strings.Contains(r.Stderr, "nothing was accepted") {
		t.Errorf("with a key of nobody's: status %d\n%s", r.Status, r.Stderr)
	}
}
