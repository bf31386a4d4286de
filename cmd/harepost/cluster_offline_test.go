package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/harepost/harepost/raftstore"
)

// offlineRun runs a command and gives its status and all it said.
func offlineRun(t *testing.T, args ...string) (int, string) {
	t.Helper()
	var said bytes.Buffer
	status := run(&shell{ctx: context.Background(), in: strings.NewReader(""), out: &said, err: &said}, args)
	return status, said.String()
}

// What is wrong with a directory, or a file of peers, is told with what to do, and nothing is changed.
func TestOfflineClusterCommandsRefuse(t *testing.T) {
	single := filepath.Join(t.TempDir(), "single")
	if err := os.Mkdir(single, 0o700); err != nil {
		t.Fatal(err)
	}
	founding := filepath.Join(t.TempDir(), "founding")
	if err := os.Mkdir(founding, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := raftstore.OpenIdentity(vfs.Default, founding, "n1"); err != nil {
		t.Fatal(err)
	}
	peers := filepath.Join(t.TempDir(), "peers.json")
	if err := os.WriteFile(peers, []byte("[]"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   []string
		status int
		words  string
	}{
		{[]string{"detach", "--data-dir", single}, exitFailed, "not the directory of a node of a cluster"},
		{[]string{"detach"}, exitUsage, "--data-dir"},
		{[]string{"recover", "--data-dir", single, "--node-id", "n1"}, exitFailed, "not the directory of a node of a cluster"},
		{[]string{"recover", "--data-dir", founding, "--node-id", "n2"}, exitFailed, `belongs to node "n1"`},
		{[]string{"recover", "--data-dir", founding, "--node-id", "n1"}, exitFailed, "its cluster was not made yet"},
		{[]string{"recover", "--data-dir", founding, "--node-id", "n1", "--peers", peers}, exitUsage, "names no node"},
		{[]string{"recover", "--data-dir", founding, "--node-id", "n1", "--peers", peers + "x"}, exitUsage, "no such file"},
	} {
		status, said := offlineRun(t, append([]string{"cluster"}, c.args...)...)
		if status != c.status || !strings.Contains(said, c.words) {
			t.Errorf("cluster %s: status %d, said %q", strings.Join(c.args, " "), status, said)
		}
	}
	lock, err := lockDataDir(founding)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	for _, args := range [][]string{{"detach"}, {"recover", "--node-id", "n1"}} {
		status, said := offlineRun(t, append(append([]string{"cluster"}, args...), "--data-dir", founding)...)
		if status != exitFailed || !strings.Contains(said, "stop it first") {
			t.Errorf("with a server: status %d, said %q", status, said)
		}
	}
}
