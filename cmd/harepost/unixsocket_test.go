package main

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// socketDir is a directory whose name leaves room for a socket's: 107 bytes.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestServeOnAUnixSocket(t *testing.T) {
	path := filepath.Join(socketDir(t), "api.sock")
	s := startServer(t, "--dev", "--unix-socket", path)
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != fs.ModeSocket|0o660 {
		t.Errorf("%v, %v; want a socket of mode 0660", info, err)
	}
	overTCP, overSocket := newUser(t, s.URL, s.devKey()), newUser(t, "unix://"+path, s.devKey())
	overSocket.prints("DOMAIN", exitOK, "domains", "list")
	overTCP.prints("DOMAIN", exitOK, "domains", "list")

	second := runProcess(t, nil, "serve", "--data-dir", filepath.Join(t.TempDir(), "data"), "--listen", "127.0.0.1:0", "--unix-socket", path)
	if second.Status != exitFailed || !strings.Contains(second.Stderr, "a server answers on") {
		t.Errorf("a second server on the socket: status %d\n%s", second.Status, second.Stderr)
	}
	overSocket.runs(exitOK, "domains", "list")

	s.kill9()
	if _, err := os.Lstat(path); err != nil {
		t.Fatalf("a killed server removed its socket: %v", err)
	}
	overSocket.prints("no answer from unix://", exitNotNow, "domains", "list")
	only := startServer(t, "--dev", "--unix-socket", path, "--listen", "", "--data-dir", s.DataDir)
	if only.URL != "unix://"+path {
		t.Errorf("it says that it serves on %s", only.URL)
	}
	overSocket.runs(exitOK, "domains", "list")
	if status := only.stop(); status != exitOK {
		t.Errorf("status %d\n%s", status, only.stderr.String())
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// Only a socket that nobody answers on is taken for a leftover.
func TestWhatIsNoStaleSocketIsLeftAlone(t *testing.T) {
	dir := socketDir(t)
	file := filepath.Join(dir, "file")
	writeFile(t, file, []byte("years of work"))
	if _, err := listenUnix(file); err == nil || !strings.Contains(err.Error(), "is not a socket") {
		t.Errorf("a file: %v", err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "years of work" {
		t.Errorf("the file is now %q, %v", text, err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if _, err := listenUnix(link); err == nil {
		t.Error("a symbolic link was replaced")
	}
	if _, err := listenUnix(filepath.Join(dir, strings.Repeat("x", 120))); err == nil || !strings.Contains(err.Error(), "107 bytes") {
		t.Errorf("a long path: %v", err)
	}
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "stale")})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	ln, err := listenUnix(filepath.Join(dir, "stale"))
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
}
