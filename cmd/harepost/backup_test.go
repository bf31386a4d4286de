package main

import (
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
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

// serveEmptyBackup lets commands find a server that gives a whole backup with
// nothing in it, after it has done something else.
func serveEmptyBackup(t *testing.T, first func() error) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		err := first()
		b, writeErr := backup.NewWriter(w, backup.Manifest{})
		if writeErr == nil {
			writeErr = b.Close()
		}
		if err := errors.Join(err, writeErr); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	t.Setenv("HAREPOST_URL", server.URL)
	t.Setenv("HAREPOST_ADMIN_TOKEN", testAdminToken)
}

// Where the name is taken while the backup is fetched, that is all that is said.
func TestABackupWhoseNameIsTakenMeanwhileSaysNoMore(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.tar")
	serveEmptyBackup(t, func() error { return os.Mkdir(file, 0o700) })
	status, _, stderr := runHere(t, "backup", file)
	if status != exitFailed || strings.Contains(stderr, "already closed") || !strings.Contains(stderr, "file exists") {
		t.Errorf("status %d\n%s", status, stderr)
	}
}

// A backup that was killed leaves what it had, which is as secret as all of it
// and as large. The next one of the name removes it, and nothing else: not what
// another backup is writing, and nothing that only looks alike.
func TestTheNextBackupRemovesWhatAKilledOneLeft(t *testing.T) {
	serveEmptyBackup(t, func() error { return nil })
	dir := t.TempDir()
	file := filepath.Join(dir, "x.tar")
	// A process that was killed has no lock any more, and neither has a closed file.
	left, err := createUnfinished(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := left.Close(); err != nil {
		t.Fatal(err)
	}
	busy, err := createUnfinished(file)
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	if _, err := os.Stat(left.Name()); err == nil {
		t.Errorf("%s is still there", left.Name())
	}
	keep := map[string]bool{"x.tar": true, filepath.Base(busy.Name()): true}
	for _, name := range []string{".x.tar.1", ".x.tar.unfinished-", ".x.tar.unfinished-1a", ".y.tar.unfinished-1", "x.tar.unfinished-1", ".ax.tar.unfinished-1"} {
		writeFile(t, filepath.Join(dir, name), nil)
		keep[name] = true
	}
	if err := os.Mkdir(filepath.Join(dir, ".x.tar.unfinished-2"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(busy.Name(), filepath.Join(dir, ".x.tar.unfinished-3")); err != nil {
		t.Fatal(err)
	}
	keep[".x.tar.unfinished-2"], keep[".x.tar.unfinished-3"] = true, true
	writeFile(t, filepath.Join(dir, ".x.tar.unfinished-4"), []byte("left"))

	for range 2 {
		if status, _, stderr := runHere(t, "backup", "--force", file); status != exitOK {
			t.Fatalf("status %d\n%s", status, stderr)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	if want := slices.Sorted(maps.Keys(keep)); !slices.Equal(names, want) {
		t.Errorf("there are %q, want %q", names, want)
	}
}
