package docs_test

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	metricName = regexp.MustCompile(`\bharepost_[a-z0-9_]+`)
	exported   = regexp.MustCompile(`(?m)^((?:harepost|process|go)_[a-z0-9_]+)`)
	monitored  = regexp.MustCompile(`\b(?:harepost|process|go)_[a-z0-9_]+`)
)

// metricsPage is what a new server shows under /metrics.
func metricsPage(t *testing.T) map[string]bool {
	t.Helper()
	r := newReader(t)
	r.open("metrics", block{text: "harepost serve --dev --data-dir ./data"})
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://127.0.0.1:" + r.ports["8080"] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, m := range exported.FindAllStringSubmatch(string(page), -1) {
		names[m[1]] = true
		names[strings.TrimSuffix(m[1], "_bucket")] = true // a histogram goes by its own name too
	}
	return names
}

// TestMetricsExist looks for every metric that alerts, dashboard and documents
// name on a real page.
func TestMetricsExist(t *testing.T) {
	names := metricsPage(t)
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
			if !names[name] && name != "harepost_signature" { // a field of listen --json
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
