package main

import (
	"fmt"
	"time"
)

// A moment is a flag that names a point in time: as RFC 3339, as a date and a
// time in the reader's zone, or as a duration, which counts from now in the
// direction that the flag means.
type moment struct {
	at     time.Time
	offset time.Duration
}

// UnmarshalText reads the flag.
func (m *moment) UnmarshalText(text []byte) error {
	s := string(text)
	*m = moment{}
	if d, err := time.ParseDuration(s); err == nil {
		if d <= 0 {
			return fmt.Errorf("%q is not above 0", s)
		}
		m.offset = d
		return nil
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateTime, time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			m.at = t
			return nil
		}
	}
	return fmt.Errorf("%q is neither a time like 2026-06-10T14:30:00Z or 2026-06-10, nor a duration like 90m", s)
}

// ago is the moment where a duration means the past; zero if none was given.
func (m moment) ago(now time.Time) time.Time {
	if m.offset == 0 {
		return m.at
	}
	return now.Add(-m.offset)
}

// ahead is the moment where a duration means the future; zero if none was given.
func (m moment) ahead(now time.Time) time.Time {
	if m.offset == 0 {
		return m.at
	}
	return now.Add(m.offset)
}

// timeText shows a moment in the reader's zone; a dash when there is none.
func timeText(t *time.Time) string {
	if t == nil || t.IsZero() {
		return "-"
	}
	return t.Local().Format(time.DateTime)
}

// momentText is timeText with how long ago it was, or how soon it will be.
func momentText(t *time.Time, now time.Time) string {
	if t == nil || t.IsZero() {
		return "-"
	}
	return timeText(t) + " (" + relativeText(t.Sub(now)) + ")"
}

// relativeText says how far a moment is away, in whole units.
func relativeText(d time.Duration) string {
	form := "in %d %s"
	if d < 0 {
		d, form = -d, "%d %s ago"
	}
	switch {
	case d < time.Second:
		return "now"
	case d < time.Minute:
		return fmt.Sprintf(form, d/time.Second, "s")
	case d < time.Hour:
		return fmt.Sprintf(form, d/time.Minute, "min")
	case d < 48*time.Hour:
		return fmt.Sprintf(form, d/time.Hour, "h")
	}
	return fmt.Sprintf(form, d/(24*time.Hour), "days")
}
