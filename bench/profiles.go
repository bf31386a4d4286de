package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/harepost/harepost/bench/report"
	"github.com/harepost/harepost/bench/stages"
)

// takeProfiles profiles each system in a round of its own, and finds what each
// stage of a delivery costs. The profiler costs CPU itself, so what a delivery
// costs is taken from the rounds before, and from the profile only how it is
// shared out.
func (s *session) takeProfiles(ctx context.Context) error {
	if s.options.ProfileDir == "" {
		return nil
	}
	if err := os.MkdirAll(s.options.ProfileDir, 0o755); err != nil {
		return fmt.Errorf("bench: make the directory of profiles: %w", err)
	}
	var columns []stages.Column
	for _, p := range s.profiled {
		if p.system != report.Engine && p.system != report.Forwarder {
			continue // no process of ours
		}
		c, err := s.takeProfile(ctx, p)
		if err != nil {
			return fmt.Errorf("bench: profile of the %s: %w", p.system, err)
		}
		s.findStages(&c)
		columns = append(columns, c)
	}
	return s.tellStages(columns)
}

// takeProfile profiles one system.
func (s *session) takeProfile(ctx context.Context, p plan) (c stages.Column, err error) {
	p.profile = profilePath(s.options.ProfileDir, p.system, p.generator.Connections)
	if _, err := s.measure(ctx, p, 0); err != nil {
		return c, err
	}
	s.progress.line("profile of the %s: %s", p.system, p.profile)
	f, err := os.Open(p.profile)
	if err != nil {
		return c, err
	}
	defer f.Close() // nothing is written to it
	b, err := stages.Read(f)
	if err != nil {
		return c, err
	}
	us := medianOf(s.rounds(p.system, p.load), func(r report.Round) float64 { return r.Values[report.CPU] })
	return stages.Column{
		Name: p.system, Breakdown: *b, PerDelivery: time.Duration(us * float64(time.Microsecond)),
	}, nil
}

// leastKernel is from which on a stage's part in the kernel is a finding of its
// own: below it rounds to nothing.
const leastKernel = 50 * time.Nanosecond

// findStages adds what the stages of a system cost to the report.
func (s *session) findStages(c *stages.Column) {
	if c.Total.CPU == 0 || c.PerDelivery == 0 {
		s.note("The profile of the %s has no samples, or nothing was delivered: nothing is said of its stages.", c.Name)
		return
	}
	find := func(name string, d time.Duration) {
		s.find(c.Name+" CPU: "+name, float64(d)/float64(time.Microsecond), "µs", report.Lower)
	}
	for _, stage := range stages.All {
		cost := c.Of(stage)
		if cost.CPU > 0 {
			find(string(stage), cost.CPU)
		}
		if cost.Kernel >= leastKernel {
			find(string(stage)+", in the kernel", cost.Kernel)
		}
	}
	all := c.All()
	s.find(c.Name+" CPU: share of the kernel", 100*float64(all.Kernel)/float64(all.CPU), "%", report.Neither)
}

// tellStages shows the stages of all systems side by side.
func (s *session) tellStages(columns []stages.Column) error {
	if len(columns) == 0 {
		return nil
	}
	var text strings.Builder
	if err := stages.WriteText(&text, columns); err != nil {
		return err
	}
	s.progress.line("%s", strings.TrimSuffix(text.String(), "\n"))
	return nil
}

// profilePath names the profile of a system.
func profilePath(dir, system string, connections int) string {
	return filepath.Join(dir, fmt.Sprintf("%s-c%d.prof", system, connections))
}
