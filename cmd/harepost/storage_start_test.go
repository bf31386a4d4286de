package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fullStartScript has a mount namespace of its own. The directory $1 comes onto
// a small disk at $0, all of whose room is taken; the program in the arguments
// after it runs there; and what it leaves comes back as $1.after.
const fullStartScript = `mount -t tmpfs -o size=128m none "$0" && cp -r "$1" "$0/data" || exit 99
from="$1"; shift
cat /dev/zero > "$0/fill" 2> /dev/null
"$@"; status=$?
rm "$0/fill" && cp -r "$0/data" "$from.after" || exit 99
exit $status`

// A disk that is full when the server starts gets a sentence that says so, not
// a stack, and costs nothing: with room again, what was accepted is there.
func TestAStartOnAFullDiskSaysSo(t *testing.T) {
	unshare, err := exec.LookPath("unshare")
	if err != nil || os.Geteuid() != 0 {
		t.Skip("mounting a small disk needs root and unshare(1)")
	}
	mount := t.TempDir()
	if text, err := exec.Command(unshare, "-m", "mount", "-t", "tmpfs", "none", mount).CombinedOutput(); err != nil {
		t.Skipf("no mount namespaces here: %v: %s", err, text)
	}
	first := startServer(t, "--dev")
	key := first.devKey()
	ids := make([]string, 50)
	for i := range ids {
		ids[i] = first.send(key, "http://127.0.0.1:1024/")
	}
	first.kill9()

	args := append([]string{"-m", "sh", "-c", fullStartScript, mount, first.DataDir, harepostBinary(t)},
		serveArgs(t, []string{"--dev", "--data-dir", filepath.Join(mount, "data")})...)
	cmd := exec.Command(unshare, args...)
	cmd.Env = cleanEnvironment()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(processPatience, func() { cmd.Process.Kill() })
	defer timer.Stop()
	exit, ended := errors.AsType[*exec.ExitError](cmd.Wait())
	if !ended || exit.ExitCode() != exitFailed && exit.ExitCode() != exitStorageFailed {
		t.Fatalf("ended with %v, want status %d or %d\n%s", exit, exitFailed, exitStorageFailed, stderr.String())
	}
	if said := stderr.String(); !strings.Contains(said, "the disk is full: make room") || strings.Contains(said, "goroutine ") {
		t.Errorf("the server said:\n%s", said)
	}

	second := startServer(t, "--dev", "--data-dir", first.DataDir+".after")
	for _, id := range ids {
		if code, text := second.request("GET", "/v1/deliveries/"+id, key, ""); code != 200 {
			t.Errorf("%s: %d %s", id, code, text)
		}
	}
}
