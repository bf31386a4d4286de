package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain removes what the tests built together and looks for goroutines that
// are left. Tests that need the program as a process get its path from
// [harepostBinary], which builds it once, and a running server from
// [startServer]; both are in server_test.go.
func TestMain(m *testing.M) {
	time.Local = time.UTC // before any goroutine reads it: golden output has times
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		// Looks only every ten seconds whether its server has ended.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
		goleak.Cleanup(func(status int) {
			removeBinary()
			os.Exit(status)
		}))
}

// runHere runs the program in this process, as the command line args would.
func runHere(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(&shell{ctx: t.Context(), in: strings.NewReader(""), out: &out, err: &errs}, args)
	return status, out.String(), errs.String()
}

var built struct {
	once sync.Once
	dir  string
	err  error
}

// harepostBinary is the path of the program, built from this work tree by the
// first test that asks.
func harepostBinary(t testing.TB) string {
	t.Helper()
	built.once.Do(func() {
		built.dir, built.err = os.MkdirTemp("", "harepost-test-")
		if built.err != nil {
			return
		}
		build := exec.Command("go", "build", "-o", filepath.Join(built.dir, "harepost"), ".")
		if text, err := build.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("go build: %w\n%s", err, text)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, "harepost")
}

func removeBinary() {
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
}

// cleanEnvironment is this process's environment without the variables that
// the program reads, so that a developer's own settings change no test.
func cleanEnvironment() []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "HAREPOST_") {
			env = append(env, e)
		}
	}
	return env
}
