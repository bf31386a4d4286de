package client_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/harepost/harepost/client"
)

func TestErrorsAreToldApartByTheirStatus(t *testing.T) {
	for status, want := range map[int]error{
		400: client.ErrInvalid, 401: client.ErrUnauthorized, 403: client.ErrForbidden, 404: client.ErrNotFound, 409: client.ErrConflict,
		413: client.ErrTooLarge, 429: client.ErrRateLimited, 503: client.ErrUnavailable, 507: client.ErrStorageFull,
	} {
		s := serve(t, answer{status, "", `{"error":"x"}`})
		_, err := s.client(client.Options{}).Delivery(t.Context(), "hr_1")
		if err = fmt.Errorf("wrapped: %w", err); !errors.Is(err, want) {
			t.Errorf("%d: %v is not %v", status, err, want)
		}
		if want != client.ErrConflict && errors.Is(err, client.ErrConflict) {
			t.Errorf("%d is a conflict", status)
		}
	}
	if errors.Is(&client.Error{Status: 418}, nil) {
		t.Error("a teapot is nothing")
	}
}

func TestControlOfOneDelivery(t *testing.T) {
	s := serve(t, answer{202, "", `{"queue_id":"hr_1","status":"retrying"}`}, answer{409, "", `{"error":"already finished"}`})
	c := s.client(client.Options{})
	d, err := c.Replay(t.Context(), "hr_1")
	same(t, d, err, client.Delivery{QueueID: "hr_1", Status: "retrying"})
	if _, err := c.Cancel(t.Context(), "hr_1"); !errors.Is(err, client.ErrConflict) {
		t.Error(err)
	}
	s.wants(asked{"POST /v1/deliveries/hr_1/replay", key, ""}, asked{"POST /v1/deliveries/hr_1/cancel", key, ""})
}

func TestBulkOperationsSayWhatTheyMean(t *testing.T) {
	const job = `{"job_id":"job_1","kind":"replay","status":"running","matched":null,"remaining":null,"done":1}`
	s := serve(t, answer{202, "", job}, answer{200, "", `{"dry_run":true,"matched":7}`}, answer{202, "", job}, answer{202, "", job}, answer{202, "", job})
	c := s.client(client.Options{})
	some := client.Filter{Status: "rejected", Host: "a.com", Since: at("2026-06-10T14:22:10Z")}
	j, err := c.StartReplay(t.Context(), client.Bulk{Filter: some, RatePerSecond: 5})
	same(t, j, err, client.Job{JobID: "job_1", Kind: "replay", Status: client.JobRunning, Done: 1})
	j, err = c.CancelAll(t.Context(), client.Bulk{All: true, DryRun: true})
	same(t, j, err, client.Job{DryRun: true, Matched: ptr(int64(7))})
	for _, b := range []client.Bulk{{All: true}, {Filter: some, DryRun: true, RatePerSecond: 2}} {
		if _, err := c.Purge(t.Context(), b); err != nil {
			t.Error(err)
		}
	}
	s.wants(
		asked{"POST /v1/dead-letters/replay", key, `{"filter":{"host":"a.com","since":"2026-06-10T14:22:10Z","status":"rejected"},"rate_per_second":5}`},
		asked{"POST /v1/deliveries/cancel", key, `{"dry_run":true,"filter":{}}`},
		asked{"DELETE /v1/dead-letters?all=true", key, ""},
		asked{"DELETE /v1/dead-letters?dry_run=true&host=a.com&rate_per_second=2&since=2026-06-10T14%3A22%3A10Z&status=rejected", key, ""})
}

// A variable that was not set selects everything: nobody may mean that by
// accident.
func TestEverythingHasToBeSaid(t *testing.T) {
	s := serve(t)
	c := s.client(client.Options{})
	for _, b := range []client.Bulk{
		{}, {DryRun: true}, {Filter: client.Filter{Host: "a"}, All: true}, {All: true, RatePerSecond: -1},
		{Filter: client.Filter{Host: "a", Limit: 5}}, {Filter: client.Filter{Host: "a", Cursor: "c"}},
	} {
		for _, start := range []func(context.Context, client.Bulk) (client.Job, error){c.StartReplay, c.CancelAll, c.Purge} {
			if _, err := start(t.Context(), b); err == nil {
				t.Errorf("%+v is accepted", b)
			}
		}
	}
	s.wants()
}

func jobAnswer(status string, done int) answer {
	return answer{200, "", fmt.Sprintf(`{"job_id":"job_1","status":%q,"done":%d}`, status, done)}
}

func TestWaitingForAJobOutlastsARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := slices.Repeat([]answer{lost, {503, "2", `{"error":"shutting down"}`}}, 20)
		c, s := scripted(t, client.Options{}, slices.Concat([]answer{jobAnswer("running", 1)}, away, []answer{jobAnswer("done", 2)})...)
		var seen []int64
		j, err := c.WaitJob(t.Context(), client.Job{JobID: "job_1", Status: client.JobRunning}, func(j client.Job) { seen = append(seen, j.Done) })
		if err != nil || j.Status != client.JobDone || len(s.at) != 42 {
			t.Errorf("%+v, %v after %d looks", j, err, len(s.at))
		}
		if seen[0] != 0 || seen[len(seen)-1] != 2 {
			t.Errorf("progress %v", seen)
		}
		for i := 1; i < len(s.at); i++ {
			if pause := s.at[i] - s.at[i-1]; pause > time.Second || pause < 50*time.Millisecond {
				t.Errorf("pause %d of %v", i, pause)
			}
		}
	})
}

func TestWaitingForAJobEnds(t *testing.T) {
	running := client.Job{JobID: "job_1", Status: client.JobRunning}
	check := func(why string, want error, took time.Duration, answers ...answer) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			c, s := scripted(t, client.Options{}, answers...)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			j, err := c.WaitJob(ctx, running, nil)
			if got := time.Since(s.begin); !errors.Is(err, want) || got < took || got > took+2*time.Second || j.JobID != "job_1" {
				t.Errorf("%s: %+v, %v after %v", why, j, err, got)
			}
		})
	}
	check("the job is gone", client.ErrNotFound, 0, answer{404, "", `{"error":"not found"}`})
	check("the server stays away", client.ErrUnavailable, time.Minute, slices.Repeat([]answer{{503, "", `{}`}}, 100)...)
	check("the server asks for patience", client.ErrNotFound, 40*time.Second, answer{429, "40", `{}`}, answer{404, "", `{}`})
	check("the context ends", context.DeadlineExceeded, 10*time.Minute, slices.Repeat([]answer{jobAnswer("running", 1)}, 1000)...)

	c, s := scripted(t, client.Options{})
	if j, err := c.WaitJob(t.Context(), client.Job{JobID: "job_1", Status: client.JobCanceled}, nil); err != nil || j.JobID != "job_1" || len(s.at) != 0 {
		t.Errorf("a job that has ended: %v", err)
	}
}

// Also a delivery is waited for over a restart, and its last state is known
// whatever ends the wait.
func TestWaitingForADelivery(t *testing.T) {
	state := func(status string) answer { return answer{200, "", `{"queue_id":"hr_1","status":"` + status + `"}`} }
	busy := answer{503, "1", `{}`}
	f := func(why, from, want string, wantErr error, looks int, answers ...answer) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			c, s := scripted(t, client.Options{}, answers...)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			d, err := c.WaitDelivery(ctx, client.Delivery{QueueID: "hr_1", Status: from})
			if d.QueueID != "hr_1" || d.Status != want || !errors.Is(err, wantErr) || looks > 0 && len(s.at) != looks {
				t.Errorf("%s: %+v, %v after %d looks", why, d, err, len(s.at))
			}
		})
	}
	f("it ends", "queued", "delivered", nil, 3, state("queued"), state("retrying"), state("delivered"))
	f("the server restarts", "queued", "dead_letter", nil, 5, state("retrying"), lost, busy, busy, state("dead_letter"))
	f("it is gone", "queued", "retrying", client.ErrNotFound, 2, state("retrying"), answer{404, "", `{}`})
	f("the server stays away", "queued", "queued", client.ErrUnavailable, -1, slices.Repeat([]answer{busy}, 100)...)
	f("the context ends", "queued", "retrying", context.DeadlineExceeded, -1, slices.Repeat([]answer{state("retrying")}, 200)...)
	for _, ended := range []string{"delivered", "rejected", "dead_letter", "canceled"} {
		f("it has ended", ended, ended, nil, 0)
	}
}

func TestJobs(t *testing.T) {
	s := serve(t, answer{200, "", `{"data":[{"job_id":"job_1"}]}`}, answer{200, "", `{"job_id":"job_1","status":"canceled"}`})
	c := s.client(client.Options{})
	jobs, err := c.Jobs(t.Context())
	same(t, jobs, err, []client.Job{{JobID: "job_1"}})
	j, err := c.CancelJob(t.Context(), "job_1")
	same(t, j, err, client.Job{JobID: "job_1", Status: client.JobCanceled})
	s.wants(asked{"GET /v1/jobs", key, ""}, asked{"POST /v1/jobs/job_1/cancel", key, ""})
}

func TestAccountsAreTheOperators(t *testing.T) {
	const account = `{"account_id":"acc_1","name":"Ada","rate_limit_per_minute":0,"suspended":true,"created_at":"2026-06-10T14:22:10Z"}`
	s := serve(t,
		answer{200, "", `{"data":[` + account + `],"next_cursor":"acc_1"}`}, answer{200, "", `{"data":[],"next_cursor":null}`},
		answer{200, "", account}, answer{200, "", account}, answer{200, "", account}, answer{204, "", ""})
	c := s.client(client.Options{AdminToken: "admin"})
	want := client.Account{AccountID: "acc_1", Name: "Ada", RateLimitPerMinute: ptr(0), Suspended: true, CreatedAt: at("2026-06-10T14:22:10Z")}
	n := 0
	for a, err := range c.Accounts(t.Context()) {
		same(t, a, err, want)
		n++
	}
	a, err := c.Account(t.Context(), "acc_1")
	same(t, a, err, want)
	for _, change := range []client.AccountChange{
		{Name: ptr("Ada"), Suspended: ptr(false), RateLimitPerMinute: ptr(0)}, {DefaultRateLimit: true},
	} {
		if _, err := c.ChangeAccount(t.Context(), "acc_1", change); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.ChangeAccount(t.Context(), "acc_1", client.AccountChange{RateLimitPerMinute: ptr(1), DefaultRateLimit: true}); err == nil {
		t.Error("a rate limit and the default one are accepted")
	}
	if err := c.DeleteAccount(t.Context(), "acc_1"); err != nil || n != 1 {
		t.Errorf("%v, %d accounts", err, n)
	}
	const admin = "Bearer admin"
	s.wants(
		asked{"GET /v1/accounts?limit=100", admin, ""}, asked{"GET /v1/accounts?cursor=acc_1&limit=100", admin, ""},
		asked{"GET /v1/accounts/acc_1", admin, ""},
		asked{"PATCH /v1/accounts/acc_1", admin, `{"name":"Ada","rate_limit_per_minute":0,"suspended":false}`},
		asked{"PATCH /v1/accounts/acc_1", admin, `{"rate_limit_per_minute":null}`},
		asked{"DELETE /v1/accounts/acc_1", admin, ""})
}

func TestRotation(t *testing.T) {
	s := serve(t, answer{200, "", `{"signing_secret":"whsec_b","previous_expire_at":"2026-06-10T14:22:10Z"}`})
	c := s.client(client.Options{})
	r, err := c.RotateSigningSecret(t.Context(), time.Hour)
	same(t, r, err, client.Rotation{SigningSecret: "whsec_b", PreviousExpireAt: at("2026-06-10T14:22:10Z")})
	for _, overlap := range []time.Duration{-time.Second, 500 * time.Millisecond} {
		if _, err := c.RotateSigningSecret(t.Context(), overlap); err == nil {
			t.Errorf("overlap %s is accepted: it would be rounded", overlap)
		}
	}
	s.wants(asked{"POST /v1/signing-secret/rotate", key, `{"overlap_seconds":3600}`})
}

func TestDeadLettersGoOnWithTheirCursor(t *testing.T) {
	s := serve(t, answer{200, "", `{"data":[{"queue_id":"hr_2"}],"next_cursor":"c"}`}, answer{200, "", `{"data":[{"queue_id":"hr_1"}],"next_cursor":null}`})
	var ids []string
	for d, err := range s.client(client.Options{}).DeadLetters(t.Context(), client.Filter{Status: "rejected"}) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, d.QueueID)
	}
	if !slices.Equal(ids, []string{"hr_2", "hr_1"}) {
		t.Error(ids)
	}
	s.wants(asked{"GET /v1/dead-letters?limit=100&status=rejected", key, ""}, asked{"GET /v1/dead-letters?cursor=c&limit=100&status=rejected", key, ""})
}

func TestALoopMayEndBeforeTheList(t *testing.T) {
	s := serve(t, answer{200, "", `{"data":[{"queue_id":"hr_2"},{"queue_id":"hr_1"}],"next_cursor":"c"}`})
	for range s.client(client.Options{}).Deliveries(t.Context(), client.Filter{}) {
		break
	}
	s.wants(asked{"GET /v1/deliveries?limit=100", key, ""})
}

// archive is a tar stream such as a backup is.
func archive(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	content := bytes.Repeat([]byte{0}, 5000) // zeros inside are no end
	for _, name := range []string{"manifest.json", "SHA256SUMS"} {
		if err := errors.Join(w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(content))})); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// backedUp is what a client makes of a backup that a handler writes.
func backedUp(t *testing.T, o client.Options, h http.HandlerFunc) ([]byte, error) {
	t.Helper()
	s := httptest.NewServer(h)
	defer s.Close()
	o.AdminToken = "admin"
	c, err := client.New(s.URL, "hp_live_k", o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseIdleConnections()
	var got bytes.Buffer
	err = c.Backup(t.Context(), &got)
	return got.Bytes(), err
}

func TestABackupArrivesWhole(t *testing.T) {
	whole := archive(t)
	got, err := backedUp(t, client.Options{}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/backup" || r.Header.Get("Authorization") != "Bearer admin" {
			t.Errorf("%s with %q", r.URL, r.Header.Get("Authorization"))
		}
		for chunk := range slices.Chunk(whole, 700) {
			w.Write(chunk)
			w.(http.Flusher).Flush()
		}
	})
	if err != nil || !bytes.Equal(got, whole) {
		t.Errorf("%d of %d bytes, %v", len(got), len(whole), err)
	}
}

// A slowReader takes a second for each read.
type slowReader struct{ r io.Reader }

func (s slowReader) Read(p []byte) (int, error) {
	<-time.After(time.Second)
	return s.r.Read(p[:min(len(p), 1000)])
}

func (s slowReader) Close() error { return nil }

// The timeout of a call bounds how long a backup takes to begin, and not the
// rest.
func TestABackupMayTakeItsTimeOnceItHasBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		whole := archive(t)
		backup := func(answer roundTripper) error {
			c, err := client.New("https://harepost.example", "k", client.Options{HTTPClient: &http.Client{Transport: answer, Timeout: 5 * time.Second}})
			if err != nil {
				t.Fatal(err)
			}
			return c.Backup(t.Context(), io.Discard)
		}
		if err := backup(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: slowReader{bytes.NewReader(whole)}}, nil
		}); err != nil {
			t.Error(err)
		}
		// The second header, after zeros that are not the end.
		if err := backup(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: slowReader{bytes.NewReader(whole[:512+5120+512])}}, nil
		}); !errors.Is(err, client.ErrBackupIncomplete) {
			t.Errorf("cut after a header: %v", err)
		}
		began := time.Now()
		err := backup(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took != 5*time.Second {
			t.Errorf("%v after %v", err, took)
		}
	})
}

func TestABackupWithoutItsEndIsAnError(t *testing.T) {
	whole := archive(t)
	check := func(why string, h http.HandlerFunc) {
		t.Helper()
		if _, err := backedUp(t, client.Options{}, h); !errors.Is(err, client.ErrBackupIncomplete) {
			t.Errorf("%s: %v", why, err)
		}
	}
	check("the connection breaks", func(w http.ResponseWriter, _ *http.Request) {
		w.Write(whole[:5000])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	check("the length is wrong", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(whole)))
		w.Write(whole[:5000])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	for _, n := range []int{0, 512, 5000, len(whole) - 1, len(whole) - 512 - 1} {
		check(fmt.Sprintf("%d bytes", n), func(w http.ResponseWriter, _ *http.Request) { w.Write(whole[:n]) })
	}
}

func TestARefusedBackupWritesNothing(t *testing.T) {
	got, err := backedUp(t, client.Options{}, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusConflict)
		w.Write([]byte(`{"error":"a backup is already running"}`))
	})
	if !errors.Is(err, client.ErrConflict) || len(got) != 0 || !strings.Contains(err.Error(), "already running") {
		t.Errorf("%q, %v", got, err)
	}
}
