package bench

import (
	"math"
	"os"
	"strings"
	"testing"
	"time"
)

func TestSlopeIsThatOfTheLine(t *testing.T) {
	check := func(name string, want float64, value func(i int) float64, points int) {
		t.Helper()
		var v series
		for i := range points {
			v.add(time.Duration(i)*2*time.Second, value(i))
		}
		if got := v.slope(); math.Abs(got-want) > 1e-9 {
			t.Errorf("%s: a slope of %g, want %g", name, got, want)
		}
	}
	check("nothing", 0, nil, 0)
	check("a point", 0, func(int) float64 { return 7 }, 1)
	check("level", 0, func(int) float64 { return 7 }, 40)
	check("rising", 1.5, func(i int) float64 { return 100 + 3*float64(i) }, 40)
	check("a rise in the first quarter only", 0, func(i int) float64 { return float64(min(i, 10)) }, 40)
}

func TestDescriptorsAreCounted(t *testing.T) {
	v, err := countDescriptors(t.Context(), os.Getpid(), 0)
	if err != nil || v.most() < 3 || v.last() != v.most() {
		t.Errorf("%+v, %v; want one count of at least three", v, err)
	}
}

func TestPeakIsTheBusiestWindow(t *testing.T) {
	l := timeline{Began: 0, Attempts: []uint32{1, 1, 9, 1, 5, 5, 1}}
	check := func(from, to, window int, want float64) {
		t.Helper()
		step := moment(timelineStep)
		if got := l.peak(moment(from)*step, moment(to)*step, window); got != want {
			t.Errorf("peak of %d steps from %d to %d is %g a second, want %g", window, from, to, got, want)
		}
	}
	check(0, 6, 1, 90)
	check(3, 6, 1, 50)
	check(0, 6, 2, 50)
	check(0, 6, 3, 50)
	check(0, 6, 10, 23) // longer than the timeline
	check(9, 12, 1, 0)
}

// Any hundred targets in a row are a mix of the behaviours and of the hosts.
func TestSoakTargetsAreMixed(t *testing.T) {
	hosts := make([]string, 40)
	for i := range hosts {
		hosts[i] = "http://127.1.0." + string(rune('a'+i)) + "/"
	}
	targets := mixTargets(hosts)
	if len(targets) != 40*20 {
		t.Fatalf("%d targets, want each of 40 hosts 20 times", len(targets))
	}
	for from := 0; from+40 <= len(targets); from += 40 {
		seen, healthy := map[string]bool{}, 0
		for _, target := range targets[from : from+40] {
			host, rest, _ := strings.Cut(target, "/b/")
			if rest == "" {
				healthy++
			}
			seen[strings.TrimSuffix(host, "/")] = true
		}
		if len(seen) != 40 || healthy != 28 {
			t.Errorf("from %d on: %d hosts and %d of 40 healthy, want 40 and 28", from, len(seen), healthy)
		}
	}
}

func TestTroublesRefuseWhatContradicts(t *testing.T) {
	check := func(s Scenario, want string) {
		t.Helper()
		if err := s.complete(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s %+v: %v, want an error with %q", s.name(), s, err, want)
		}
	}
	check(&RetryStorm{Share: 2}, "share")
	check(&RetryStorm{Fails: 500}, "500 times")
	check(&RetryStorm{Healthy: -1}, "healthy rate")
	check(&BlackHoles{Holes: -1}, "black holes")
	check(&BlackHoles{Connections: -1}, "connections")
	check(&NoisyTenant{Flood: 1 << 20}, "connections")
	check(&NoisyTenant{Options: Options{URL: "http://127.0.0.1:1"}}, "starts itself")
	check(&ManyHosts{Hosts: maxReceiverHosts + 1}, "hosts")
	check(&ManyHosts{Options: Options{Systems: []string{"forwarder"}}}, "starts itself")
	check(&Outage{How: "explode"}, "no such word")
	check(&Outage{Options: Options{Duration: time.Second}}, "before, away and after")
	check(&Outage{Away: -time.Second}, "seconds away")
	check(&Backlog{Count: -1}, "deliveries")
	check(&Backlog{Lanes: 1}, "lanes")
	check(&Backlog{Slow: "delay=soon"}, "slow")
	check(&Soak{Rate: -1}, "rate")
}
