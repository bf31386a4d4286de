package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/harepost/harepost/engine/backup"
)

// A name that no file can have is refused before anything is fetched, whatever
// --force says.
func TestABackupOverADirectoryIsRefusedAtOnce(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
	defer server.Close()
	t.Setenv("HAREPOST_URL", server.URL)
	t.Setenv("HAREPOST_ADMIN_TOKEN", testAdminToken)
	dir := t.TempDir()
	for _, args := range [][]string{{"backup", dir}, {"backup", "--force", dir}, {"backup", "--force", filepath.Join(dir, "absent", "x.tar")}} {
		status, _, stderr := runHere(t, args...)
		if status == exitOK || asked != 0 || strings.Count(stderr, "\n") > 2 || strings.Contains(stderr, "already closed") {
			t.Errorf("%q: status %d after %d requests\n%s", args, status, asked, stderr)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// Where the name is taken while the backup is fetched, that is all that is said.
func TestABackupWhoseNameIsTakenMeanwhileSaysNoMore(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.tar")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err := os.Mkdir(file, 0o700); err != nil {
			t.Error(err)
		}
		b, err := backup.NewWriter(w, backup.Manifest{})
		if err == nil {
			err = b.Close()
		}
		if err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	t.Setenv("HAREPOST_URL", server.URL)
	t.Setenv("HAREPOST_ADMIN_TOKEN", testAdminToken)
	status, _, stderr := runHere(t, "backup", file)
	if status != exitFailed || strings.Contains(stderr, "already closed") || !strings.Contains(stderr, "file exists") {
		t.Errorf("status %d\n%s", status, stderr)
	}
}
