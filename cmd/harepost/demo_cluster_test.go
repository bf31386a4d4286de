package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

func TestDemoOfAClusterLosesNothingAndCleansUp(t *testing.T) {
	t.Parallel() // it mostly waits
	tmp := t.TempDir()
	r := runProcess(t, []string{"TMPDIR=" + tmp}, "demo", "--cluster", "--once")
	if r.Status != exitOK || r.Stderr != "" {
		t.Fatalf("status %d:\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	for _, want := range []string{
		`n\d leads; 400 sends a second`, `(?m)^2  (n\d) is killed   kill -9 \d+`, `n\d leads now\. Nothing was accepted for `,
		`n\d follows again`, `accepted ([0-9,]*[0-9]), arrived ([0-9,]*[0-9]),`, "Everything that was accepted has arrived",
	} {
		m := regexp.MustCompile(want).FindStringSubmatch(r.Stdout)
		if m == nil || len(m) == 3 && m[1] != m[2] {
			t.Errorf("%q: %q in\n%s", want, m, r.Stdout)
		}
	}
	if strings.Contains(r.Stdout, "\x1b") {
		t.Error("colours where no terminal is")
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
