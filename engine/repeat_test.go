package engine

import (
	"context"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A repeated send is answered with the first one's delivery only while there is
// one: what was purged is neither found nor delivered, so the send is a new one.
// That holds for single sends and batches, also over a restart.
func TestAKeyWhoseDeliveryIsGoneIsFree(t *testing.T) {
	var m moody
	m.status.Store(503)
	fs := vfs.NewMem()
	o := testOptions(t, fs)
	e, err := Open("data", o)
	if err != nil {
		t.Fatal(err)
	}
	a := newAccount(t, e)
	ctx := context.Background()
	s := sendTo(receiver(t, m.serve), "{}")
	s.IdempotencyKey, s.Policy.MaxAttempts = "ord_1", 1
	send := func() Receipt {
		t.Helper()
		r, err := e.Send(ctx, a, s)
		if err != nil {
			t.Fatal(err)
		}
		await(t, e, a, r.ID) // it is found
		return r
	}
	inBatch := func() Receipt {
		t.Helper()
		results := make([]SendResult, 1)
		if e.SendBatch(ctx, a, []*Send{s}, results); results[0].Err != nil {
			t.Fatal(results[0].Err)
		}
		await(t, e, a, results[0].Receipt.ID)
		return results[0].Receipt
	}
	purge := func() {
		t.Helper()
		j, err := e.StartJob(ctx, a, JobPurge, Filter{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		if j = awaitJob(t, e, a, j.ID); j.Done != 1 {
			t.Fatalf("purged %d, want 1", j.Done)
		}
	}
	first := send()
	if again := send(); !again.Duplicate || again.ID != first.ID {
		t.Errorf("while the dead letter is there: %+v, first %v", again, first.ID)
	}
	purge()
	second := send()
	if second.Duplicate || second.ID == first.ID {
		t.Errorf("after the purge: %+v", second)
	}
	if again := inBatch(); !again.Duplicate || again.ID != second.ID {
		t.Errorf("repeated after the purge: %+v, want %v", again, second.ID)
	}
	purge()
	closeEngine(t, e)
	e = openEngine(t, o)
	third := inBatch()
	if third.Duplicate {
		t.Errorf("after another purge and a restart: %+v", third)
	}
	if again := send(); !again.Duplicate || again.ID != third.ID {
		t.Errorf("repeated at last: %+v, want %v", again, third.ID)
	}
}
