package engine

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// The same names in two accounts do not meet: what one counts, lists, purges or
// cancels by a label, a host or an idempotency key is its own, before a restart
// and after it.
func TestSameNamesOfTwoAccountsDoNotMeet(t *testing.T) {
	var m moody
	m.status.Store(404)
	target := receiver(t, m.serve)
	o := testOptions(t, vfs.NewMem())
	e, err := Open("data", o)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	accounts := []AccountID{newAccount(t, e), newAccount(t, e)}
	ids := make(map[AccountID][]DeliveryID)
	named := func(i int) *Send {
		s := sendTo(target, "x")
		s.IdempotencyKey, s.Labels = fmt.Sprint("key ", i), []string{"label"}
		return s
	}
	for n, a := range accounts { // 5 of one, 8 of the other
		if _, created, err := e.AddDomain(ctx, a, "your-app.com"); err != nil || !created {
			t.Errorf("the domain of account %d was there: %v", n, err)
		}
		sends := make([]*Send, 5+3*n)
		for i := range sends {
			sends[i] = named(i)
		}
		for i, r := range sendBatch(e, a, sends...) {
			if r.Err != nil || r.Receipt.Duplicate {
				t.Errorf("account %d: the first send with key %d: %+v", n, i, r)
			}
			ids[a] = append(ids[a], r.Receipt.ID)
		}
		for _, id := range ids[a] {
			await(t, e, a, id)
		}
	}
	for range 2 {
		for n, a := range accounts {
			for _, f := range []Filter{{Label: "label"}, {Host: target.Host}, {}} {
				if got, err := e.CountMatching(ctx, a, JobPurge, f); err != nil || got != int64(len(ids[a])) {
					t.Errorf("account %d counts %d by %+v, want %d: %v", n, got, f, len(ids[a]), err)
				}
			}
			page, err := e.Deliveries(ctx, a, Filter{IdempotencyKey: "key 1"}, DeliveryID{}, 10)
			if err != nil || len(page.Deliveries) != 1 || page.Deliveries[0].ID != ids[a][1] {
				t.Errorf("account %d: %d deliveries have its key, %v", n, len(page.Deliveries), err)
			}
			if r, err := e.Send(ctx, a, named(2)); err != nil || !r.Duplicate || r.ID != ids[a][2] {
				t.Errorf("account %d: a second send with a key: %+v, %v", n, r, err)
			}
		}
		closeEngine(t, e)
		if e, err = Open("data", o); err != nil {
			t.Fatal(err)
		}
	}
	defer closeEngine(t, e)

	// One purges, cancels and deletes by the names that the other has too.
	a, b := accounts[0], accounts[1]
	later := named(100)
	later.NotBefore = time.Now().Add(time.Hour)
	waits, err := e.Send(ctx, b, later)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []JobKind{JobCancel, JobPurge} {
		j, err := e.StartJob(ctx, a, k, Filter{Label: "label"}, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Job(ctx, b, j.ID); !errors.Is(err, ErrNotFound) {
			t.Errorf("the other account has the job: %v", err)
		}
		awaitJob(t, e, a, j.ID)
	}
	if err := e.DeleteDomain(ctx, a, "your-app.com"); err != nil {
		t.Fatal(err)
	}
	if n, err := e.CountMatching(ctx, a, JobPurge, Filter{}); err != nil || n != 0 {
		t.Errorf("%d dead letters are left of what was purged, %v", n, err)
	}
	if n, err := e.CountMatching(ctx, b, JobPurge, Filter{Label: "label"}); err != nil || n != int64(len(ids[b])) {
		t.Errorf("the other account has %d of its %d dead letters, %v", n, len(ids[b]), err)
	}
	if d, err := e.Delivery(ctx, b, waits.ID, ReadOptions{}); err != nil || d.Status != StatusQueued {
		t.Errorf("the other account's pending delivery is %s, %v", d.Status, err)
	}
	if _, err := e.Domain(ctx, b, "your-app.com"); err != nil {
		t.Errorf("the other account's domain: %v", err)
	}
	verifyState(t, e)
}
