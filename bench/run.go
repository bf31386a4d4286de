package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// ErrLost is returned by Run when an acknowledged send did not arrive.
var ErrLost = errors.New("bench: acknowledged sends were lost")

// Run measures as o says and writes the report to w, as text or as JSON. It
// returns ErrLost, after the report, when anything acknowledged did not arrive.
func Run(ctx context.Context, o Options, w io.Writer) error {
	report, err := Measure(ctx, o)
	if report == nil {
		return err
	}
	if writeErr := report.write(w, o.JSON); writeErr != nil {
		err = errors.Join(err, fmt.Errorf("bench: write the report: %w", writeErr))
	}
	if report.lost() > 0 {
		err = errors.Join(err, ErrLost)
	}
	return err
}

// Measure runs every round: for each number of connections the systems take
// turns (A B A B …), each with new processes and a new data directory. With an
// error there is a report only if nothing but the profiles failed.
func Measure(ctx context.Context, o Options) (*Report, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	report := &Report{
		Machine:      describeMachine(o.Dir),
		WarmupMS:     o.Warmup.Milliseconds(),
		DurationMS:   o.Duration.Milliseconds(),
		PayloadBytes: o.PayloadBytes,
		Targets:      o.Targets,
		Workers:      o.ForwarderWorkers,
	}
	for _, connections := range o.Connections {
		for round := 1; round <= o.Rounds; round++ {
			for _, system := range o.Systems {
				r, err := measureRound(ctx, o, system, connections, round, "")
				if err != nil {
					return nil, fmt.Errorf("bench: %s, %d connections, round %d: %w", system, connections, round, err)
				}
				report.Rounds = append(report.Rounds, r)
				o.tell(r)
			}
		}
	}
	report.summarize()
	return report, takeProfiles(ctx, o)
}

// takeProfiles profiles each system in a round of its own: the profiler costs
// CPU, so no number is taken from it.
func takeProfiles(ctx context.Context, o Options) error {
	if o.ProfileDir == "" {
		return nil
	}
	if err := os.MkdirAll(o.ProfileDir, 0o755); err != nil {
		return fmt.Errorf("bench: make the directory of profiles: %w", err)
	}
	connections := o.Connections[0]
	for _, system := range slices.Compact(slices.Sorted(slices.Values(o.Systems))) {
		path := profilePath(o.ProfileDir, system, connections)
		if _, err := measureRound(ctx, o, system, connections, 0, path); err != nil {
			return fmt.Errorf("bench: profile of the %s: %w", system, err)
		}
		if o.Progress != nil {
			fmt.Fprintf(o.Progress, "profile of the %s: %s\n", system, path)
		}
	}
	return nil
}

func (o Options) tell(r Round) {
	if o.Progress != nil {
		fmt.Fprintf(o.Progress, "%4d connections, round %d, %-9s  %7.0f delivered/s  %5.1f CPU s/million  %d lost  %d duplicates\n",
			r.Connections, r.Round, r.System, r.DeliveredPerSecond, r.CPUSecondsPerMillion, r.Lost, r.Duplicates)
	}
}
