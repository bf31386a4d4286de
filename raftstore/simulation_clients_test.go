package raftstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/harepost/harepost/engine"
)

// ledger is what clients were told.
type ledger struct {
	w *world

	mu      sync.Mutex
	sends   map[string]*simSend // by the mark in the body
	acked   []*simSend          // in the order of their acknowledgement
	history history
}

// simSend is one send, however often it was tried.
type simSend struct {
	mark    string
	key     string
	label   string
	account engine.AccountID
	kind    int
	due     time.Time // zero: at once

	id       engine.DeliveryID // once it is acknowledged
	acked    bool
	tried    bool // some try may have been accepted
	asked    bool // to be canceled
	canceled bool
	replayed bool
}

func newLedger(w *world) *ledger { return &ledger{w: w, sends: make(map[string]*simSend)} }

func (l *ledger) add(s *simSend) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sends[s.mark] = s
}

// change changes a send's entry.
func (l *ledger) change(s *simSend, do func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	do()
}

func (l *ledger) ack(s *simSend, id engine.DeliveryID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.id, s.acked, s.tried = id, true, true
	l.acked = append(l.acked, s)
	l.w.accepted.Add(1)
}

func (l *ledger) wasReplayed(mark string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.sends[mark]
	return s != nil && s.replayed
}

// due is when a send is to be attempted first.
func (l *ledger) due(mark string) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sends[mark].due
}

// any is one of the newest that were acknowledged, as it was; ok is false if there is none.
func (l *ledger) any(c *chance) (s *simSend, was simSend, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.acked) == 0 {
		return nil, simSend{}, false
	}
	from := 0
	if c.happens(.7) {
		from = max(0, len(l.acked)-20)
	}
	s = l.acked[from+c.intN(len(l.acked)-from)]
	return s, *s, true
}

// client asks for one thing after the other.
type client struct {
	w        *world
	n        int
	chance   *chance
	accounts []engine.AccountID
	node     int // that it asks first
	serial   int
	stop     chan struct{}
}

func (c *client) run() {
	for {
		t := time.NewTimer(c.chance.around(c.w.profile.think))
		select {
		case <-t.C:
		case <-c.stop:
			t.Stop()
			return
		}
		switch n := c.chance.intN(100); {
		case n < 35:
			c.send(false)
		case n < 70:
			c.send(true)
		case n < 75:
			for range c.chance.intN(30) {
				c.send(c.chance.happens(.5))
			}
		case n < 83:
			c.read()
		case n < 86:
			c.list()
		case n < 90:
			c.cancel()
		case n < 92:
			c.replay()
		default:
			c.domain()
		}
	}
}

// An outcome of a request.
type outcome int

const (
	done    outcome = iota
	refused         // it has no effect
	unknown
	failed // it has none, and will not have: the answer is as good as a result
)

// judge says what an answer means.
func judge(err error) outcome {
	switch {
	case err == nil:
		return done
	case errors.Is(err, engine.ErrNotLeader), errors.Is(err, engine.ErrOverloaded), errors.Is(err, engine.ErrClosed), errors.Is(err, errRefused):
		return refused
	case errors.Is(err, engine.ErrUnknown), errors.Is(err, errGone):
		return unknown
	}
	return failed
}

// life is the node that the client asks now; nil if it is down.
func (c *client) life() *life { return c.w.nodes[c.node].life.Load() }

// other has the client ask another node, after a while.
func (c *client) other() {
	sleep(c.chance.between(10*time.Millisecond, 300*time.Millisecond))
	c.node = c.chance.intN(len(c.w.nodes))
}

func (c *client) send(keyed bool) {
	c.serial++
	s := &simSend{
		mark:    fmt.Sprintf("c%d-%d", c.n, c.serial),
		label:   fmt.Sprintf("c%d-%d", c.n, c.serial/8),
		account: c.accounts[c.chance.intN(len(c.accounts))],
		kind:    []int{steady, steady, steady, steady, steady, flaky, flaky, away, refuses, dead, hangs}[c.chance.intN(11)],
	}
	tries := 1
	if keyed {
		s.key, tries = s.mark, 1+c.chance.intN(30)
	}
	if c.chance.happens(.1) {
		s.due = time.Now().Add(c.chance.around(20 * time.Second)).Truncate(time.Millisecond)
	}
	c.w.ledger.add(s)
	port := firstPort + s.kind
	req := &engine.Send{
		Target: engine.Target{URL: fmt.Sprintf("http://127.0.0.1:%d/hook", port), Scheme: "http", Host: "127.0.0.1", Port: uint16(port), URI: "/hook"},
		Method: "POST", Body: []byte(s.mark + strings.Repeat(".", c.chance.intN(c.w.profile.bodyBytes))), IdempotencyKey: s.key, Labels: []string{s.label},
		Policy: engine.Policy{MaxAttempts: 10000, BaseDelay: 200 * time.Millisecond, MaxDelay: 20 * time.Second, Timeout: 3 * time.Second, RespectRetryAfter: true},
	}
	if s.kind == dead || s.kind == hangs {
		req.Policy.MaxAttempts = 2
	}
	req.NotBefore = s.due
	if c.chance.happens(.1) {
		req.OrderingKey, req.SkipFailed = fmt.Sprint("o", c.chance.intN(5)), true
	}
	for range tries {
		l := c.life()
		if l == nil {
			c.other()
			continue
		}
		op, before := c.w.ledger.history.begin(c.n, s.key), s.tried
		c.w.ledger.change(s, func() { s.tried = true })
		r, err := askOf(l, func(e *engine.Engine) (engine.Receipt, error) { return e.Send(context.Background(), s.account, req) })
		switch judge(err) {
		case done:
			op.end(sendOp{id: r.ID, duplicate: r.Duplicate})
			c.w.ledger.ack(s, r.ID)
			return
		case refused:
			op.drop()
			c.w.ledger.change(s, func() { s.tried = before })
			c.other()
		case unknown:
			op.never(sendOp{unknown: true})
			c.other()
		default:
			c.w.fail("send of %s: %v", s.mark, err)
			return
		}
		select {
		case <-c.stop:
			return
		default:
		}
	}
}

// sure asks a node that leads, until one that is certain to do has answered.
func sure[T any](c *client, what string, do func(*life, *engine.Engine) (T, error)) (T, error) {
	var none T
	for range 20 {
		if l := c.life(); l != nil && l.leads.Load() != 0 {
			r, err := askOf(l, func(e *engine.Engine) (T, error) {
				if err := e.Ready(); err != nil {
					return none, err
				}
				r, err := do(l, e)
				if !l.raft.Certain() {
					return none, engine.ErrNotLeader
				}
				return r, err
			})
			if o := judge(err); o == done || o == failed {
				return r, err
			}
		}
		c.other()
	}
	return none, errRefused
}

func (c *client) read() {
	_, was, ok := c.w.ledger.any(c.chance)
	if !ok {
		return
	}
	op := c.w.ledger.history.begin(c.n, was.key)
	by := ""
	d, err := sure(c, "read", func(l *life, e *engine.Engine) (engine.Delivery, error) {
		by = l.reignName()
		return e.Delivery(context.Background(), was.account, was.id, engine.ReadOptions{Payload: true})
	})
	switch {
	case err == nil:
		op.end(readOp{id: was.id, found: true})
		if mark, _, _ := strings.Cut(string(d.Body), "."); mark != was.mark {
			c.w.fail("%s is %s by %s, and its body %q", was.mark, was.id, by, mark)
		}
		if was.canceled && d.Status != engine.StatusCanceled {
			c.w.fail("%s, %s, was canceled, and is %s by %s", was.mark, was.id, d.Status, by)
		}
	case errors.Is(err, engine.ErrNotFound):
		op.end(readOp{id: was.id})
		c.w.fail("%s was acknowledged as %s, and %s, which is certain to lead, does not find it", was.mark, was.id, by)
	default:
		op.drop()
	}
}

// list reads all sends with one label.
func (c *client) list() {
	_, was, ok := c.w.ledger.any(c.chance)
	if !ok {
		return
	}
	var want []engine.DeliveryID
	l := c.w.ledger
	l.mu.Lock()
	for _, s := range l.acked {
		if s.label == was.label && s.account == was.account {
			want = append(want, s.id)
		}
	}
	l.mu.Unlock()
	by := ""
	var got []engine.Delivery
	for after := (engine.DeliveryID{}); ; {
		page, err := sure(c, "list", func(l *life, e *engine.Engine) (engine.Page, error) {
			by = l.reignName()
			return e.Deliveries(context.Background(), was.account, engine.Filter{Label: was.label}, after, 100)
		})
		if err != nil {
			return
		}
		got = append(got, page.Deliveries...)
		if after = page.Next; after == (engine.DeliveryID{}) {
			break
		}
	}
	for _, id := range want {
		if !slices.ContainsFunc(got, func(d engine.Delivery) bool { return d.ID == id }) {
			d, err := sure(c, "read", func(_ *life, e *engine.Engine) (engine.Delivery, error) {
				return e.Delivery(context.Background(), was.account, id, engine.ReadOptions{})
			})
			c.w.fail("%s was acknowledged, and is not in the list of %s that %s gave: %d; it is %+v, %v", id, was.label, by, len(got), d, err)
		}
	}
}

// changing has a node do something under one of the engine's locks, while no other
// client does: who waits for a lock would stop simulated time, and with it who has it.
func changing[T any](c *client, do func(context.Context, *engine.Engine) (T, error)) (r T, l *life, err error) {
	if l = c.life(); l == nil || l.leads.Load() == 0 {
		return r, nil, errRefused
	}
	r, err = askOf(l, func(e *engine.Engine) (T, error) {
		var none T
		select {
		case l.admin <- struct{}{}:
		case <-l.died:
			return none, errRefused
		}
		defer func() { <-l.admin }()
		if l.leads.Load() == 0 {
			return none, errRefused
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		return do(ctx, e)
	})
	return r, l, err
}

func (c *client) cancel() {
	s, was, ok := c.w.ledger.any(c.chance)
	if !ok || was.replayed {
		return
	}
	c.w.ledger.change(s, func() { s.asked = true })
	d, _, err := changing(c, func(ctx context.Context, e *engine.Engine) (engine.Delivery, error) {
		return e.Cancel(ctx, was.account, was.id)
	})
	if err == nil {
		if d.Status != engine.StatusCanceled {
			c.w.fail("%s was canceled, and is %s", was.mark, d.Status)
		}
		c.w.ledger.change(s, func() { s.canceled = !s.replayed })
	}
}

func (c *client) replay() {
	s, was, ok := c.w.ledger.any(c.chance)
	if !ok || was.asked || was.canceled {
		return
	}
	c.w.ledger.change(s, func() { s.replayed = !s.asked })
	_, _, _ = changing(c, func(ctx context.Context, e *engine.Engine) (engine.Delivery, error) {
		return e.Replay(ctx, was.account, was.id)
	})
}

// domain adds, deletes or looks up one of a few.
func (c *client) domain() {
	a, name := c.accounts[0], fmt.Sprintf("d%d.example", c.chance.intN(4))
	switch c.chance.intN(3) {
	case 0:
		op := c.w.ledger.history.begin(c.n, name)
		created, l, err := changing(c, func(ctx context.Context, e *engine.Engine) (bool, error) {
			_, created, err := e.AddDomain(ctx, a, name)
			return created, err
		})
		switch o := judge(err); {
		case o == done && (created || l.raft.Certain()):
			op.end(domainOp{kind: "add", changed: created})
		case o == unknown:
			op.never(domainOp{kind: "add", unknown: true})
		default:
			op.drop()
		}
	case 1:
		op := c.w.ledger.history.begin(c.n, name)
		_, l, err := changing(c, func(ctx context.Context, e *engine.Engine) (bool, error) { return true, e.DeleteDomain(ctx, a, name) })
		switch o := judge(err); {
		case o == done:
			op.end(domainOp{kind: "delete", changed: true})
		case errors.Is(err, engine.ErrNotFound) && l.raft.Certain():
			op.end(domainOp{kind: "delete"})
		case o == unknown:
			op.never(domainOp{kind: "delete", unknown: true})
		default:
			op.drop()
		}
	default:
		op := c.w.ledger.history.begin(c.n, name)
		_, err := sure(c, "domain", func(_ *life, e *engine.Engine) (engine.Domain, error) { return e.Domain(context.Background(), a, name) })
		if err == nil || errors.Is(err, engine.ErrNotFound) {
			op.end(domainOp{kind: "get", changed: err == nil})
		} else {
			op.drop()
		}
	}
}
