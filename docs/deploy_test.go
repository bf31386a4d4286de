package docs_test

import (
	"bytes"
	"encoding/json"
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

// TestDashboardIsJSON also holds that panels have queries.
func TestDashboardIsJSON(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "deploy", "grafana", "dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	if len(dashboard.Panels) == 0 {
		t.Error("no panels")
	}
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			if target.Expr == "" {
				t.Errorf("panel %s has an empty query", p.Title)
			}
		}
		if len(p.Targets) == 0 {
			t.Errorf("panel %s has no query", p.Title)
		}
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

func TestAlertRules(t *testing.T) {
	check(t, "promtool", "check", "rules", filepath.Join("..", "deploy", "prometheus", "rules.yml"))
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

// manifestChecks is what must hold of the manifests, in Python, for want of a
// YAML parser of ours.
const manifestChecks = `
import sys, yaml
docs = {d["kind"]: d for f in sys.argv[1:2] for d in yaml.safe_load_all(open(f))}
assert set(docs) == {"Service", "StatefulSet", "PodDisruptionBudget"}, set(docs)
s = docs["StatefulSet"]["spec"]; pod = s["template"]["spec"]; c = pod["containers"][0]
assert s["replicas"] == 1
labels = s["template"]["metadata"]["labels"]
assert docs["Service"]["spec"]["selector"] == labels == s["selector"]["matchLabels"] == docs["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]
assert s["serviceName"] == docs["Service"]["metadata"]["name"]
ports = {p["name"] for p in c["ports"]}
for probe, path in ("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/healthz"):
    assert c[probe]["httpGet"]["path"] == path and c[probe]["httpGet"]["port"] in ports, probe
assert docs["Service"]["spec"]["ports"][0]["targetPort"] in ports
assert {m["name"] for m in c["volumeMounts"]} == {v["metadata"]["name"] for v in s["volumeClaimTemplates"]}
assert c["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
assert pod["terminationGracePeriodSeconds"] > 30 + 2 + 5
env = {e["name"]: e for e in c["env"]}
assert "secretKeyRef" in env["HAREPOST_ADMIN_TOKEN"]["valueFrom"]
compose = yaml.safe_load(open(sys.argv[2]))["services"]["harepost"]
assert all(p.startswith("127.0.0.1:") for p in compose["ports"])
yaml.safe_load(open(sys.argv[3]))
`

func TestManifests(t *testing.T) {
	if exec.CommandContext(t.Context(), "python3", "-c", "import yaml").Run() != nil {
		t.Skip("there is no python3 with its yaml")
	}
	deploy := filepath.Join("..", "deploy")
	check(t, "python3", "-c", manifestChecks, filepath.Join(deploy, "kubernetes", "harepost.yaml"),
		filepath.Join(deploy, "compose.yaml"), filepath.Join(deploy, "prometheus", "rules.yml"))
}
