package engine

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A moody target answers what it is set to, and counts.
type moody struct {
	status atomic.Int64
	mu     sync.Mutex
	got    map[string][]string // attempts by delivery
}

func (m *moody) serve(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	if m.got == nil {
		m.got = make(map[string][]string)
	}
	id := r.Header.Get("X-Harepost-Delivery")
	m.got[id] = append(m.got[id], r.Header.Get("X-Harepost-Attempt"))
	m.mu.Unlock()
	w.WriteHeader(int(m.status.Load()))
}

func (m *moody) attempts(id DeliveryID) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(m.got[id.String()], ",")
}

// dead makes n deliveries that end as dead letters, of which every third body is
// kept beside its row.
func dead(t testing.TB, e *Engine, a AccountID, target Target, n int) (ids []DeliveryID) {
	t.Helper()
	for i := range n {
		s := sendTo(target, strings.Repeat("x", 1+i%3*1500))
		s.Policy.MaxAttempts = 1
		s.Labels = []string{fmt.Sprintf("n%d", i%2)}
		r, err := e.Send(context.Background(), a, s)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, r.ID)
	}
	for _, id := range ids {
		if d := await(t, e, a, id); !d.Status.Dead() {
			t.Fatalf("%s ended as %s", id, d.Status)
		}
	}
	return ids
}

// awaitJob waits until a job has ended.
func awaitJob(t testing.TB, e *Engine, a AccountID, id JobID) Job {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		j, err := e.Job(ctx, a, id)
		if err != nil {
			t.Fatal(err)
		}
		if j.Status != JobRunning {
			return j
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("job %s still runs: %+v", id, j)
		}
	}
}

func TestReplayGoesOnCountingWithAFreshBudget(t *testing.T) {
	var m moody
	m.status.Store(503)
	e := openEngine(t, testOptions(t, vfs.NewMem()))
	a := newAccount(t, e)
	ctx := context.Background()
	target := receiver(t, m.serve)
	for _, size := range []int{1, 5000} { // the body in the row, and beside it
		s := sendTo(target, strings.Repeat("b", size))
		s.Policy.MaxAttempts = 2
		r, err := e.Send(ctx, a, s)
		if err != nil {
			t.Fatal(err)
		}
		if d := await(t, e, a, r.ID); d.Status != StatusDeadLetter || m.attempts(r.ID) != "1,2" {
			t.Fatalf("%s after %s", d.Status, m.attempts(r.ID))
		}
		d, err := e.Replay(ctx, a, r.ID)
		if err != nil || d.ID != r.ID {
			t.Fatalf("replay: %+v, %v", d, err)
		}
		if d := await(t, e, a, r.ID); d.Status != StatusDeadLetter || m.attempts(r.ID) != "1,2,3,4" || len(d.Attempts) != 4 {
			t.Errorf("replayed: %s after %s", d.Status, m.attempts(r.ID))
		}
		m.status.Store(200)
		if _, err := e.Replay(ctx, a, r.ID); err != nil {
			t.Fatal(err)
		}
		if d := await(t, e, a, r.ID); d.Status != StatusDelivered || m.attempts(r.ID) != "1,2,3,4,5" {
			t.Errorf("replayed again: %s after %s", d.Status, m.attempts(r.ID))
		}
		// Any finished delivery can be replayed.
		if _, err := e.Replay(ctx, a, r.ID); err != nil {
			t.Errorf("replay of what was delivered: %v", err)
		}
		if d := await(t, e, a, r.ID); d.Status != StatusDelivered || len(d.Attempts) != 6 {
			t.Errorf("%s after %d attempts", d.Status, len(d.Attempts))
		}
		got, err := e.Delivery(ctx, a, r.ID, ReadOptions{Payload: true})
		if err != nil || len(got.Body) != size {
			t.Errorf("%d bytes of body are left, %v", len(got.Body), err)
		}
		m.status.Store(503)
	}
	if _, err := e.Replay(ctx, newAccount(t, e), dead(t, e, a, target, 1)[0]); !errors.Is(err, ErrNotFound) {
		t.Errorf("replay by another account: %v", err)
	}
	verifyState(t, e)
}

func TestReplayAndCancelOfWhatIsPending(t *testing.T) {
	var m moody
	m.status.Store(200)
	e := openEngine(t, testOptions(t, vfs.NewMem()))
	a := newAccount(t, e)
	ctx := context.Background()
	target := receiver(t, m.serve)
	for _, delay := range []time.Duration{time.Second, time.Hour} { // young, and in the disk queue
		s := sendTo(target, strings.Repeat("b", 3000))
		s.NotBefore = time.Now().Add(delay)
		r, err := e.Send(ctx, a, s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Replay(ctx, a, r.ID); !errors.Is(err, ErrPending) {
			t.Errorf("replay of a pending delivery: %v", err)
		}
		if _, err := e.Cancel(ctx, newAccount(t, e), r.ID); !errors.Is(err, ErrNotFound) {
			t.Errorf("cancel by another account: %v", err)
		}
		d, err := e.Cancel(ctx, a, r.ID)
		if err != nil || d.Status != StatusCanceled || !d.NextAttemptAt.IsZero() {
			t.Errorf("cancel: %+v, %v", d, err)
		}
		if _, err := e.Cancel(ctx, a, r.ID); !errors.Is(err, ErrFinished) {
			t.Errorf("cancel of what was cancelled: %v", err)
		}
		if n := e.state().Pending(); n != 0 {
			t.Errorf("%d are pending", n)
		}
		if d, err = e.Replay(ctx, a, r.ID); err != nil || d.Status.Final() && d.Status != StatusDelivered {
			t.Errorf("replay of a cancelled one: %+v, %v", d, err)
		}
		if d := await(t, e, a, r.ID); d.Status != StatusDelivered || m.attempts(r.ID) != "1" {
			t.Errorf("%s after %q", d.Status, m.attempts(r.ID))
		}
	}
	verifyState(t, e)
}

// An attempt under way is not cut off, is recorded, and is the last.
func TestCancelDuringAnAttempt(t *testing.T) {
	started, release := make(chan struct{}), make(chan struct{})
	target := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
		started <- struct{}{}
		<-release
		w.WriteHeader(503)
	})
	e := openEngine(t, testOptions(t, vfs.NewMem()))
	a := newAccount(t, e)
	ctx := context.Background()
	r, err := e.Send(ctx, a, sendTo(target, "x"))
	if err != nil {
		t.Fatal(err)
	}
	<-started
	if d, err := e.Cancel(ctx, a, r.ID); err != nil || d.Status != StatusCanceled {
		t.Fatalf("%+v, %v", d, err)
	}
	if _, err := e.Replay(ctx, a, r.ID); !errors.Is(err, ErrPending) {
		t.Errorf("replay while the attempt is under way: %v", err)
	}
	close(release)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		d, err := e.Delivery(ctx, a, r.ID, ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if d.Status != StatusCanceled {
			t.Fatalf("it is %s", d.Status)
		}
		if len(d.Attempts) == 1 && !e.dispatcher().busy(r.ID) {
			break
		}
	}
	if _, err := e.Replay(ctx, a, r.ID); err != nil {
		t.Errorf("replay after it: %v", err)
	}
	for range 3 { // the new budget, so that the state is at rest when it is verified
		<-started
	}
	if d := await(t, e, a, r.ID); d.Status != StatusDeadLetter || len(d.Attempts) != 4 {
		t.Errorf("replayed, it is %s after %d attempts", d.Status, len(d.Attempts))
	}
	verifyState(t, e)
}

func TestAReplayedDeliveryDoesNotExpireAgain(t *testing.T) {
	var m moody
	m.status.Store(200)
	now := time.Now()
	var skew atomic.Int64
	o := testOptions(t, vfs.NewMem())
	o.Now = func() time.Time { return time.Now().Add(time.Duration(skew.Load())) }
	e := openEngine(t, o)
	a := newAccount(t, e)
	s := sendTo(receiver(t, m.serve), "x")
	s.NotBefore, s.ExpiresAt = now.Add(time.Minute), now.Add(2*time.Minute)
	r, err := e.Send(context.Background(), a, s)
	if err != nil {
		t.Fatal(err)
	}
	skew.Store(int64(time.Hour))
	if d := await(t, e, a, r.ID); d.Status != StatusDeadLetter || m.attempts(r.ID) != "" {
		t.Fatalf("%s after %q", d.Status, m.attempts(r.ID))
	}
	if _, err := e.Replay(context.Background(), a, r.ID); err != nil {
		t.Fatal(err)
	}
	if d := await(t, e, a, r.ID); d.Status != StatusDelivered {
		t.Errorf("replayed, it ended as %s: %s", d.Status, d.Attempts[len(d.Attempts)-1].Error)
	}
}

func TestReplayWithoutItsDomainEnds(t *testing.T) {
	var m moody
	m.status.Store(503)
	fs := vfs.NewMem()
	o := testOptions(t, fs)
	e, err := Open("data", o)
	if err != nil {
		t.Fatal(err)
	}
	a := newAccount(t, e)
	id := dead(t, e, a, receiver(t, m.serve), 1)[0]
	closeEngine(t, e)
	o.DevLoopback = false // the target is covered no more
	e = openEngine(t, o)
	if _, err := e.Replay(context.Background(), a, id); err != nil {
		t.Fatal(err)
	}
	d := await(t, e, a, id)
	if d.Status != StatusRejected || len(d.Attempts) != 2 || m.attempts(id) != "1" {
		t.Errorf("%s after %d attempts, the target saw %s", d.Status, len(d.Attempts), m.attempts(id))
	}
}

func TestJobs(t *testing.T) {
	var m moody
	m.status.Store(503)
	e := openEngine(t, testOptions(t, vfs.NewMem()))
	a, stranger := newAccount(t, e), newAccount(t, e)
	ctx := context.Background()
	target := receiver(t, m.serve)
	const n = 1200
	ids := dead(t, e, a, target, n)
	others := dead(t, e, stranger, target, 3)

	count := func(want int64, k JobKind, f Filter) {
		t.Helper()
		if got, err := e.CountMatching(ctx, a, k, f); err != nil || got != want {
			t.Errorf("%s: a dry run counts %d of %d, %v", k, got, want, err)
		}
	}
	run := func(k JobKind, f Filter, want int64) {
		t.Helper()
		j, err := e.StartJob(ctx, a, k, f, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Job(ctx, stranger, j.ID); !errors.Is(err, ErrNotFound) {
			t.Errorf("another account's job: %v", err)
		}
		j = awaitJob(t, e, a, j.ID)
		if j.Status != JobDone || j.Matched != want || j.Done != want || j.Skipped != 0 || j.Remaining() != 0 {
			t.Errorf("%s: %+v, not %d", k, j, want)
		}
		if _, err := e.CancelJob(ctx, a, j.ID); !errors.Is(err, ErrFinished) {
			t.Errorf("cancel of a job that is done: %v", err)
		}
	}
	count(n, JobReplay, Filter{})
	count(n/2, JobReplay, Filter{Label: "n1"})
	count(0, JobReplay, Filter{Status: StatusRejected})
	count(0, JobCancel, Filter{})

	// They die again, and the job does not take them twice.
	run(JobReplay, Filter{Label: "n1"}, n/2)
	for i, id := range ids {
		if d := await(t, e, a, id); d.Status != StatusDeadLetter || len(d.Attempts) != 1+i%2 {
			t.Fatalf("delivery %d is %s after %d attempts", i, d.Status, len(d.Attempts))
		}
	}
	run(JobPurge, Filter{Label: "n0"}, n/2)
	count(n/2, JobPurge, Filter{})
	for i, id := range ids {
		_, err := e.Delivery(ctx, a, id, ReadOptions{Payload: true})
		if purged := i%2 == 0; purged != errors.Is(err, ErrNotFound) {
			t.Fatalf("delivery %d: %v", i, err)
		}
	}
	m.status.Store(200)
	run(JobReplay, Filter{}, n/2)
	for i, id := range ids {
		if i%2 == 1 {
			if d := await(t, e, a, id); d.Status != StatusDelivered {
				t.Fatalf("delivery %d is %s", i, d.Status)
			}
		}
	}
	count(0, JobReplay, Filter{})
	for _, id := range others {
		if d, err := e.Delivery(ctx, stranger, id, ReadOptions{}); err != nil || d.Status != StatusDeadLetter || len(d.Attempts) != 1 {
			t.Errorf("another account's: %+v, %v", d, err)
		}
	}

	for range n {
		s := sendTo(target, strings.Repeat("x", 1500))
		s.NotBefore = time.Now().Add(time.Hour)
		if _, err := e.Send(ctx, a, s); err != nil {
			t.Fatal(err)
		}
	}
	count(n, JobCancel, Filter{})
	run(JobCancel, Filter{Host: target.Host}, n)
	if n := e.state().Pending(); n != 0 {
		t.Errorf("%d are pending", n)
	}
	verifyState(t, e)
}

// A job goes on after a restart where it was, and its counts say so.
func TestAJobGoesOnAfterARestart(t *testing.T) {
	var m moody
	m.status.Store(503)
	fs := vfs.NewMem()
	o := testOptions(t, fs)
	e, err := Open("data", o)
	if err != nil {
		t.Fatal(err)
	}
	a := newAccount(t, e)
	const n = 300
	ids := dead(t, e, a, receiver(t, m.serve), n)
	ctx := context.Background()
	j, err := e.StartJob(ctx, a, JobReplay, Filter{}, 500) // some steps of 50
	if err != nil {
		t.Fatal(err)
	}
	for j.Done == 0 {
		if j, err = e.Job(ctx, a, j.ID); err != nil {
			t.Fatal(err)
		}
	}
	closeEngine(t, e)
	e = openEngine(t, o)
	j = awaitJob(t, e, a, j.ID)
	if j.Status != JobDone || j.Matched != n || j.Done != n {
		t.Errorf("%+v", j)
	}
	for _, id := range ids {
		if d := await(t, e, a, id); len(d.Attempts) != 2 || m.attempts(id) != "1,2" {
			t.Errorf("%s: %d attempts, the target saw %s", id, len(d.Attempts), m.attempts(id))
		}
	}
}

func TestACancelledJobStops(t *testing.T) {
	var m moody
	m.status.Store(503)
	e := openEngine(t, testOptions(t, vfs.NewMem()))
	a := newAccount(t, e)
	dead(t, e, a, receiver(t, m.serve), 50)
	ctx := context.Background()
	j, err := e.StartJob(ctx, a, JobReplay, Filter{}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if j, err = e.CancelJob(ctx, a, j.ID); err != nil || j.Status != JobCanceled {
		t.Fatalf("%+v, %v", j, err)
	}
	after, err := e.Job(ctx, a, j.ID)
	if err != nil || after != j || after.Done > 2 {
		t.Errorf("%+v, %v", after, err)
	}
	if left := after.Remaining(); after.Matched >= 0 && left != after.Matched-after.Done {
		t.Errorf("%d remain of %d after %d", left, after.Matched, after.Done)
	}
	for range e.opts.JobsPerAccount {
		if _, err := e.StartJob(ctx, a, JobReplay, Filter{}, 1); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := e.StartJob(ctx, a, JobReplay, Filter{}, 1); !errors.Is(err, ErrTooMany) {
		t.Errorf("one job too many: %v", err)
	}
	if jobs, err := e.Jobs(ctx, a); err != nil || len(jobs) != e.opts.JobsPerAccount+1 {
		t.Errorf("%d jobs, %v", len(jobs), err)
	}
}

// The rate holds to the millisecond, whatever the size of the steps.
func TestJobRate(t *testing.T) {
	for _, rate := range []int{1, 3, 10, 250, 5000, 100000} {
		var c clerk
		c.init()
		now := time.UnixMilli(1_000_000)
		began, taken := now, 0
		j := Job{ID: 1, RatePerSecond: rate}
		for now.Sub(began) < 10*time.Second {
			n, due := c.allowance(&j, now)
			if n == 0 {
				if !due.After(now) {
					t.Fatalf("%d/s: nothing to take at %s, and due at %s", rate, now, due)
				}
				now = due
				continue
			}
			c.took(j.ID, n)
			taken += n
		}
		most := max(rate/10, 1)
		if want := rate * 10; taken < want || taken > want+most {
			t.Errorf("%d/s: %d in 10 s", rate, taken)
		}
	}
}

// verifyState reads the whole state and checks that it fits together. Attempts may
// be recorded between two of its reads: what does not fit for that reason does
// when it is read again.
func verifyState(t *testing.T, e *Engine) {
	t.Helper()
	for try := 1; ; try++ {
		r, err := e.state().Verify()
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Findings) == 0 {
			return
		}
		if try == 50 {
			for _, f := range r.Findings {
				t.Error(f)
			}
			return
		}
	}
}

// A job is about everything that was accepted before it began, also in the same
// millisecond, which is all that an id tells of its time.
func TestAJobTakesWhatWasAcceptedJustBefore(t *testing.T) {
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	still := time.Now().Round(time.Millisecond)
	o := testOptions(t, vfs.NewMem())
	o.Now = func() time.Time { return still }
	e := openEngine(t, o)
	a, ctx := newAccount(t, e), context.Background()
	for range 3 {
		s := sendTo(target, "x")
		s.NotBefore = still.Add(time.Hour)
		if _, err := e.Send(ctx, a, s); err != nil {
			t.Fatal(err)
		}
	}
	j, err := e.StartJob(ctx, a, JobCancel, Filter{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if j = awaitJob(t, e, a, j.ID); j.Done != 3 {
		t.Errorf("%d of 3 canceled", j.Done)
	}
}
