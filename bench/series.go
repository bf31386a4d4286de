package bench

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"
)

// A series is a number over time.
type series struct{ seconds, values []float64 }

func (v *series) add(at time.Duration, value float64) {
	v.seconds, v.values = append(v.seconds, at.Seconds()), append(v.values, value)
}

// slope is how much the number grows a second, by least squares over all but the
// first quarter; 0 for fewer than two points.
func (v *series) slope() float64 {
	first := len(v.values) / 4
	x, y := v.seconds[first:], v.values[first:]
	n := float64(len(x))
	var sx, sy float64
	for i := range x {
		sx, sy = sx+x[i], sy+y[i]
	}
	var above, below float64
	for i := range x {
		dx := x[i] - sx/n
		above, below = above+dx*(y[i]-sy/n), below+dx*dx
	}
	if below == 0 {
		return 0
	}
	return above / below
}

func (v *series) last() float64 {
	if len(v.values) == 0 {
		return 0
	}
	return v.values[len(v.values)-1]
}

func (v *series) most() (most float64) {
	for _, n := range v.values {
		most = max(most, n)
	}
	return most
}

// countDescriptors counts the open file descriptors of a process for so long.
func countDescriptors(ctx context.Context, pid int, length time.Duration) (v series, err error) {
	began, every := now(), max(length/sampleMost, 250*time.Millisecond)
	for {
		at := now().sub(began)
		open, err := openDescriptors(pid)
		if err != nil {
			return v, err
		}
		v.add(at, float64(open))
		if at >= length {
			return v, nil
		}
		if err := pause(ctx, every); err != nil {
			return v, err
		}
	}
}

// openDescriptors is how many file descriptors a process has open.
func openDescriptors(pid int) (int, error) {
	open, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/fd")
	if err != nil {
		return 0, fmt.Errorf("bench: count file descriptors: %w", err)
	}
	return len(open), nil
}
