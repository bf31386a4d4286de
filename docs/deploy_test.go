package docs_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var (
	metricName = regexp.MustCompile(`\bharepost_[a-z0-9_]+`)
	exported   = regexp.MustCompile(`(?m)^((?:harepost|process|go)_[a-z0-9_]+)`)
	monitored  = regexp.MustCompile(`\b(?:harepost|process|go)_[a-z0-9_]+`)
)

// A page of metrics: the names, and for each label "name{label" its values.
type metricsPage struct {
	names  map[string]bool
	values map[string]map[string]bool
}

// readMetrics is what a new server with everything on shows under /metrics, the only
// node of a cluster. All series of ours are there from the start.
func readMetrics(t *testing.T) metricsPage {
	t.Helper()
	r := newReader(t)
	certificate(t, r.dir)
	r.open("metrics", block{text: "harepost serve --dev --data-dir ./data --tls-cert cert.pem --tls-key key.pem " +
		"--node-id n1 --cluster-addr 127.0.0.1:0 --bootstrap-expect 1"})
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	resp, err := client.Get("https://127.0.0.1:" + r.ports["8080"] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	shown := metricsPage{map[string]bool{}, map[string]map[string]bool{}}
	for _, m := range exported.FindAllStringSubmatch(string(page), -1) {
		shown.names[m[1]] = true
		shown.names[strings.TrimSuffix(m[1], "_bucket")] = true // a histogram goes by its own name too
	}
	for _, m := range series.FindAllStringSubmatch(string(page), -1) {
		for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
			of := m[1] + "{" + l[1]
			if shown.values[of] == nil {
				shown.values[of] = map[string]bool{}
			}
			shown.values[of][l[3]] = true
		}
	}
	return shown
}

// certificate writes a pair of files that a server takes.
func certificate(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: cert}, "key.pem": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

var (
	series  = regexp.MustCompile(`\b((?:harepost|process|go)_[a-z0-9_]+)\{([^}]*)\}`)
	matcher = regexp.MustCompile(`(\w+)(=~?|!=|!~)\\?"([^"\\]*)\\?"`)
)

// TestAlertsMatchSeries looks for every label that alerts and dashboard match
// on, with every value: one that is never exported makes an alert that never
// fires. What Prometheus adds itself, and variables, are not ours.
func TestAlertsMatchSeries(t *testing.T) {
	shown := readMetrics(t)
	found := 0
	for _, file := range []string{filepath.Join("..", "deploy", "prometheus", "rules.yml"), filepath.Join("..", "deploy", "grafana", "dashboard.json")} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range series.FindAllStringSubmatch(string(text), -1) {
			for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
				if l[1] == "job" || l[1] == "instance" || strings.Contains(l[3], "$") {
					continue
				}
				for _, value := range strings.Split(l[3], "|") { // of =~, which has no more than that
					found++
					if !shown.values[m[1]+"{"+l[1]][value] {
						t.Errorf("%s: no series has %s{%s=%q}", file, m[1], l[1], value)
					}
				}
			}
		}
	}
	if found < 4 {
		t.Errorf("only %d label values found", found)
	}
}

var (
	alertName = regexp.MustCompile(`(?m)^ *- alert: (\w+)$`)
	alertRow  = regexp.MustCompile(`(?m)^\| (Harepost\w+) \| \S`)
)

// TestAlertTable: who is woken finds what to do.
func TestAlertTable(t *testing.T) {
	names := func(file string, which *regexp.Regexp) map[string]bool {
		t.Helper()
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		names := map[string]bool{}
		for _, m := range which.FindAllStringSubmatch(string(text), -1) {
			names[m[1]] = true
		}
		return names
	}
	alerts, rows := names(filepath.Join("..", "deploy", "prometheus", "rules.yml"), alertName), names("operating.md", alertRow)
	for name := range alerts {
		if !rows[name] {
			t.Errorf("operating.md does not say what to do about %s", name)
		}
	}
	for name := range rows {
		if !alerts[name] {
			t.Errorf("%s is in operating.md and no alert", name)
		}
	}
	if len(alerts) < 5 {
		t.Errorf("only %d alerts found", len(alerts))
	}
}

// elsewhere are the names that a page without traffic does not have.
var elsewhere = map[string]bool{
	"harepost_signature": true, // a field of listen --json

	// Of lanes in which something is pending; see TestMetricsOfLanes of package engine.
	"harepost_lane_pending": true, "harepost_lane_in_flight": true, "harepost_lane_oldest_due_age_seconds": true,

	// Of other nodes; see TestClusterMetrics of cmd/harepost.
	"harepost_cluster_peer_lag_entries": true, "harepost_cluster_peer_lag_bytes": true, "harepost_cluster_peer_reachable": true,

	// Of nodes with certificates; see TestWrongCertificatesAreRefused of cmd/harepost.
	"harepost_cluster_certificate_not_after_timestamp_seconds": true,
}

// TestMetricsExist looks for every metric that alerts, dashboard and documents
// name on a real page.
func TestMetricsExist(t *testing.T) {
	names := readMetrics(t).names
	look := func(file string, which *regexp.Regexp) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found := which.FindAllString(string(text), -1)
		if len(found) == 0 && which == monitored {
			t.Errorf("%s names no metric", file)
		}
		for _, name := range found {
			if !names[name] && !elsewhere[name] {
				t.Errorf("%s: %s is not on the metrics page", file, name)
			}
		}
	}
	look(filepath.Join("..", "deploy", "prometheus", "rules.yml"), monitored)
	look(filepath.Join("..", "deploy", "grafana", "dashboard.json"), monitored)
	for _, file := range documents(t) {
		look(file, metricName)
	}
}

// check runs a tool that judges a file of ours, where there is one.
func check(t *testing.T, tool string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		t.Skip("there is no", tool)
	}
	if text, err := exec.CommandContext(t.Context(), tool, args...).CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", tool, err, text)
	}
}

// TestUnit verifies the systemd unit, with a program that is there.
func TestUnit(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "deploy", "systemd", "harepost.service"))
	if err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(t.TempDir(), "harepost.service")
	if err := os.WriteFile(unit, bytes.ReplaceAll(text, []byte("/usr/local/bin/harepost"), []byte(harepost)), 0o600); err != nil {
		t.Fatal(err)
	}
	check(t, "systemd-analyze", "verify", "--man=no", unit)
}
