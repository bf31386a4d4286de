package client_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/harepost/harepost/client"
)

// script is a transport without a network, so that the waits between the
// requests can run in a synctest bubble's time.
type script struct {
	t       *testing.T
	mu      sync.Mutex
	answers []answer
	at      []time.Duration // when each request came, after begin
	bodies  []string
	begin   time.Time
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = append(s.at, time.Since(s.begin))
	s.bodies = append(s.bodies, string(body))
	if len(s.answers) == 0 {
		s.t.Fatal("one request too many")
	}
	a := s.answers[0]
	s.answers = s.answers[1:]
	if a == lost {
		return nil, errors.New("connection reset")
	}
	h := http.Header{}
	if a.header != "" {
		h.Set("Retry-After", a.header)
	}
	return &http.Response{StatusCode: a.status, Header: h, Body: io.NopCloser(bytes.NewBufferString(a.body))}, nil
}

const accepted = `{"queue_id":"hr_1","status":"queued"}`

// sends makes one send in a bubble and checks how it ends and when its
// requests are made: so long after the one before.
func sends(t *testing.T, o client.Options, send client.Send, deadline time.Duration, answers []answer, wantStatus int, gaps ...time.Duration) {
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
		if len(s.at) != len(gaps)+1 {
			t.Fatalf("requests at %v, want gaps of %v", s.at, gaps)
		}
		for i, gap := range gaps {
			got := s.at[i+1] - s.at[i]
			if got < gap || got > gap+gap/10 || s.bodies[i+1] != s.bodies[0] {
				t.Errorf("request %d %v after the one before, want %v and at most a tenth more: %s", i+2, got, gap, s.bodies[i+1])
			}
		}
		if took := time.Since(s.begin); took != s.at[len(s.at)-1] {
			t.Errorf("returned after %v, the last request was at %v", took, s.at[len(s.at)-1])
		}
	})
}

func TestSendsAreRepeatedOnlyWhenThatIsAskedForAndSafe(t *testing.T) {
	keyed := client.Send{Target: "t", IdempotencyKey: "k"}
	thrice := client.Options{Retries: 2}
	ok := answer{202, "", accepted}
	busy := func(status int, retryAfter string) answer { return answer{status, retryAfter, `{"error":"busy"}`} }

	sends(t, thrice, keyed, 0, []answer{busy(503, "2"), busy(429, "5"), ok}, 202, 2*time.Second, 5*time.Second)
	sends(t, thrice, keyed, 0, []answer{busy(507, "1"), busy(503, "1"), busy(503, "1")}, 503, time.Second, time.Second)
	sends(t, client.Options{}, keyed, 0, []answer{busy(503, "1")}, 503)
	sends(t, thrice, client.Send{Target: "t"}, 0, []answer{busy(503, "1")}, 503) // no key: it might be sent twice
	sends(t, thrice, keyed, 0, []answer{busy(503, "31")}, 503)                   // longer than it waits
	sends(t, client.Options{Retries: 1, MaxRetryAfter: time.Minute}, keyed, 0, []answer{busy(503, "31"), ok}, 202, 31*time.Second)
	sends(t, thrice, keyed, 0, []answer{busy(500, "1")}, 500)
	sends(t, thrice, keyed, 0, []answer{busy(400, "1")}, 400)
	sends(t, thrice, keyed, time.Second, []answer{busy(503, "2")}, 503) // the context would end first

	generated := thrice
	generated.GenerateKeys = true
	sends(t, generated, client.Send{Target: "t"}, 0, []answer{busy(503, "1"), ok}, 202, time.Second)
}

// scripted is a client whose answers are scripted, in a bubble.
func scripted(t *testing.T, o client.Options, answers ...answer) (*client.Client, *script) {
	t.Helper()
	s := &script{t: t, answers: answers, begin: time.Now()}
	o.HTTPClient = &http.Client{Transport: s}
	c, err := client.New("https://harepost.example", "k", o)
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

// lost is an exchange that breaks off.
var lost = answer{status: -1}

func TestWithoutAnAnswerReadsAreRepeatedEverLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scripted(t, client.Options{Retries: 4, RetryDelay: time.Second, MaxRetryAfter: 4 * time.Second},
			lost, answer{502, "", "<html>"}, lost, lost, answer{200, "", `{"signing_secret":"whsec_x"}`})
		secret, err := c.SigningSecret(t.Context())
		same(t, secret, err, "whsec_x")
		for i, whole := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 4 * time.Second} {
			if pause := s.at[i+1] - s.at[i]; pause < whole/2 || pause > whole {
				t.Errorf("pause %d of %v is not between the half of %v and the whole", i, pause, whole)
			}
		}
	})
}

func TestWhatChangesSomethingIsNeverRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := map[string]func(*client.Client, context.Context) error{
			"replay": func(c *client.Client, ctx context.Context) error { _, err := c.Replay(ctx, "hr_1"); return err },
			"purge": func(c *client.Client, ctx context.Context) error {
				_, err := c.Purge(ctx, client.Bulk{All: true})
				return err
			},
			"key":    func(c *client.Client, ctx context.Context) error { _, err := c.CreateKey(ctx); return err },
			"rotate": func(c *client.Client, ctx context.Context) error { _, err := c.RotateSigningSecret(ctx, 0); return err },
		}
		for name, call := range calls {
			for _, a := range []answer{lost, {503, "1", `{"error":"outcome unknown"}`}} {
				c, s := scripted(t, client.Options{Retries: 5, GenerateKeys: true}, a)
				if err := call(c, t.Context()); err == nil || len(s.at) != 1 {
					t.Errorf("%s: %v after %d requests", name, err, len(s.at))
				}
			}
		}
	})
}

func TestAContextEndsAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scripted(t, client.Options{Retries: 1}, answer{503, "20", `{"error":"busy"}`})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(3*time.Second, cancel)
		_, err := c.SigningSecret(ctx)
		if took := time.Since(s.begin); !errors.Is(err, client.ErrUnavailable) || took != 3*time.Second {
			t.Errorf("%v after %v", err, took)
		}
	})
}

func TestGeneratedKeysDiffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scripted(t, client.Options{GenerateKeys: true}, answer{202, "", accepted}, answer{202, "", accepted}, answer{202, "", accepted})
		for _, key := range []string{"", "", "mine"} {
			if _, err := c.Send(t.Context(), client.Send{Target: "t", IdempotencyKey: key}); err != nil {
				t.Fatal(err)
			}
		}
		if s.bodies[0] == s.bodies[1] || !strings.Contains(s.bodies[2], `"idempotency_key":"mine"`) {
			t.Errorf("%q", s.bodies)
		}
	})
}

// A server, or a proxy before it, may ask for patience by a date, or for more
// of it than fits a duration.
func TestRetryAfterIsReadInEveryForm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // whose clock begins with a whole second
		f := func(value string, want time.Duration) {
			t.Helper()
			c, _ := scripted(t, client.Options{}, answer{503, value, "{}"})
			_, err := c.SigningSecret(t.Context())
			if e, ok := errors.AsType[*client.Error](err); !ok || e.RetryAfter != want {
				t.Errorf("%q: %#v, want %v", value, err, want)
			}
		}
		in := func(d time.Duration) time.Time { return time.Now().Add(d).UTC() }
		const longest = (1<<31 - 1) * time.Second
		f("", 0)
		f("7", 7*time.Second)
		f("2147483648", longest)
		f("99999999999999999999999999", longest)
		f("-1", 0)
		f("soon", 0)
		f(in(90*time.Second).Format(http.TimeFormat), 90*time.Second)
		f(in(90*time.Second).Format(time.RFC850), 90*time.Second)
		f(in(90*time.Second).Format(time.ANSIC), 90*time.Second)
		f(in(-time.Minute).Format(http.TimeFormat), 0)
		f("Fri, 31 Dec 9999 23:59:59 GMT", longest)
		<-time.After(300 * time.Millisecond)
		f(in(9700*time.Millisecond).Format(http.TimeFormat), 10*time.Second) // up to whole seconds

		// One that asks for more than MaxRetryAfter is not repeated, least of all at once.
		c, s := scripted(t, client.Options{Retries: 3}, answer{503, "4294967296", "{}"})
		if _, err := c.SigningSecret(t.Context()); err == nil || len(s.at) != 1 {
			t.Errorf("%v after %d requests", err, len(s.at))
		}
		c, _ = scripted(t, client.Options{}, answer{202, "", `{"results":[{"error":"x","status":503,"retry_after":99999999999999}]}`})
		results, err := c.SendBatch(t.Context(), make([]client.Send, 1))
		if e, ok := errors.AsType[*client.Error](results[0].Err); err != nil || !ok || e.RetryAfter != longest {
			t.Errorf("%#v, %v", results, err)
		}
	})
}
