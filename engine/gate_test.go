package engine

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// At most so many are within at once, those who wait get in in order, and who
// comes to a full queue, waits too long, or goes away, is told that nothing was
// done.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		g.init(2)
		ctx := context.Background()
		enter := func(ctx context.Context) (*ticket, error) {
			slot, err := g.enter(ctx)
			if (slot == nil) == (err == nil) {
				t.Errorf("a ticket: %t, and %v", slot != nil, err)
			}
			return slot, err
		}
		first, err := enter(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := enter(ctx); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var order []int
		var waiting sync.WaitGroup
		for n := range int(g.most) {
			waiting.Go(func() {
				if _, err := enter(ctx); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				order = append(order, n)
			})
			synctest.Wait()
		}
		if _, err := enter(ctx); !errors.Is(err, ErrOverloaded) {
			t.Errorf("with %d waiting: %v", g.most, err)
		}
		for range g.most {
			g.leave(first)
			synctest.Wait()
		}
		waiting.Wait()
		for i, n := range order {
			if i != n {
				t.Fatalf("they get in as %v", order)
			}
		}
		began := time.Now()
		if _, err := enter(ctx); !errors.Is(err, ErrOverloaded) || time.Since(began) != gateWait {
			t.Errorf("with nobody leaving: %v after %s", err, time.Since(began))
		}
		gone, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := enter(gone); !errors.Is(err, ErrOverloaded) {
			t.Errorf("whose client is gone: %v", err)
		}
		if n := g.waiting.Load(); n != 0 {
			t.Errorf("%d still wait", n)
		}
		g.leave(first)
		if _, err := enter(ctx); err != nil {
			t.Errorf("after one has left: %v", err)
		}
	})
}
