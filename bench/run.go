package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/harepost/harepost/bench/report"
)

// The errors that Run returns after the report.
var (
	// ErrLost: an acknowledged send did not arrive.
	ErrLost = errors.New("bench: acknowledged sends were lost")
	// ErrNothing: of a round's sends none was accepted, so that its numbers mean
	// nothing. The report says why the first one failed.
	ErrNothing = errors.New("bench: a round in which nothing was accepted")
)

// A Scenario is one way to use a system, which is measured. Its fields are its
// options; those of the package are all there are.
type Scenario interface {
	name() string
	// complete sets the defaults, and says what contradicts.
	complete() error
	common() *Options
	play(ctx context.Context, s *session) error
}

// common makes a struct that embeds Options half a Scenario.
func (o *Options) common() *Options { return o }

// Run plays a scenario and writes the report: to w as text or as JSON, and to the
// files that its options name. It returns ErrLost or ErrNothing after the report.
func Run(ctx context.Context, s Scenario, w io.Writer) error {
	r, err := Measure(ctx, s)
	if r == nil {
		return err
	}
	if writeErr := s.common().write(r, w); writeErr != nil {
		err = errors.Join(err, fmt.Errorf("bench: write the report: %w", writeErr))
	}
	if lost(r) {
		err = errors.Join(err, ErrLost)
	}
	if nothing(r) {
		err = errors.Join(err, ErrNothing)
	}
	return err
}

func nothing(r *report.Report) bool {
	return slices.ContainsFunc(r.Rounds, func(round report.Round) bool {
		accepted, known := round.Values[report.Accepted]
		return known && accepted == 0
	})
}

// Measure plays a scenario and returns the report. With an error there is a
// report only if nothing but the profiles failed.
func Measure(ctx context.Context, sc Scenario) (*report.Report, error) {
	if err := sc.complete(); err != nil {
		return nil, err
	}
	o := sc.common()
	s := &session{
		options: *o,
		report: &report.Report{
			Format:     report.FormatVersion,
			Scenario:   sc.name(),
			Quick:      o.Quick,
			Started:    time.Now().UTC(),
			Command:    o.Command,
			Versions:   o.Versions,
			Machine:    describeMachine(o.Dir),
			Durability: durability(o),
		},
		progress: &progress{w: o.Progress, terminal: o.Terminal},
	}
	if inMemory[s.report.Machine.Filesystem] {
		s.note("The data directories are in memory: syncs cost nothing here, and these numbers show nothing about a disk.")
	}
	if len(o.EngineFlags) > 0 {
		s.set("engine flags", strings.Join(o.EngineFlags, " "))
	}
	if err := sc.play(ctx, s); err != nil {
		return nil, fmt.Errorf("bench: %s: %w", sc.name(), err)
	}
	return s.report, s.takeProfiles(ctx)
}

// durability is what a 202 of the measured engine means.
func durability(o *Options) string {
	switch {
	case slices.Contains(o.Systems, report.Cluster):
		return "synced: a 202 leaves when its send is in the log and the log's file is synced (fdatasync); in a cluster, on a majority of the nodes"
	case slices.Contains(o.Systems, report.Engine):
		return "synced: a 202 leaves when its send is in the log and the log's file is synced (fdatasync)"
	case slices.Contains(o.Systems, report.Server):
		return "whatever the server at " + o.URL + " was started with"
	}
	return "none"
}

// lost tells whether an acknowledged send of any round did not arrive.
func lost(r *report.Report) bool {
	return slices.ContainsFunc(r.Rounds, func(r report.Round) bool { return r.Values[report.Lost] > 0 })
}

// A session is one run of a scenario.
type session struct {
	options  Options
	report   *report.Report
	progress *progress
	profiled []plan // one of each system, for the profiles
}

// withoutBreakers lets the engine go on with a receiver that fails on purpose,
// if the flags do not say otherwise: what it would be spared is what is measured.
func (s *session) withoutBreakers() {
	s.set("breakers", "off, since the receiver fails on purpose")
	s.options.EngineFlags = append([]string{"--breaker-failures=0"}, s.options.EngineFlags...)
}

// set adds a setting to the report.
func (s *session) set(name string, value any) {
	s.report.Settings = append(s.report.Settings, report.Setting{Name: name, Value: fmt.Sprint(value)})
}

func (s *session) note(format string, args ...any) {
	s.report.Notes = append(s.report.Notes, fmt.Sprintf(format, args...))
}

func (s *session) find(name string, value float64, unit string, better report.Direction) {
	s.report.Findings = append(s.report.Findings, report.Finding{Name: name, Value: value, Unit: unit, Better: better})
}

// interleave measures plans in turns (A B A B …), each round with new processes
// and a new data directory, and adds the rounds to the report.
func (s *session) interleave(ctx context.Context, plans ...plan) error {
	for number := 1; number <= s.options.Rounds; number++ {
		for _, p := range plans {
			if err := s.add(ctx, p, number); err != nil {
				return err
			}
		}
	}
	return nil
}

// add measures one round and adds it to the report.
func (s *session) add(ctx context.Context, p plan, number int) error {
	r, err := s.measure(ctx, p, number)
	if err != nil {
		return fmt.Errorf("%s, %s, round %d: %w", p.name(), p.load, number, err)
	}
	s.report.Rounds = append(s.report.Rounds, r)
	s.progress.round(r)
	if !slices.ContainsFunc(s.profiled, func(known plan) bool { return known.system == p.system }) {
		s.profiled = append(s.profiled, p)
	}
	return nil
}

// rounds are those of a system under a load.
func (s *session) rounds(system string, load report.Load) []report.Round {
	var of []report.Round
	for _, r := range s.report.Rounds {
		if r.System == system && r.Load == load {
			of = append(of, r)
		}
	}
	return of
}

// median of values; of an even number the middle of the two in the middle.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// medianOf is the median of a number over rounds.
func medianOf(rounds []report.Round, number func(report.Round) float64) float64 {
	var values []float64
	for _, r := range rounds {
		values = append(values, number(r))
	}
	return median(values)
}
