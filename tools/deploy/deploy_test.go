// Package deploy holds the files under deploy/ against the types and parsers of
// the programs that read them: a field that Kubernetes does not know, or a query
// that Prometheus cannot parse, fails here and not on somebody's cluster.
package deploy

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	compose "github.com/compose-spec/compose-go/v2/types"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	kubejson "sigs.k8s.io/json"
	strict "sigs.k8s.io/yaml"
)

func file(t *testing.T, path ...string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{"..", "..", "deploy"}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// The rules are read as Prometheus reads them: the form, every query, and every
// template.
func TestPrometheusTakesTheRules(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	groups, errs := rulefmt.Parse(file(t, "prometheus", "rules.yml"), false, model.UTF8Validation, parser.NewParser(parser.Options{}), log)
	for _, err := range errs {
		t.Error(err)
	}
	if groups == nil || len(groups.Groups) == 0 {
		t.Fatal("no rules")
	}
}

// Grafana's variables stand for these.
var variables = strings.NewReplacer("$__rate_interval", "5m", "$__interval", "1m", "$instance", "x")

// Every panel has queries, and Prometheus can parse each.
func TestPrometheusTakesTheDashboardsQueries(t *testing.T) {
	var dashboard struct {
		Panels []struct {
			Title   string
			Type    string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(file(t, "grafana", "dashboard.json"), &dashboard); err != nil {
		t.Fatal(err)
	}
	p, queries := parser.NewParser(parser.Options{}), 0
	for _, panel := range dashboard.Panels {
		if len(panel.Targets) == 0 && panel.Type != "row" {
			t.Errorf("panel %q has no query", panel.Title)
		}
		for _, target := range panel.Targets {
			queries++
			if _, err := p.ParseExpr(variables.Replace(target.Expr)); err != nil {
				t.Errorf("panel %q: %s: %v", panel.Title, target.Expr, err)
			}
		}
	}
	if queries == 0 {
		t.Error("no queries")
	}
}

// manifests are the documents of harepost.yaml, strictly of Kubernetes' types.
type manifests struct {
	service corev1.Service
	set     appsv1.StatefulSet
	budget  policyv1.PodDisruptionBudget
}

func readManifests(t *testing.T) (m manifests) {
	t.Helper()
	into := map[string]any{"Service": &m.service, "StatefulSet": &m.set, "PodDisruptionBudget": &m.budget}
	r := yaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(file(t, "kubernetes", "harepost.yaml"))))
	defer r.Close()
	for text := make([]byte, 64<<10); ; {
		n, err := r.Read(text)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		var kind struct{ APIVersion, Kind string }
		if err := strict.Unmarshal(text[:n], &kind); err != nil {
			t.Fatal(err)
		}
		object, ok := into[kind.Kind]
		if !ok {
			t.Fatalf("a %q, or a second one", kind.Kind)
		}
		delete(into, kind.Kind)
		document, err := strict.YAMLToJSONStrict(text[:n])
		if err != nil {
			t.Fatal(err)
		}
		unknown, err := kubejson.UnmarshalStrict(document, object)
		if err := errors.Join(append(unknown, err)...); err != nil {
			t.Errorf("%s: %v", kind.Kind, err)
		}
	}
	for kind := range into {
		t.Errorf("no %s", kind)
	}
	if t.Failed() {
		t.FailNow()
	}
	return m
}

// The manifests fit to each other, run one server that is no root and can write
// to its volume only, and let it drain.
func TestKubernetesTakesTheManifests(t *testing.T) {
	m := readManifests(t)
	pod := m.set.Spec.Template.Spec
	if len(pod.Containers) != 1 {
		t.Fatalf("%d containers", len(pod.Containers))
	}
	c := pod.Containers[0]
	must := func(ok bool, what string) {
		t.Helper()
		if !ok {
			t.Error(what)
		}
	}
	must(m.set.Spec.Replicas != nil && *m.set.Spec.Replicas == 1, "replicas are not 1")
	must(m.set.Spec.ServiceName == m.service.Name, "the set's service is another")
	labels := m.set.Spec.Template.Labels
	for what, selector := range map[string]map[string]string{
		"service": m.service.Spec.Selector, "set": m.set.Spec.Selector.MatchLabels, "budget": m.budget.Spec.Selector.MatchLabels,
	} {
		must(len(selector) > 0 && subset(selector, labels), "the "+what+" does not select the pod")
	}
	ports := map[string]bool{}
	for _, p := range c.Ports {
		ports[p.Name] = true
	}
	must(ports[m.service.Spec.Ports[0].TargetPort.String()], "the service's port is none of the container's")
	for path, probe := range map[string]*corev1.Probe{"/readyz": c.ReadinessProbe, "/healthz": c.LivenessProbe} {
		must(probe != nil && probe.HTTPGet != nil && probe.HTTPGet.Path == path && ports[probe.HTTPGet.Port.String()], "no probe of "+path)
	}
	must(c.StartupProbe != nil && c.StartupProbe.FailureThreshold*c.StartupProbe.PeriodSeconds >= 300, "a start has less than five minutes")
	must(pod.SecurityContext.RunAsNonRoot != nil && *pod.SecurityContext.RunAsNonRoot, "it may be root")
	must(*c.SecurityContext.ReadOnlyRootFilesystem && !*c.SecurityContext.AllowPrivilegeEscalation, "it may write outside its volume, or gain rights")
	must(len(c.SecurityContext.Capabilities.Drop) == 1 && c.SecurityContext.Capabilities.Drop[0] == "ALL", "it keeps capabilities")
	must(*pod.TerminationGracePeriodSeconds > 5+30+2, "it is killed while it drains")
	must(len(c.VolumeMounts) == 1 && len(m.set.Spec.VolumeClaimTemplates) == 1 &&
		c.VolumeMounts[0].Name == m.set.Spec.VolumeClaimTemplates[0].Name, "the volume is another")
	for _, e := range c.Env {
		must(e.Name != "HAREPOST_ADMIN_TOKEN" || e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil, "the admin token is in clear text")
	}
}

func subset(of, labels map[string]string) bool {
	for k, v := range of {
		if labels[k] != v {
			return false
		}
	}
	return true
}

// The compose file is one, asks for an admin token, and listens for this machine
// only.
func TestComposeTakesTheFile(t *testing.T) {
	load := func(env compose.Mapping) (*compose.Project, error) {
		return loader.LoadWithContext(t.Context(), compose.ConfigDetails{
			WorkingDir:  ".",
			ConfigFiles: []compose.ConfigFile{{Filename: "compose.yaml", Content: file(t, "compose.yaml")}},
			Environment: env,
		}, func(o *loader.Options) { o.SetProjectName("harepost", true) })
	}
	if _, err := load(nil); err == nil || !strings.Contains(err.Error(), "HAREPOST_ADMIN_TOKEN") {
		t.Errorf("without an admin token: %v", err)
	}
	project, err := load(compose.Mapping{"HAREPOST_ADMIN_TOKEN": "x"})
	if err != nil {
		t.Fatal(err)
	}
	s := project.Services["harepost"]
	for _, p := range s.Ports {
		if p.HostIP != "127.0.0.1" {
			t.Errorf("port %s is published on %q", p.Published, p.HostIP)
		}
	}
	if len(s.Ports) == 0 || !s.ReadOnly || s.Build == nil || s.Build.Dockerfile != "deploy/Dockerfile" {
		t.Errorf("%d ports, read-only %t, build %+v", len(s.Ports), s.ReadOnly, s.Build)
	}
}
