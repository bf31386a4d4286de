package main

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Off a terminal nobody is asked, so nothing is destroyed.
func TestNobodyToAskIsARefusal(t *testing.T) {
	var out, errs bytes.Buffer
	sh := &shell{ctx: t.Context(), in: strings.NewReader("y\n"), out: &out, err: &errs}
	err := consent{}.ask(sh, "Purge 7 deliveries?")
	if statusOf(err) != exitUsage || !strings.Contains(err.Error(), "--yes") {
		t.Errorf("%v, status %d", err, statusOf(err))
	}
	if err := (consent{Yes: true}).ask(sh, "Purge 7 deliveries?"); err != nil {
		t.Error(err)
	}
}

// Where no terminal is, progress is a line now and then, and not one per poll.
func TestProgressIsALineNowAndThenOffATerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		began := time.Now()
		p := newProgress(&out, "replay", began)
		for time.Since(began) < 20*time.Second {
			p.show(tally{20_000, time.Since(began).Milliseconds(), 0}, time.Now())
			<-time.After(100 * time.Millisecond)
		}
		p.end()
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != 3 {
			t.Errorf("%d lines in 20 s, want 3:\n%s", len(lines), out.String())
		}
		for _, want := range []string{"replay: ", " of 20,000 (", "/s, ", " left"} {
			if !strings.Contains(lines[0], want) {
				t.Errorf("%q is not in %q", want, lines[0])
			}
		}
	})
}

func TestCountsHaveTheirThousandsSetApart(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1000: "-1,000", -1: "-1"} {
		if got := countText(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}
