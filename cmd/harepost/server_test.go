package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// processPatience bounds every wait for a process in these tests. It is long
// because the machines that run them are busy; nothing waits it out that works.
const processPatience = 60 * time.Second

// A serverProcess is `harepost serve` as a child process. It is killed when
// its test ends, if it still lives.
type serverProcess struct {
	URL     string // of the API, as in http://127.0.0.1:40123
	PID     int
	DataDir string

	t      testing.TB
	cmd    *exec.Cmd
	stdout syncBuffer
	stderr syncBuffer

	serving chan string   // its URL, once
	ended   chan struct{} // closed when the process is gone
}

// startServer starts `harepost serve` with args and returns when it serves.
// --listen is a free loopback port and --data-dir a new directory unless args
// name others. It fails the test when the process ends before it serves; to see
// that on purpose use [runProcess].
func startServer(t testing.TB, args ...string) *serverProcess {
	t.Helper()
	args = serveArgs(t, args)
	return startServerCommand(t, exec.Command(harepostBinary(t), args...))
}

// serveArgs completes the arguments of a server. Most receivers of the tests fail
// on purpose, so that it goes without breakers if nothing else is said.
func serveArgs(t testing.TB, args []string) []string {
	args = append([]string{"serve"}, args...)
	if !hasFlag(args, "--listen") {
		args = append(args, "--listen", "127.0.0.1:0")
	}
	if !hasFlag(args, "--breaker-failures") {
		args = append(args, "--breaker-failures", "0")
	}
	if !hasFlag(args, "--data-dir") {
		args = append(args, "--data-dir", filepath.Join(t.TempDir(), "data"))
	}
	return args
}

// startServerCommand is startServer for a command that ends by becoming the
// server.
func startServerCommand(t testing.TB, cmd *exec.Cmd) *serverProcess {
	t.Helper()
	s := launchServer(t, cmd)
	s.awaitServing()
	return s
}

// launchServer is startServerCommand for who waits for it with awaitServing, as where
// several servers wait for each other.
func launchServer(t testing.TB, cmd *exec.Cmd) *serverProcess {
	t.Helper()
	s := &serverProcess{
		t: t, cmd: cmd, serving: make(chan string, 1), ended: make(chan struct{}), DataDir: flagValue(cmd.Args, "--data-dir"),
	}
	s.cmd.Env = cleanEnvironment()
	s.cmd.Stdout = &s.stdout
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	logs, err := s.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.PID = s.cmd.Process.Pid
	t.Cleanup(s.kill9)
	go func() {
		s.readLogs(bufio.NewReader(logs))
		s.cmd.Wait() // its error is the exit status, which status() reads
		close(s.ended)
	}()
	return s
}

// awaitServing returns when the server serves, and fails the test when it ends before.
func (s *serverProcess) awaitServing() {
	s.t.Helper()
	select {
	case s.URL = <-s.serving:
	case <-s.ended:
		s.t.Fatalf("%q ended with status %d before it served:\n%s", s.cmd.Args, s.status(), s.stderr.String())
	case <-time.After(processPatience):
		s.t.Fatalf("%q does not serve after %s:\n%s", s.cmd.Args, processPatience, s.stderr.String())
	}
}

// readLogs keeps the logs and sends the URL that the "serving" line names.
func (s *serverProcess) readLogs(r *bufio.Reader) {
	for {
		line, err := r.ReadBytes('\n')
		s.stderr.Write(line)
		var entry struct{ Msg, URL string }
		if json.Unmarshal(line, &entry) == nil && entry.Msg == "serving" {
			select {
			case s.serving <- entry.URL:
			default:
			}
		}
		if err != nil {
			return
		}
	}
}

// stop sends SIGTERM, waits until the process is gone and returns its exit
// status.
func (s *serverProcess) stop() int {
	s.t.Helper()
	s.cmd.Process.Signal(syscall.SIGTERM)
	return s.wait()
}

// wait waits until the process is gone and returns its exit status.
func (s *serverProcess) wait() int {
	s.t.Helper()
	select {
	case <-s.ended:
	case <-time.After(processPatience):
		s.t.Fatalf("the server does not end:\n%s", s.stderr.String())
	}
	return s.status()
}

// kill9 kills the process without warning and waits until it is gone. It may
// be called again.
func (s *serverProcess) kill9() {
	s.cmd.Process.Kill()
	<-s.ended
}

// status is the exit status of a process that is gone; -1 when a signal ended it.
func (s *serverProcess) status() int { return s.cmd.ProcessState.ExitCode() }

// devKey is the API key that serve --dev printed.
func (s *serverProcess) devKey() string {
	s.t.Helper()
	eventually(s.t, "hp_live_", s.stdout.String) // it comes through another pipe than the logs
	text := s.stdout.String()
	return strings.Fields(text[strings.Index(text, "hp_live_"):])[0]
}

// A processResult is how a process ended.
type processResult struct {
	Status         int
	Stdout, Stderr string
}

// runProcess runs the program to its end with a clean environment and env.
func runProcess(t testing.TB, env []string, args ...string) processResult {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), harepostBinary(t), args...)
	cmd.Env = append(cleanEnvironment(), env...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(processPatience, func() { cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Wait()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatal(err)
	}
	return processResult{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func hasFlag(args []string, name string) bool { return slices.Contains(args, name) }

func flagValue(args []string, name string) string {
	if i := slices.Index(args, name); i >= 0 && i+1 < len(args) {
		return args[i+1]
	}
	return ""
}

// A syncBuffer is a bytes.Buffer for one writer and readers at any time.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
