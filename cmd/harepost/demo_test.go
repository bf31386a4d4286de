package main

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestDemoShowsEverythingAndCleansUp(t *testing.T) {
	t.Parallel() // it mostly waits
	tmp := t.TempDir()
	began := time.Now()
	r := runProcess(t, []string{"TMPDIR=" + tmp}, "demo", "--once")
	if r.Status != exitOK {
		t.Fatalf("status %d:\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	if r.Stderr != "" {
		t.Errorf("it also said:\n%s", r.Stderr)
	}
	for _, want := range []string{
		"X-Harepost-Signature valid, webhook-signature valid",
		"at the third attempt",
		"422", "503", "500",
		"Everything was as it should be",
	} {
		if !strings.Contains(r.Stdout, want) {
			t.Errorf("%q is not in\n%s", want, r.Stdout)
		}
	}
	for _, line := range []string{
		`(?m)^ +hr_\w+ +dead_letter +500 +3 .*/broken$`,
		`(?m)^ +hr_\w+ +rejected +422 +1 .*/refusing$`,
		`(?m)^ +3 +\d+ ms +delivered +200$`,
	} {
		if !regexp.MustCompile(line).MatchString(r.Stdout) {
			t.Errorf("no line is like %s in\n%s", line, r.Stdout)
		}
	}
	if strings.Contains(r.Stdout, "\x1b") {
		t.Error("colours where no terminal is")
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestDemoStaysUpUntilCtrlC(t *testing.T) {
	t.Parallel() // it mostly waits
	tmp := t.TempDir()
	var stdout, stderr syncBuffer
	cmd := exec.Command(harepostBinary(t), "demo")
	cmd.Env = append(cleanEnvironment(), "TMPDIR="+tmp)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill(); <-ended })
	eventually(t, "Ctrl-C ends", stdout.String)

	list := regexp.MustCompile(`curl -sS (http\S+/v1/deliveries) -H 'Authorization: (Bearer \S+)'`).FindStringSubmatch(stdout.String())
	if list == nil {
		t.Fatalf("no curl line in\n%s", stdout.String())
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, list[1], nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", list[2])
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("the line that may be pasted: %v, %v", resp, err)
	}
	text, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	documented(t, http.MethodGet, "/v1/deliveries", resp, text)

	cmd.Process.Signal(os.Interrupt)
	select {
	case <-ended:
	case <-time.After(processPatience):
		t.Fatal("it does not end")
	}
	if status := cmd.ProcessState.ExitCode(); status != exitOK || stderr.String() != "" {
		t.Errorf("status %d, stderr %q", status, stderr.String())
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// The demo shows what serve --dev does without any setting of the reader's.
func TestDemoIgnoresTheEnvironment(t *testing.T) {
	t.Parallel() // it mostly waits
	r := runProcess(t, []string{"TMPDIR=" + t.TempDir(), "HAREPOST_LISTEN=192.0.2.1:1", "HAREPOST_MAX_REQUEST_BYTES=1"}, "demo", "--once")
	if r.Status != exitOK {
		t.Errorf("status %d:\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
}

// A receiver that does not do what the demo counts on must be noticed, or the
// demo proves nothing.
func TestDemoFailsWhenTheTargetMisbehaves(t *testing.T) {
	f := func(name, want string, spoil func(*stage)) {
		t.Helper()
		var out, errs syncBuffer
		sh := &shell{ctx: t.Context(), in: strings.NewReader(""), out: &out, err: &errs}
		s, err := openStage(sh, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		spoil(s)
		err = s.play()
		if closeErr := s.close(); closeErr != nil {
			t.Error(closeErr)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: play returned %v, want %q", name, err, want)
		}
	}
	f("another secret", "signatures", func(s *stage) { s.target.trust("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA") })
	f("always 200", "is delivered after 1 attempts, not", func(s *stage) {
		s.target.receiver.answer = func(*received) answer { return answer{Status: 200} }
	})
	f("a request that nobody sees", "the receiver saw 0 requests", func(s *stage) { s.target.receiver.got = func(*received) {} })
}
