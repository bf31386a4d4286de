package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

const topAnswer = `200 {"data":[{"destination":"https://your-app.com:443","kind":"host","pending":1234,"in_flight":2,"limit":4,"paused":false,"breaker":"open"}],"next_cursor":null}`

// Without a terminal each look is a table, and --once is one look.
func TestTopOnce(t *testing.T) {
	_, env := cannedAPI(t, map[string][]string{"GET /v1/destinations?limit=20&sort=pending": {topAnswer}})
	for _, v := range env {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
	status, stdout, stderr := runHere(t, "top", "--once")
	want := regexp.MustCompile(`^\d\d:\d\d:\d\d  http://127\.0\.0\.1:\d+  1 destination: 1,234 pending, 2 under way

PENDING  OLDEST  AT ONCE  STATE         OK  P50  P99  DESTINATION
1,234    -       2 of 4   breaker open  -   -    -    https://your-app.com:443
$`)
	if status != exitOK || stderr != "" || !want.MatchString(stdout) {
		t.Errorf("status %d, %s\n%s", status, stderr, stdout)
	}
}

// At a terminal a frame takes the place of the one before, fits the terminal, and
// q and Ctrl-C, as key or as signal, end it and give the terminal back.
func TestTopAtATerminal(t *testing.T) {
	f := func(end func(*terminal), variable string) {
		t.Helper()
		_, env := cannedAPI(t, map[string][]string{"GET /v1/destinations?limit=36&sort=pending": {
			topAnswer, `503 {"error":"overloaded"}`, strings.Replace(topAnswer, "1234", "1233", 1),
		}})
		term := startAtTerminal(t, 80, append(env, variable), "top", "--interval", "100ms")
		eventually(t, "1,234", term.screen.String)
		eventually(t, "overloaded", term.screen.String)
		eventually(t, "1,233", term.screen.String)
		end(term)
		status, screen := term.end()
		if status != exitOK || !strings.HasPrefix(screen, hideCursor+cutLines) || !strings.HasSuffix(screen, wrapLines+showCursor) {
			t.Errorf("status %d\n%q", status, screen)
		}
		if n := strings.Count(screen, clearScreen); n < 3 {
			t.Errorf("%d frames, want 3 at least", n)
		}
		if colours := strings.Contains(screen, "\x1b[31m"); colours != (variable == "NO_COLOR=") {
			t.Errorf("%s: colours %t", variable, colours)
		}
		for line := range strings.SplitSeq(screen, "\r\n") {
			if n := len([]rune(regexp.MustCompile(`\x1b\[[0-9?;]*[a-zA-Z]`).ReplaceAllString(line, ""))); n > 80 && !strings.Contains(line, "overloaded") {
				t.Errorf("%d characters in a line of 80: %q", n, line)
			}
		}
	}
	f(func(term *terminal) { term.answer("xq") }, "NO_COLOR=")
	f(func(term *terminal) { term.answer("\x03") }, "NO_COLOR=1")
	f(func(term *terminal) { term.cmd.Process.Signal(os.Interrupt) }, "NO_COLOR=1")
}

// A key that is not taken ends it with the status that says so.
func TestTopEndsWhereItIsRefused(t *testing.T) {
	_, env := cannedAPI(t, map[string][]string{"GET /v1/destinations?limit=36&sort=pending": {`401 {"error":"API key is missing or invalid"}`}})
	if status, screen := startAtTerminal(t, 80, env, "top").end(); status != exitNotAllowed || !strings.Contains(screen, "API key") {
		t.Errorf("status %d\n%q", status, screen)
	}
}

// A ratio has the digits that the server gives it, and no rounding error of ours.
func TestRatioText(t *testing.T) {
	f := func(ratio float64, want string) {
		t.Helper()
		if got := ratioText(&ratio); got != want {
			t.Errorf("%v is shown as %q, want %q", ratio, got, want)
		}
	}
	f(0.9973, "99.73 %")
	f(0.07, "7 %")
	f(0.5556, "55.56 %")
	f(1, "100 %")
	f(0, "0 %")
}
