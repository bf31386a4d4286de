package main

import (
	"testing"
	"time"
)

func TestAMomentIsATimeOrADuration(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	f := func(text string, ago, ahead time.Time) {
		t.Helper()
		var m moment
		if err := m.UnmarshalText([]byte(text)); err != nil {
			t.Error(err)
		}
		if !m.ago(now).Equal(ago) || !m.ahead(now).Equal(ahead) {
			t.Errorf("%s: %s and %s, want %s and %s", text, m.ago(now), m.ahead(now), ago, ahead)
		}
	}
	at := time.Date(2026, 6, 10, 14, 30, 0, 0, time.UTC)
	f("2026-06-10T14:30:00Z", at, at)
	f("2026-06-10T16:30:00+02:00", at, at)
	f("90m", now.Add(-90*time.Minute), now.Add(90*time.Minute))
	local := time.Date(2026, 6, 10, 0, 0, 0, 0, time.Local)
	f("2026-06-10", local, local)
	if !(moment{}).ago(now).IsZero() {
		t.Error("no moment is a moment")
	}
	for _, wrong := range []string{"", "yesterday", "-1h", "0s", "2026-13-01"} {
		if new(moment).UnmarshalText([]byte(wrong)) == nil {
			t.Errorf("%q was taken", wrong)
		}
	}
}

func TestRelativeTimes(t *testing.T) {
	f := func(d time.Duration, want string) {
		t.Helper()
		if got := relativeText(d); got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
	f(0, "now")
	f(-999*time.Millisecond, "now")
	f(-time.Second, "1 s ago")
	f(90*time.Second, "in 1 min")
	f(-47*time.Hour, "47 h ago")
	f(72*time.Hour, "in 3 days")
}
