package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/harepost/harepost/client/webhook"
)

// Dead letters of a customer become a signed webhook to the operator, which is a
// delivery of an account of its own that the admin token opens; also with a secret
// that the server has made and shows.
func TestOperatorEvents(t *testing.T) {
	t.Parallel()
	type letter struct {
		header http.Header
		body   []byte
	}
	letters := make(chan letter, 16)
	operator := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		letters <- letter{r.Header, body}
	}))
	defer operator.Close()
	customer := httptest.NewServer(http.NotFoundHandler())
	defer customer.Close()

	const token = "the-operator-s-token"
	args := []string{
		"--dev", "--admin-token", token, "--data-dir", filepath.Join(t.TempDir(), "data"),
		"--events-url", operator.URL + "/events", "--events-dead-letters", "2",
	}
	var secret string
	for _, life := range []string{"first", "second"} {
		s := startServer(t, append(args, "--breaker-failures", "10")...)
		key := s.devKey()
		for range 3 {
			if status, text := s.request("POST", "/v1/send", key, sendBody(customer.URL+"/", "")); status != http.StatusAccepted {
				t.Fatalf("%d %s", status, text)
			}
		}
		status, shown := s.request("GET", "/v1/signing-secret", token, "")
		var answer struct {
			SigningSecret string `json:"signing_secret"`
		}
		if err := json.Unmarshal([]byte(shown), &answer); err != nil || status != http.StatusOK || secret != "" && answer.SigningSecret != secret {
			t.Fatalf("the signing secret is shown as %d %s, it was %q: %v", status, shown, secret, err)
		}
		secret = answer.SigningSecret
		select {
		case l := <-letters:
			if err := webhook.Verify(l.header, l.body, []string{secret}, 5*time.Minute, time.Now()); err != nil {
				t.Error(err)
			}
			if !strings.Contains(string(l.body), `"type":"dead_letters.many"`) || !strings.Contains(string(l.body), `"dead_letters_last_hour":3`) {
				t.Errorf("%s life: event %s", life, l.body)
			}
		case <-time.After(processPatience):
			t.Fatalf("%s life: no event:\n%s", life, s.stderr.String())
		}
		if status, text := s.request("GET", "/v1/deliveries?label=dead_letters.many", token, ""); status != http.StatusOK || !strings.Contains(text, operator.URL+"/events") {
			t.Errorf("the event as a delivery: %d %s", status, text)
		}
		if status := s.stop(); status != 0 {
			t.Errorf("status %d", status)
		}
	}
}

func TestEventFlagsThatContradict(t *testing.T) {
	f := func(want string, args ...string) {
		t.Helper()
		args = append([]string{"serve", "--data-dir", filepath.Join(t.TempDir(), "data")}, args...)
		if status, _, stderr := runHere(t, args...); status != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%q: status %d, stderr %q; want status 2 and %q", args, status, stderr, want)
		}
	}
	const url = "--events-url=https://ops.example.com/harepost"
	f("--events-url: only https", "--events-url=http://ops.example.com/")
	f("--events-url: it does not begin with https://", "--events-url=ops.example.com")
	f("are for --events-url", "--events-secret=whsec_x")
	f("give one of them", url, "--events-secret=whsec_x", "--events-secret-file=x")
	f("--events-secret: it is not", url, "--events-secret=whsec_x")
	f("--events-secret-file: open", url, "--events-secret-file="+filepath.Join(t.TempDir(), "absent"))
	f("in ascending order", "--events-failing-after=6h,1h")
	f("in ascending order", "--events-failing-after=0s,1h")
	f("in ascending order", "--events-failing-after=soon")
	f("must not be negative", "--events-lag=-1s")
	f("must not be negative", "--events-dead-letters=-1")
}
