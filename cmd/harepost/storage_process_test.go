package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fullDiskScript becomes the program in "$@" in a mount namespace of its own,
// where $0 is a disk of 7 MiB that nobody else sees.
const fullDiskScript = `mount -t tmpfs -o size=7m none "$0" && exec "$@"`

// On a disk that fills up, every send is answered truthfully: it is refused
// while the server lives on; or, where a single send is larger than what is left
// of the log's last segment, the process ends with the status that tells a
// supervisor to look at the disk.
func TestAFullDiskIsSaid(t *testing.T) {
	t.Parallel() // it mostly waits: a server that stops gives a full disk some time
	unshare, err := exec.LookPath("unshare")
	if err != nil || os.Geteuid() != 0 {
		t.Skip("mounting a small disk needs root and unshare(1)")
	}
	mount := t.TempDir()
	probe := exec.Command(unshare, "-m", "sh", "-c", fullDiskScript, mount, "true")
	if text, err := probe.CombinedOutput(); err != nil {
		t.Skipf("no mount namespaces here: %v: %s", err, text)
	}
	args := append([]string{"-m", "sh", "-c", fullDiskScript, mount, harepostBinary(t)},
		serveArgs(t, []string{"--dev", "--data-dir", filepath.Join(mount, "data")})...)
	s := startServerCommand(t, exec.Command(unshare, args...))
	key := s.devKey()

	// Random text, so that no compression makes room.
	random := rand.NewChaCha8([32]byte{1})
	payload := make([]byte, 600<<10)
	accepted := 0
	// After the first refusal until the keeper, which looks once a second, says so.
	for !strings.Contains(s.stderr.String(), "the disk is full") {
		random.Read(payload)
		body := fmt.Sprintf(`{"target":"http://127.0.0.1:1024/","body":%q}`, base64.StdEncoding.EncodeToString(payload))
		status, text := s.request(http.MethodPost, "/v1/send", key, body)
		if status == http.StatusAccepted {
			if accepted++; accepted > 12 {
				t.Fatalf("%d sends of 800 KiB were accepted on a disk of 7 MiB", accepted)
			}
			continue
		}
		if status == 0 {
			break // it ended before the answer
		}
		if status != http.StatusServiceUnavailable {
			t.Fatalf("the send that found the disk full: %d %s", status, text)
		}
		<-time.After(20 * time.Millisecond) // the keeper is in another process
	}
	t.Logf("%d were accepted before", accepted) // none, where the server saw first how small the disk is
	want := exitStorageFailed
	if status, _ := s.request(http.MethodGet, "/healthz", "", ""); status == http.StatusOK {
		want = 0
	}
	if status := s.stop(); status != want {
		t.Errorf("status %d, want %d\n%s", status, want, s.stderr.String())
	}
	if !strings.Contains(s.stderr.String(), "no space left on device") {
		t.Errorf("the logs do not say why:\n%s", s.stderr.String())
	}
}

// The engine's failure is reported by one callback; what it does to the
// program is the same whatever broke.
func TestAStorageFailureEndsTheServerWithStatusThree(t *testing.T) {
	c := mustParseServe(t, "--data-dir", filepath.Join(t.TempDir(), "data"), "--listen", "127.0.0.1:0")
	var logs syncBuffer
	cfg, err := c.config(&logs)
	if err != nil {
		t.Fatal(err)
	}
	p, err := openProgram(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	p.fail(errors.New("wal: sync segment 1: input/output error"))
	p.fail(errors.New("another"))
	err = p.run(t.Context())
	if statusOf(err) != exitStorageFailed {
		t.Errorf("run returned %v, status %d", err, statusOf(err))
	}
	if !strings.Contains(logs.String(), "input/output error") {
		t.Errorf("the reason was not logged:\n%s", logs.String())
	}
	// Only a test goes on living after that.
	ctx, cancel := context.WithTimeout(t.Context(), processPatience)
	defer cancel()
	if err := errors.Join(p.api.Shutdown(ctx), p.close()); err != nil {
		t.Error(err)
	}
}

// Also when it fails so late that the drain is nearly over.
func TestAStorageFailureWhileClosingIsNotSwallowed(t *testing.T) {
	c := mustParseServe(t, "--data-dir", filepath.Join(t.TempDir(), "data"), "--listen", "127.0.0.1:0")
	var logs syncBuffer
	cfg, err := c.config(&logs)
	if err != nil {
		t.Fatal(err)
	}
	p, err := openProgram(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.run(ctx); err != nil {
		t.Fatal(err)
	}
	p.fail(errors.New("wal: sync segment 1: input/output error"))
	if err := p.close(); statusOf(err) != exitStorageFailed {
		t.Errorf("close returned %v, status %d", err, statusOf(err))
	}
}
