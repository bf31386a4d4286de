package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// differences warn of what else than the code is another.
func differences(a, b *Report) []string {
	var out []string
	tell := func(what, a, b string) {
		if a != b {
			out = append(out, fmt.Sprintf("%s differs: %s, %s", what, cmp.Or(a, "unknown"), cmp.Or(b, "unknown")))
		}
	}
	tell("size", size(a.Quick), size(b.Quick))
	tell("CPU", a.Machine.CPU, b.Machine.CPU)
	tell("number of CPUs", fmt.Sprint(a.Machine.CPUs), fmt.Sprint(b.Machine.CPUs))
	tell("memory", quantity(float64(a.Machine.MemoryBytes), "B"), quantity(float64(b.Machine.MemoryBytes), "B"))
	tell("kernel", a.Machine.Kernel, b.Machine.Kernel)
	tell("filesystem", a.Machine.Filesystem, b.Machine.Filesystem)
	tell("disk", a.Machine.Disk, b.Machine.Disk)
	tell("Go", a.Versions.Go, b.Versions.Go)
	tell("durability", a.Durability, b.Durability)
	for _, name := range settingNames(a, b) {
		tell("setting "+name, a.setting(name), b.setting(name))
	}
	for i, r := range []*Report{a, b} {
		for _, warning := range r.Warnings() {
			out = append(out, fmt.Sprintf("of %c: %s", 'A'+i, warning))
		}
	}
	return out
}

func size(quick bool) string {
	if quick {
		return "quick"
	}
	return "full"
}

func settingNames(a, b *Report) []string {
	var names []string
	for _, s := range slices.Concat(a.Settings, b.Settings) {
		if !slices.Contains(names, s.Name) {
			names = append(names, s.Name)
		}
	}
	return names
}

// setting is the values of that name, of which there may be several.
func (r *Report) setting(name string) string {
	var values []string
	for _, s := range r.Settings {
		if s.Name == name {
			values = append(values, s.Value)
		}
	}
	return strings.Join(values, ", ")
}

// driftWarnings say where a yardstick moved, which nobody changed: then the
// machine did, and numbers that are no ratios moved with it.
func (c *Comparison) driftWarnings() []string {
	var out []string
	for _, change := range c.Values {
		yardstick := change.System == Forwarder || change.System == Direct
		if yardstick && (change.Metric == DeliveredRate || change.Metric == CPU) && change.moved() {
			out = append(out, fmt.Sprintf("the yardstick moved (%s, %s, %s: %s): the machine was another, so trust the ratios",
				change.System, change.Load, change.Title, change.shiftText()))
		}
	}
	return out
}

// onlyIn names the systems and loads that the other report lacks.
func onlyIn(name string, r, other *Report) []string {
	cells := other.cells()
	var out []string
	for _, g := range r.Groups() {
		if len(cells[cell{g.System, g.Load}]) == 0 {
			out = append(out, fmt.Sprintf("%s, %s: only in %s", g.System, g.Load, name))
		}
	}
	return out
}
