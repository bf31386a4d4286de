package transport

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/time/rate"
)

const (
	lookupTimeout   = 5 * time.Second        // for one name, all servers and tries
	familyGrace     = 500 * time.Millisecond // for the second of A and AAAA
	minTTL          = time.Second
	maxTTL          = 5 * time.Minute
	notFoundTTL     = 5 * time.Second
	lookupFailedTTL = time.Second
	maxAddrs        = 64  // of one name; more are not looked at, so not dialled
	maxTXTRecords   = 128 // of one name
)

// LookupError says that a name could not be resolved: either it has no such
// record (NotFound), or no server gave a usable answer.
type LookupError struct {
	Name     string
	NotFound bool
	Err      error
}

func (e *LookupError) Error() string {
	if e.NotFound {
		return "transport: look up " + e.Name + ": not found"
	}
	return "transport: look up " + e.Name + ": " + e.Err.Error()
}

// Unwrap returns what the server or the network said.
func (e *LookupError) Unwrap() error { return e.Err }

var (
	errNoRecord        = errors.New("no such record")
	errLookupsFull     = errors.New("too many lookups are waiting")
	errResolverClosed  = errors.New("resolver is closed")
	errTooManyAliases  = errors.New("alias chain is too long")
	errNoUsableAnswer  = errors.New("no server gave a usable answer")
	errBadName         = errors.New("name is not a domain name")
	errAnswerMalformed = errors.New("answer is malformed")
)

// resolver turns names into addresses: one lookup per name at a time, answers
// kept for their TTL, within bounds.
//
//	addresses ─┬─ cached ───────────────────────────────► answer
//	           ├─ being looked up: wait for it ─────────► answer
//	           └─ start a lookup ─ slot ─ A ∥ AAAA ─ cache ► answer
//
// A lookup runs in a goroutine of its own, because it outlives the caller that
// asked first when others wait for it too. close ends them all and waits.
type resolver struct {
	client *dnsClient
	slots  chan struct{} // one per lookup on the wire
	rate   *rate.Limiter // of lookups

	ctx    context.Context // ends with close
	cancel context.CancelFunc
	wg     sync.WaitGroup // the lookups

	entries atomic.Int64 // size of cache, for Stats
	lookups atomic.Uint64

	mu      sync.Mutex
	closed  bool
	cache   *lru[string, cached]
	calls   map[string]*lookupCall // bounded by maxCalls
	maxCall int
}

type cached struct {
	addrs   []netip.Addr // read only
	err     error
	expires time.Time
}

type lookupCall struct {
	done  chan struct{} // closed when addrs and err are set
	addrs []netip.Addr
	err   error
}

func newResolver(client *dnsClient, lookups, perSecond, entries int) *resolver {
	r := &resolver{
		client:  client,
		slots:   make(chan struct{}, lookups),
		rate:    rate.NewLimiter(rate.Limit(perSecond), max(1, perSecond/10)),
		cache:   newLRU[string, cached](entries),
		calls:   make(map[string]*lookupCall),
		maxCall: 16 * lookups,
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// close ends every lookup and returns when their goroutines are gone.
func (r *resolver) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.wg.Wait()
}

// addresses returns the addresses of name, which is normal and public; the
// slice is shared and must not be written to. Errors are *LookupError, or
// ctx's own when ctx ended first.
func (r *resolver) addresses(ctx context.Context, name string) ([]netip.Addr, error) {
	r.mu.Lock()
	if e, ok := r.cachedLocked(name); ok {
		r.mu.Unlock()
		return e.addrs, e.err
	}
	call, ok := r.calls[name]
	if !ok {
		var err error
		if call, err = r.startLocked(name); err != nil {
			r.mu.Unlock()
			return nil, &LookupError{Name: name, Err: err}
		}
	}
	r.mu.Unlock()

	select {
	case <-call.done:
		return call.addrs, call.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (r *resolver) cachedLocked(name string) (cached, bool) {
	e, ok := r.cache.get(name)
	return e, ok && time.Now().Before(e.expires)
}

// known is addresses without a lookup: errNotKnown where there would be one.
func (r *resolver) known(name string) ([]netip.Addr, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.cachedLocked(name); ok {
		return e.addrs, e.err
	}
	return nil, errNotKnown
}

func (r *resolver) startLocked(name string) (*lookupCall, error) {
	if r.closed {
		return nil, errResolverClosed
	}
	if len(r.calls) >= r.maxCall {
		return nil, errLookupsFull
	}
	// The caller's string may be a view of a request's buffer, which will hold
	// another request soon; as a key and in an error it would then be another
	// name.
	name = strings.Clone(name)
	call := &lookupCall{done: make(chan struct{})}
	r.calls[name] = call
	r.wg.Go(func() { r.run(name, call) })
	return call, nil
}

func (r *resolver) run(name string, call *lookupCall) {
	var ttl time.Duration
	call.addrs, ttl, call.err = r.lookup(name)
	r.mu.Lock()
	delete(r.calls, name)
	r.cache.set(name, cached{call.addrs, call.err, time.Now().Add(ttl)})
	r.entries.Store(int64(r.cache.len()))
	r.mu.Unlock()
	close(call.done)
}

// lookup waits for a slot, asks, and says for how long the answer is good.
func (r *resolver) lookup(name string) ([]netip.Addr, time.Duration, error) {
	ctx, cancel := context.WithTimeout(r.ctx, lookupTimeout)
	defer cancel()
	if err := r.slot(ctx); err != nil {
		return nil, 0, &LookupError{Name: name, Err: err}
	}
	defer func() { <-r.slots }()
	r.lookups.Add(1)

	addrs, ttl, err := r.client.addresses(ctx, name)
	switch {
	case err == nil:
		return addrs, min(max(ttl, minTTL), maxTTL), nil
	case errors.Is(err, errNoRecord):
		return nil, notFoundTTL, &LookupError{Name: name, NotFound: true, Err: err}
	}
	return nil, lookupFailedTTL, &LookupError{Name: name, Err: err}
}

// slot waits for one and for a turn within the rate.
func (r *resolver) slot(ctx context.Context) error {
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := r.rate.Wait(ctx); err != nil {
		<-r.slots
		return err
	}
	return nil
}

// txt returns the TXT records of name, each with its strings joined. It is
// not cached: who asks wants to see a record that was just published.
func (r *resolver) txt(ctx context.Context, name string) ([]string, error) {
	if _, ok := dns.IsDomainName(name); !ok || name == "" {
		return nil, &LookupError{Name: name, Err: errBadName}
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	defer context.AfterFunc(r.ctx, cancel)()
	if err := r.slot(ctx); err != nil {
		return nil, &LookupError{Name: name, Err: err}
	}
	defer func() { <-r.slots }()
	r.lookups.Add(1)

	records, err := r.client.txt(ctx, name)
	if err != nil {
		return nil, &LookupError{Name: name, NotFound: errors.Is(err, errNoRecord), Err: err}
	}
	return records, nil
}
