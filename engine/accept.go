package engine

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/state"
	"github.com/harepost/harepost/transport"
)

// youngDelay is how far off a first attempt may be for the delivery to wait in
// memory.
const youngDelay = 2 * time.Second

// Send makes a delivery of s and returns when it is durable. Errors: a
// [*RateLimitedError], [*AddressBlockedError] or [*DomainNotVerifiedError]
// says why it was refused, as does [ErrSuspended], [ErrUnauthorized] that the
// account was deleted this moment, [ErrTooMany] that the account has no room for
// the settings of one flow more, [ErrTooLarge] that the log takes none of its
// size, [ErrOverloaded] that it was not tried, [ErrUnknown] that it may or may not
// have been accepted.
func (e *Engine) Send(ctx context.Context, a AccountID, s *Send) (Receipt, error) {
	term := e.reign.Load() // before anything is looked at that decides
	if err := e.Ready(); err != nil {
		e.metrics.notNow(err)
		return Receipt{}, err
	}
	if err := e.admit(a); err != nil {
		return Receipt{}, err
	}
	now := e.opts.Now()
	if wait := e.limiter.take(a, now); wait > 0 {
		e.metrics.refused(refusedRate)
		return Receipt{}, &RateLimitedError{RetryAfter: wait}
	}
	waited, err := e.checkTarget(ctx, a, &s.Target)
	if err != nil {
		e.metrics.refused(refusedTarget)
		return Receipt{}, err
	}
	// Not before: a look-up may take seconds.
	t, err := e.gate.enter(ctx, a, unitsOf(1, len(s.Body)))
	if err != nil {
		e.metrics.notNow(err)
		return Receipt{}, err
	}
	defer e.gate.leave(t)
	t.term = term
	if waited || t.waited {
		now = e.opts.Now()
	}
	if err := e.limitFlow(ctx, a, s, now); err != nil {
		e.metrics.notNow(err)
		return Receipt{}, err
	}
	var r Receipt
	if s.IdempotencyKey == "" {
		r, err = e.accept(a, s, nil, now, t)
	} else {
		r, err = e.acceptOnce(ctx, a, s, now, t)
	}
	e.metrics.notNow(err)
	return r, err
}

// admit says whether the account may send at all.
func (e *Engine) admit(a AccountID) error {
	owner, ok := e.state().Directory().Account(a)
	if !ok {
		return ErrUnauthorized // deleted since the key was looked at
	}
	if owner.Suspended {
		e.metrics.refused(refusedSuspended)
		return ErrSuspended
	}
	return nil
}

// ratePerMinute is an account's rate limit; 0 or less: none.
func (e *Engine) ratePerMinute(a AccountID) int {
	if owner, ok := e.state().Directory().Account(a); ok && owner.RatePerMinute != 0 {
		return owner.RatePerMinute
	}
	return e.opts.RatePerMinute
}

// checkTarget checks that the account may send to the target, and that the
// target is not an address that is never connected to. A literal is looked at
// first: no domain could cover it. A name is resolved only once it is known to
// be the account's. That it does not resolve is no reason to refuse it: trouble
// with DNS passes, and the attempt will say so if it does not. It reports
// whether that took a while.
func (e *Engine) checkTarget(ctx context.Context, a AccountID, t *Target) (waited bool, err error) {
	_, isLiteral := transport.ParseLiteral(t.Host)
	if isLiteral {
		if waited, err := e.checkAddress(ctx, a, t); err != nil {
			return waited, err
		}
	}
	if !e.covers(a, t.Host) {
		return false, &DomainNotVerifiedError{Host: t.Host}
	}
	if isLiteral {
		return false, nil
	}
	return e.checkAddress(ctx, a, t)
}

func (e *Engine) checkAddress(ctx context.Context, a AccountID, t *Target) (waited bool, err error) {
	known, err := e.opts.Transport.CheckKnown(t.Host, t.Port)
	if !known {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, checkWait)
		defer cancel()
		if !e.lookups.begin(ctx, a) {
			return true, nil
		}
		defer e.lookups.end(a)
		err = e.opts.Transport.CheckHost(ctx, t.Host, t.Port)
	}
	if _, blocked := errors.AsType[*transport.BlockedError](err); blocked {
		return !known, &AddressBlockedError{Host: t.Host}
	}
	return !known, nil
}

// covers reports whether the account may send to the host.
func (e *Engine) covers(a AccountID, host string) bool {
	return e.state().Directory().Covers(a, host) || e.opts.DevLoopback && isLoopback(host) || e.isOperators(a, host)
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, ok := transport.ParseLiteral(host)
	return ok && addr.Unmap().IsLoopback()
}

// accept commits the delivery and waits by the gate's ticket until it is durable.
// hash is its idempotency hash, nil if it has no key.
func (e *Engine) accept(a AccountID, s *Send, hash *[16]byte, now time.Time, t *ticket) (Receipt, error) {
	p, err := e.prepare(a, s, hash, now, t)
	if err == nil {
		e.take(p)
		err = e.log.Append(t.term, p.Cmd, p.Cookie)
	}
	if err != nil {
		return Receipt{}, err
	}
	<-t.done // by the applier or the log, or by the gate when the engine has failed
	select {
	case <-e.failed:
		return Receipt{}, fmt.Errorf("%w: %w", ErrUnknown, e.failure)
	default:
		return t.receipt()
	}
}

// prepare makes the command of a delivery that is accepted now, and has the
// ticket wait for it.
func (e *Engine) prepare(a AccountID, s *Send, hash *[16]byte, now time.Time, t *ticket) (Proposal, error) {
	id := e.ids.next(now)
	due := id.UnixMilli()
	if ms := s.NotBefore.UnixMilli(); !s.NotBefore.IsZero() && ms > due {
		due = ms
	}
	rec := delivery.Record{
		ID:             id,
		Account:        uint64(a),
		NotBefore:      due,
		Method:         s.Method,
		Target:         s.Target,
		Headers:        s.Headers,
		Policy:         s.Policy,
		Sign:           s.Sign,
		IdempotencyKey: s.IdempotencyKey,
		Metadata:       s.Metadata,
		Labels:         s.Labels,
		OrderingKey:    s.OrderingKey,
		SkipFailed:     s.SkipFailed,
		BodyBytes:      len(s.Body),
		BodyCRC:        delivery.BodyCRC(s.Body),
		FlowKey:        s.Flow.Key,
	}
	if !s.ExpiresAt.IsZero() {
		rec.ExpiresAt = s.ExpiresAt.UnixMilli()
	}
	body, err := e.sealSend(a, &rec, s.Body)
	if err != nil {
		return Proposal{}, err
	}
	c := command.Accept{
		Stored:      due-id.UnixMilli() > youngDelay.Milliseconds(),
		Apart:       e.opts.RetainPayload > 0,
		Destination: rec.Destination(),
	}
	if hash != nil {
		c.Idempotent, c.Hash = true, *hash
	}
	if s.OrderingKey != "" {
		c.Stored, c.Ordered, c.OrderHash = true, true, delivery.HashOrder(s.OrderingKey)
	}
	cmd, recordBytes := encodeAccept(c, &rec, body)
	if len(cmd) > e.log.MostBytes() {
		return Proposal{}, ErrTooLarge // by itself: the others of a batch are taken
	}
	// From here on the delivery's bytes are the command's, the engine's own.
	bodyAt := len(cmd) - len(body)
	c.Record, c.Body = cmd[bodyAt-recordBytes:bodyAt:bodyAt], cmd[bodyAt:]

	t.young = state.NewYoung(id, a, due, c)
	return Proposal{cmd, t}, nil
}

// encodeAccept returns the command c of a delivery, which ends in its record of
// that many bytes and its body.
func encodeAccept(c command.Accept, rec *delivery.Record, body []byte) (cmd []byte, recordBytes int) {
	var buf [1024]byte // stays on the stack, as c does
	c.Record, c.Body = delivery.AppendRecord(buf[:0], rec), body
	return command.AppendAccept(make([]byte, 0, len(c.Record)+len(body)+64), &c), len(c.Record)
}

// take counts a send that is about to be taken against the room that there is.
func (e *Engine) take(p Proposal) {
	e.space.taken(len(p.Cmd))
	e.quota.taken(len(p.Cmd))
}

// receipt is what the applier has answered about a delivery.
func (t *ticket) receipt() (Receipt, error) {
	if err := t.uncommitted(); err != nil {
		return Receipt{}, err
	}
	if t.ignored {
		return Receipt{}, ErrUnauthorized
	}
	id := t.young.ID
	return Receipt{ID: id, CreatedAt: id.Time()}, nil
}

// acceptOnce is accept for a send with an idempotency key. Of sends with the
// same key, target, method and body that race, one goes to the log and the
// others wait for it; of later ones the state knows. The decision is made
// before the log, by the one node that may append to it, so that applying a
// command needs no decision.
func (e *Engine) acceptOnce(ctx context.Context, a AccountID, s *Send, now time.Time, t *ticket) (Receipt, error) {
	key := flightKey{a, idempotencyHash(s)}
	for {
		f, leader := e.flights.join(key)
		if leader {
			f.receipt, f.err = e.acceptFirst(a, s, now, key.hash, t)
			e.flights.land(key, f)
			return f.receipt, f.err
		}
		select {
		case <-f.landed:
		case <-ctx.Done():
			return Receipt{}, fmt.Errorf("%w: %w", ErrUnknown, ctx.Err())
		}
		if errors.Is(f.err, ErrOverloaded) {
			continue // it was never accepted: take its place
		}
		return Receipt{ID: f.receipt.ID, CreatedAt: f.receipt.CreatedAt, Duplicate: true}, f.err
	}
}

func (e *Engine) acceptFirst(a AccountID, s *Send, now time.Time, hash [16]byte, t *ticket) (Receipt, error) {
	r, found, err := e.acceptedBefore(a, now, &hash)
	if err != nil || found {
		return r, err
	}
	return e.accept(a, s, &hash, now, t)
}

// acceptedBefore looks for a delivery of an earlier send with the same hash. If
// there is none, hash is from then on the one to accept it under.
func (e *Engine) acceptedBefore(a AccountID, now time.Time, h *[16]byte) (Receipt, bool, error) {
	r, found, err := e.firstOf(a, now, h)
	if found {
		e.metrics.duplicates.Inc()
	}
	return r, found, err
}

// firstOf is acceptedBefore, without a word to the metrics.
func (e *Engine) firstOf(a AccountID, now time.Time, h *[16]byte) (Receipt, bool, error) {
	if err := e.reads.begin(); err != nil {
		return Receipt{}, false, err
	}
	hash := *h
	id, found, err := e.lookBefore(a, hash, now)
	if box := e.vault.box(a); box != nil && err == nil && !found {
		// The first send may be from before encryption was turned on.
		hash = box.Hash(hash)
		id, found, err = e.lookBefore(a, hash, now)
	}
	e.reads.end()
	if err != nil {
		e.fail(err)
		return Receipt{}, false, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	*h = hash
	if !found {
		return Receipt{}, false, nil
	}
	return Receipt{ID: id, CreatedAt: id.Time(), Duplicate: true}, true, nil
}

// lookBefore finds the delivery that was accepted under a hash within the
// window. One that was purged, or dropped to make room, is none: the answer to a
// repetition would name what cannot be found, and promise what nobody delivers.
func (e *Engine) lookBefore(a AccountID, hash [16]byte, now time.Time) (DeliveryID, bool, error) {
	id, found, err := e.state().Idempotent(a, hash, now, e.opts.IdempotencyWindow)
	if err != nil || !found {
		return DeliveryID{}, false, err
	}
	_, err = e.state().Find(a, id)
	if errors.Is(err, state.ErrNotFound) {
		return DeliveryID{}, false, nil
	}
	return id, err == nil, err
}

// idempotencyHash is what makes a send a duplicate of another.
func idempotencyHash(s *Send) (hash [16]byte) {
	h := sha256.New()
	var n [8]byte
	for _, part := range [...]string{s.IdempotencyKey, s.Target.URL, s.Method} {
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write([]byte(part))
	}
	h.Write(s.Body)
	copy(hash[:], h.Sum(nil))
	return hash
}

// flights are the sends with an idempotency key that are on their way to the
// log: as many as there are requests at most.
type flights struct {
	mu sync.Mutex
	m  map[flightKey]*flight
}

type flightKey struct {
	account AccountID
	hash    [16]byte
}

type flight struct {
	landed  chan struct{}
	receipt Receipt // set before landed is closed
	err     error
}

// join returns the flight of a key, and whether the caller is to make it.
func (f *flights) join(key flightKey) (*flight, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if other := f.m[key]; other != nil {
		return other, false
	}
	if f.m == nil {
		f.m = make(map[flightKey]*flight)
	}
	own := &flight{landed: make(chan struct{})}
	f.m[key] = own
	return own, true
}

func (f *flights) land(key flightKey, own *flight) {
	f.mu.Lock()
	delete(f.m, key)
	f.mu.Unlock()
	close(own.landed)
}
