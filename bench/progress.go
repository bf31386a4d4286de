package bench

import (
	"fmt"
	"io"
	"sync"

	"github.com/harepost/harepost/bench/report"
)

// A progress tells a person how far a scenario is. On a terminal the last line
// changes while a round runs; elsewhere there is a line for each round.
type progress struct {
	w        io.Writer // nil: nobody listens
	terminal bool

	mu sync.Mutex // a sampler tells of a round that runs
}

const (
	clearLine    = "\r\x1b[2K" // go to the line's beginning and clear it
	passingRunes = 79
)

// line says something that stays.
func (p *progress) line(format string, args ...any) {
	if p.w == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal {
		fmt.Fprint(p.w, clearLine)
	}
	fmt.Fprintf(p.w, format+"\n", args...)
}

// passing says something that the next line takes the place of.
func (p *progress) passing(format string, args ...any) {
	if p.w == nil || !p.terminal {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	text := []rune(fmt.Sprintf(format, args...))
	// A line that wraps cannot be taken back.
	fmt.Fprint(p.w, clearLine+string(text[:min(len(text), passingRunes)]))
}

// watch returns what to tell of every sample of a round.
func (p *progress) watch(of plan, number int) func(report.Sample) {
	about := fmt.Sprintf("%s, round %d, %s", of.load, number, of.name())
	p.passing("%s: starts", about)
	length := (of.generator.Warmup + of.generator.Duration).Milliseconds()
	return func(s report.Sample) {
		left := "ends"
		if ms := length - s.AtMS; ms > 0 {
			left = fmt.Sprintf("%.0f s left", float64(ms)/1000)
		}
		p.passing("%s: %s, %.0f accepted/s, %.0f delivered/s", about, left, s.Values[report.AcceptedRate], s.Values[report.DeliveredRate])
	}
}

// round says what a round found.
func (p *progress) round(r report.Round) {
	v := r.Values
	text := fmt.Sprintf("%-30s round %d  %-9s %9.0f accepted/s %9.0f delivered/s", r.Load, r.Number, r.System, v[report.AcceptedRate], v[report.DeliveredRate])
	if cpu, ok := v[report.CPU]; ok {
		text += fmt.Sprintf("  %6.1f µs CPU", cpu)
	}
	if a, ok := r.Latencies[latencyArrival]; ok {
		text += fmt.Sprintf("  arrival p50 %.2f ms, p99 %.2f ms", quantile(a, 50), quantile(a, 99))
	}
	for _, name := range []string{report.Refused, report.Failed, report.Lost, report.Duplicates} {
		if v[name] > 0 {
			text += fmt.Sprintf("  %.0f %s", v[name], name)
		}
	}
	p.line("%s", text)
}
