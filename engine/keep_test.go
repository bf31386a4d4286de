package engine

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A pass over more accounts than one command takes reaches all of them, and
// the same pass is not made twice.
func TestRetentionReachesEveryAccount(t *testing.T) {
	target := receiver(t, func(http.ResponseWriter, *http.Request) {})
	var ahead atomic.Int64
	o := testOptions(t, vfs.NewMem())
	o.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	e := openEngine(t, o)
	ctx := context.Background()
	delivered := make(map[AccountID]DeliveryID)
	for range retainAccounts + 5 {
		a := newAccount(t, e)
		r, err := e.Send(ctx, a, sendTo(target, "x"))
		if err != nil {
			t.Fatal(err)
		}
		delivered[a] = r.ID
	}
	for a, id := range delivered {
		await(t, e, a, id)
	}
	e.retain()
	for a, id := range delivered {
		if _, err := e.Delivery(ctx, a, id, ReadOptions{}); err != nil {
			t.Fatalf("a pass when nothing is old dropped %s: %v", id, err)
		}
	}
	ahead.Store(int64(e.opts.RetainFinished + 3*time.Hour))
	e.retain()
	for a, id := range delivered {
		if _, err := e.Delivery(ctx, a, id, ReadOptions{}); !errors.Is(err, ErrNotFound) {
			t.Fatalf("%s of %s is still there: %v", id, a, err)
		}
	}
	before := e.log.(walLog).Log.LastIndex()
	e.retain()
	if after := e.log.(walLog).Log.LastIndex(); after != before {
		t.Errorf("a second pass with the same bounds wrote %d entries to the log", after-before)
	}
}
