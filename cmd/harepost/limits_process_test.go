package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Each limit acts at the value that its flag has: what just fits is taken, and
// one more is refused. All values differ, so that no two can be mixed up.
func TestLimitsActAtTheValuesOfTheirFlags(t *testing.T) {
	t.Parallel()
	const headers, headerBytes, urlChars, keyChars, metadataBytes, requestBytes = 5, 300, 111, 33, 77, 2000
	s := startServer(t, "--dev", "--retention-finished", "2h", "--retention-dead", "3h",
		"--max-headers", fmt.Sprint(headers), "--max-header-bytes", fmt.Sprint(headerBytes), "--max-url-chars", fmt.Sprint(urlChars),
		"--max-idempotency-key-chars", fmt.Sprint(keyChars), "--max-metadata-bytes", fmt.Sprint(metadataBytes), "--max-request-bytes", fmt.Sprint(requestBytes))
	key := s.devKey()
	const target = "http://127.0.0.1:1024/"
	x := func(n int) string { return strings.Repeat("x", n) }
	padded := func(text string, n int) string { return strings.Replace(text, "PAD", x(n-len(text)+len("PAD")), 1) }

	limits := []struct {
		flag   string
		limit  int
		status int                // of what is too much
		says   string             // in its answer
		send   func(n int) string // a send that has n of it
	}{
		{"--max-headers", headers, http.StatusBadRequest, fmt.Sprint("more than ", headers), func(n int) string {
			var fields []string
			for i := range n {
				fields = append(fields, fmt.Sprintf(`"X-%d":"v"`, i))
			}
			return sendBody(target, `"headers":{`+strings.Join(fields, ",")+`}`)
		}},
		{"--max-header-bytes", headerBytes, http.StatusBadRequest, fmt.Sprint(headerBytes, " bytes"), func(n int) string {
			return sendBody(target, `"headers":{"X-1":"`+x(n-len("X-1"))+`"}`)
		}},
		{"--max-url-chars", urlChars, http.StatusBadRequest, fmt.Sprint(urlChars), func(n int) string {
			return sendBody(padded(target+"PAD", n), "")
		}},
		{"--max-idempotency-key-chars", keyChars, http.StatusBadRequest, fmt.Sprint(keyChars), func(n int) string {
			return sendBody(target, `"idempotency_key":"`+x(n)+`"`)
		}},
		{"--max-metadata-bytes", metadataBytes, http.StatusBadRequest, fmt.Sprint(metadataBytes, " bytes"), func(n int) string {
			return sendBody(target, `"metadata":`+padded(`{"m":"PAD"}`, n))
		}},
		{"--max-request-bytes", requestBytes, http.StatusRequestEntityTooLarge, fmt.Sprint(requestBytes), func(n int) string {
			return padded(sendBody(target, `"body":"PAD"`), n)
		}},
	}
	for _, l := range limits {
		if status, text := s.request("POST", "/v1/send", key, l.send(l.limit)); status != http.StatusAccepted {
			t.Errorf("%s %d: %d of them get %d %s", l.flag, l.limit, l.limit, status, text)
		}
		if status, text := s.request("POST", "/v1/send", key, l.send(l.limit+1)); status != l.status || !strings.Contains(text, l.says) {
			t.Errorf("%s %d: %d of them get %d %s, want %d and %q", l.flag, l.limit, l.limit+1, status, text, l.status, l.says)
		}
	}
}

// No flag reaches the setting of another. Of some of them nothing would be seen
// for an hour.
func TestFlagsReachTheirOwnSettings(t *testing.T) {
	c := mustParseServe(t, "--data-dir", "x", "--rate-limit", "2", "--lane-concurrency", "3", "--max-in-flight", "4",
		"--max-request-bytes", "5", "--max-connections", "6", "--max-url-chars", "7", "--max-headers", "8", "--max-header-bytes", "9",
		"--max-metadata-bytes", "10", "--idempotency-window", "11s", "--retention-finished", "12s", "--retention-dead", "13s",
		"--retention-payload", "14s", "--max-data-bytes", fmt.Sprint(leastDataBytes+15), "--max-idempotency-key-chars", "16")
	p := &program{cfg: config{serveCmd: *c}}
	e, a := p.engineOptions(), p.apiOptions()
	f := func(setting string, got, want any) {
		t.Helper()
		if got != want {
			t.Errorf("%s is %v, its flag said %v", setting, got, want)
		}
	}
	f("RatePerMinute", e.RatePerMinute, 2)
	f("LaneConcurrency", e.LaneConcurrency, 3)
	f("MaxInFlight", e.MaxInFlight, 4)
	f("RequestBytes", a.RequestBytes, 5)
	f("Connections", a.Connections, 6)
	f("URLChars", a.URLChars, 7)
	f("Headers", a.Headers, 8)
	f("HeadersBytes", a.HeadersBytes, 9)
	f("MetadataBytes", a.MetadataBytes, 10)
	f("IdempotencyWindow", e.IdempotencyWindow, 11*time.Second)
	f("RetainFinished", e.RetainFinished, 12*time.Second)
	f("RetainDead", e.RetainDead, 13*time.Second)
	f("RetainPayload", e.RetainPayload, 14*time.Second)
	f("IdempotencyKeyChars", a.IdempotencyKeyChars, 16)
	f("MaxDataBytes", e.MaxDataBytes, int64(leastDataBytes+15))
}

// Within --idempotency-window a second send is a duplicate; after it, it is a
// new one.
func TestIdempotencyWindow(t *testing.T) {
	t.Parallel() // it mostly waits
	const window = 2 * time.Second
	s := startServer(t, "--dev", "--idempotency-window", window.String())
	key := s.devKey()
	name := 0
	send := func() (id string, began, ended time.Time) {
		t.Helper()
		began = time.Now()
		status, text := s.request("POST", "/v1/send", key, sendBody("http://127.0.0.1:1024/", fmt.Sprintf(`"delay_ms":3600000,"idempotency_key":"k%d"`, name)))
		if status != http.StatusAccepted {
			t.Fatal(status, text)
		}
		return idOf(t, text), began, time.Now()
	}
	var first string
	var began, ended time.Time
	until(t, "a second send within the window", func() (bool, string) {
		name++
		first, began, ended = send()
		second, _, end := send()
		if end.Sub(began) >= window {
			return false, "this machine took too long for two sends"
		}
		if second != first {
			t.Errorf("two sends within %s made %s and %s", end.Sub(began), first, second)
		}
		return true, ""
	})
	until(t, "a new delivery after the window", func() (bool, string) {
		id, beganLater, endedLater := send()
		// Milliseconds count: a send at 0.9 may be one at 0.
		if age := endedLater.Sub(began); id != first && age < window-time.Millisecond {
			t.Errorf("after %s of %s another delivery was made", age, window)
		}
		if age := beganLater.Sub(ended); id == first && age > window+time.Millisecond {
			t.Fatalf("after %s of %s it is still a duplicate", age, window)
		}
		return id != first, "still a duplicate"
	})
}
