package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrBatcherClosed is the answer to a send on a Batcher after Close.
var ErrBatcherClosed = errors.New("client: batcher is closed")

// BatcherOptions bound a Batcher.
type BatcherOptions struct {
	MaxSends  int           // in one request. Default 1,000; at most MaxBatchSends
	MaxBytes  int           // of one request. Default 4 MiB; at most MaxBatchBytes. What gets 413 goes out in halves
	MaxLinger time.Duration // how long a send waits for others. Default 5 ms

	// Requests is how many requests are under way at once. Default 4. While
	// all are, batches grow beyond MaxLinger.
	Requests int

	// MaxWaiting bounds the sends that have no result yet. Others wait for
	// their turn. Default 10,000.
	MaxWaiting int
}

func (o BatcherOptions) withDefaults() (BatcherOptions, error) {
	o.MaxSends = cmp.Or(o.MaxSends, 1000)
	o.MaxBytes = cmp.Or(o.MaxBytes, 4<<20)
	o.MaxLinger = cmp.Or(o.MaxLinger, 5*time.Millisecond)
	o.Requests = cmp.Or(o.Requests, 4)
	o.MaxWaiting = cmp.Or(o.MaxWaiting, 10_000)
	switch {
	case o.MaxSends < 1 || o.MaxSends > MaxBatchSends:
		return o, fmt.Errorf("client: MaxSends %d is not from 1 to %d", o.MaxSends, MaxBatchSends)
	case o.MaxBytes < 1 || o.MaxBytes > MaxBatchBytes:
		return o, fmt.Errorf("client: MaxBytes %d is not from 1 to %d", o.MaxBytes, MaxBatchBytes)
	case o.MaxLinger < 0:
		return o, fmt.Errorf("client: MaxLinger %s is negative", o.MaxLinger)
	case o.Requests < 1:
		return o, fmt.Errorf("client: %d Requests", o.Requests)
	case o.MaxWaiting < 1:
		return o, fmt.Errorf("client: MaxWaiting %d is not above 0", o.MaxWaiting)
	}
	return o, nil
}

// A Batcher gathers the sends of many goroutines into batches. Each of them
// calls Send, and gets what became of its own send: the same answer, for a
// fraction of the requests and of the server's syncs.
//
//	callers ── Send ──> open batch ──full, or lingered──> requests under way
//	                        └── grows on while all requests are busy
//
// Its goroutines are those of the requests under way; Close waits for them.
type Batcher struct {
	client  *Client
	options BatcherOptions

	ctx    context.Context // of the requests; a caller that leaves takes nobody along
	cancel context.CancelFunc
	places chan struct{} // one for each send without a result; bounds them
	closed chan struct{} // by Close

	mu      sync.Mutex
	closing bool      // closed is
	open    *batch    // gathers; nil: no send is waiting for others
	due     bool      // open has lingered and waits for a request to end
	full    []*batch  // wait for a request to end, oldest first
	running int       // requests under way
	ended   sync.Cond // running went down to 0; on mu
}

// A batch is sends that go out together.
type batch struct {
	sends  []*gathered
	bytes  int
	linger *time.Timer
}

// A gathered send has its result written once, by the request that carried it.
type gathered struct {
	batchLine
	ctx    context.Context // of its caller
	result chan BatchResult
}

// NewBatcher returns a batcher that sends through c. It has to be closed.
func (c *Client) NewBatcher(o BatcherOptions) (*Batcher, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	b := &Batcher{client: c, options: o, places: make(chan struct{}, o.MaxWaiting), closed: make(chan struct{})}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.ended.L = &b.mu
	return b, nil
}

// Send is Client.Send, in company. A context that ends before the send is on its
// way takes it back; later it only ends the wait, and the send may be accepted.
func (b *Batcher) Send(ctx context.Context, s Send) (Receipt, error) {
	line, keyed, err := b.client.encoded(s)
	if err != nil {
		return Receipt{}, fmt.Errorf("client: encode send: %w", err)
	}
	if err := b.takePlace(ctx); err != nil {
		return Receipt{}, err
	}
	g := &gathered{batchLine: batchLine{line, keyed}, ctx: ctx, result: make(chan BatchResult, 1)}
	if err := b.gather(g); err != nil {
		<-b.places
		return Receipt{}, err
	}
	select {
	case r := <-g.result:
		return r.Receipt, r.Err
	case <-ctx.Done():
		return Receipt{}, ctx.Err()
	}
}

// takePlace waits until one more send may be without a result.
func (b *Batcher) takePlace(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case b.places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-b.closed:
		return ErrBatcherClosed
	}
}

// gather adds a send to the open batch.
func (b *Batcher) gather(g *gathered) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closing {
		return ErrBatcherClosed
	}
	if b.open != nil && b.open.bytes+len(g.json) > b.options.MaxBytes {
		b.cutLocked()
	}
	if b.open == nil {
		opened := &batch{}
		opened.linger = time.AfterFunc(b.options.MaxLinger, func() { b.lingered(opened) })
		b.open = opened
	}
	b.open.sends = append(b.open.sends, g)
	b.open.bytes += len(g.json)
	if len(b.open.sends) >= b.options.MaxSends || b.open.bytes >= b.options.MaxBytes {
		b.cutLocked()
	}
	return nil
}

// lingered is called when a batch has waited long enough for company.
func (b *Batcher) lingered(opened *batch) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open != opened {
		return // it was cut while the timer fired
	}
	if b.running < b.options.Requests {
		b.cutLocked()
	} else {
		b.due = true
	}
}

// cutLocked closes the open batch, and sends it if a request may begin.
func (b *Batcher) cutLocked() {
	b.full = append(b.full, b.takeOpenLocked())
	if b.running < b.options.Requests {
		b.running++
		go b.run()
	}
}

func (b *Batcher) takeOpenLocked() *batch {
	taken := b.open
	taken.linger.Stop()
	b.open, b.due = nil, false
	return taken
}

// run makes requests one after the other while there are batches.
func (b *Batcher) run() {
	for {
		next := b.next()
		if next == nil {
			return
		}
		b.send(next)
	}
}

// next is the batch to send now. With none the request counts as ended.
func (b *Batcher) next() *batch {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case len(b.full) > 0:
		first := b.full[0]
		b.full = b.full[1:]
		return first
	case b.due:
		return b.takeOpenLocked()
	}
	b.running--
	if b.running == 0 {
		b.ended.Broadcast()
	}
	return nil
}

// send makes one request and gives every caller its result. While a part of it
// is repeated, the others have theirs already.
func (b *Batcher) send(sent *batch) {
	var going []*gathered
	for _, g := range sent.sends {
		if err := g.ctx.Err(); err != nil { // its caller has left, or is about to
			b.answer(g, BatchResult{Err: err})
			continue
		}
		going = append(going, g)
	}
	b.sendAll(going)
}

// sendAll halves what is too large for one request: none of it was accepted, and
// no caller can help the company that he got.
func (b *Batcher) sendAll(going []*gathered) {
	lines := make([]batchLine, len(going))
	for i, g := range going {
		lines[i] = g.batchLine
	}
	err := b.client.sendLines(b.ctx, lines, func(i int, r BatchResult) { b.answer(going[i], r) })
	switch {
	case err == nil:
	case errors.Is(err, ErrTooLarge) && len(going) > 1:
		half := len(going) / 2
		b.sendAll(going[:half])
		b.sendAll(going[half:])
	default:
		for _, g := range going {
			b.answer(g, BatchResult{Err: err})
		}
	}
}

func (b *Batcher) answer(g *gathered, r BatchResult) {
	g.result <- r // has room
	<-b.places
}

// Close refuses further sends, sends what is gathered, and returns when every
// Send has its result. If ctx ends first, requests under way are cut off, whose
// sends may have been accepted, and Close returns the context's error. It may
// be called again.
func (b *Batcher) Close(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closing {
		b.closing = true
		close(b.closed)
		if b.open != nil {
			b.cutLocked()
		}
	}
	defer context.AfterFunc(ctx, b.cancel)()
	for b.running > 0 {
		b.ended.Wait()
	}
	cutOff := b.ctx.Err() != nil
	b.cancel()
	if cutOff {
		return ctx.Err()
	}
	return nil
}
