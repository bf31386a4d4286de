// Package deploy holds the files under deploy/ against the types and parsers of
// the programs that read them: a field that Kubernetes does not know, or a query
// that Prometheus cannot parse, fails here and not on somebody's cluster.
package deploy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
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

// manifests are the documents of a file, strictly of Kubernetes' types.
type manifests struct {
	service  corev1.Service
	headless corev1.Service // of cluster.yaml
	set      appsv1.StatefulSet
	budget   policyv1.PodDisruptionBudget
}

// alone and clustered are what the two files have, by kind and name.
func (m *manifests) alone() map[string]any {
	return map[string]any{"Service/harepost": &m.service, "StatefulSet/harepost": &m.set, "PodDisruptionBudget/harepost": &m.budget}
}

func (m *manifests) clustered() map[string]any {
	into := m.alone()
	into["Service/harepost-nodes"] = &m.headless
	return into
}

func readManifests(t *testing.T, name string, into map[string]any) {
	t.Helper()
	r := yaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(file(t, "kubernetes", name))))
	defer r.Close()
	for text := make([]byte, 64<<10); ; {
		n, err := r.Read(text)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		var kind struct {
			Kind     string
			Metadata struct{ Name string }
		}
		if err := strict.Unmarshal(text[:n], &kind); err != nil {
			t.Fatal(err)
		}
		object, ok := into[kind.Kind+"/"+kind.Metadata.Name]
		if !ok {
			t.Fatalf("a %s %q, or a second one", kind.Kind, kind.Metadata.Name)
		}
		delete(into, kind.Kind+"/"+kind.Metadata.Name)
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
}

// One server: two cannot share a data directory.
func TestKubernetesTakesTheManifests(t *testing.T) {
	var m manifests
	readManifests(t, "harepost.yaml", m.alone())
	m.check(t)
	if *m.set.Spec.Replicas != 1 || m.set.Spec.ServiceName != m.service.Name {
		t.Errorf("%d replicas of the service %s", *m.set.Spec.Replicas, m.set.Spec.ServiceName)
	}
	if mounts := m.set.Spec.Template.Spec.Containers[0].VolumeMounts; len(mounts) != 1 {
		t.Errorf("%d volumes", len(mounts))
	}
}

// Three nodes, which find each other by name before they are ready, of which one at
// a time may be away, each on a machine of its own.
func TestKubernetesTakesTheManifestsOfACluster(t *testing.T) {
	var m manifests
	readManifests(t, "cluster.yaml", m.clustered())
	m.check(t)
	must := func(ok bool, what string) {
		t.Helper()
		if !ok {
			t.Error(what)
		}
	}
	spec := m.set.Spec
	must(*spec.Replicas == 3, "replicas are not 3")
	must(spec.PodManagementPolicy == appsv1.ParallelPodManagement, "the first node waits for others that wait for it")
	must(m.headless.Spec.ClusterIP == "None" && m.headless.Spec.PublishNotReadyAddresses, "nodes are found only when they are ready")
	must(spec.ServiceName == m.headless.Name && subset(m.headless.Spec.Selector, spec.Template.Labels), "the nodes have no names")
	must(m.budget.Spec.MaxUnavailable.IntValue() == 1, "more than one node may be away")
	must(len(spec.Template.Spec.TopologySpreadConstraints) == 1, "two nodes may be on one machine")
	env := map[string]corev1.EnvVar{}
	for i, e := range spec.Template.Spec.Containers[0].Env {
		env[e.Name] = e
		must(e.Name != "HAREPOST_NODE_ID" || i == 0, "the node's id is used before it is known")
	}
	must(env["HAREPOST_NODE_ID"].ValueFrom.FieldRef.FieldPath == "metadata.name", "the node's id is not the pod's name")
	var addresses []string
	for i := range 3 {
		addresses = append(addresses, fmt.Sprintf("%s-%d.%s:%d", m.set.Name, i, m.headless.Name, m.headless.Spec.Ports[0].Port))
	}
	must(env["HAREPOST_JOIN"].Value == strings.Join(addresses, ","), "the nodes look for others elsewhere: "+env["HAREPOST_JOIN"].Value)
	must("harepost-0"+strings.TrimPrefix(env["HAREPOST_CLUSTER_ADVERTISE"].Value, "$(HAREPOST_NODE_ID)") == addresses[0], "a node is elsewhere than the others look for it")
	must(env["HAREPOST_BOOTSTRAP_EXPECT"].Value == "3", "it does not begin with three")
	must(env["HAREPOST_JOIN_TOKEN"].ValueFrom.SecretKeyRef != nil, "the join token is in clear text")
	must(spec.Template.Spec.Volumes[0].Secret != nil && *spec.Template.Spec.Volumes[0].Secret.DefaultMode == 0o440, "the keys can be read by everyone, or not by the nodes")
}

// check holds what is so of one server as of many: they fit to each other, are no
// root, can write to their volume only, and have time to drain.
func (m *manifests) check(t *testing.T) {
	t.Helper()
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
	must(len(m.set.Spec.VolumeClaimTemplates) == 1 &&
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

// The compose file of a cluster has three nodes with names, certificates and volumes
// of their own.
func TestComposeTakesTheFileOfACluster(t *testing.T) {
	project, err := loader.LoadWithContext(t.Context(), compose.ConfigDetails{
		WorkingDir:  ".",
		ConfigFiles: []compose.ConfigFile{{Filename: "compose.cluster.yaml", Content: file(t, "compose.cluster.yaml")}},
		Environment: compose.Mapping{"HAREPOST_ADMIN_TOKEN": "x", "HAREPOST_JOIN_TOKEN": "y"},
	}, func(o *loader.Options) { o.SetProjectName("harepost", true) })
	if err != nil {
		t.Fatal(err)
	}
	certs := strings.Join(project.Services["certs"].Command, " ")
	for _, id := range []string{"n1", "n2", "n3"} {
		s, ok := project.Services[id]
		if !ok {
			t.Fatalf("no %s", id)
		}
		for name, want := range map[string]string{
			"HAREPOST_NODE_ID": id, "HAREPOST_CLUSTER_ADVERTISE": id + ":7400", "HAREPOST_BOOTSTRAP_EXPECT": "3",
			"HAREPOST_CLUSTER_CERT": "/certs/nodes/" + id + ".pem", "HAREPOST_CLUSTER_KEY": "/certs/nodes/" + id + "-key.pem",
			"HAREPOST_ADMIN_TOKEN": "x", "HAREPOST_JOIN_TOKEN": "y", "HAREPOST_JOIN": "n1:7400,n2:7400,n3:7400",
		} {
			if got := s.Environment[name]; got == nil || *got != want {
				t.Errorf("%s: %s is not %s", id, name, want)
			}
		}
		if len(s.Volumes) != 2 || s.Volumes[0].Source != id || s.Volumes[0].Target != "/data" || !s.Volumes[1].ReadOnly {
			t.Errorf("%s: volumes %+v", id, s.Volumes)
		}
		if len(s.Ports) != 1 || s.Ports[0].HostIP != "127.0.0.1" || !s.ReadOnly {
			t.Errorf("%s: ports %+v, read-only %t", id, s.Ports, s.ReadOnly)
		}
		if !strings.Contains(certs, "--node "+id) {
			t.Errorf("%s gets no certificate: %s", id, certs)
		}
	}
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
