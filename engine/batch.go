package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// A SendResult is what became of one send of a batch.
type SendResult struct {
	Receipt Receipt
	Err     error // as Send's
}

// checksAtOnce bounds the look-ups of targets' names that a batch has under
// way.
const checksAtOnce = lookupsPerAccount

// SendBatch makes deliveries of all sends that are not nil, with one append to
// the log and one wait for some hundreds of them, and returns when every accepted one is durable.
// results[i] is of sends[i]. A send that is refused does not touch the others;
// the engine keeps nothing of them. A send that repeats another of the batch,
// by its idempotency key, is a duplicate of it.
func (e *Engine) SendBatch(ctx context.Context, a AccountID, sends []*Send, results []SendResult) {
	b := batch{engine: e, account: a, term: e.reign.Load(), sends: sends, results: results, now: e.opts.Now()}
	if err := errors.Join(e.Ready(), e.admit(a)); err != nil {
		b.refuse(err)
	} else {
		b.takeTokens()
		b.checkTargets(ctx)
		b.accept(ctx)
	}
	for i := range results {
		e.metrics.notNow(results[i].Err)
	}
}

// batch is one SendBatch on its way.
type batch struct {
	engine  *Engine
	account AccountID
	term    uint64 // of the reign in which all of it is decided
	sends   []*Send
	results []SendResult
	now     time.Time

	// Of the part that is being accepted:
	proposals []Proposal
	at        []int     // whose result each proposal gives
	flights   []*flight // of each proposal, nil: it has no idempotency key
	keys      []flightKey
	followers []int // sends whose key another send has, here or elsewhere
}

// left calls fn with every send that nothing has been decided about.
func (b *batch) left(fn func(i int, s *Send)) {
	for i, s := range b.sends {
		if s != nil && b.results[i].Err == nil {
			fn(i, s)
		}
	}
}

func (b *batch) refuse(err error) {
	b.left(func(i int, _ *Send) { b.results[i].Err = err })
}

// mostPartUnits bounds the sends of a batch that are accepted at once: 512 small
// ones. A frame with all of a large batch would hold up every send behind it.
const mostPartUnits = 32

// accept accepts what is left, part by part.
func (b *batch) accept(ctx context.Context) {
	b.limitFlows(ctx)
	var rest []int
	b.left(func(i int, _ *Send) { rest = append(rest, i) })
	for len(rest) > 0 {
		n, units := b.part(rest)
		t, err := b.engine.gate.enter(ctx, b.account, units)
		if err != nil {
			for _, i := range rest {
				b.results[i].Err = err
			}
			return
		}
		b.acceptPart(ctx, rest[:n], t)
		rest = rest[n:]
	}
}

// part is how many of some sends are accepted at once, one at least.
func (b *batch) part(sends []int) (n, units int) {
	bytes := 0
	for _, i := range sends {
		more := unitsOf(n+1, bytes+len(b.sends[i].Body))
		if n > 0 && more > mostPartUnits {
			break
		}
		n, units, bytes = n+1, more, bytes+len(b.sends[i].Body)
	}
	return n, units
}

// acceptPart accepts some sends, as one of those that are accepted at once.
func (b *batch) acceptPart(ctx context.Context, sends []int, t *ticket) {
	defer b.engine.gate.leave(t)
	t.term = b.term
	b.now = b.engine.opts.Now() // look-ups in DNS, and others' sends, may lie between
	b.proposals, b.at, b.flights, b.keys, b.followers = b.proposals[:0], b.at[:0], b.flights[:0], b.keys[:0], b.followers[:0]
	b.prepare(sends)
	b.commit()
	b.follow(ctx, t)
}

func (b *batch) takeTokens() {
	n := 0
	b.left(func(int, *Send) { n++ })
	taken, wait := b.engine.limiter.takeUpTo(b.account, n, b.now)
	if taken == n {
		return
	}
	b.left(func(i int, _ *Send) {
		if taken--; taken < 0 {
			b.engine.metrics.refused(refusedRate)
			b.results[i].Err = &RateLimitedError{RetryAfter: wait}
		}
	})
}

// checkTargets checks each host once, some at a time, and all of them within
// checkWait.
func (b *batch) checkTargets(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, checkWait)
	defer cancel()
	type place struct {
		host string
		port uint16
	}
	hosts := make(map[place][]int)
	b.left(func(i int, s *Send) {
		p := place{s.Target.Host, s.Target.Port}
		hosts[p] = append(hosts[p], i)
	})
	work := make(chan []int)
	var checkers sync.WaitGroup
	for range min(checksAtOnce, len(hosts)) {
		checkers.Go(func() {
			for sends := range work {
				_, err := b.engine.checkTarget(ctx, b.account, &b.sends[sends[0]].Target)
				if err == nil {
					continue
				}
				for _, i := range sends {
					b.engine.metrics.refused(refusedTarget)
					b.results[i].Err = err
				}
			}
		})
	}
	for _, sends := range hosts {
		work <- sends
	}
	close(work)
	checkers.Wait()
}

// prepare makes the commands. Of sends with a key it takes those that no other
// send is on its way with, without waiting for any: two batches that wait for
// each other's keys would wait for ever.
func (b *batch) prepare(sends []int) {
	for _, i := range sends {
		s := b.sends[i]
		if s.IdempotencyKey == "" {
			b.propose(i, s, nil, nil, flightKey{})
			continue
		}
		key := flightKey{b.account, idempotencyHash(s)}
		f, leader := b.engine.flights.join(key)
		if !leader {
			b.followers = append(b.followers, i)
			continue
		}
		hash := key.hash
		r, found, err := b.engine.acceptedBefore(b.account, b.now, &hash)
		if err != nil || found {
			f.receipt, f.err = r, err
			b.engine.flights.land(key, f)
			b.results[i] = SendResult{r, err}
			continue
		}
		b.propose(i, s, &hash, f, key)
	}
}

func (b *batch) propose(i int, s *Send, hash *[16]byte, f *flight, key flightKey) {
	t := tickets.Get().(*ticket)
	p, err := b.engine.prepare(b.account, s, hash, b.now, t)
	if err != nil {
		t.free()
		b.results[i].Err = err
		if f != nil {
			f.err = err
			b.engine.flights.land(key, f)
		}
		return
	}
	b.engine.take(p)
	b.proposals = append(b.proposals, p)
	b.at = append(b.at, i)
	b.flights = append(b.flights, f)
	b.keys = append(b.keys, key)
}

// commit appends all commands at once and waits until they are durable.
func (b *batch) commit() {
	if len(b.proposals) == 0 {
		return
	}
	err := b.engine.log.AppendBatch(b.term, b.proposals)
	for n, p := range b.proposals {
		result := &b.results[b.at[n]]
		if result.Err = err; err == nil {
			result.Receipt, result.Err = b.engine.wait(p.Cookie.(*ticket))
		}
		if f := b.flights[n]; f != nil {
			f.receipt, f.err = result.Receipt, result.Err
			b.engine.flights.land(b.keys[n], f)
		}
	}
}

// tickets are those of the sends of batches.
var tickets = sync.Pool{New: func() any { return newTicket() }}

func (t *ticket) free() {
	t.clear()
	tickets.Put(t)
}

// clear makes the ticket one of nothing. Nobody else has it.
func (t *ticket) clear() {
	t.young, t.ignored = nil, false
	t.fate.Store(int32(ticketCommitted))
}

// wait waits until a send of a batch is durable. The ticket is used up.
func (e *Engine) wait(t *ticket) (Receipt, error) {
	select {
	case <-t.done:
		defer t.free()
		return t.receipt()
	case <-e.failed:
		return Receipt{}, fmt.Errorf("%w: %w", ErrUnknown, e.failure)
	}
}

// follow answers the sends whose key another send had, which by now is durable
// or on its way by itself.
func (b *batch) follow(ctx context.Context, t *ticket) {
	for _, i := range b.followers {
		// After a failure the applier may have the ticket still, and the gate says
		// so once.
		if err := b.engine.ended(); err != nil {
			b.results[i].Err = err
			continue
		}
		t.clear()
		r, err := b.engine.acceptOnce(ctx, b.account, b.sends[i], b.now, t)
		b.results[i] = SendResult{r, err}
	}
}
