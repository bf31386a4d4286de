package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/harepost/harepost/raftstore"
)

// TestClusterCerts makes certificates as an operator would, adds a node later,
// and loads what was made.
func TestClusterCerts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs")
	call := func(want int, args ...string) (out, errs string) {
		t.Helper()
		var o, e bytes.Buffer
		sh := &shell{ctx: t.Context(), in: strings.NewReader(""), out: &o, err: &e}
		if got := run(sh, append([]string{"cluster", "certs", "--out", dir}, args...)); got != want {
			t.Fatalf("status %d, want %d\n%s%s", got, want, o.String(), e.String())
		}
		return o.String(), e.String()
	}
	out, errs := call(exitOK, "--node", "n1", "--node", "n2")
	if strings.Count(out, "\n") != 3 || !strings.Contains(out, filepath.Join(dir, "n2-key.pem")) {
		t.Errorf("said %q", out)
	}
	if !strings.Contains(errs, "ca-key.pem away from the nodes") {
		t.Errorf("warned %q", errs)
	}
	if out, errs := call(exitOK, "--node", "n3", "--host", "10.0.0.3", "--valid", "24h"); strings.Count(out, "\n") != 1 || errs != "" {
		t.Errorf("said %q, warned %q", out, errs)
	}
	if _, errs := call(exitFailed, "--node", "n1"); !strings.Contains(errs, "--force") {
		t.Errorf("of a node that is there: %q", errs)
	}
	call(exitOK, "--node", "n1", "--force")
	call(exitUsage, "--node", "N1")
	call(exitUsage, "--node", "n4", "--valid", "-1h")
	call(exitUsage)
	for _, id := range []string{"n1", "n2", "n3"} {
		c, err := raftstore.LoadClusterTLS(raftstore.ClusterTLSFiles{
			Cert: filepath.Join(dir, id+".pem"),
			Key:  filepath.Join(dir, id+"-key.pem"),
			CA:   filepath.Join(dir, "ca.pem"),
		}, nil)
		if err != nil || c.NodeID() != id {
			t.Errorf("%s: %v, %v", id, c, err)
		}
	}
}
