package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// request makes one call and returns its status and body. A status of 0 means
// that there was no answer.
func (s *serverProcess) request(method, path, key, body string) (int, string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	documented(s.t, method, path, resp, text)
	return resp.StatusCode, string(text)
}

// send queues one delivery and returns its id.
func (s *serverProcess) send(key, target string) string {
	s.t.Helper()
	status, text := s.request(http.MethodPost, "/v1/send", key, fmt.Sprintf(`{"target":%q,"body":{"a":1}}`, target))
	var receipt struct {
		QueueID string `json:"queue_id"`
	}
	if err := json.Unmarshal([]byte(text), &receipt); status != http.StatusAccepted || err != nil {
		s.t.Fatalf("send: %d %s", status, text)
	}
	return receipt.QueueID
}

func TestSIGTERMDrainsAndEndsWithStatusZero(t *testing.T) {
	s := startServer(t, "--dev")
	if status, text := s.request(http.MethodGet, "/readyz", "", ""); status != http.StatusOK {
		t.Errorf("/readyz: %d %s", status, text)
	}
	if status := s.stop(); status != exitOK {
		t.Errorf("status %d\n%s", status, s.stderr.String())
	}
	if !strings.Contains(s.stderr.String(), "everything accepted is on disk") {
		t.Errorf("the end is not logged:\n%s", s.stderr.String())
	}
}

func TestDevKeyWorksAgainAfterARestart(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	first := startServer(t, "--dev", "--data-dir", data)
	key := first.devKey()
	id := first.send(key, "http://127.0.0.1:1024/")
	info, err := os.Stat(filepath.Join(data, devAccountFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file with the key: %v, %v; want mode 0600", info, err)
	}
	if first.stop() != exitOK {
		t.Fatal(first.stderr.String())
	}
	if strings.Contains(first.stderr.String(), key) {
		t.Error("the key was logged")
	}

	second := startServer(t, "--dev", "--data-dir", data)
	if second.devKey() != key {
		t.Error("another key after a restart: pasted commands stop working")
	}
	if status, text := second.request(http.MethodGet, "/v1/deliveries/"+id, key, ""); status != http.StatusOK {
		t.Errorf("the delivery after a restart: %d %s", status, text)
	}
}

func TestASecondServerOnTheSameDirectoryIsRefused(t *testing.T) {
	first := startServer(t, "--dev")
	refused := func() {
		t.Helper()
		second := runProcess(t, nil, "serve", "--data-dir", first.DataDir, "--listen", "127.0.0.1:0")
		if second.Status != exitFailed || !strings.Contains(second.Stderr, "another process has the directory open") {
			t.Errorf("status %d:\n%s", second.Status, second.Stderr)
		}
	}
	refused()
	// Also where somebody took the lock files for leftovers.
	for _, name := range []string{walDir, stateDir} {
		if err := os.Remove(filepath.Join(first.DataDir, name, "LOCK")); err != nil {
			t.Fatal(err)
		}
	}
	refused()
	if status, _ := first.request(http.MethodGet, "/readyz", "", ""); status != http.StatusOK {
		t.Errorf("the first server answers %d after that", status)
	}
}

func TestDirectoriesOfOthersAreRefusedAndLeftAlone(t *testing.T) {
	dir := t.TempDir()
	thesis := filepath.Join(dir, "thesis.txt")
	if err := os.WriteFile(thesis, []byte("years of work"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := func(want, data string) {
		t.Helper()
		r := runProcess(t, nil, "serve", "--data-dir", data, "--listen", "127.0.0.1:0")
		if r.Status != exitFailed || !strings.Contains(r.Stderr, want) {
			t.Errorf("%s: status %d:\n%s", data, r.Status, r.Stderr)
		}
	}
	f("holds other things", dir)
	f("not a directory", thesis)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("the directory was changed: %v, %v", entries, err)
	}
}

// Bytes that are not ours, where ours should be, end the start and say where.
func TestDamagedDataIsRefusedAndNamed(t *testing.T) {
	s := startServer(t, "--dev")
	s.send(s.devKey(), "http://127.0.0.1:1024/")
	s.kill9()
	segments, err := filepath.Glob(filepath.Join(s.DataDir, walDir, "*.wal"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("no segments: %v", err)
	}
	// The header of the first segment: no torn tail reaches it.
	overwrite(t, segments[0], 16, "garbage")

	r := runProcess(t, nil, "serve", "--data-dir", s.DataDir, "--listen", "127.0.0.1:0")
	if r.Status != exitFailed || !strings.Contains(r.Stderr, filepath.Base(segments[0])) || !strings.Contains(r.Stderr, "harepost check") {
		t.Errorf("status %d:\n%s", r.Status, r.Stderr)
	}
	r = runProcess(t, nil, "check", "--data-dir", s.DataDir)
	if r.Status != exitFailed || !strings.Contains(r.Stdout, filepath.Base(segments[0])) {
		t.Errorf("check: status %d:\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
}

// A block of the state that nobody has read for long is checked too.
func TestDamageInTheStateIsFound(t *testing.T) {
	s := startServer(t, "--dev")
	key := s.devKey()
	for range 20 {
		s.send(key, "http://127.0.0.1:1024/")
	}
	if s.stop() != exitOK { // which flushes
		t.Fatal(s.stderr.String())
	}
	tables, err := filepath.Glob(filepath.Join(s.DataDir, stateDir, "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("no tables: %v", err)
	}
	if r := runProcess(t, nil, "check", "--data-dir", s.DataDir); r.Status != exitOK || !strings.Contains(r.Stdout, "20 ") {
		t.Fatalf("before: status %d\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	overwrite(t, tables[0], 64, "garbage") // in its first data block
	r := runProcess(t, nil, "check", "--data-dir", s.DataDir)
	if r.Status != exitFailed || !strings.Contains(r.Stdout, filepath.Base(tables[0])) {
		t.Errorf("status %d\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
}

func overwrite(t *testing.T, file string, offset int64, text string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(text), offset); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAPortInUseIsNamed(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	data := filepath.Join(t.TempDir(), "data")
	r := runProcess(t, nil, "serve", "--data-dir", data, "--listen", ln.Addr().String())
	if r.Status != exitFailed || !strings.Contains(r.Stderr, "--listen") || !strings.Contains(r.Stderr, "in use") {
		t.Errorf("status %d:\n%s", r.Status, r.Stderr)
	}
	if _, err := os.Stat(data); err == nil {
		t.Error("the data directory was made although the port was taken")
	}
}

func TestSignUpIsClosedWithoutAToken(t *testing.T) {
	s := startServer(t)
	if status, text := s.request(http.MethodPost, "/v1/accounts", "", `{"name":"a"}`); status != http.StatusUnauthorized && status != http.StatusForbidden {
		t.Errorf("%d %s", status, text)
	}
	eventually(t, "sign-up is closed", s.stderr.String)
}

func TestAdminTokenCreatesAccountsAndIsNotLogged(t *testing.T) {
	const token = "a-long-and-secret-token"
	s := startServer(t, "--admin-token", token)
	if status, text := s.request(http.MethodPost, "/v1/accounts", token, `{"name":"a"}`); status != http.StatusCreated {
		t.Errorf("with the token: %d %s", status, text)
	}
	if status, _ := s.request(http.MethodPost, "/v1/accounts", "another", `{"name":"a"}`); status == http.StatusCreated {
		t.Error("another token was taken")
	}
	s.stop()
	if strings.Contains(s.stderr.String(), token) {
		t.Error("the token was logged")
	}
}

// A server must not be made to call itself, with the rights of this machine.
func TestOwnAddressesAreNoTargets(t *testing.T) {
	s := startServer(t, "--dev")
	status, text := s.request(http.MethodPost, "/v1/send", s.devKey(), fmt.Sprintf(`{"target":%q}`, s.URL+"/v1/accounts"))
	if status != http.StatusBadRequest {
		t.Errorf("%d %s", status, text)
	}
}

// A slowTarget accepts connections and answers when it is told to.
type slowTarget struct {
	url     string
	reached chan struct{} // one for each request that came in
	answer  chan struct{} // closed: answer all
}

func startSlowTarget(t *testing.T) *slowTarget {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &slowTarget{url: "http://" + ln.Addr().String(), reached: make(chan struct{}, 16), answer: make(chan struct{})}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.reached <- struct{}{}
		select {
		case <-s.answer:
		case <-r.Context().Done():
		}
	})}
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return s
}

func (s *slowTarget) wait(t *testing.T) {
	t.Helper()
	select {
	case <-s.reached:
	case <-time.After(processPatience):
		t.Fatal("the target was not reached")
	}
}

func TestDrainLetsAnAttemptEndAndRecordsIt(t *testing.T) {
	target := startSlowTarget(t)
	s := startServer(t, "--dev")
	key := s.devKey()
	id := s.send(key, target.url)
	target.wait(t)
	s.cmd.Process.Signal(syscall.SIGTERM)
	s.waitLog("draining")
	close(target.answer)
	if status := s.wait(); status != exitOK {
		t.Fatalf("status %d\n%s", status, s.stderr.String())
	}
	again := startServer(t, "--dev", "--data-dir", s.DataDir)
	if _, text := again.request(http.MethodGet, "/v1/deliveries/"+id, key, ""); !strings.Contains(text, `"status":"delivered"`) {
		t.Errorf("after the drain: %s", text)
	}
	if len(target.reached) != 0 {
		t.Error("it was attempted again although its end was recorded")
	}
}

func TestAnAttemptThatOutlivesTheDrainIsMadeAgain(t *testing.T) {
	t.Parallel() // it mostly waits
	target := startSlowTarget(t)
	s := startServer(t, "--dev", "--drain-timeout", "1s")
	key := s.devKey()
	id := s.send(key, target.url)
	target.wait(t)
	if status := s.stop(); status != exitOK {
		t.Fatalf("status %d\n%s", status, s.stderr.String())
	}
	close(target.answer)
	again := startServer(t, "--dev", "--data-dir", s.DataDir)
	target.wait(t)
	eventually(t, "delivered", func() string {
		_, text := again.request(http.MethodGet, "/v1/deliveries/"+id, key, "")
		return text
	})
}

func TestReadinessGoesFirstWhileRequestsAreStillServed(t *testing.T) {
	s := startServer(t, "--dev", "--drain-delay", "30s")
	key := s.devKey()
	s.cmd.Process.Signal(syscall.SIGTERM)
	s.waitLog("draining")
	eventually(t, "503", func() string {
		status, _ := s.request(http.MethodGet, "/readyz", "", "")
		return fmt.Sprint(status)
	})
	s.send(key, "http://127.0.0.1:1024/")

	// A second signal does not wait for the delay.
	eventually(t, "ended", func() string {
		s.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-s.ended:
			return "ended"
		default:
			return "running"
		}
	})
	if s.status() != 128+int(syscall.SIGTERM) {
		t.Errorf("a second SIGTERM ended it with status %d, want 143", s.status())
	}
}

// timeout(1) signals its child, and then the child's group.
func TestASignalThatComesTwiceAtOnceIsOne(t *testing.T) {
	t.Parallel() // it mostly waits
	s := startServer(t, "--dev", "--drain-delay", "300ms")
	// It finds both when it goes on, whatever this test has waited for in between.
	for _, signal := range []os.Signal{syscall.SIGSTOP, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCONT} {
		s.cmd.Process.Signal(signal)
	}
	if status := s.wait(); status != exitOK {
		t.Errorf("status %d\n%s", status, s.stderr.String())
	}
}

// waitLog waits until the server has logged msg.
func (s *serverProcess) waitLog(msg string) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf(`"msg":%q`, msg), s.stderr.String)
}

// eventually asks until the answer holds want.
func eventually(t testing.TB, want string, ask func() string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), processPatience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		got := ask()
		if strings.Contains(got, want) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("still not %q after %s:\n%s", want, processPatience, got)
		}
	}
}
