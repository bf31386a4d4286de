package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Times in answers are whole seconds, cut off. The difference of two of them is
// exact when what lies between is whole seconds, and off by one at most when not.

// gap is the time from the end of an attempt to when the next one is due.
func (a attemptOnFile) gap(t testing.TB) time.Duration {
	t.Helper()
	if a.NextAttemptAt == nil {
		t.Fatalf("attempt %d is not followed by another", a.Attempt)
	}
	return a.NextAttemptAt.Sub(a.CreatedAt)
}

// The delay before the next attempt is the policy's formula, exactly where
// there is no jitter. Nothing is waited for: what counts is what was decided.
func TestBackoffIsTheFormula(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	n := 0
	f := func(policy string, want ...time.Duration) {
		n++
		host := fmt.Sprintf("policy-%d.your-app.com", n)
		t.Run(strings.NewReplacer(`"`, "", "{", "", "}", "").Replace(policy), func(t *testing.T) {
			t.Parallel()
			in := w.inbox(t, host, answers(500))
			h := acme.attempted(t, acme.queue(t, in.url, `"delivery":`+policy), len(want))
			if h.Status != "retrying" || h.LastStatus == nil || *h.LastStatus != 500 {
				t.Errorf("between attempts: %s", h.text)
			}
			for i, a := range h.Attempts[:len(want)] {
				if got := a.gap(t); got != want[i] {
					t.Errorf("%s after attempt %d, want %s", got, a.Attempt, want[i])
				}
			}
			if last := h.Attempts[len(h.Attempts)-1]; h.NextAttemptAt == nil || !h.NextAttemptAt.Equal(*last.NextAttemptAt) {
				t.Errorf("the delivery and its last attempt differ about what comes next: %s", h.text)
			}
		})
	}
	const s = time.Second
	f(`{"jitter":"none"}`, 1*s, 2*s)                                                        // the defaults, but for chance
	f(`{"jitter":"none","backoff":"exponential","base_delay_ms":1000}`, 1*s, 2*s)           //
	f(`{"jitter":"none","backoff":"fixed","base_delay_ms":1000}`, 1*s, 1*s)                 //
	f(`{"jitter":"none","base_delay_ms":60000}`, 60*s)                                      //
	f(`{"jitter":"none","base_delay_ms":60000,"max_delay_ms":7000}`, 7*s)                   // the cap is below the base
	f(`{"jitter":"none","backoff":"fixed","base_delay_ms":60000,"max_delay_ms":7000}`, 7*s) // and caps fixed too
	f(`{"jitter":"none","base_delay_ms":1000,"max_delay_ms":1000}`, 1*s, 1*s)               // growth stops at the cap

	// Out of range is the nearest bound.
	f(`{"jitter":"none","base_delay_ms":60001}`, 60*s)
	f(`{"jitter":"none","base_delay_ms":9e99}`, 60*s)
	f(`{"jitter":"none","base_delay_ms":60000,"max_delay_ms":999}`, 1*s)
	f(`{"jitter":"none","base_delay_ms":60000,"max_delay_ms":-5}`, 1*s)
	f(`{"jitter":"none","base_delay_ms":30000,"max_delay_ms":99999999999}`, 30*s)
	f(`{"jitter":"none","base_delay_ms":null,"max_delay_ms":null}`, 1*s) // null is "not given"
}

// base_delay_ms has a floor too, which shows in when requests arrive: below
// a second, dates say nothing.
func TestShortestDelayIsATenthOfASecond(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	in := w.inbox(t, "your-app.com", answers(500, 500, 200))
	acme.queue(t, in.url, `"delivery":{"jitter":"none","backoff":"fixed","base_delay_ms":0}`)
	last := in.next(t).at
	for range 2 {
		at := in.next(t).at
		if gap := at.Sub(last); gap < 100*time.Millisecond || gap > 10*time.Second {
			t.Errorf("an attempt came %s after the one before", gap)
		}
		last = at
	}
}

func TestFullJitterIsAnywhereBelowTheCeiling(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	in := w.inbox(t, "your-app.com", answers(500))
	const sends, ceiling = 40, 60 * time.Second
	var ids []string
	for range sends {
		ids = append(ids, acme.queue(t, in.url, `"delivery":{"base_delay_ms":60000,"backoff":"fixed","max_attempts":25}`))
	}
	seen := map[time.Duration]bool{}
	var low, high int
	for _, id := range ids {
		gap := acme.attempted(t, id, 1).Attempts[0].gap(t)
		if gap < 0 || gap > ceiling {
			t.Errorf("a delay of %s, the ceiling is %s", gap, ceiling)
		}
		seen[gap] = true
		if gap < ceiling/2 {
			low++
		} else {
			high++
		}
	}
	// Chances of a uniform draw to fail here: below 1 in 10^9.
	if len(seen) < 10 || low == 0 || high == 0 {
		t.Errorf("%d sends have %d different delays, %d in the lower half and %d in the upper: not random", sends, len(seen), low, high)
	}
}

func TestAttemptsAreCountedWithTheFirst(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	in := w.inbox(t, "your-app.com", answers(500))
	f := func(asked string, attempts int) {
		t.Helper()
		h := acme.final(t, acme.queue(t, in.url, `"delivery":{"base_delay_ms":100,"jitter":"none","backoff":"fixed","max_attempts":`+asked+`}`))
		if h.Status != "dead_letter" || len(h.Attempts) != attempts || h.MaxAttempts != attempts {
			t.Errorf("max_attempts %s: %s", asked, h.text)
		}
		for i := range attempts {
			l := in.next(t)
			if got := l.header.Get("X-Harepost-Attempt"); got != fmt.Sprint(i+1) || l.header.Get("X-Harepost-Delivery") != h.QueueID {
				t.Errorf("attempt %d came as %s of %s", i+1, got, l.header.Get("X-Harepost-Delivery"))
			}
		}
		in.empty(t)
	}
	f("1", 1)
	f("0", 1)
	f("-7", 1)
	f("3", 3)
	// The upper bound shows without 25 failures.
	many := acme.queue(t, in.url, `"delay_ms":60000,"delivery":{"max_attempts":26}`)
	if h := acme.lookup(t, many); h.MaxAttempts != 25 {
		t.Errorf("max_attempts 26 became %d", h.MaxAttempts)
	}
	usual := acme.queue(t, in.url, `"delay_ms":60000`)
	if h := acme.lookup(t, usual); h.MaxAttempts != 5 {
		t.Errorf("max_attempts is %d when it is not given", h.MaxAttempts)
	}
}

// A target's Retry-After replaces the computed delay.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	n := 0
	f := func(name string, status int, value, policy string, want time.Duration) {
		n++
		host := fmt.Sprintf("retry-%d.your-app.com", n)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := w.inbox(t, host, func(_ int, rw http.ResponseWriter, _ *http.Request) {
				rw.Header().Set("Retry-After", value)
				rw.WriteHeader(status)
			})
			policy := `"delivery":{"base_delay_ms":60000,` + policy + `}`
			if got := acme.attempted(t, acme.queue(t, in.url, policy), 1).Attempts[0].gap(t); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		})
	}
	const none = `"jitter":"none"`
	f("seconds on 429", 429, "30", none, 30*time.Second)
	f("seconds on 503", 503, "7", none, 7*time.Second)
	f("seconds on any retried status", 500, "90", none, 90*time.Second)
	f("longer than max_delay_ms", 429, "5000", none+`,"max_delay_ms":70000`, 5000*time.Second)
	f("without jitter", 429, "30", `"jitter":"full"`, 30*time.Second)
	f("more than twelve hours", 429, "999999", none, 12*time.Hour)
	f("not respected", 429, "30", none+`,"respect_retry_after":false`, 60*time.Second)
	f("negative", 429, "-30", none, 60*time.Second)
	f("unreadable", 429, "soon", none, 60*time.Second)
	f("a date that is past", 429, "Mon, 02 Jan 2006 15:04:05 GMT", none, 60*time.Second)

	t.Run("a date", func(t *testing.T) {
		t.Parallel()
		at := time.Now().Add(300 * time.Second).UTC().Truncate(time.Second)
		in := w.inbox(t, "retry-date.your-app.com", func(_ int, rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Retry-After", at.Format(http.TimeFormat))
			rw.WriteHeader(503)
		})
		h := acme.attempted(t, acme.queue(t, in.url, ""), 1)
		// The wait is from the end of the attempt, a moment after the date was read.
		if late := h.Attempts[0].NextAttemptAt.Sub(at); late < 0 || late > time.Second {
			t.Errorf("due %s after the date", late)
		}
	})
	t.Run("the retry comes no sooner", func(t *testing.T) {
		t.Parallel()
		in := w.inbox(t, "retry-real.your-app.com", func(n int, rw http.ResponseWriter, _ *http.Request) {
			if n == 1 {
				rw.Header().Set("Retry-After", "1")
				rw.WriteHeader(429)
			}
		})
		id := acme.queue(t, in.url, `"delivery":{"base_delay_ms":100,"jitter":"none"}`)
		first, second := in.next(t).at, in.next(t).at
		if gap := second.Sub(first); gap < time.Second {
			t.Errorf("%s after a Retry-After of one second", gap)
		}
		if got, want := ofHistory(acme.final(t, id)), "delivered: failed 429 http_status, delivered 200"; got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	})
}

// timeout_ms is clamped like the others: a millisecond is a second.
func TestShortestTimeoutIsASecond(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	url := w.target(t, "your-app.com", sayAndStay(""))
	h := acme.final(t, acme.queue(t, url, `"delivery":{"timeout_ms":1,"max_attempts":1}`))
	if got, want := ofHistory(h), "dead_letter: failed - timeout"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if took := h.Attempts[0].LatencyMillis; took < 950 || took > 5000 {
		t.Errorf("given up after %d ms", took)
	}
}

func TestFirstAttemptCanBePutOff(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	const second = time.Second
	written := func(at time.Time) string { return at.UTC().Format(time.RFC3339Nano) }
	// fields are made from the moment before the send; least is from there.
	f := func(name string, least time.Duration, fields func(now time.Time) string) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := w.inbox(t, name+".your-app.com", answers(200))
			before := time.Now()
			id := acme.queue(t, in.url, fields(before))
			if h := acme.lookup(t, id); len(h.Attempts) == 0 && (h.Status != "queued" || h.NextAttemptAt == nil) {
				t.Errorf("while it waits: %s", h.text)
			}
			// The clock of delays is in whole milliseconds.
			if waited := in.next(t).at.Sub(before); waited < least-time.Millisecond {
				t.Errorf("it came after %s, not before %s was wanted", waited, least)
			}
			if got := ofHistory(acme.final(t, id)); got != "delivered: delivered 200" {
				t.Errorf("%s", got)
			}
		})
	}
	f("delay", second, func(time.Time) string { return `"delay_ms":1000` })
	f("no-delay", 0, func(time.Time) string { return `"delay_ms":0` })
	f("date", second, func(now time.Time) string { return `"not_before":"` + written(now.Add(second)) + `"` })
	f("later-delay", second, func(now time.Time) string {
		return `"delay_ms":1000,"not_before":"` + written(now.Add(second/10)) + `"`
	})
	f("later-date", second, func(now time.Time) string {
		return `"delay_ms":100,"not_before":"` + written(now.Add(second)) + `"`
	})
	f("past", 0, func(time.Time) string { return `"not_before":"2006-01-02T15:04:05Z"` })

	t.Run("the date is kept", func(t *testing.T) {
		at := time.Now().Add(48 * time.Hour).UTC().Truncate(second)
		id := acme.queue(t, "https://your-app.com", `"delay_ms":60000,"not_before":"`+at.Format(time.RFC3339)+`"`)
		if h := acme.lookup(t, id); h.NextAttemptAt == nil || !h.NextAttemptAt.Equal(at) {
			t.Errorf("the later of the two is %s: %s", at, h.text)
		}
	})
	t.Run("no further than a year", func(t *testing.T) {
		acme.call(t, "POST", "/v1/send", sendBody("https://your-app.com", `"delay_ms":31536000001`)).refused(400, "delay_ms")
		acme.call(t, "POST", "/v1/send", sendBody("https://your-app.com", `"not_before":"`+written(time.Now().Add(366*24*time.Hour))+`"`)).refused(400, "not_before")
	})
}

// What expires is not tried any more, and says why it ended.
func TestExpiredDeliveriesAreNotTried(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	in := w.inbox(t, "your-app.com", answers(500))
	expires := time.Now().Add(1200 * time.Millisecond).UTC().Format(time.RFC3339Nano)
	h := acme.final(t, acme.queue(t, in.url, `"expires_at":"`+expires+`","delivery":{"jitter":"none","base_delay_ms":1300}`))
	last := h.Attempts[len(h.Attempts)-1]
	if h.Status != "dead_letter" || last.Error == nil || !strings.HasPrefix(*last.Error, "expired: ") || last.HTTPStatus != nil || last.Outcome != "failed" {
		t.Errorf("on record: %s", h.text)
	}
	for range len(h.Attempts) - 1 {
		in.next(t)
	}
	in.empty(t)
	acme.call(t, "POST", "/v1/send", sendBody(in.url, `"expires_at":"2006-01-02T15:04:05Z"`)).refused(400, "expires_at")
}
