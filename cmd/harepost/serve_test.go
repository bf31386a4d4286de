package main

import (
	"context"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Each contradiction is refused before anything is opened: the data directory
// must not even be made.
func TestServeRefusesContradictions(t *testing.T) {
	dir := t.TempDir()
	f := func(want string, args ...string) {
		t.Helper()
		data := filepath.Join(dir, "data")
		args = append([]string{"serve", "--data-dir", data}, args...)
		status, _, stderr := runHere(t, args...)
		if status != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%q:\nstatus %d, stderr %q; want status 2 and %q", args, status, stderr, want)
		}
		if _, err := os.Stat(data); err == nil {
			t.Fatalf("%q made the data directory", args)
		}
	}
	f("add --dev-public", "--dev", "--listen", "0.0.0.0:0")
	f("add --dev-public", "--dev", "--listen", "[::]:0")
	f("add --dev-public", "--dev", "--listen", ":0")
	f("add --dev-public", "--dev", "--listen", "192.0.2.1:8080")
	f("add --dev-public", "--dev", "--listen", "example.com:8080")
	f("only for --dev", "--dev-public")
	f("is part of --dev", "--dev", "--open-signup")
	f("is not HOST:PORT", "--listen", "8080")
	f("is not HOST:PORT", "--listen", "::1:8080:9")
	f("the port must be", "--listen", "127.0.0.1:http")
	f("the port must be", "--listen", "127.0.0.1:70000")
	f("nobody could reach the API", "--listen", "")
	f("belong together", "--tls-cert", filepath.Join(dir, "cert.pem"))
	f("belong together", "--tls-key", filepath.Join(dir, "key.pem"))
	f("for --listen, which is empty", "--listen", "", "--unix-socket", filepath.Join(dir, "s"), "--tls-cert", "a", "--tls-key", "b")
	f("--tls-cert: open", "--tls-cert", filepath.Join(dir, "cert.pem"), "--tls-key", filepath.Join(dir, "key.pem"))
	f("is not loopback", "--pprof", "0.0.0.0:6060")
	f("is not loopback", "--pprof", ":6060")
	f("is not a CIDR", "--egress-allow", "10.0.0.0/8,nonsense")
	f("is not a CIDR", "--egress-allow", "10.0.0.0/33")
	f("is not a CIDR", "--egress-allow", "fe80::1%eth0")
	f("10.0.0.0/8 is meant", "--egress-allow", "10.0.0.1/8")
	f("no such file", "--egress-ca", filepath.Join(dir, "absent.pem"))
	f("must be an IP address", "--dns-resolver", "dns.example.com:53")
	f("is not HOST:PORT", "--dns-resolver", "127.0.0.1")
	f("must be at least 100ms", "--drain-timeout", "0s")
	f("must be at least 0s", "--drain-delay=-1s")
	f("must not be negative", "--rate-limit=-1")
	f("must be above 0", "--max-in-flight", "0")
	f("must be above 0", "--max-labels", "0")
	f("must be at most 256", "--max-labels", "257")
	f("must be at most 1000", "--max-headers", "1001")
	f("must be at most 16777216", "--max-request-bytes", "16777217")
	f("must be at most 50000", "--max-batch-sends", "50001")
	f("for one body of the largest size", "--max-body-bytes-in-flight", "16777215")
	f("for one body of the largest size", "--max-account-body-bytes-in-flight", "0")
	f("is above --max-in-flight", "--lane-concurrency", "100", "--max-in-flight", "10")
	f("is for a node of a cluster: give --node-id too", "--join", "127.0.0.1:7401")
	f("is for a node of a cluster: give --node-id too", "--bootstrap-expect", "3")
	f("is for a node of a cluster: give --node-id too", "--cluster-addr", "127.0.0.1:7401")
	f("give --cluster-addr", "--node-id", "n1")
	node := func(args ...string) []string {
		return append([]string{"--node-id", "n1", "--cluster-addr", "127.0.0.1:0"}, args...)
	}
	f("of a-z, 0-9 and -", "--node-id", "N1", "--cluster-addr", "127.0.0.1:0")
	f("of a-z, 0-9 and -", "--node-id=-n1", "--cluster-addr", "127.0.0.1:0")
	f("give --cluster-cert, --cluster-key and --cluster-ca", "--node-id", "n1", "--cluster-addr", "192.0.2.1:7401")
	f("give --cluster-cert, --cluster-key and --cluster-ca", "--node-id", "n1", "--cluster-addr", "0.0.0.0:7401", "--cluster-advertise", "n1.example:7401")
	f("give --cluster-advertise", "--node-id", "n1", "--cluster-addr", "0.0.0.0:7401")
	f("give --cluster-advertise", "--node-id", "n1", "--cluster-addr", ":7401")
	f("as others reach them", node("--cluster-advertise", "0.0.0.0:7401")...)
	f("is not HOST:PORT", node("--cluster-advertise", "n1")...)
	f("belong together", node("--cluster-cert", "a")...)
	f("belong together", node("--cluster-cert", "a", "--cluster-key", "b")...)
	f("waits for other nodes", node("--bootstrap-expect", "3")...)
	f("from 0 to 9", node("--bootstrap-expect", "10", "--join", "127.0.0.1:7402")...)
	f("needs its --join-token", node("--join", "127.0.0.1:7402")...)
	f("is not HOST:PORT", node("--join", "127.0.0.1:7402,n3", "--join-token", "t")...)
	f("are the same token", node("--join", "127.0.0.1:7402", "--join-token", "t", "--join-token-file", "f")...)
	f("--join-token-file: open", node("--join", "127.0.0.1:7402", "--join-token-file", filepath.Join(dir, "absent"))...)
	f("must be at least 100ms", node("--election-timeout", "99ms")...)
	f("--cluster-entry-bytes is for a node of a cluster", "--cluster-entry-bytes", "65536")
	f("--cluster-entries-in-flight is for a node of a cluster", "--cluster-entries-in-flight", "8")
	f("--cluster-entry-bytes must be from 4096 to 4194304", node("--cluster-entry-bytes", "4095")...)
	f("--cluster-entry-bytes must be from 4096 to 4194304", node("--cluster-entry-bytes", "4194305")...)
	f("--cluster-entries-in-flight must be from 1 to 64", node("--cluster-entries-in-flight", "0")...)
	f("--cluster-entries-in-flight must be from 1 to 64", node("--cluster-entries-in-flight", "65")...)
	f("must be one of", "--log-level", "loud")
	f("must be one of", "--log-format", "xml")
	f("invalid duration", "--drain-timeout", "soon")
	f("expected a valid", "--rate-limit", "many")
}

func TestServeNeedsADataDirectory(t *testing.T) {
	status, _, stderr := runHere(t, "serve")
	if status != exitUsage || !strings.Contains(stderr, "--data-dir") {
		t.Errorf("status %d, stderr %q", status, stderr)
	}
}

func TestEgressCAMustHoldACertificate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, []byte("not a certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	status, _, stderr := runHere(t, "serve", "--data-dir", t.TempDir(), "--egress-ca", file)
	if status != exitUsage || !strings.Contains(stderr, "holds no certificate") {
		t.Errorf("status %d, stderr %q", status, stderr)
	}
}

func TestDevAllowsLoopbackAndNothingElse(t *testing.T) {
	c := mustParseServe(t, "--data-dir", "x", "--dev", "--egress-allow", "10.1.2.3, 10.4.0.0/16")
	cfg, err := c.config(io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	f := func(address string, want bool) {
		t.Helper()
		ip := netip.MustParseAddr(address)
		if got := slices.ContainsFunc(cfg.egressAllow, func(p netip.Prefix) bool { return p.Contains(ip) }); got != want {
			t.Errorf("%s allowed: %v, want %v", address, got, want)
		}
	}
	f("127.0.0.1", true)
	f("127.255.255.255", true)
	f("::1", true)
	f("10.1.2.3", true)
	f("10.1.2.4", false)
	f("10.4.255.255", true)
	f("10.5.0.0", false)
	f("0.0.0.0", false)
	f("169.254.169.254", false)
}

func TestOneSettingComesFromTheFirstPlaceThatHasIt(t *testing.T) {
	file := filepath.Join(t.TempDir(), "harepost.conf")
	text := "# a comment\n\n data-dir = /from/file\nrate-limit=7\n drain-timeout = 9s \nallow-http-targets = true\negress-allow = 10.0.0.0/8, 192.0.2.0/24\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HAREPOST_RATE_LIMIT", "8")
	t.Setenv("HAREPOST_DRAIN_TIMEOUT", "10s")
	c := parsedServe(t, "serve", "--config", file, "--drain-timeout", "11s")
	if c.DataDir != "/from/file" || !c.AllowHTTPTargets || len(c.EgressAllow) != 2 {
		t.Errorf("from the file: %+v", c)
	}
	if c.RateLimit != 8 {
		t.Errorf("rate limit %d: the environment goes before the file", c.RateLimit)
	}
	if c.DrainTimeout != 11*time.Second {
		t.Errorf("drain timeout %s: the command line goes before both", c.DrainTimeout)
	}
	if c.LaneConcurrency != 160 {
		t.Errorf("lane concurrency %d: nothing set it, so it is the default", c.LaneConcurrency)
	}

	t.Setenv("HAREPOST_CONFIG", file)
	if c := parsedServe(t, "serve"); c.DataDir != "/from/file" {
		t.Errorf("HAREPOST_CONFIG was not read: %+v", c)
	}
}

func TestConfigFileMistakesAreNamedByLine(t *testing.T) {
	f := func(want, text string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "harepost.conf")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		status, _, stderr := runHere(t, "serve", "--config", file)
		if status != exitUsage || !strings.Contains(stderr, want) || !strings.Contains(stderr, "--config "+file) {
			t.Errorf("%q: status %d, stderr %q; want %q", text, status, stderr, want)
		}
	}
	f(`line 2: there is no flag "listne"`, "data-dir = x\nlistne = 127.0.0.1:1\n")
	f("line 1 is not", "data-dir\n")
	f("line 3: data-dir stands there twice", "data-dir = x\n\ndata-dir = y\n")
	f(`there is no flag "config"`, "config = other\n")
	f("line 2: drain-timeout: ", "data-dir = x\ndrain-timeout = soon\n")
	f("invalid duration", "data-dir = x\ndrain-timeout = soon\n")
	f("line 1: rate-limit: ", "rate-limit = many\ndata-dir = x\n")
	f("line 2: dev: ", "data-dir = x\ndev = perhaps\n")
	f(`line 2: log-level: it must be one of debug, info, warn, error, not "loud"`, "data-dir = x\nlog-level = loud\n")
	f("line 2: listen: a value stands there without quotes", "data-dir = x\nlisten = \"127.0.0.1:1\"\n")
	f("line 1: listen: a value stands there without quotes", "listen = '127.0.0.1:1'\n")

	status, _, stderr := runHere(t, "serve", "--config", filepath.Join(t.TempDir(), "absent"))
	if status != exitUsage || !strings.Contains(stderr, "--config") {
		t.Errorf("status %d, stderr %q", status, stderr)
	}
}

// A signal may come while the data directory is being recovered.
func TestASignalBeforeServingDrainsToo(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 5 {
		var out, errs syncBuffer
		sh := &shell{ctx: ctx, in: strings.NewReader(""), out: &out, err: &errs}
		status := run(sh, []string{"serve", "--dev", "--data-dir", filepath.Join(t.TempDir(), "data"), "--listen", "127.0.0.1:0"})
		if status != exitOK || !strings.Contains(errs.String(), "everything accepted is on disk") {
			t.Fatalf("status %d\n%s", status, errs.String())
		}
	}
}

func mustParseServe(t *testing.T, args ...string) *serveCmd {
	t.Helper()
	c, err := parseServe(args...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// What is rarely meant is said, and done all the same.
func TestClusterWarnings(t *testing.T) {
	f := func(want []string, token string, args ...string) {
		t.Helper()
		c := mustParseServe(t, append([]string{"--data-dir", "x", "--node-id", "n1", "--cluster-addr", "127.0.0.1:7401"}, args...)...)
		if err := c.checkCluster(); err != nil {
			t.Fatal(err)
		}
		got := c.clusterWarnings(token)
		if len(got) != len(want) {
			t.Fatalf("%q, want %q", got, want)
		}
		for i := range want {
			if !strings.Contains(got[i], want[i]) {
				t.Errorf("%q, want %q", got[i], want[i])
			}
		}
	}
	certs := []string{"--cluster-cert", "a", "--cluster-key", "b", "--cluster-ca", "c"}
	f(nil, "", certs...)
	f([]string{"no certificates"}, "a token of some length")
	f([]string{"as one of 1 does"}, "", append(certs, "--bootstrap-expect", "2", "--join", "127.0.0.1:7402")...)
	f([]string{"as one of 3 does", "may be guessed"}, "short", append(certs, "--bootstrap-expect", "4", "--join", "127.0.0.1:7402")...)
	f([]string{"this node alone"}, "", append(certs, "--cluster-advertise", "n1.example:7401", "--bootstrap-expect", "3", "--join", "n1.example:7401")...)
}

// The directory of a node is not opened by a server that would run alone.
func TestServeAloneRefusesTheDirectoryOfANode(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, clusterDir), 0o700); err != nil {
		t.Fatal(err)
	}
	status, _, stderr := runHere(t, "serve", "--data-dir", dir, "--listen", "127.0.0.1:0")
	if status != exitFailed || !strings.Contains(stderr, "harepost cluster detach") || !strings.Contains(stderr, "--node-id") {
		t.Errorf("status %d, stderr %q", status, stderr)
	}
}
