package stages

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

// A Column is one profile in a table.
type Column struct {
	Name string
	Breakdown
	// PerDelivery is the CPU that a delivery costs, which the stages share out. 0:
	// not known; then there are shares only.
	PerDelivery time.Duration
}

// Of returns what a stage costs a delivery. Its zero may mean that it is not
// known.
func (c *Column) Of(s Stage) Cost { return c.perDelivery(c.Share(s), c.KernelShare(s)) }

// All returns what all stages together cost a delivery.
func (c *Column) All() Cost { return c.perDelivery(c.part(c.Total.CPU), c.part(c.Total.Kernel)) }

func (c *Column) perDelivery(share, kernel float64) Cost {
	of := func(part float64) time.Duration { return time.Duration(part * float64(c.PerDelivery)) }
	return Cost{CPU: of(share), Kernel: of(kernel)}
}

// worthNaming is the share from which on the text names what is in Other.
const worthNaming = 0.01

// WriteText writes columns side by side: of each stage microseconds per
// delivery, those of them in the kernel, and its share. Of two columns it adds
// the difference.
func WriteText(w io.Writer, columns []Column) error {
	var b strings.Builder
	for i := range columns {
		columns[i].describe(&b, letter(i))
	}
	b.WriteByte('\n')
	writeRow(&b, "stage", columns, func(*Column) [3]string { return [3]string{"µs", "kernel", "share"} }, "change")
	for _, s := range All {
		writeRow(&b, string(s), columns, func(c *Column) [3]string { return cells(c.Of(s), c.Share(s), c.PerDelivery > 0) },
			change(columns, func(c *Column) Cost { return c.Of(s) }))
	}
	writeRow(&b, "all", columns, func(c *Column) [3]string { return cells(c.All(), c.part(c.Total.CPU), c.PerDelivery > 0) },
		change(columns, (*Column).All))
	_, err := io.WriteString(w, b.String())
	return err
}

func letter(i int) string { return string(rune('A' + i%26)) }

// describe writes what the column is, and what of it nobody knows.
func (c *Column) describe(b *strings.Builder, letter string) {
	fmt.Fprintf(b, "%s  %s: ", letter, c.Name)
	if c.PerDelivery > 0 {
		fmt.Fprintf(b, "%s µs of CPU per delivery, ", micros(c.PerDelivery))
	}
	fmt.Fprintf(b, "shared out by a profile of %.2f s of CPU, %s of it in the kernel\n", c.Total.CPU.Seconds(), percent(c.part(c.Total.Kernel)))
	if share := c.Share(Other); share >= worthNaming {
		fmt.Fprintf(b, "   other is %s: %s\n", percent(share), strings.Join(c.Strangers(3), ", "))
	}
}

// writeRow writes a line: a name, three cells of each column, and the change
// where there are two.
func writeRow(b *strings.Builder, name string, columns []Column, of func(*Column) [3]string, change string) {
	fmt.Fprintf(b, "%-12s", name)
	for i := range columns {
		mark := " "
		if name == "stage" {
			mark = letter(i)
		}
		row := of(&columns[i])
		fmt.Fprintf(b, "  | %s %6s %7s %7s", mark, row[0], row[1], row[2])
	}
	if len(columns) == 2 {
		fmt.Fprintf(b, "  | %7s", change)
	}
	b.WriteByte('\n')
}

func cells(c Cost, share float64, known bool) [3]string {
	if !known {
		return [3]string{"-", "-", percent(share)}
	}
	return [3]string{micros(c.CPU), micros(c.Kernel), percent(share)}
}

// change is the difference of two columns, of which both are known.
func change(columns []Column, of func(*Column) Cost) string {
	if len(columns) != 2 || columns[0].PerDelivery == 0 || columns[1].PerDelivery == 0 {
		return "-"
	}
	tenths := math.Round(10 * inMicros(of(&columns[1]).CPU-of(&columns[0]).CPU))
	return fmt.Sprintf("%+.1f", (tenths+0)/10) // + 0: what rounds to -0 is none
}

func inMicros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func micros(d time.Duration) string { return fmt.Sprintf("%.1f", inMicros(d)) }

func percent(share float64) string { return fmt.Sprintf("%.1f %%", 100*share) }

// A row is a stage in the JSON form.
type row struct {
	Stage       Stage   `json:"stage"`
	US          float64 `json:"us_per_delivery,omitempty"`
	KernelUS    float64 `json:"kernel_us_per_delivery,omitempty"`
	Share       float64 `json:"share"`
	KernelShare float64 `json:"kernel_share"` // of all CPU, as Share is
}

// A profiled is a Column in the JSON form.
type profiled struct {
	Name      string   `json:"name"`
	US        float64  `json:"cpu_us_per_delivery,omitempty"`
	SampledMS int64    `json:"sampled_ms"` // CPU time of all samples
	Stages    []row    `json:"stages"`
	Strangers []string `json:"strangers,omitempty"` // outermost functions of other
}

// WriteJSON writes columns as a list.
func WriteJSON(w io.Writer, columns []Column) error {
	list := make([]profiled, len(columns))
	for i := range columns {
		c := &columns[i]
		list[i] = profiled{Name: c.Name, US: inMicros(c.PerDelivery), SampledMS: c.Total.CPU.Milliseconds(), Strangers: c.Strangers(3)}
		for _, s := range All {
			cost := c.Of(s)
			list[i].Stages = append(list[i].Stages, row{s, inMicros(cost.CPU), inMicros(cost.Kernel), c.Share(s), c.KernelShare(s)})
		}
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(list)
}
