package client_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/harepost/harepost/client"
)

// script is a transport without a network, so that the waits between the
// requests can run in a synctest bubble's time.
type script struct {
	t       *testing.T
	answers []answer
	at      []time.Duration // when each request came, after begin
	bodies  []string
	begin   time.Time
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	s.at = append(s.at, time.Since(s.begin))
	s.bodies = append(s.bodies, string(body))
	if len(s.answers) == 0 {
		s.t.Fatal("one request too many")
	}
	a := s.answers[0]
	s.answers = s.answers[1:]
	h := http.Header{}
	if a.header != "" {
		h.Set("Retry-After", a.header)
	}
	return &http.Response{StatusCode: a.status, Header: h, Body: io.NopCloser(bytes.NewBufferString(a.body))}, nil
}

const accepted = `{"queue_id":"hr_1"}`

// sends makes one send in a bubble and checks how it ends and when its
// requests are made.
func sends(t *testing.T, o client.Options, send client.Send, deadline time.Duration, answers []answer, wantStatus int, wantAt ...time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &script{t: t, answers: answers, begin: time.Now()}
		o.HTTPClient = &http.Client{Transport: s}
		c, err := client.New("https://harepost.example", "k", o)
		if err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		if deadline > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, deadline)
			defer cancel()
		}
		receipt, err := c.Send(ctx, send)
		status := 202
		if e, ok := err.(*client.Error); ok {
			status = e.Status
		} else if err != nil {
			t.Fatal(err)
		}
		if status != wantStatus || (status == 202) != (receipt.QueueID == "hr_1") {
			t.Errorf("ended with %d and %+v, want %d", status, receipt, wantStatus)
		}
		if len(s.at) != len(wantAt) {
			t.Fatalf("requests at %v, want %v", s.at, wantAt)
		}
		for i := range s.at {
			if s.at[i] != wantAt[i] || s.bodies[i] != s.bodies[0] {
				t.Errorf("request %d at %v: %s, want it at %v: %s", i, s.at[i], s.bodies[i], wantAt[i], s.bodies[0])
			}
		}
		if took := time.Since(s.begin); took != wantAt[len(wantAt)-1] {
			t.Errorf("returned after %v, the last request was at %v", took, wantAt[len(wantAt)-1])
		}
	})
}

func TestSendsAreRepeatedOnlyWhenThatIsAskedForAndSafe(t *testing.T) {
	keyed := client.Send{Target: "t", IdempotencyKey: "k"}
	thrice := client.Options{Retries: 2}
	ok := answer{202, "", accepted}
	busy := func(status int, retryAfter string) answer { return answer{status, retryAfter, `{"error":"busy"}`} }

	sends(t, thrice, keyed, 0, []answer{busy(503, "2"), busy(429, "5"), ok}, 202, 0, 2*time.Second, 7*time.Second)
	sends(t, thrice, keyed, 0, []answer{busy(503, "1"), busy(503, "1"), busy(503, "1")}, 503, 0, time.Second, 2*time.Second)
	sends(t, client.Options{}, keyed, 0, []answer{busy(503, "1")}, 503, 0)
	sends(t, thrice, client.Send{Target: "t"}, 0, []answer{busy(503, "1")}, 503, 0) // no key: it might be sent twice
	sends(t, thrice, keyed, 0, []answer{busy(503, "")}, 503, 0)
	sends(t, thrice, keyed, 0, []answer{busy(503, "31")}, 503, 0) // longer than it waits
	sends(t, client.Options{Retries: 1, MaxRetryAfter: time.Minute}, keyed, 0, []answer{busy(503, "31"), ok}, 202, 0, 31*time.Second)
	sends(t, thrice, keyed, 0, []answer{busy(500, "1")}, 500, 0)
	sends(t, thrice, keyed, 0, []answer{busy(400, "1")}, 400, 0)
	sends(t, thrice, keyed, time.Second, []answer{busy(503, "2")}, 503, 0) // the context would end first
}
