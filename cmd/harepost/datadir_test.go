package main

import (
	"os"
	"path/filepath"
	"testing"
)

// Payloads and hashes of keys stand in the data directory. Nobody but its owner
// may look in, also when it was made by someone who let everyone in.
func TestDataIsForItsOwnerOnly(t *testing.T) {
	fresh := filepath.Join(t.TempDir(), "a", "b")
	open := t.TempDir()
	if err := os.Chmod(open, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{fresh, open} {
		for range 2 { // the second time all is there
			if err := prepareDataDir(dir); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range []string{walDir, stateDir} {
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if mode := info.Mode().Perm(); mode != 0o700 {
				t.Errorf("%s/%s is %v, want only its owner in", dir, name, mode)
			}
		}
	}
}
