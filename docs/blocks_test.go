package docs_test

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// A block is a fenced block, or the comment that ends the terminals.
type block struct {
	line  int
	lang  string // "stop" for the comment
	text  string
	norun bool
	why   string // not run because

	server bool
	exit   int
	needs  []string // programs
	file   string
	from   string // text: of the terminal whose command line has this word

	afterShell bool // text, json: nothing but a blank line stands between it and sh
}

const stopComment = "<!-- stop -->"

// parse finds the blocks of a document.
func parse(markdown string) ([]block, error) {
	var blocks []block
	var open *block
	fence := ""
	lastShell := -1 // line after an sh block, as long as only blank ones came
	for i, line := range strings.Split(markdown, "\n") {
		trimmed := strings.TrimSpace(line)
		switch {
		case open != nil && trimmed == fence:
			if open.lang == "sh" {
				lastShell = i
			}
			blocks = append(blocks, *open)
			open = nil
		case open != nil:
			open.text += line + "\n"
		case strings.HasPrefix(trimmed, "```"):
			fence = trimmed[:len(trimmed)-len(strings.TrimLeft(trimmed, "`"))]
			b, err := parseInfo(strings.TrimSpace(strings.TrimLeft(trimmed, "`")))
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", i+1, err)
			}
			b.line, b.afterShell = i+1, lastShell >= 0
			open, lastShell = &b, -1
		case trimmed == stopComment:
			blocks = append(blocks, block{line: i + 1, lang: "stop"})
			lastShell = -1
		case trimmed != "":
			lastShell = -1
		}
	}
	if open != nil {
		return nil, fmt.Errorf("line %d: the block does not end", open.line)
	}
	return blocks, nil
}

// parseInfo reads what stands after the backticks.
func parseInfo(info string) (block, error) {
	lang, rest, _ := strings.Cut(info, " ")
	b := block{lang: lang}
	if why, ok := strings.CutPrefix(rest, "norun:"); ok {
		b.norun, b.why = true, strings.TrimSpace(why)
		if b.why == "" {
			return b, fmt.Errorf("%q does not say why", info)
		}
		return b, nil
	}
	for _, word := range strings.Fields(rest) {
		name, value, _ := strings.Cut(word, "=")
		var err error
		switch {
		case name == "server" && lang == "sh":
			b.server = true
		case name == "exit" && lang == "sh":
			b.exit, err = strconv.Atoi(value)
		case name == "needs" && lang == "sh":
			b.needs = strings.Split(value, ",")
		case name == "from" && lang == "text":
			b.from = value
		case name == "file" && value != "":
			b.file = value
		default:
			err = fmt.Errorf("%q is not known", word)
		}
		if err != nil {
			return b, err
		}
	}
	return b, nil
}

// Things that differ from run to run. An example in a document stands for all
// of its kind.
var volatile = []*regexp.Regexp{
	regexp.MustCompile(`\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)?`),
	regexp.MustCompile(`\b\d\d:\d\d:\d\d(?:\.\d+)?`),
	regexp.MustCompile(`\b(?:hr|key|job|acc?t?)_[0-9a-z]{4,}`),
	regexp.MustCompile(`\bhp_live_[0-9A-Za-z]*`),
	regexp.MustCompile(`\bwhsec_[0-9A-Za-z+/=]*`),
	regexp.MustCompile(`\bharepost-verify=[0-9A-Za-z]+`),
	regexp.MustCompile(`<?\b\d+(?:\.\d+)? ?(?:ms|µs|s)\b`),
	regexp.MustCompile(`\((?:now|\d+ \w+ ago)\)`),
	regexp.MustCompile(`"latency_ms": ?\d+`),
}

// pattern is what output has to look like.
func pattern(expected string) *regexp.Regexp {
	var lines []string
	for _, line := range strings.Split(strings.TrimSpace(expected), "\n") {
		switch strings.TrimSpace(line) {
		case "":
			continue // of white space, it does not matter how much
		case "...":
			lines = append(lines, `(?:.*\n)*?.*?`)
			continue
		}
		lines = append(lines, linePattern(line))
	}
	return regexp.MustCompile(`(?m)\A\s*` + strings.Join(lines, `\s*\n\s*`) + `\s*\z`)
}

func linePattern(line string) string {
	line = strings.TrimSpace(line)
	kinds := []string{}
	for k, v := range volatile {
		line = v.ReplaceAllStringFunc(line, func(string) string {
			kinds = append(kinds, volatile[k].String())
			return fmt.Sprintf("\x00%d\x00", len(kinds)-1)
		})
	}
	line = regexp.QuoteMeta(line)
	line = regexp.MustCompile(`\s+`).ReplaceAllLiteralString(line, `\s+`)
	line = strings.ReplaceAll(line, `\.\.\.`, `.*`)
	return regexp.MustCompile("\x00(\\d+)\x00").ReplaceAllStringFunc(line, func(mark string) string {
		k, _ := strconv.Atoi(strings.Trim(mark, "\x00"))
		return "(?:" + strings.ReplaceAll(kinds[k], `\b`, "") + `)`
	})
}

var (
	fenced   = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	linkTo   = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	headings = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	anchor   = regexp.MustCompile(`[^\pL\pN _-]`)
)

// links are those that stay in the repository.
func links(markdown string) []string {
	var found []string
	for _, m := range linkTo.FindAllStringSubmatch(fenced.ReplaceAllString(markdown, ""), -1) {
		if !strings.Contains(m[1], "://") {
			found = append(found, m[1])
		}
	}
	return found
}

// anchors are the fragments that headings give, as GitHub makes them.
func anchors(markdown string) map[string]bool {
	found := map[string]bool{}
	for _, m := range headings.FindAllStringSubmatch(fenced.ReplaceAllString(markdown, ""), -1) {
		name := strings.ToLower(strings.ReplaceAll(m[1], "`", ""))
		found[strings.ReplaceAll(anchor.ReplaceAllString(name, ""), " ", "-")] = true
	}
	return found
}

// TestParse holds that the harness itself does not pass over blocks.
func TestParse(t *testing.T) {
	blocks, err := parse("a\n```sh exit=5 needs=node\nfalse\n```\n\n```text\nno ...\n```\n" + stopComment + "\n```sh norun: why\nx\n```\n```text\ny\n```\n")
	if err != nil {
		t.Fatal(err)
	}
	if len(blocks) != 5 || blocks[0].exit != 5 || blocks[0].text != "false\n" || !blocks[1].afterShell || blocks[2].lang != "stop" || !blocks[3].norun {
		t.Errorf("parsed %+v", blocks)
	}
	for _, bad := range []string{"```sh\nx\n", "```sh norun:\n```", "```sh runs\n```"} {
		if _, err := parse(bad); err == nil {
			t.Errorf("%q passes", bad)
		}
	}
}

// TestPattern holds what may differ from a document's output, and what not.
func TestPattern(t *testing.T) {
	match := func(expected, got string, want bool) {
		t.Helper()
		if pattern(expected).MatchString(got) != want {
			t.Errorf("%q matches %q: not %v", expected, got, want)
		}
	}
	match("hr_06h0nb0n4r000ey7c6ak1gjkk8  delivered", "hr_06h0nb0n4r000ey7c6ak1gjaaa    delivered\n", true)
	match("hr_06h0nb0n4r000ey7c6ak1gjkk8  delivered", "hr_06h0nb0n4r000ey7c6ak1gjaaa  rejected\n", false)
	match(`{"created_at":"2026-11-23T23:09:40Z"}`, `{"created_at":"2027-01-01T00:00:00Z"}`, true)
	match("a\n...\nz", "a\nb\nc\nz\n", true)
	match("a\n...\nz", "a\nb\nc\n", false)
	match("a ... c", "a (b) c", true)
	match("200 OK", "503 Service Unavailable", false)
}
