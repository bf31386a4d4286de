package stages

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/google/pprof/profile"
)

// A Breakdown is the CPU time of a profile, by stages.
type Breakdown struct {
	Costs map[Stage]Cost
	Total Cost

	other map[string]time.Duration // by outermost function: what no rule places
}

// A Cost is CPU time, and how much of it the kernel took.
type Cost struct {
	CPU    time.Duration
	Kernel time.Duration
}

func (c *Cost) add(d time.Duration, kernel bool) {
	c.CPU += d
	if kernel {
		c.Kernel += d
	}
}

// breakDown places every sample. value is the index of the samples' CPU time.
func breakDown(p *profile.Profile, value int) *Breakdown {
	b := &Breakdown{Costs: map[Stage]Cost{}, other: map[string]time.Duration{}}
	names := map[uint64]string{} // of functions, by their ids
	var stack []string
	for _, s := range p.Sample {
		stack = appendStack(stack[:0], s, names)
		d, kernel := time.Duration(s.Value[value]), inKernel(stack)
		stage := place(stack)
		c := b.Costs[stage]
		c.add(d, kernel)
		b.Costs[stage] = c
		b.Total.add(d, kernel)
		if stage == Other {
			root := "no function known"
			if len(stack) > 0 {
				root = stack[len(stack)-1]
			}
			b.other[root] += d
		}
	}
	return b
}

// appendStack appends the short names of a sample's functions, the innermost
// first. A location has several where functions are inlined.
func appendStack(stack []string, s *profile.Sample, names map[uint64]string) []string {
	for _, l := range s.Location {
		for _, line := range l.Line {
			if line.Function == nil {
				continue
			}
			name, ok := names[line.Function.ID]
			if !ok {
				name = short(line.Function.Name)
				names[line.Function.ID] = name
			}
			stack = append(stack, name)
		}
	}
	return stack
}

func inKernel(stack []string) bool {
	return len(stack) > 0 && slices.Contains(systemCalls, stack[0])
}

// Share is a stage's part of the CPU time, from 0 to 1.
func (b *Breakdown) Share(s Stage) float64 { return b.part(b.Costs[s].CPU) }

// KernelShare is the part of the CPU time that a stage spends in the kernel, from
// 0 to 1.
func (b *Breakdown) KernelShare(s Stage) float64 { return b.part(b.Costs[s].Kernel) }

// part is d's part of all CPU time.
func (b *Breakdown) part(d time.Duration) float64 {
	if b.Total.CPU == 0 {
		return 0
	}
	return float64(d) / float64(b.Total.CPU)
}

// Strangers are the outermost functions of up to n goroutines that no rule
// places, those first that cost most.
func (b *Breakdown) Strangers(n int) []string {
	list := slices.SortedFunc(maps.Keys(b.other), func(x, y string) int {
		return cmp.Or(cmp.Compare(b.other[y], b.other[x]), cmp.Compare(x, y))
	})
	return list[:min(n, len(list))]
}
