package raftstore

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/harepost/harepost/engine"
	"github.com/harepost/harepost/engine/state"
)

// The quick size of the simulation, and what HAREPOST_SIMULATION_N seeds play instead.
const (
	quickSeeds  = 8
	quickTime   = 90 * time.Second
	tortureTime = time.Hour
)

// Three nodes, whatever happens to them, lose nothing that was acknowledged, give one
// key one id, have at most one leader a term and one that delivers at a time, and are
// equal in the end. make torture plays more seeds, and longer.
func TestClusterSimulation(t *testing.T) {
	first, seeds, length := rand.Uint64(), quickSeeds, quickTime
	if n, err := strconv.Atoi(os.Getenv("HAREPOST_SIMULATION_N")); err == nil && n > 0 {
		seeds, length = n, tortureTime
	}
	if d, err := time.ParseDuration(os.Getenv("HAREPOST_SIMULATION_TIME")); err == nil {
		length = d
	}
	if s, err := strconv.ParseUint(os.Getenv("HAREPOST_SEED"), 10, 64); err == nil {
		first, seeds = s, 1
	}
	for i := range seeds {
		seed := first + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			var told string
			synctest.Test(t, func(t *testing.T) { told = simulate(t, seed, length) })
			t.Logf("HAREPOST_SEED=%d: %s; %.1fs", seed, told, time.Since(began).Seconds())
		})
	}
}

const simClients = 6

// simulate plays one seed, and says what happened in it.
func simulate(t *testing.T, seed uint64, length time.Duration) string {
	w := newWorld(t, seed, length)
	defer w.tell()
	w.trace("%+v", w.profile)
	var starting sync.WaitGroup
	for _, n := range w.nodes {
		starting.Go(n.rise)
	}
	starting.Wait()
	accounts := w.makeAccounts()
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for n := range simClients {
		c := &client{w: w, n: n, chance: newChance(seed, uint64(100+n)), accounts: accounts, stop: stop}
		clients.Go(c.run)
	}
	m := &nemesis{w: w, chance: newChance(seed, 2), stop: make(chan struct{})}
	m.strikes.Go(m.run)
	time.Sleep(length)
	m.heal()
	w.awaitLeader(15 * time.Second)
	before := w.accepted.Load()
	time.Sleep(20 * time.Second)
	close(stop)
	clients.Wait()
	if w.accepted.Load() == before {
		w.fail("nothing was accepted in 20 s without a fault")
	}
	w.settle()
	told := w.verify()
	for _, n := range w.nodes {
		w.endNode(n)
	}
	w.running.Wait()
	return told
}

func (w *world) makeAccounts() (ids []engine.AccountID) {
	l := w.awaitLeader(15 * time.Second)
	for range 2 {
		a, err := l.engine.CreateAccount(context.Background(), "test")
		if err != nil {
			w.t.Fatal(err)
		}
		ids = append(ids, a.Account.ID)
	}
	return ids
}

// settle waits until all that was accepted has ended.
func (w *world) settle() {
	const patience = 4 * time.Hour // clocks were wrong by an hour, and what they said is when attempts are due
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Second) {
		l := w.awaitLeader(15 * time.Second)
		if l == nil {
			return
		}
		pending := 0
		for _, a := range l.engine.Accounts() {
			page, err := l.engine.Deliveries(context.Background(), a, engine.Filter{Pending: true}, engine.DeliveryID{}, 10)
			if err != nil {
				w.fail("list: %v", err)
				return
			}
			pending += len(page.Deliveries)
			if len(page.Deliveries) > 0 && time.Now().After(end) {
				var page2 strings.Builder
				l.engine.WriteMetrics(&page2)
				w.fail("after %s without a fault a delivery is pending: %+v\n%s", patience, page.Deliveries[0], page2.String())
				return
			}
		}
		if pending == 0 {
			return
		}
	}
}

// verify compares what clients were told with what the nodes have and the receivers got.
func (w *world) verify() string {
	operations := w.ledger.history.check(w)
	dumps := w.dumps()
	for id, d := range dumps {
		if d != dumps["n1"] {
			w.fail("%s and n1 differ: %s", id, difference(d, dumps["n1"]))
		}
	}
	duplicates := w.verifyLedger()
	return fmt.Sprintf("%d sent, %d acknowledged, 0 lost, %d received more than once of %d that could be, %d attempts, %d reigns, %d starts, %d snapshots sent, %d installed, %d restored, %d operations checked, %d outcomes lost, faults %v",
		len(w.ledger.sends), len(w.ledger.acked), duplicates, w.repeatable, w.attempts.Load(), w.reigns.Load(), w.starts(), w.snapshots.Load(), w.installed.Load(), w.restored.Load(), operations, w.lost.Load(), w.faults)
}

func (w *world) starts() (n int) {
	for _, node := range w.nodes {
		n += node.starts
	}
	return n
}

// verifyLedger returns how many requests arrived that the receiver had answered before.
func (w *world) verifyLedger() (duplicates int) {
	l := w.leader()
	if l == nil {
		w.fail("there is no leader in the end")
		return 0
	}
	for _, n := range w.nodes {
		if l := n.life.Load(); l != nil {
			l.forgets() // those that began as the reign before had ended
		}
	}
	for mark, got := range w.receivers.got {
		s := w.ledger.sends[mark]
		if s == nil || !s.tried {
			w.fail("%s was received %d times, and never accepted", mark, got.times)
			continue
		}
		if s.replayed || got.good == 0 {
			continue
		}
		duplicates += got.good - 1
		if got.good-1 > w.repeats[mark] {
			w.fail("%s was delivered %d times, and %d attempts were not on record when a reign ended", mark, got.good, w.repeats[mark])
		}
	}
	ids := make(map[engine.DeliveryID]string)
	for _, s := range w.ledger.acked {
		if other, ok := ids[s.id]; ok {
			w.fail("%s and %s are both %s", s.mark, other, s.id)
		}
		ids[s.id] = s.mark
		d, err := l.engine.Delivery(context.Background(), s.account, s.id, engine.ReadOptions{})
		if err != nil {
			w.fail("%s was acknowledged as %s, and is lost: %v", s.mark, s.id, err)
			continue
		}
		got := w.receivers.got[s.mark]
		switch {
		case d.Status == endsAs[s.kind] && !s.canceled:
		case d.Status == engine.StatusCanceled && s.asked:
		default:
			w.fail("%s is %s: canceled %v, asked for %v, replayed %v", s.mark, d.Status, s.canceled, s.asked, s.replayed)
		}
		if d.Status == engine.StatusDelivered && (got == nil || got.good == 0) {
			w.fail("%s is delivered, and was never received", s.mark)
		}
	}
	return duplicates
}

// dumps are what each node has, when all have applied the same.
func (w *world) dumps() map[raft.ServerID]string {
	all := make(map[raft.ServerID]string)
	for range 100 {
		clear(all)
		applied := make(map[uint64]bool)
		for _, n := range w.nodes {
			l := n.life.Load()
			if l == nil || !l.up.Load() {
				w.fail("%s is down in the end", n.id)
				return nil
			}
			at, err := l.raft.opts.Machine.Settle()
			if err != nil {
				w.trace("%s: settle: %v", l.name, err)
			}
			applied[at] = true
			all[n.id] = dump(w, l.engine)
		}
		if len(applied) == 1 {
			return all
		}
		time.Sleep(200 * time.Millisecond)
	}
	w.fail("the nodes do not come to have applied the same")
	return all
}

// dump is all that an engine can be asked for.
func dump(w *world, e *engine.Engine) string {
	ctx := context.Background()
	var text strings.Builder
	for _, id := range e.Accounts() {
		a, err1 := e.Account(ctx, id)
		keys, err2 := e.Keys(ctx, id)
		domains, err3 := e.Domains(ctx, id)
		fmt.Fprintf(&text, "%+v %+v %+v %v %v %v\n", a, keys, domains, err1, err2, err3)
		for after := (engine.DeliveryID{}); ; {
			page, err := e.Deliveries(ctx, id, engine.Filter{}, after, 100)
			if err != nil {
				w.fail("dump: %v", err)
				return text.String()
			}
			for _, d := range page.Deliveries {
				whole, err := e.Delivery(ctx, id, d.ID, engine.ReadOptions{Payload: true})
				fmt.Fprintf(&text, "%+v %v\n", whole, err)
			}
			if after = page.Next; after == (engine.DeliveryID{}) {
				break
			}
		}
	}
	return text.String()
}

func difference(a, b string) string {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	from := max(0, i-200)
	return fmt.Sprintf("\n%s\n--- and\n%s", a[from:min(len(a), i+200)], b[from:min(len(b), i+200)])
}

// endNode stops a node in peace, and reads all of what it leaves.
func (w *world) endNode(n *simNode) {
	l := n.life.Load()
	if l == nil || l.engine == nil {
		return
	}
	if err := l.engine.Close(); err != nil {
		w.fail("%s: close: %v", l.name, err)
	}
	st, err := state.Open("data/state", state.Options{FS: n.mem, ReadOnly: true, CacheBytes: 1 << 20, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.fail("%s: open the state that it leaves: %v", l.name, err)
		return
	}
	r, err := st.Verify()
	if err != nil || len(r.Findings) > 0 {
		w.fail("%s: verify: %v, %v", l.name, err, r.Findings)
	}
	if err := st.Close(); err != nil {
		w.fail("%s: %v", l.name, err)
	}
}

// sleep lets simulated time go by: all of the simulation is in a bubble of synctest's.
func sleep(d time.Duration) { time.Sleep(d) }
