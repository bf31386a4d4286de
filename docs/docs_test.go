// Package docs_test keeps the documentation true. It runs what a reader would
// run: every fenced block of README.md and docs/*.md, in order, each document
// in a directory of its own, with a program built from this work tree.
//
// What stands after the three backticks says what a block is:
//
//	sh                    run by bash; it must end with status 0
//	sh exit=5             it must end with this status
//	sh needs=node         passed over, with a line in the test's log, where there is no node
//	sh server             a terminal of its own: stays up until the document ends
//	sh norun: reason      not run, and why
//	text, json            directly after sh: what it prints
//	text from=serve       what the terminal whose command line has this word prints, sooner or later
//	go file=a.go          written to that file; so are js, python, json, toml with file=
//	go                    a whole file that must compile
//
// The comment <!-- stop --> ends the document's terminals as Ctrl-C would.
//
// Exported variables last from block to block. A key, secret or id that ends
// in three full stops (hp_live_..., whsec_..., hr_..., job_...) stands for the
// one that was printed last, as a reader would take it. The ports 8080 and 9000
// to 9009 stand for free ones, so that a document can run beside anything.
// Output matches when white space, ids and times are all that differs; three
// full stops match anything in their line, and any lines when they are alone.
package docs_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience bounds every wait. It is long because the machines that run this
// are busy; nothing waits it out that works.
const patience = 60 * time.Second

var harepost string // the program, built once

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "harepost-docs-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	harepost = filepath.Join(dir, "harepost")
	build := exec.Command("go", "build", "-o", harepost, "./cmd/harepost")
	build.Dir = ".."
	if text, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, text)
		os.RemoveAll(dir)
		os.Exit(1)
	}
	// Of tests in the background of a shell Ctrl-C is ignored, and with them of the
	// programs that a document ends by it.
	if signal.Ignored(os.Interrupt) {
		signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(status int) {
		os.RemoveAll(dir)
		os.Exit(status)
	}))
}

// documents are all pages that a reader meets.
func documents(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*.md")
	if err != nil || len(files) == 0 {
		t.Fatalf("no documents (%v)", err)
	}
	return append(files, filepath.Join("..", "README.md"))
}

func readBlocks(t *testing.T, file string) []block {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := parse(string(text))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return blocks
}

// TestCommands runs every document.
func TestCommands(t *testing.T) {
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("no bash to run the commands with")
	}
	for _, file := range documents(t) {
		blocks := readBlocks(t, file)
		if !runnable(blocks) {
			continue
		}
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			newReader(t).follow(filepath.Base(file), blocks)
		})
	}
}

func runnable(blocks []block) bool {
	for _, b := range blocks {
		if b.lang == "sh" && !b.norun {
			return true
		}
	}
	return false
}

// TestGoCompiles builds every Go block in one go each, also those that no
// command runs.
func TestGoCompiles(t *testing.T) {
	n := 0
	for _, file := range documents(t) {
		for _, b := range readBlocks(t, file) {
			if b.lang != "go" {
				continue
			}
			n++
			source := filepath.Join(t.TempDir(), "snippet.go")
			if err := os.WriteFile(source, []byte(b.text), 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
			vet := exec.CommandContext(ctx, "go", "vet", source)
			vet.Dir = ".."
			text, err := vet.CombinedOutput()
			cancel()
			if err != nil {
				t.Errorf("%s:%d: %v\n%s", file, b.line, err, text)
			}
		}
	}
	if n == 0 {
		t.Error("no Go in the documents")
	}
}

// TestLinks looks for pages and headings that links between documents name.
func TestLinks(t *testing.T) {
	for _, file := range documents(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range links(string(text)) {
			path, fragment, _ := strings.Cut(link, "#")
			target := file
			if path != "" {
				target = filepath.Join(filepath.Dir(file), path)
			}
			there, err := os.ReadFile(target)
			if info, statErr := os.Stat(target); statErr == nil && info.IsDir() {
				continue
			}
			if err != nil {
				t.Errorf("%s: link to %s: %v", file, link, err)
			} else if fragment != "" && !anchors(string(there))[fragment] {
				t.Errorf("%s: link to %s: there is no such heading", file, link)
			}
		}
	}
}
