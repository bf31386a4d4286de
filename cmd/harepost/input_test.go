package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A mute input has something to say at first, and then nothing for ever.
type mute struct {
	first   io.Reader
	waiting func()          // is called when somebody waits for more
	ended   <-chan struct{} // when the test does
}

func (s *mute) Read(p []byte) (int, error) {
	if n, err := s.first.Read(p); n > 0 || err != io.EOF {
		return n, err
	}
	s.waiting()
	<-s.ended
	return 0, io.EOF
}

// interruptedAt runs a command and interrupts it when it waits for its input.
func interruptedAt(t *testing.T, input string, args ...string) (status int, stderr string) {
	t.Helper()
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	ended := make(chan struct{})
	defer close(ended)
	var out, errs bytes.Buffer
	sh := &shell{ctx: ctx, in: &mute{strings.NewReader(input), interrupt, ended}, out: &out, err: &errs}
	status = run(sh, args)
	return status, errs.String()
}

// Ctrl-C ends a command that waits for an input which does not come.
func TestAnInterruptEndsTheReadingOfAnInput(t *testing.T) {
	api, env := cannedAPI(t, map[string][]string{
		"POST /v1/send/batch": {`202 {"results":[{"queue_id":"hr_1","status":"queued"}]}`},
	})
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		t.Setenv(name, value)
	}
	dir := filepath.Join(t.TempDir(), "restored")
	f := func(input, want string, args ...string) {
		t.Helper()
		if status, stderr := interruptedAt(t, input, args...); status != exitFailed || !strings.Contains(stderr, want) {
			t.Errorf("%q: status %d\n%s", args, status, stderr)
		}
	}
	const target = "https://your-app.com/"
	f("half a bo", "interrupted", "send", target, "--data", "-")
	f("", "interrupted", "send", target, "--data", "@-")
	f("half a bo", "interrupted", "send", target, "--data-file", "-")
	f(`{"target":"https://a.exam`, "interrupted; nothing was sent", "send", "--batch", "-")
	f(`{"target":"https://a.example/"}`+"\n", "interrupted; nothing was sent", "send", "--batch", "-")
	if asked := api.takeAsked(); len(asked) != 0 {
		t.Errorf("after an interrupt: %q", asked)
	}
	f("", "interrupted: nothing was restored", "restore", "-", dir)
	for _, name := range []string{dir, dir + restoringSuffix} {
		if _, err := os.Stat(name); err == nil {
			t.Errorf("%s was left", name)
		}
	}
}

// A check of much data ends when it is told to, and calls nothing damaged.
func TestAnInterruptEndsACheck(t *testing.T) {
	dir := t.TempDir()
	if err := prepareDataDir(dir); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "x.tar")
	writeFile(t, file, []byte("anything"))
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	for _, path := range []string{dir, file} {
		var out, errs bytes.Buffer
		status := run(&shell{ctx: ctx, in: strings.NewReader(""), out: &out, err: &errs}, []string{"check", path})
		if status != exitFailed || out.Len() != 0 || errs.String() != "harepost: interrupted\n" {
			t.Errorf("%s: status %d\n%s%s", path, status, out.String(), errs.String())
		}
	}
}

// What stands in a file that is read is read, and no more than that.
func TestAnInterruptibleReaderReads(t *testing.T) {
	got, err := io.ReadAll(interruptible{t.Context(), strings.NewReader(strings.Repeat("text ", 10_000))})
	if err != nil || string(got) != strings.Repeat("text ", 10_000) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
