package torture

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// A Record is what a run found, as JSON too. Durations are in milliseconds.
type Record struct {
	Started  time.Time `json:"started"`
	Seed     uint64    `json:"seed"`
	Nodes    int       `json:"nodes"`
	Isolated bool      `json:"isolated"`
	Rate     int       `json:"sends_per_second"`
	Events   []Event   `json:"events"`

	TookMS int64  `json:"took_ms"`
	Counts Counts `json:"counts"`

	Lost       int `json:"lost"`       // acknowledged and never received
	Unexpected int `json:"unexpected"` // refused and received
	Quiet      int `json:"quiet_points"`
	Unmade     int `json:"elections_between_events"` // on a busy machine, of no event

	// Strange is answers to sends that a client has no use for, and how often.
	Strange map[string]int `json:"strange_answers,omitempty"`
	// Broken is every promise that did not hold, in words.
	Broken []string `json:"broken,omitempty"`
}

// An Event is one event and what followed.
type Event struct {
	Number int    `json:"number"`
	Kind   Kind   `json:"kind"`
	What   string `json:"what"`
	AtMS   int64  `json:"at_ms"` // since the start of the run

	// Accepted is how long after the harm the first send was accepted that began
	// after it, and Delivered when the first such one was received. The gaps are the
	// longest times without any.
	AcceptedMS    int64 `json:"accepted_after_ms"`
	AcceptedGapMS int64 `json:"accepted_gap_ms"`
	DeliveredMS   int64 `json:"delivered_after_ms"`
	DeliveryGapMS int64 `json:"delivery_gap_ms"`
	// Retry is the longest that a send failed whose client tries again, from the first
	// failure that it saw to the acknowledgement.
	RetryMS int64 `json:"retry_ms"`
	// Well is how long after the harm was undone every node was ready and took sends.
	WellMS int64 `json:"well_after_ms"`

	Elections int `json:"elections"` // changes of who leads that were seen
	Repeated  int `json:"repeated"`  // attempts
	Bound     int `json:"bound"`     // of that: attempts that were under way or not on record
	UnderWay  int `json:"under_way"` // attempts at the moment of the harm
	Late      int `json:"late"`      // attempts of a node after another was seen to lead

	Counts Counts `json:"counts"` // during the event
}

// say adds to what the event is.
func (e *Event) say(format string, args ...any) { e.What += fmt.Sprintf(format, args...) }

// fill takes over what the ledger has seen.
func (e *Event) fill(w window) {
	e.AtMS = w.began.Milliseconds()
	e.AcceptedMS, e.AcceptedGapMS = w.firstAck.Milliseconds(), w.ackGap.Milliseconds()
	e.RetryMS = w.retry.Milliseconds()
	e.DeliveredMS, e.DeliveryGapMS = w.firstNew.Milliseconds(), w.gap.Milliseconds()
	e.Elections, e.Repeated, e.Bound, e.UnderWay, e.Late = w.elected, w.repeats, w.exposed, w.under, w.late
	e.Counts = w.counts
}

func (e *Event) line() string {
	return fmt.Sprintf("%3d %7.1fs %-15s %s: accepted after %s (gap %s), delivered after %s (gap %s), well %s after; %d elections, repeated %d of %d (%d under way, %d late); %d acknowledged, %d refused, %d unknown, %d tried again (for %s), %d held",
		e.Number, float64(e.AtMS)/1000, e.Kind, e.What,
		seconds(e.AcceptedMS), seconds(e.AcceptedGapMS), seconds(e.DeliveredMS), seconds(e.DeliveryGapMS), seconds(e.WellMS),
		e.Elections, e.Repeated, e.Bound, e.UnderWay, e.Late,
		e.Counts.Acknowledged, e.Counts.Refused, e.Counts.Unknown, e.Counts.Retried-e.Counts.Rechecked, seconds(e.RetryMS), e.Counts.Held)
}

func seconds(ms int64) string { return fmt.Sprintf("%.2fs", float64(ms)/1000) }

// Write writes the record as a table, a line for each kind of event.
func (r *Record) Write(w io.Writer) error {
	fmt.Fprintf(w, "%d nodes, seed %d, %d events in %s: %d sent, %d acknowledged, %d refused, %d of unknown outcome; %d requests, %d of them repeated; %d acknowledged ones were asked again\n",
		r.Nodes, r.Seed, len(r.Events), (time.Duration(r.TookMS) * time.Millisecond).Round(time.Second),
		r.Counts.Sent, r.Counts.Acknowledged, r.Counts.Refused, r.Counts.Unknown, r.Counts.Asked, r.Counts.Retried, r.Counts.Rechecked)
	fmt.Fprintf(w, "lost %d, unexpected %d, repeated %d, broken promises %d; compared at %d quiet points; %d changes of leadership between events\n\n",
		r.Lost, r.Unexpected, r.Counts.Repeated, len(r.Broken), r.Quiet, r.Unmade)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "event\tcount\taccepted after p50\tmax\tgap max\tretry max\tdelivered after p50\tmax\tgap max\twell after max\trepeated max\tof\trepeated all\tof\tlate max\t")
	for _, k := range kinds {
		r.row(t, k.name)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, s := range slices.Sorted(strangeLines(r.Strange)) {
		fmt.Fprintln(w, "strange answer:", s)
	}
	for _, b := range r.Broken {
		fmt.Fprintln(w, "BROKEN:", b)
	}
	return nil
}

func strangeLines(strange map[string]int) func(func(string) bool) {
	return func(yield func(string) bool) {
		for s, n := range strange {
			if !yield(fmt.Sprintf("%s (%d times)", strings.TrimSpace(s), n)) {
				return
			}
		}
	}
}

func (r *Record) row(w io.Writer, of Kind) {
	var events []Event
	for _, e := range r.Events {
		if e.Kind == of {
			events = append(events, e)
		}
	}
	if len(events) == 0 {
		return
	}
	sorted := func(number func(Event) int64) (p50, most int64) {
		slices.SortFunc(events, func(a, b Event) int { return cmp.Compare(number(a), number(b)) })
		return number(events[(len(events)-1)/2]), number(events[len(events)-1])
	}
	a50, aMost := sorted(func(e Event) int64 { return e.AcceptedMS })
	_, aGap := sorted(func(e Event) int64 { return e.AcceptedGapMS })
	_, retry := sorted(func(e Event) int64 { return e.RetryMS })
	d50, dMost := sorted(func(e Event) int64 { return e.DeliveredMS })
	_, dGap := sorted(func(e Event) int64 { return e.DeliveryGapMS })
	_, well := sorted(func(e Event) int64 { return e.WellMS })
	_, late := sorted(func(e Event) int64 { return int64(e.Late) })
	sorted(func(e Event) int64 { return int64(e.Repeated) })
	worst := events[len(events)-1]
	repeated, bound := 0, 0
	for _, e := range events {
		repeated, bound = repeated+e.Repeated, bound+e.Bound
	}
	fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t\n", of, len(events),
		seconds(a50), seconds(aMost), seconds(aGap), seconds(retry), seconds(d50), seconds(dMost), seconds(dGap), seconds(well),
		worst.Repeated, worst.Bound, repeated, bound, late)
}
