package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/harepost/harepost/engine/seal"
)

// Data that was encrypted is not served without the key, and the refusal says
// what is missing; a new first key takes over from the old one.
func TestEncryptedDataNeedsItsKeyFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	line := func(id string) string {
		r := runProcess(t, nil, "encryption-key", "--id", id)
		if r.Status != 0 || !strings.HasPrefix(r.Stdout, id+":") {
			t.Fatalf("status %d: %s", r.Status, r.Stderr)
		}
		return r.Stdout
	}
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	older, newer := line("k1"), line("k2")
	write(older)
	s := startServer(t, "--dev", "--encryption-key-file", file)
	key := s.devKey()
	s.stop()

	refused := func(what, want string, status int, args ...string) {
		t.Helper()
		r := runProcess(t, nil, append([]string{"serve", "--data-dir", s.DataDir, "--listen", "127.0.0.1:0"}, args...)...)
		if r.Status != status || !strings.Contains(r.Stderr, want) {
			t.Errorf("%s: status %d:\n%s", what, r.Status, r.Stderr)
		}
	}
	refused("without the key file", "the data is encrypted", exitFailed)
	write(line("k1"))
	refused("with another key of the same name", "another key of the same name", exitFailed, "--encryption-key-file", file)
	write(newer)
	refused("with another key", `does not have the master key "k1"`, exitFailed, "--encryption-key-file", file)
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	refused("with a key file for all", "chmod 600", exitUsage, "--encryption-key-file", file)
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}

	for _, lines := range []string{newer + older, newer} {
		write(lines)
		s = startServer(t, "--dev", "--data-dir", s.DataDir, "--encryption-key-file", file)
		if status, text := s.request(http.MethodGet, "/v1/signing-secret", key, ""); status != http.StatusOK || !strings.Contains(text, "whsec_") {
			t.Errorf("with %d bytes of keys: %d %s", len(lines), status, text)
		}
		s.stop()
	}
}

// Rotation as it is documented, on one day: the names are not given.
func TestKeysOfOneDayStandInOneFile(t *testing.T) {
	made := func() string {
		t.Helper()
		status, line, stderr := runHere(t, "encryption-key")
		if status != exitOK || !strings.HasPrefix(line, "k20") {
			t.Fatalf("status %d: %s%s", status, line, stderr)
		}
		return line
	}
	older, newer := made(), made()
	name, _, _ := strings.Cut(newer, ":")
	if k, err := seal.ParseKeyring([]byte(newer + older)); err != nil || k.Active() != name {
		t.Errorf("%v; want %s to be the active one", err, name)
	}
}
