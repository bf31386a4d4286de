package engine

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// orderMix is senders of ordered deliveries that use all that a lane can do to them.
type orderMix struct {
	*orderLedger
	targets []Target
	keys    []string // flow keys, with "" for the target's own lane
}

// mixed is a message with a flow, now and then with limits of it, and a delay.
func (m *orderMix) mixed(key string, n int, rng *rand.Rand) *Send {
	s := orderedSend(m.targets[rng.IntN(len(m.targets))], key, n)
	if s.Flow.Key = m.keys[rng.IntN(len(m.keys))]; s.Flow.Key != "" && rng.IntN(4) == 0 {
		s.Flow.Rate, s.Flow.Parallelism = float64(200+rng.IntN(1000)), 1+rng.IntN(4)
	}
	if rng.IntN(4) == 0 {
		s.NotBefore = time.Now().Add(time.Duration(rng.IntN(60)) * time.Millisecond)
	}
	return s
}

// run sends, and pauses and resumes, until so many sends are acknowledged.
func (m *orderMix) run(t *testing.T, e *Engine, a AccountID, rng *rand.Rand, enough func(acked int64) bool) (wait func()) {
	var acked atomic.Int64
	var all sync.WaitGroup
	done := make(chan struct{})
	for k := range 6 {
		own := rand.New(rand.NewPCG(rng.Uint64(), 1))
		all.Go(func() {
			key := fmt.Sprint("key-", k)
			for {
				n := m.next(key)
				r, err := e.Send(context.Background(), a, m.mixed(key, n, own))
				if err != nil {
					return
				}
				m.ack(key, n, r.ID)
				if acked.Add(1); enough(acked.Load()) {
					return
				}
			}
		})
	}
	own := rand.New(rand.NewPCG(rng.Uint64(), 2))
	var pausing sync.WaitGroup
	pausing.Go(func() {
		for i := 0; ; i++ {
			paused := i%2 == 0
			if err := m.pause(e, a, own.IntN(len(m.keys)+len(m.targets)), paused); err != nil {
				return
			}
			select {
			case <-done:
				return
			case <-time.After(time.Duration(own.IntN(3)) * time.Millisecond):
			}
		}
	})
	return func() { all.Wait(); close(done); pausing.Wait() }
}

// pause pauses or resumes the lane of a flow, or that of a target.
func (m *orderMix) pause(e *Engine, a AccountID, i int, paused bool) error {
	ref := DestinationRef{FlowKey: m.keys[i%len(m.keys)]}
	if ref.FlowKey == "" {
		ref = refTo(m.targets[i%len(m.targets)])
	}
	_, err := e.ChangeDestinations(context.Background(), a, ref, DestinationChange{Paused: &paused})
	return err
}

// Order holds in flows with limits, with delays, pauses and breakers that open,
// over power cuts and restarts.
func TestHeldFlowsKeepOrderOverPowerCuts(t *testing.T) {
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 11))
	l := newOrderLedger()
	var failing atomic.Int32 // of ten attempts
	flaky := l.answer(func() bool { return rand.Int32N(10) >= failing.Load() })
	m := &orderMix{l, []Target{receiver(t, flaky), receiver(t, flaky)}, []string{"", "x", "y", ""}}
	o := testOptions(t, nil)
	o.Failed = nil // the old timeline may end as it likes
	o.BreakerFailures = 3
	fs := vfs.NewCrashableMem()
	var a AccountID
	for cut := range crashes(t, 10) {
		o.FS = fs
		failing.Store(10 * rng.Int32N(2)) // breakers open, or do not
		e, err := Open("data", o)
		if err != nil {
			t.Fatalf("start after cut %d: %v", cut, err)
		}
		if cut == 0 {
			a = newAccount(t, e)
		}
		l.freeze(false)
		most, reached := 10+rng.Int64N(150), make(chan struct{})
		var once sync.Once
		wait := m.run(t, e, a, rng, func(n int64) bool {
			if n >= most {
				once.Do(func() { close(reached) })
			}
			return n >= most+20
		})
		<-reached
		acked := l.freeze(true)
		fs = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
		wait()
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		l.acked = acked
	}
	l.freeze(false)
	failing.Store(0)
	o.FS = fs
	o.Failed = func(err error) { t.Errorf("engine failed: %v", err) }
	e := openEngine(t, o)
	for i := range len(m.keys) * len(m.targets) {
		if err := m.pause(e, a, i, false); err != nil {
			t.Fatal(err)
		}
	}
	l.check(t, e, a)
}
