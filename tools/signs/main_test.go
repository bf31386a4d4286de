package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Marks of unfinished work are written in two halves, so that this file is none.
const todo = "TO" + "DO"

func TestFindings(t *testing.T) {
	check := func(name, source string, want ...string) {
		t.Helper()
		dir := t.TempDir()
		for part := range strings.SplitSeq(source, "== ") {
			if file, text, ok := strings.Cut(part, "\n"); ok {
				path := filepath.Join(dir, file)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
		findings, err := checkTree(dir)
		if err != nil || !slices.Equal(findings, want) {
			t.Errorf("%s: %q, %v; want %q", name, findings, err, want)
		}
	}
	const sign = "== doc.go\n// Package p is signed.\npackage p\n"
	const noSign = ":1: package without a doc comment directly above package"
	check("signed", sign+"== a.go\npackage p\n")
	check("unsigned", "== a.go\npackage p\n", "a.go"+noSign)
	check("lost to a blank line", "== a.go\n// Package p is lost.\n\npackage p\n", "a.go"+noSign)
	check("only a directive", "== a.go\n//go:build linux\npackage p\n", "a.go"+noSign)
	check("a directory without a sign", sign+"== sub/b.go\npackage b\n", "sub/b.go"+noSign)
	check("only tests", "== a_test.go\npackage p\n")
	check("what is not the module's",
		sign+"== testdata/b.go\npackage b\n== vendor/b.go\npackage b\n== .x/b.go\npackage b\n== other/go.mod\nmodule other\n== other/b.go\npackage b\n")
	check("unfinished", sign+"== a.go\npackage p\n\n// "+todo+": more\nvar x = 1\n", "a.go:3: unfinished work: "+todo)
	check("a word that only looks like it", sign+"== a.go\npackage p\n\nvar x = \""+todo+"\" // mastodons\n")
	const sleep = "package p\n\nimport \"time\"\n\nfunc f() { time.Sleep(1) }\n"
	check("a test that sleeps", sign+"== a_test.go\n"+sleep,
		"a_test.go:5: a test that sleeps: step a clock, use testing/synctest, or wait for a condition")
	check("code may sleep", sign+"== a.go\n"+sleep)
	check("a test in a bubble", sign+"== a_test.go\n"+strings.Replace(sleep, "\"time\"", "(\n\"testing/synctest\"\n\"time\"\n)", 1))
}

// checkTree is check with the names relative to the tree.
func checkTree(dir string) ([]string, error) {
	findings, err := check(dir)
	for i := range findings {
		findings[i] = strings.TrimPrefix(findings[i], dir+string(filepath.Separator))
	}
	return findings, err
}

func TestBrokenFileIsAnError(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.go"), []byte("pack"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := check(dir); err == nil {
		t.Error("a file that does not parse passes")
	}
}
