package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// A canned API answers requests with what a script says, so that the output of
// commands is the same to the byte every time. That the real one answers so is
// held by the process tests and the package api.
type canned struct {
	mu      sync.Mutex
	answers map[string][]string // by "METHOD /path?query": one after the other, the last one for ever
	asked   []string
}

// ServeHTTP answers with the next answer: a status, a blank, and JSON.
func (c *canned) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, strings.TrimSpace(r.Method+" "+r.URL.RequestURI()+" "+string(bytes.TrimSpace(body))))
	answers := c.answers[r.Method+" "+r.URL.RequestURI()]
	if len(answers) == 0 {
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprintf(w, `{"error":"the script has no answer to %s %s"}`, r.Method, r.URL.RequestURI())
		return
	}
	if len(answers) > 1 {
		c.answers[r.Method+" "+r.URL.RequestURI()] = answers[1:]
	}
	status, text, _ := strings.Cut(answers[0], " ")
	if status == "429" || status == "503" {
		w.Header().Set("Retry-After", "7")
	}
	var code int
	fmt.Sscan(status, &code)
	w.WriteHeader(code)
	io.WriteString(w, text)
}

func (c *canned) takeAsked() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	asked := c.asked
	c.asked = nil
	return asked
}

// Scripts of commands with what the API answers ("<" lines), what the command
// asks it (">"), prints ("|" on standard output, "!" on standard error) and ends
// with ("="). With HAREPOST_GOLDEN=write they are written anew.
func TestCommandsPrintWhatTheyPrinted(t *testing.T) {
	scripts, err := filepath.Glob("testdata/commands/*.txt")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, script := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txt"), func(t *testing.T) { playScript(t, script) })
	}
}

func playScript(t *testing.T, script string) {
	text, err := os.ReadFile(script)
	if err != nil {
		t.Fatal(err)
	}
	api := &canned{answers: map[string][]string{}}
	server := httptest.NewServer(api)
	defer server.Close()
	var played strings.Builder
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "< "):
			request, answer, _ := strings.Cut(line[2:], " => ")
			api.answers[request] = append(api.answers[request], answer)
			fmt.Fprintln(&played, line)
		case strings.HasPrefix(line, "$ "):
			fmt.Fprintln(&played, line)
			playCommand(t, &played, server.URL, api, line[2:])
			clear(api.answers)
		case line == "" || strings.HasPrefix(line, "#"):
			fmt.Fprintln(&played, line)
		}
	}
	if os.Getenv("HAREPOST_GOLDEN") == "write" {
		writeFile(t, script, []byte(played.String()))
		return
	}
	if played.String() != string(text) {
		t.Errorf("%s is not what was played; HAREPOST_GOLDEN=write go test writes it anew. Played:\n%s", script, played.String())
	}
}

// words of a script's command: separated by blanks, or within '...'.
var scriptWord = regexp.MustCompile(`'[^']*'|\S+`)

func playCommand(t *testing.T, played *strings.Builder, url string, api *canned, command string) {
	var args []string
	input := ""
	for _, word := range scriptWord.FindAllString(command, -1) {
		args = append(args, strings.Trim(word, "'"))
	}
	if before, after, ok := strings.Cut(command, " <<< "); ok {
		args = args[:len(scriptWord.FindAllString(before, -1))]
		input = strings.ReplaceAll(strings.Trim(after, "'"), `\n`, "\n")
	}
	for name, value := range map[string]string{"HAREPOST_URL": url, "HAREPOST_API_KEY": "hp_live_test", "HAREPOST_ADMIN_TOKEN": "test-token"} {
		t.Setenv(name, value)
	}
	var out, errs bytes.Buffer
	status := run(&shell{ctx: t.Context(), in: strings.NewReader(input), out: &out, err: &errs}, args)
	for _, asked := range api.takeAsked() {
		fmt.Fprintf(played, "> %s\n", steady(strings.ReplaceAll(asked, "\n", `\n`)))
	}
	for _, stream := range []struct{ mark, text string }{{"|", out.String()}, {"!", errs.String()}} {
		for line := range strings.Lines(strings.ReplaceAll(stream.text, url, "URL")) {
			fmt.Fprintf(played, "%s %s\n", stream.mark, steady(strings.TrimSuffix(line, "\n")))
		}
	}
	fmt.Fprintf(played, "= %d\n", status)
}

var (
	relativeTime = regexp.MustCompile(`\((now|in \d+ \w+|\d+ \w+ ago)\)`)
	nearbyTime   = regexp.MustCompile(`20(2[6-9]|[3-9]\d)-\d\d-\d\dT[0-9:.%A]+Z`)
)

// steady replaces what depends on when a test runs: canned times are of 2025.
func steady(line string) string {
	line = relativeTime.ReplaceAllString(line, "(RELATIVE)")
	return nearbyTime.ReplaceAllString(line, "NOW")
}

// A script of ours is only as good as its answers: they are JSON.
func TestScriptsHoldJSON(t *testing.T) {
	scripts, _ := filepath.Glob("testdata/commands/*.txt")
	for _, script := range scripts {
		text, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if _, answer, ok := strings.Cut(line, " => "); ok && strings.HasPrefix(line, "< ") {
				if _, body, _ := strings.Cut(strings.TrimSpace(answer), " "); body != "" && !json.Valid([]byte(body)) {
					t.Errorf("%s: %s", script, line)
				}
			}
		}
	}
}
