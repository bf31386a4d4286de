package main

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/harepost/harepost/client"
)

// A consent is the flags of commands that destroy or change many things at once.
type consent struct {
	Yes    bool `name:"yes" short:"y" help:"Do not ask. Without it a terminal is asked, and anything else is refused."`
	DryRun bool `name:"dry-run" help:"Only show how many it would be."`
}

// ask returns nil when the user wants what question asks.
func (c consent) ask(sh *shell, question string) error {
	if c.Yes {
		return nil
	}
	if !isTerminal(sh.in) || !isTerminal(sh.err) {
		return usagef("%s Nobody is here to ask: give --yes if that is meant", question)
	}
	fmt.Fprintf(sh.err, "%s [y/N] ", question)
	answer, _ := bufio.NewReader(io.LimitReader(sh.input(), 64)).ReadString('\n') // the end of the input is a no
	if sh.ctx.Err() != nil {
		fmt.Fprintln(sh.err)
		return fmt.Errorf("%w: nothing was done", errInterrupted)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return exitWith(exitFailed, fmt.Errorf("nothing was done"))
}

// A tally is how far bulk work has come.
type tally struct {
	matched int64 // -1: still being counted
	done    int64
	skipped int64
}

func tallyOf(j client.Job) tally {
	t := tally{matched: -1, done: j.Done, skipped: j.Skipped}
	if j.Matched != nil {
		t.matched = *j.Matched
	}
	return t
}

// share is how much of the work is behind, from 0 to 1.
func (t tally) share() float64 {
	if t.matched <= 0 {
		return 0
	}
	return min(1, float64(t.done+t.skipped)/float64(t.matched))
}

const (
	progressCells   = 30              // of the bar
	progressLines   = 5 * time.Second // between two lines where no terminal shows a bar
	progressEraseTo = "\r\x1b[K"
)

// A progress shows how bulk work goes on: a bar that is drawn over on a
// terminal, elsewhere a line now and then.
type progress struct {
	w        io.Writer
	terminal bool
	verb     string
	began    time.Time
	first    int64 // done when we began to watch
	lastLine time.Time
}

func newProgress(w io.Writer, verb string, now time.Time) *progress {
	return &progress{w: w, terminal: isTerminal(w), verb: verb, began: now, first: -1, lastLine: now}
}

func (p *progress) show(t tally, now time.Time) {
	if p.first < 0 {
		p.first = t.done + t.skipped
	}
	switch {
	case p.terminal:
		fmt.Fprint(p.w, progressEraseTo+p.bar(t)+" "+p.text(t, now))
	case now.Sub(p.lastLine) >= progressLines:
		p.lastLine = now
		fmt.Fprintln(p.w, p.text(t, now))
	}
}

// end leaves the terminal's line empty, for what is said next.
func (p *progress) end() {
	if p.terminal {
		fmt.Fprint(p.w, progressEraseTo)
	}
}

func (p *progress) bar(t tally) string {
	full := int(t.share() * progressCells)
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", progressCells-full) + "]"
}

func (p *progress) text(t tally, now time.Time) string {
	if t.matched < 0 {
		return p.verb + ": counting, " + countText(t.done) + " so far"
	}
	text := fmt.Sprintf("%s: %s of %s (%.0f %%)", p.verb, countText(t.done+t.skipped), countText(t.matched), 100*t.share())
	moved, took := t.done+t.skipped-p.first, now.Sub(p.began)
	if moved <= 0 || took <= 0 {
		return text
	}
	rate := float64(moved) / took.Seconds()
	left := time.Duration(float64(t.matched-t.done-t.skipped) / rate * float64(time.Second))
	return text + fmt.Sprintf(", %s/s, %s left", countText(int64(rate)), shortDuration(max(left, 0)))
}

// countText is a number with its thousands set apart.
func countText(n int64) string {
	digits := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

// deliveriesText is a number of deliveries.
func deliveriesText(n int64) string {
	if n == 1 {
		return "1 delivery"
	}
	return countText(n) + " deliveries"
}
