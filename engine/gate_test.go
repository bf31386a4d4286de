package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/harepost/harepost/engine/state"
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
			slot, err := g.enter(ctx, 1, 1)
			if (slot == nil) == (err == nil) {
				t.Errorf("a ticket: %t, and %v", slot != nil, err)
			}
			return slot, err
		}
		inside := make(chan *ticket, g.most+3)
		for range 2 {
			first, err := enter(ctx)
			if err != nil {
				t.Fatal(err)
			}
			inside <- first
		}
		var mu sync.Mutex
		var order []int
		var waiting sync.WaitGroup
		for n := range g.most {
			waiting.Go(func() {
				ticket, err := enter(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				order = append(order, n)
				inside <- ticket
			})
			synctest.Wait()
		}
		if _, err := enter(ctx); !errors.Is(err, ErrOverloaded) {
			t.Errorf("with %d waiting: %v", g.most, err)
		}
		for range g.most {
			g.leave(<-inside)
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
		if n := g.queued(); n != 0 {
			t.Errorf("%d still wait", n)
		}
		g.leave(<-inside)
		last, err := enter(ctx)
		if err != nil {
			t.Errorf("after one has left: %v", err)
		}
		g.leave(last)
		g.leave(<-inside)
		checkGate(t, &g)
		g.tidy()
		g.tidy()
		if len(g.shares) > 0 || g.free != g.units+g.reserve {
			t.Errorf("an empty gate has %d shares, %d units", len(g.shares), g.free)
		}
	})
}

// A crowd enters a gate, leaves it, and remembers who got in.
type crowd struct {
	t    *testing.T
	g    *gate
	all  sync.WaitGroup
	mu   sync.Mutex
	in   map[AccountID][]*ticket
	told []string // "A1": the first of account A has got in; "-A1": was refused
}

func newCrowd(t *testing.T, sendsAtOnce int) *crowd {
	c := &crowd{t: t, g: new(gate), in: map[AccountID][]*ticket{}}
	c.g.init(sendsAtOnce)
	return c
}

// come has a send of an account come to the gate. It has come to rest on return.
func (c *crowd) come(a AccountID, number, units int) {
	c.all.Go(func() {
		ticket, err := c.g.enter(context.Background(), a, units)
		c.mu.Lock()
		defer c.mu.Unlock()
		name := fmt.Sprintf("%c%d", 'A'+rune(a)-1, number)
		if err != nil {
			c.told = append(c.told, "-"+name)
			return
		}
		c.told = append(c.told, name)
		c.in[a] = append(c.in[a], ticket)
	})
	synctest.Wait()
	checkGate(c.t, c.g)
}

// leave has the send of an account leave that has been inside for longest.
func (c *crowd) leave(a AccountID) {
	c.mu.Lock()
	ticket := c.in[a][0]
	c.in[a] = c.in[a][1:]
	c.mu.Unlock()
	c.g.leave(ticket)
	synctest.Wait()
	checkGate(c.t, c.g)
}

// since is who got in or was refused since it was asked for the last time.
func (c *crowd) since() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	told := c.told
	c.told = nil
	return told
}

func (c *crowd) want(what string, names ...string) {
	c.t.Helper()
	if got := c.since(); !slices.Equal(got, names) {
		c.t.Errorf("%s: %v, want %v", what, got, names)
	}
}

// empty lets everybody leave.
func (c *crowd) empty() {
	for inside := true; inside; {
		inside = false
		for a := range c.in {
			for len(c.in[a]) > 0 {
				inside = true
				c.leave(a)
			}
		}
	}
	c.all.Wait()
	c.g.tidy()
	c.g.tidy()
	if c.g.free != c.g.units+c.g.reserve || len(c.g.shares) > 0 {
		c.t.Errorf("an empty gate has %d shares, %d units", len(c.g.shares), c.g.free)
	}
}

// Who is told of a failure leaves at once, and the applier may still have the ticket: it
// is not changed, and nobody gets it again. Who comes later is told, too.
func TestATicketIsNobodysAfterAFailure(t *testing.T) {
	var g gate
	g.init(1)
	first, err := g.enter(t.Context(), 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	first.young = new(state.Young)
	g.wake()
	<-first.done
	g.leave(first)
	second, err := g.enter(t.Context(), 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	<-second.done
	if first.young == nil || second == first {
		t.Error("the ticket was used again")
	}
}

// Beside an account that takes all that it gets, others enter at once, and take
// turns when they have to wait.
func TestAccountsShareTheGate(t *testing.T) {
	const a, b, c = 1, 2, 3
	synctest.Test(t, func(t *testing.T) {
		cr := newCrowd(t, 8) // and 2 more for those that have little
		defer cr.empty()
		for n := range 14 {
			cr.come(a, n+1, 1)
		}
		cr.want("alone", "A1", "A2", "A3", "A4", "A5", "A6", "A7", "A8")
		cr.come(b, 1, 1)
		cr.come(c, 1, 1)
		cr.want("beside a crowd", "B1", "C1")
		cr.come(b, 2, 1)
		cr.come(b, 3, 1)
		cr.come(c, 2, 1)
		cr.want("nothing is free", []string{}...)
		// A has more than its part: what becomes free first is the reserve, for
		// those that have less.
		for range 3 {
			cr.leave(a)
		}
		cr.want("who has less comes first", "B2", "C2")
		cr.leave(a)
		cr.want("and is not passed", []string{}...)
	})
	synctest.Test(t, func(t *testing.T) {
		cr := newCrowd(t, 8)
		defer cr.empty()
		for n := range 12 {
			for _, account := range []AccountID{a, b} {
				cr.come(account, n+1, 1)
			}
		}
		if len(cr.in[a]) != 4 || len(cr.in[b]) != 4 {
			t.Errorf("of two that take all they get, %d and %d are inside", len(cr.in[a]), len(cr.in[b]))
		}
		cr.since()
		cr.come(c, 1, 1)
		cr.want("a third", "C1")
		for range 3 {
			cr.leave(a)
			cr.leave(b)
		}
		if len(cr.in[a]) > 4 || len(cr.in[b]) > 4 {
			t.Errorf("later %d and %d are inside", len(cr.in[a]), len(cr.in[b]))
		}
	})
}

// While another account sends, one that takes all it gets has a part of the gate,
// also between the other's sends; and all of it again some time after the last.
func TestAnAccountHasAPartWhileOthersSend(t *testing.T) {
	const a, b = 1, 2
	synctest.Test(t, func(t *testing.T) {
		cr := newCrowd(t, 8)
		defer cr.empty()
		cr.come(b, 1, 1)
		cr.leave(b)
		for n := range 12 {
			cr.come(a, n+1, 1)
		}
		inside := func(want int) {
			t.Helper()
			if got := len(cr.in[a]); got != want {
				t.Errorf("%d are inside, want %d", got, want)
			}
		}
		inside(4)
		for account := AccountID(b); account < 8; account++ { // six more
			cr.come(account, 2, 1)
			cr.leave(account)
		}
		cr.leave(a)
		cr.leave(a)
		cr.leave(a)
		cr.leave(a)
		inside(2) // a quarter, where an equal part is less
		tidy := func() {
			cr.g.tidy()
			synctest.Wait()
			checkGate(t, cr.g)
		}
		tidy()
		inside(2)
		tidy()
		inside(8)
	})
}

// When the queue is full, the newest of the account of which most wait is refused,
// and that is never the one that has few.
func TestAFullGateRefusesWhoWaitsMost(t *testing.T) {
	const a, b, c = 1, 2, 3
	synctest.Test(t, func(t *testing.T) {
		cr := newCrowd(t, 1) // and 1; 4 may wait
		cr.come(c, 1, 1)
		cr.come(c, 2, 1)
		for n := range 3 {
			cr.come(a, n+1, 1)
		}
		cr.want("the gate is taken", "C1", "A1")
		cr.come(a, 4, 1) // waits with C2, A2 and A3
		cr.come(b, 1, 1)
		cr.want("another account's first", "-A4")
		cr.come(a, 5, 1)
		cr.want("another one of the crowd", "-A5")
		cr.come(b, 2, 1)
		cr.want("a second, where most have two", "-B2")
		cr.empty()
		got := cr.since()
		slices.Sort(got)
		if want := []string{"A2", "A3", "B1", "C2"}; !slices.Equal(got, want) {
			t.Errorf("of those that waited %v got in, want %v", got, want)
		}
	})
}

// What is heavy enters too, and lets others in beside it.
func TestHeavySendsAtTheGate(t *testing.T) {
	const a, b, c = 1, 2, 3
	synctest.Test(t, func(t *testing.T) {
		cr := newCrowd(t, 8) // and 2
		defer cr.empty()
		cr.come(a, 1, 6)
		cr.come(a, 2, 6)
		cr.come(a, 3, 1)
		cr.want("a second does not fit, and is not passed", "A1")
		for n := range 3 {
			cr.come(b, n+1, 1)
		}
		cr.want("what is light, of another", "B1", "B2", "B3")
		cr.leave(a)
		cr.want("its account has nothing inside", "A2")
		cr.leave(a)
		cr.want("and the next", "A3")
		cr.come(c, 1, 100) // more than there is
		cr.want("nothing is as heavy as not to enter", "C1")
	})
}

// Whatever comes, goes and is held back: nobody waits who could enter, units are
// neither lost nor made, and each account's sends get in in the order they came.
func TestGateAgainstItsPromises(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(seed, 0))
		cr := newCrowd(t, 6)
		busy := map[AccountID]int{}
		cr.g.throttle.young = func(a AccountID) int { return busy[a] }
		came, last := map[AccountID]int{}, map[byte]int{}
		entered, refused := 0, 0
		look := func() { // of those that got in at one moment, the order says nothing
			first := maps.Clone(last)
			for _, name := range cr.since() {
				if name[0] == '-' {
					refused++
					continue
				}
				entered++
				var number int
				fmt.Sscan(name[1:], &number)
				if number <= first[name[0]] {
					t.Errorf("%s got in after %d", name, first[name[0]])
				}
				last[name[0]] = max(last[name[0]], number)
			}
		}
		for range 2000 {
			a := AccountID(1 + random.IntN(5))
			switch k := random.IntN(10); {
			case k < 5:
				came[a]++
				cr.come(a, came[a], 1+random.IntN(2)*random.IntN(8))
			case k < 9:
				if len(cr.in[a]) > 0 {
					cr.leave(a)
				}
			case random.IntN(2) == 0:
				cr.g.tidy()
				synctest.Wait()
				checkGate(t, cr.g)
			default:
				busy[a] = random.IntN(20)
				limit := random.IntN(2) * random.IntN(20)
				cr.g.throttle.limit.Store(int64(limit))
				cr.g.holdBack(limit)
				synctest.Wait()
				checkGate(t, cr.g)
			}
			if look(); t.Failed() {
				break
			}
		}
		cr.g.throttle.limit.Store(0)
		cr.g.holdBack(0)
		synctest.Wait()
		cr.empty()
		look()
		if entered == 0 || refused == 0 {
			t.Errorf("%d got in, %d were refused: the test does not show what it is for", entered, refused)
		}
	})
}

// A turn that comes while its sender gives up is taken, or lost with its unit.
func TestATurnAtTheLastMoment(t *testing.T) {
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	for range 50 { // the two are told in any order
		var g gate
		g.init(1)
		first, err := g.enter(context.Background(), 1, 1)
		if err != nil {
			t.Fatal(err)
		}
		g.mu.Lock()
		w, err := g.queue(g.shareOf(1), 1)
		g.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		g.leave(first)
		second, err := g.wait(gone, w)
		if err != nil {
			t.Fatalf("it had its turn: %v", err)
		}
		g.leave(second)
		checkGate(t, &g)
	}
}

// checkGate checks what always holds while nobody is on the way.
func checkGate(t *testing.T, g *gate) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	inside, waiting := 0, 0
	for a, s := range g.shares {
		length := 0
		for w := s.first; w != nil; w = w.next {
			length++
		}
		inside += s.inside
		waiting += length
		inRing := s.next != nil
		switch {
		case s.account != a || length != s.length:
			t.Errorf("share %+v of account %d", s, a)
		case inRing != (length > 0 && !s.held):
			t.Errorf("account %d, of which %d wait, held %t, has a turn: %t", a, length, s.held, inRing)
		case inRing && g.fits(s, s.first.units):
			t.Errorf("a send of account %d waits and could enter", a)
		}
	}
	if waiting != g.waiting || g.waiting > g.most {
		t.Errorf("%d wait, counted %d, at most %d", waiting, g.waiting, g.most)
	}
	if inside+g.free != g.units+g.reserve {
		t.Errorf("%d units are taken, %d free, of %d", inside, g.free, g.units+g.reserve)
	}
}
