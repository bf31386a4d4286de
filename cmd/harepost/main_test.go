package main

import (
	"bytes"
	"strings"
	"testing"
)

// runHere runs the program in this process, as the command line args would.
func runHere(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(&shell{ctx: t.Context(), in: strings.NewReader(""), out: &out, err: &errs}, args)
	return status, out.String(), errs.String()
}

func TestUsageErrorsAreExplainedWithStatusTwo(t *testing.T) {
	f := func(want string, args ...string) {
		t.Helper()
		status, _, stderr := runHere(t, args...)
		if status != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%q: status %d, stderr %q; want status 2 and %q", args, status, stderr, want)
		}
	}
	f("unknown flag --nope", "--nope")
	f("unexpected argument nonsense", "nonsense")
	f("unknown flag --nope", "version", "--nope")
	f(`Run "harepost version --help"`, "version", "--nope")
}

func TestHelpEndsWithStatusZeroAndShowsTheCommands(t *testing.T) {
	for _, args := range [][]string{nil, {"--help"}, {"-h"}, {"version", "--help"}} {
		status, stdout, stderr := runHere(t, args...)
		if status != exitOK || stderr != "" || !strings.Contains(stdout, "Usage: harepost") {
			t.Errorf("%q: status %d, stdout %q, stderr %q", args, status, stdout, stderr)
		}
	}
}
