package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/state"
)

// swept waits until nothing is left of a deleted account, and checks that.
func swept(t testing.TB, e *Engine, a AccountID) {
	t.Helper()
	awaitCondition(t, "the sweep", func() bool { return len(e.state().Directory().Deleted()) == 0 })
	// The directory forgets an account before the batch that drops its rows can be
	// read. What is applied after it waits for that.
	if err := e.propose(context.Background(), 1, command.AppendSweepAccount(nil, a, 1)); err != nil {
		t.Fatal(err)
	}
	page, err := e.Deliveries(context.Background(), a, Filter{}, DeliveryID{}, 10)
	if err != nil || len(page.Deliveries) != 0 {
		t.Errorf("%d deliveries are left: %v", len(page.Deliveries), err)
	}
	awaitCondition(t, "the account's attempts to be forgotten", func() bool {
		st, _ := e.dispatcher().stats()
		return int64(st.Items+st.Busy) <= e.state().Pending()
	})
}

// verifyClosed checks the state of an engine that is closed.
func verifyClosed(t testing.TB, o Options) {
	t.Helper()
	s, err := state.Open("data/state", state.Options{FS: o.FS, ReadOnly: true, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if r, err := s.Verify(); err != nil || len(r.Findings) > 0 || r.Deleted != 0 || r.Leaving != 0 {
		t.Errorf("verify: %+v, %v", r, err)
	}
}

// populate gives an account deliveries of every kind: delivered, dead, late,
// waiting for a retry, for later, and under way.
func populate(t testing.TB, e *Engine, a AccountID, target Target) {
	t.Helper()
	ctx := context.Background()
	send := func(path, body string, change func(*Send)) Receipt {
		to := target
		to.URI = path
		s := sendTo(to, body)
		if change != nil {
			change(s)
		}
		r, err := e.Send(ctx, a, s)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	await(t, e, a, send("/ok", strings.Repeat("long ", 500), nil).ID)
	await(t, e, a, send("/rejects", "x", func(s *Send) { s.IdempotencyKey = "once" }).ID)
	for n := range 20 {
		send("/fails", strings.Repeat("x", n*200), func(s *Send) { s.Policy.BaseDelay, s.Policy.MaxDelay = time.Hour, time.Hour })
		send("/ok", "later", func(s *Send) { s.NotBefore = time.Now().Add(time.Hour) })
	}
	send("/hangs", "x", nil)
}

func deletionTarget(t testing.TB, release chan struct{}, hanging chan struct{}) Target {
	return receiver(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/rejects":
			w.WriteHeader(404)
		case "/fails":
			w.WriteHeader(503)
		case "/hangs":
			hanging <- struct{}{}
			<-release
			w.WriteHeader(503)
		}
	})
}

// A deleted account ends at once, and all it had with it; its neighbour notices
// nothing.
func TestDeletedAccountEnds(t *testing.T) {
	release, hanging := make(chan struct{}), make(chan struct{}, 4)
	target := deletionTarget(t, release, hanging)
	o := testOptions(t, vfs.NewMem())
	e := openEngine(t, o)
	ctx := context.Background()
	made, err := e.CreateAccount(ctx, "leaves")
	if err != nil {
		t.Fatal(err)
	}
	a, neighbour := made.Account.ID, newAccount(t, e)
	for _, id := range []AccountID{a, neighbour} {
		if _, _, err := e.AddDomain(ctx, id, "your-app.com"); err != nil {
			t.Fatal(err)
		}
		populate(t, e, id, target)
		<-hanging // the attempt is under way
	}
	if err := e.DeleteAccount(ctx, a); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Authenticate([]byte(made.APIKey)); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("its key: %v", err)
	}
	if _, err := e.Account(ctx, a); !errors.Is(err, ErrNotFound) {
		t.Errorf("the account: %v", err)
	}
	if accounts, next, err := e.ListAccounts(ctx, 0, 10); err != nil || len(accounts) != 1 || accounts[0].ID != neighbour || next != 0 {
		t.Errorf("listed: %+v, next %s, %v", accounts, next, err)
	}
	if _, err := e.SigningSecret(ctx, a); !errors.Is(err, ErrNotFound) {
		t.Errorf("its secret: %v", err)
	}
	if _, err := e.Domain(ctx, a, "your-app.com"); !errors.Is(err, ErrNotFound) {
		t.Errorf("its domain: %v", err)
	}
	if _, err := e.Send(ctx, a, sendTo(target, "x")); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("a send: %v", err)
	}
	if _, _, err := e.CreateKey(ctx, a); !errors.Is(err, ErrNotFound) {
		t.Errorf("a new key: %v", err)
	}
	if err := e.DeleteAccount(ctx, a); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleted twice: %v", err)
	}
	close(release) // what was under way ends after the account
	swept(t, e, a)
	awaitCondition(t, "the neighbour's attempt under way to be used up", func() bool { return e.state().Pending() == 40 })
	if page, err := e.Deliveries(ctx, neighbour, Filter{}, DeliveryID{}, 100); err != nil || len(page.Deliveries) != 43 {
		t.Errorf("the neighbour has %d deliveries, want 43: %v", len(page.Deliveries), err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	verifyClosed(t, o)
}

// A send that was on its way while its account was deleted is refused, with an
// idempotency key and without, and leaves nothing.
func TestSendLosesTheRaceWithADeletion(t *testing.T) {
	target := receiver(t, func(http.ResponseWriter, *http.Request) { t.Error("an attempt of a deleted account") })
	e := openEngine(t, testOptions(t, vfs.NewMem()))
	ctx := context.Background()
	a := newAccount(t, e)
	if err := e.DeleteAccount(ctx, a); err != nil {
		t.Fatal(err)
	}
	if _, err := e.accept(a, sendTo(target, "x"), nil, time.Now(), newTicket()); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("without a key: %v", err)
	}
	s := sendTo(target, "x")
	s.IdempotencyKey = "once"
	if _, err := e.acceptOnce(ctx, a, s, time.Now(), newTicket()); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("with a key: %v", err)
	}
	swept(t, e, a)
	if n := e.state().Pending(); n != 0 {
		t.Errorf("%d deliveries are pending", n)
	}
	if _, err := e.accept(a, sendTo(target, "x"), nil, time.Now(), newTicket()); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("after the sweep: %v", err)
	}
}

// A power cut at any moment of a deletion: a deletion that was acknowledged is
// finished after the next start, and what was not deleted is all there.
func TestDeletionSurvivesPowerCuts(t *testing.T) {
	rng := rand.New(rand.NewPCG(seedOf(t), 9))
	for run := range crashes(t, 8) {
		release, hanging := make(chan struct{}), make(chan struct{}, 8)
		target := deletionTarget(t, release, hanging)
		fs := vfs.NewCrashableMem()
		o := testOptions(t, fs)
		o.Failed = nil // the old timeline may end as it likes
		o.State.YoungDeliveries = 1 + rng.IntN(60)
		e, err := Open("data", o)
		if err != nil {
			t.Fatal(err)
		}
		ctx := context.Background()
		a, neighbour := newAccount(t, e), newAccount(t, e)
		populate(t, e, a, target)
		populate(t, e, neighbour, target)
		if err := e.DeleteAccount(ctx, a); err != nil {
			t.Fatal(err)
		}
		if rng.IntN(2) == 0 {
			awaitCondition(t, "the sweep", func() bool { return len(e.state().Directory().Deleted()) == 0 })
		}
		clone := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
		close(release)
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		o.FS = clone
		again, err := Open("data", o)
		if err != nil {
			t.Fatalf("run %d: %v", run, err)
		}
		swept(t, again, a)
		if page, err := again.Deliveries(ctx, neighbour, Filter{}, DeliveryID{}, 100); err != nil || len(page.Deliveries) != 43 {
			t.Errorf("run %d: the neighbour has %d deliveries, want 43: %v", run, len(page.Deliveries), err)
		}
		if err := again.Close(); err != nil {
			t.Error(err)
		}
		verifyClosed(t, o)
	}
}

// Two accounts with the same names share nothing: not a key, not a domain, not
// an idempotency key, not a rate limit.
func TestAccountsShareNothing(t *testing.T) {
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	o := testOptions(t, vfs.NewMem())
	o.RatePerMinute = 1
	now := time.Now()
	o.Now = func() time.Time { return now }
	e := openEngine(t, o)
	ctx := context.Background()
	ids := make(map[DeliveryID]bool)
	for range 3 {
		a := newAccount(t, e)
		if _, created, err := e.AddDomain(ctx, a, "your-app.com"); err != nil || !created {
			t.Errorf("the domain was there: %v", err)
		}
		s := sendTo(target, "x")
		s.IdempotencyKey = "once"
		r, err := e.Send(ctx, a, s)
		if err != nil || r.Duplicate || ids[r.ID] {
			t.Errorf("a first send: %+v, %v", r, err)
		}
		ids[r.ID] = true
		var limited *RateLimitedError
		if _, err := e.Send(ctx, a, sendTo(target, "x")); !errors.As(err, &limited) {
			t.Errorf("a second send: %v", err)
		}
	}
}

// Accounts are listed by id, a page at a time.
func TestListAccountsByPages(t *testing.T) {
	e := openEngine(t, testOptions(t, vfs.NewMem()))
	ctx := context.Background()
	want := make(map[AccountID]bool)
	for range 11 {
		want[newAccount(t, e)] = true
	}
	var after, last AccountID
	for pages := 1; ; pages++ {
		accounts, next, err := e.ListAccounts(ctx, after, 4)
		if err != nil || len(accounts) > 4 {
			t.Fatalf("page %d: %d accounts, %v", pages, len(accounts), err)
		}
		for _, a := range accounts {
			if a.ID <= last || !want[a.ID] {
				t.Errorf("%s after %s", a.ID, last)
			}
			last = a.ID
			delete(want, a.ID)
		}
		if after = next; next == 0 {
			if pages != 3 || len(want) != 0 {
				t.Errorf("%d pages, %d accounts are missing", pages, len(want))
			}
			return
		}
	}
}

// A key that is revoked is refused by the next request; the account's others
// are not.
func TestRevokedKeyIsRefusedAtOnce(t *testing.T) {
	e := openEngine(t, testOptions(t, vfs.NewMem()))
	ctx := context.Background()
	made, err := e.CreateAccount(ctx, "test")
	if err != nil {
		t.Fatal(err)
	}
	a := made.Account.ID
	k, text, err := e.CreateKey(ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	authenticates := func(text string) error {
		got, err := e.Authenticate([]byte(text))
		if err == nil && got != a {
			err = fmt.Errorf("as %s", got)
		}
		return err
	}
	if err := errors.Join(authenticates(text), authenticates(made.APIKey)); err != nil {
		t.Fatal(err)
	}
	if err := e.RevokeKey(ctx, a, k.ID); err != nil {
		t.Fatal(err)
	}
	if err := authenticates(text); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("a revoked key: %v", err)
	}
	if err := authenticates(made.APIKey); err != nil {
		t.Errorf("the other key: %v", err)
	}
	if err := e.RevokeKey(ctx, a, k.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("revoked twice: %v", err)
	}
}

// What runs for an account when it is deleted ends with it: a job leaves
// nothing, and does not go on for ever.
func TestDeletionEndsJobs(t *testing.T) {
	target := receiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) })
	o := testOptions(t, vfs.NewMem())
	e := openEngine(t, o)
	ctx := context.Background()
	a := newAccount(t, e)
	for range 10 {
		r, err := e.Send(ctx, a, sendTo(target, "x"))
		if err != nil {
			t.Fatal(err)
		}
		await(t, e, a, r.ID)
	}
	j, err := e.StartJob(ctx, a, JobReplay, Filter{}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.DeleteAccount(ctx, a); err != nil {
		t.Fatal(err)
	}
	swept(t, e, a)
	if _, err := e.Job(ctx, a, j.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("its job: %v", err)
	}
	if _, err := e.StartJob(ctx, a, JobReplay, Filter{}, 0); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("a job for an account that is deleted: %v", err)
	}
	if n, running := e.state().Pending(), e.state().CountRunningJobs(); n != 0 || running != 0 {
		t.Errorf("%d deliveries are pending, %d jobs run", n, running)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	verifyClosed(t, o)
}

// A suspended account replays nothing; it may cancel.
func TestSuspendedAccountReplaysNothing(t *testing.T) {
	target := receiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) })
	e := openEngine(t, testOptions(t, vfs.NewMem()))
	ctx := context.Background()
	a := newAccount(t, e)
	r, err := e.Send(ctx, a, sendTo(target, "x"))
	if err != nil {
		t.Fatal(err)
	}
	s := sendTo(target, "later")
	s.NotBefore = time.Now().Add(time.Hour)
	later, err := e.Send(ctx, a, s)
	if err != nil {
		t.Fatal(err)
	}
	await(t, e, a, r.ID)
	suspend(t, e, a, true)
	if _, err := e.Replay(ctx, a, r.ID); !errors.Is(err, ErrSuspended) {
		t.Errorf("a replay: %v", err)
	}
	if _, err := e.StartJob(ctx, a, JobReplay, Filter{}, 0); !errors.Is(err, ErrSuspended) {
		t.Errorf("a bulk replay: %v", err)
	}
	if d, err := e.Cancel(ctx, a, later.ID); err != nil || d.Status != StatusCanceled {
		t.Errorf("a cancellation: %s, %v", d.Status, err)
	}
}

// A send that waits, for DNS for one, while its account is deleted and swept does
// not go into the log in clear text for want of the account's key.
func TestASendOfASweptAccountIsNotWritten(t *testing.T) {
	fs := vfs.NewMem()
	e := openWith(t, fs, newKeyring(t, newKeyLine(t, "k1")))
	defer closeEngine(t, e)
	a := newAccount(t, e)
	s := sendTo(receiver(t, func(http.ResponseWriter, *http.Request) {}), "a very secret payload")
	if err := errors.Join(e.admit(a), e.DeleteAccount(context.Background(), a)); err != nil {
		t.Fatal(err)
	}
	swept(t, e, a)
	if _, err := e.accept(a, s, nil, time.Now(), newTicket()); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("accepted: %v", err)
	}
	if found := holds(t, fs, "data", "a very secret payload"); len(found) > 0 {
		t.Errorf("in clear text in %v", found)
	}
}
