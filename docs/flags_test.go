package docs_test

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

var (
	helpFlag    = regexp.MustCompile(`(?m)^ {2,6}(?:-\w, )?--([a-z0-9-]+)(?:=(\S+))?`)
	helpEnv     = regexp.MustCompile(`\(\$(HAREPOST_\w+)\)`)
	placeholder = regexp.MustCompile(`^[A-Z:,.]+$`)
	flagRow     = regexp.MustCompile("(?m)^\\| `--([a-z0-9-]+)` \\| `(\\w+)` \\| (?:`([^`]*)`)? ?\\|")
)

// A flag, as the help or the document has it.
type flag struct{ env, value string }

// TestFlagTable holds the table of operating.md against the program's help:
// no flag is missing, none is invented, and variables and defaults are right.
func TestFlagTable(t *testing.T) {
	help, err := exec.CommandContext(t.Context(), harepost, "serve", "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]flag{}
	starts := helpFlag.FindAllStringSubmatchIndex(string(help), -1)
	for i, m := range starts {
		end := len(help)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		name := string(help[m[2]:m[3]])
		env := helpEnv.FindStringSubmatch(string(help[m[0]:end]))
		if name == "help" || env == nil {
			continue
		}
		value := ""
		if m[4] >= 0 && !placeholder.Match(help[m[4]:m[5]]) {
			value = strings.Trim(string(help[m[4]:m[5]]), `"`)
		}
		want[name] = flag{env[1], value}
	}
	text, err := os.ReadFile("operating.md")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]flag{}
	for _, row := range flagRow.FindAllStringSubmatch(string(text), -1) {
		got[row[1]] = flag{row[2], row[3]}
	}
	for name, w := range want {
		if g, ok := got[name]; !ok || g != w {
			t.Errorf("--%s: operating.md has %q, the help %q", name, g, w)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("--%s is in operating.md and not in the help", name)
		}
	}
	if len(want) < 10 {
		t.Errorf("only %d flags found in the help", len(want))
	}
}
