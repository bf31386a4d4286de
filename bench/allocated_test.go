package bench

import (
	"os"
	"path/filepath"
	"testing"
)

func TestAllocatedBytesAreThoseOfAllFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "below"), 0o700); err != nil {
		t.Fatal(err)
	}
	const size = 1 << 20
	for _, name := range []string{"a", "below/b"} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		// Synced, since some file systems give a file its blocks only then.
		if _, err := f.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := allocatedBytes(dir); err != nil || got < size || got > 3*size {
		t.Errorf("two files of %d bytes take %d, %v", size, got, err)
	}
	if _, err := allocatedBytes(filepath.Join(dir, "none")); err == nil {
		t.Error("a directory that is not there takes some")
	}
}
