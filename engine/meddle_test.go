package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/harepost/harepost/engine/state"
)

// meddler does to the deliveries of an account whatever its owner may, until the
// engine ends or enough is done.
type meddler struct {
	engine  *Engine
	account AccountID
	rng     *rand.Rand
	mix     *orderMix
	ids     []DeliveryID
}

func (m *meddler) step(ctx context.Context) error {
	e, a, rng := m.engine, m.account, m.rng
	var id DeliveryID
	if len(m.ids) > 0 {
		id = m.ids[len(m.ids)-1-rng.IntN(min(len(m.ids), 60))]
	}
	var err error
	switch p := rng.IntN(100); {
	case p < 60 || len(m.ids) == 0:
		s := m.mix.mixed(fmt.Sprint("key-", rng.IntN(4)), len(m.ids), rng)
		s.Policy.MaxAttempts, s.SkipFailed = 1+rng.IntN(3), rng.IntN(2) == 0
		if rng.IntN(3) == 0 {
			s.OrderingKey = ""
		}
		var r Receipt
		if r, err = e.Send(ctx, a, s); err == nil {
			m.ids = append(m.ids, r.ID)
		}
	case p < 72:
		_, err = e.Cancel(ctx, a, id)
	case p < 88:
		_, err = e.Replay(ctx, a, id)
	case p < 92:
		kind := []JobKind{JobReplay, JobCancel, JobPurge}[rng.IntN(3)]
		_, err = e.StartJob(ctx, a, kind, Filter{OrderingKey: fmt.Sprint("key-", rng.IntN(4))}, 0)
	default:
		err = m.mix.pause(e, a, rng.IntN(20), rng.IntN(2) == 0)
	}
	for _, allowed := range []error{ErrNotFound, ErrPending, ErrFinished, ErrTooMany, ErrPayloadGone} {
		if errors.Is(err, allowed) {
			return nil
		}
	}
	return err
}

// Whatever an owner does to ordered and other deliveries, over power cuts, the state
// fits together, and in the end all that is pending is delivered.
func TestNothingStaysBehindOverPowerCuts(t *testing.T) {
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 12))
	ctx := context.Background()
	flaky := func(w http.ResponseWriter, _ *http.Request) {
		if n := rand.IntN(10); n < 3 {
			w.WriteHeader([]int{500, 404, 500}[n])
		}
	}
	mix := &orderMix{newOrderLedger(), []Target{receiver(t, flaky), receiver(t, flaky)}, []string{"", "x", "y", ""}}
	o := testOptions(t, nil)
	o.State.YoungDeliveries = 20 // pages are read
	fs := vfs.NewCrashableMem()
	var a AccountID
	cuts := crashes(t, 6)
	for cut := range cuts + 1 {
		o.FS = fs
		o.Failed = func(err error) { t.Errorf("engine failed: %v", err) }
		e, err := Open("data", o)
		if err != nil {
			t.Fatalf("start after cut %d: %v", cut, err)
		}
		if cut == 0 {
			a = newAccount(t, e)
		}
		var all sync.WaitGroup
		for range 4 {
			m := &meddler{engine: e, account: a, rng: rand.New(rand.NewPCG(rng.Uint64(), 1)), mix: mix}
			all.Go(func() {
				for range 150 {
					if err := m.step(ctx); err != nil {
						t.Errorf("step: %v", err)
						return
					}
				}
			})
		}
		all.Wait()
		if cut < cuts {
			fs = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
			verifyCut(t, fs)
		} else {
			m := &meddler{engine: e, account: a, mix: mix}
			m.settle(t)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// verifyCut fails unless the state of an engine that is not open fits together.
func verifyCut(t *testing.T, fs vfs.FS) {
	t.Helper()
	s, err := state.Open("data/state", state.Options{FS: fs, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := s.Verify(); err != nil || len(r.Findings) > 0 {
		t.Errorf("verify: %v, %v", r.Findings, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// settle lets everything go on and waits until nothing is pending.
func (m *meddler) settle(t *testing.T) {
	t.Helper()
	e, ctx := m.engine, context.Background()
	for i := range 4 * 2 {
		if err := m.mix.pause(e, m.account, i, false); err != nil {
			t.Fatal(err)
		}
	}
	// A dead letter may hold a key: purging it lets the others go on.
	awaitCondition(t, "nothing pending", func() bool {
		if _, err := e.StartJob(ctx, m.account, JobPurge, Filter{}, 0); err != nil && !errors.Is(err, ErrTooMany) {
			t.Fatal(err)
		}
		return e.state().Pending() == 0
	})
	awaitCondition(t, "no job that runs", func() bool { return len(e.state().RunningJobs()) == 0 })
	verifyState(t, e)
	awaitCondition(t, "lanes without pending deliveries", func() bool {
		list, _, err := e.Destinations(ctx, m.account, DestinationQuery{Limit: 100})
		for _, d := range list {
			if d.Pending != 0 || d.InFlight != 0 {
				return false
			}
		}
		return err == nil
	})
}
