package transport

import (
	"context"
	"errors"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// Transport makes attempts. All methods may be called from any number of
// goroutines at once.
type Transport struct {
	options  Options
	guard    *guard
	resolver *resolver
	dialer   *dialer
	pool     *pool
	signers  *signers

	dials, reuses, stale, blocked atomic.Uint64

	closed  atomic.Bool
	closing sync.Once
	stop    chan struct{} // closed by Close; ends sweepIdle
	done    chan struct{} // closed by sweepIdle when it returns
}

// New returns a Transport and starts its one long-lived goroutine, which
// Close ends. The error names the option that cannot be used.
func New(options Options) (*Transport, error) {
	o, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	t := &Transport{
		options: o,
		guard:   newGuard(o.EgressAllow, o.Forbidden),
		pool:    newPool(o),
		signers: newSigners(),
		stop:    make(chan struct{}),
		done:    make(chan struct{}),
	}
	t.resolver = newResolver(newDNSClient(o.Resolver), o.Lookups, o.LookupsPerSecond, o.DNSEntries)
	t.dialer = newDialer(o, t.guard, t.resolver)
	go t.sweepIdle()
	return t, nil
}

// sweepIdle closes idle connections when their time has come.
func (t *Transport) sweepIdle() {
	defer close(t.done)
	ticker := time.NewTicker(max(t.options.IdleConnDuration/4, time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			t.pool.sweep(now)
		case <-t.stop:
			return
		}
	}
}

// Close closes the idle connections, ends the lookups under way and returns
// when the goroutines of t are gone. Attempts under way are not cut off: each
// ends by its own deadline, and its connection is then closed. Attempts begun
// after Close fail at once. Close may be called again.
func (t *Transport) Close() {
	t.closing.Do(func() {
		t.closed.Store(true)
		close(t.stop)
	})
	<-t.done
	t.resolver.close()
	t.pool.close()
}

// Do makes one attempt and overwrites all of res with how it ended. It returns
// by the attempt's deadline, or at most 1/64 of its timeout later, whatever the
// target does, and does not panic: what a target sends must not be able to end
// the process.
func (t *Transport) Do(req *Request, res *Result) {
	*res = Result{Started: time.Now()}
	f := t.attempt(req, res)
	if f == nil {
		return
	}
	res.Outcome, res.Code, res.Detail = Failed, f.code, f.detail
	res.Local = f == faultNoResources || f == faultClosed
	if f.code == CodeAddressBlocked {
		res.Outcome = Rejected
		t.blocked.Add(1)
	}
	res.Latency = time.Since(res.Started)
}

// attempt makes the attempt. It returns nil when there is a response with a
// usable status, and has classified it in res.
func (t *Transport) attempt(req *Request, res *Result) (f *fault) {
	if t.closed.Load() {
		return faultClosed
	}
	if !sendable(req) {
		return faultBlocked // a target that is none is as final as one that is forbidden
	}
	timeout := req.Timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	deadline := res.Started.Add(timeout)
	dest := destination{host: normalHost(req.Host), port: req.Port, tls: req.Scheme == "https"}

	c, f := t.connection(dest, deadline, res)
	if f != nil {
		return f
	}
	x := exchanges.Get().(*exchange)
	keep := false
	defer func() {
		if p := recover(); p != nil {
			t.options.Logger.Error("transport: attempt panicked", "panic", p, "stack", string(debug.Stack()))
			keep, f = false, faultHead
			x = new(exchange) // the old one may be in any state
		}
		if keep {
			t.pool.put(c, res.Started.Add(res.Latency))
		} else {
			t.pool.drop(c)
		}
		x.release()
	}()
	keep, f = x.run(t, c, req, res, deadline)
	return f
}

// connection returns a connection that is ready for a request: the newest
// idle one that nothing has happened to, or a new one.
func (t *Transport) connection(dest destination, deadline time.Time, res *Result) (*conn, *fault) {
	for {
		c := t.pool.get(dest)
		if c == nil {
			break
		}
		if res.Started.Sub(c.idle) < t.options.IdleConnDuration && c.fresh() {
			t.reuses.Add(1)
			res.Timing.Reused = true
			res.RemoteIP = c.remote
			return c, nil
		}
		t.stale.Add(1)
		t.pool.drop(c)
	}
	t.dials.Add(1)
	c, f := t.dialer.dial(dest, deadline, &res.Timing, &res.RemoteIP)
	if f != nil {
		return nil, f
	}
	t.pool.open.Add(1)
	return c, nil
}

// CheckHost says, before anything is accepted for a host, whether an attempt
// would be allowed to connect to it now. It returns a *BlockedError when host
// is a forbidden address or local name, or when any address it resolves to is
// forbidden; a *LookupError when it does not resolve, which a later attempt
// may find different; ctx's error when ctx ended first. Lookups are shared
// with, and cached like, those of attempts.
func (t *Transport) CheckHost(ctx context.Context, host string, port uint16) error {
	_, err := t.dialer.addrs(ctx, normalHost(host), port)
	return t.checked(host, err)
}

// CheckKnown is CheckHost as far as it gets without a lookup; known is false
// where that takes one.
func (t *Transport) CheckKnown(host string, port uint16) (known bool, err error) {
	err = t.dialer.checkKnown(normalHost(host), port)
	if err == errNotKnown {
		return false, nil
	}
	return true, t.checked(host, err)
}

func (t *Transport) checked(host string, err error) error {
	if errors.Is(err, faultBlocked) {
		t.blocked.Add(1)
		return &BlockedError{Host: host}
	}
	return err
}

// LookupTXT returns the TXT records of name, each with its strings joined.
// Aliases are followed; at most 128 records are returned, within 5 s. A name
// without such a record is a *LookupError with NotFound set. Nothing is cached.
func (t *Transport) LookupTXT(ctx context.Context, name string) ([]string, error) {
	return t.resolver.txt(ctx, name)
}

// Stats are counts at one moment. Those of the first group go up and down;
// the others count since New.
type Stats struct {
	OpenConns  int64 // in use or idle
	IdleConns  int64
	Hosts      int64 // destinations with kept connections
	DNSEntries int64 // names cached

	Dials   uint64 // connections attempted
	Reuses  uint64 // attempts on a connection that had served before
	Stale   uint64 // idle connections found closed, old, or with unasked bytes
	Lookups uint64 // names asked for on the wire
	Blocked uint64 // attempts and checks refused by the address guard
}

// Stats returns the counts at the cost of reading them.
func (t *Transport) Stats() Stats {
	return Stats{
		OpenConns:  t.pool.open.Load(),
		IdleConns:  t.pool.idle.Load(),
		Hosts:      t.pool.hosts.Load(),
		DNSEntries: t.resolver.entries.Load(),
		Dials:      t.dials.Load(),
		Reuses:     t.reuses.Load(),
		Stale:      t.stale.Load(),
		Lookups:    t.resolver.lookups.Load(),
		Blocked:    t.blocked.Load(),
	}
}
