package bench

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/harepost/harepost/bench/report"
)

// tellOfARound is what a progress writes of one round.
func tellOfARound(terminal bool) string {
	var out bytes.Buffer
	p := &progress{w: &out, terminal: terminal}
	load := report.Load{Axis: "connections", Value: 64, Variant: strings.Repeat("long ", 20)}
	tell := p.watch(plan{system: report.Engine, load: load, generator: GeneratorOptions{Duration: 2 * time.Second}}, 1)
	tell(report.Sample{AtMS: 500, Values: map[string]float64{report.AcceptedRate: 10}})
	p.round(report.Round{System: report.Engine, Load: load, Number: 1, Values: map[string]float64{report.DeliveredRate: 1234, report.Lost: 2}})
	return out.String()
}

func TestProgressIsALineForEachRound(t *testing.T) {
	got := tellOfARound(false)
	if strings.Count(got, "\n") != 1 || strings.Contains(got, "\x1b") || !strings.Contains(got, "1234 delivered/s") || !strings.Contains(got, "2 lost") {
		t.Errorf("%q", got)
	}
}

// On a terminal each line takes the place of the one before, which it can only
// while none is longer than the screen is wide.
func TestProgressOnATerminalIsOneLine(t *testing.T) {
	got := tellOfARound(true)
	lines := strings.Split(got, clearLine)
	if len(lines) != 4 || lines[0] != "" || strings.Count(got, "\n") != 1 || !strings.HasSuffix(got, "\n") {
		t.Fatalf("%q", got)
	}
	for _, line := range lines[1:3] {
		if n := len([]rune(line)); n > passingRunes {
			t.Errorf("a line of %d characters: %q", n, line)
		}
	}
}

func TestNobodyListensToTheProgress(t *testing.T) {
	p := new(progress)
	p.watch(plan{}, 1)(report.Sample{})
	p.line("nothing")
}
