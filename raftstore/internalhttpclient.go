package raftstore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

// How a call that has no answer ended.
var (
	// ErrNotSent means that no server has acted on the request, nor will.
	ErrNotSent = errors.New("raftstore: the request was not sent")
	// ErrUnknown means that the request was sent, at least in part, and that no
	// whole answer came: it may have been acted on, or may yet be.
	ErrUnknown = errors.New("raftstore: the request was sent and not answered")
)

// InternalClientOptions bound what a client keeps and waits for.
type InternalClientOptions struct {
	// AddressConns bounds the connections to one address, in use and idle. Default
	// 256. A call that finds all in use waits for one; of AddressWaiters that wait
	// already, one more ends at once as not sent. Default 1024.
	AddressConns, AddressWaiters int
	// Addresses bounds the addresses that have connections. Default 32.
	Addresses int
	// IdleDuration is how long a connection is kept that nobody uses. It should be
	// shorter than the servers' IdleTimeout. Default 30 s.
	IdleDuration time.Duration
	// CallTimeout bounds a call whose context has no earlier deadline. Default
	// 30 s.
	CallTimeout time.Duration
	// ConnectTimeout bounds making a connection. Default 3 s.
	ConnectTimeout time.Duration
	// RequestBytes bounds the body of a request, ResponseBytes of an answer.
	// Default 17 MiB and 64 MiB.
	RequestBytes, ResponseBytes int
}

func (o *InternalClientOptions) setDefaults() {
	for _, d := range []struct {
		bound *int
		value int
	}{
		{&o.AddressConns, 256}, {&o.AddressWaiters, 1024}, {&o.Addresses, 32},
		{&o.RequestBytes, internalBodyBytes}, {&o.ResponseBytes, 64 << 20},
	} {
		if *d.bound == 0 {
			*d.bound = d.value
		}
	}
	for _, d := range []struct {
		bound *time.Duration
		value time.Duration
	}{{&o.IdleDuration, 30 * time.Second}, {&o.CallTimeout, 30 * time.Second}, {&o.ConnectTimeout, 3 * time.Second}} {
		if *d.bound == 0 {
			*d.bound = d.value
		}
	}
}

// An InternalClient makes HTTP requests of other nodes' internal servers, over
// connections that it keeps. A request is acted on at most once: it is sent again
// only where the server has read nothing of it.
//
// It is not fasthttp's HostClient, which takes an idle connection without looking
// at it, does not tell what was sent when a call fails, writes the URI as it
// understands it, and has a goroutine that nobody can stop or wait for.
//
// It owns no goroutine; calls run on their callers'. A timer closes idle
// connections.
type InternalClient struct {
	layer *StreamLayer
	o     InternalClientOptions

	mu     sync.Mutex
	pools  map[string]*addressPool // at most Addresses
	sweep  *time.Timer             // nil while nothing is idle
	closed bool
}

// addressPool has the connections to one address. It is in the map while it has
// callers or idle connections.
type addressPool struct {
	slots   chan struct{} // one per caller that may have a connection
	dials   chan struct{} // one per caller that makes one
	callers int           // inside Do, with a slot or waiting for one
	idle    []idleConn    // the last is the newest
}

type idleConn struct {
	conn  *peerConn
	since time.Time
}

// NewInternalClient returns a client that connects by layer, which has to be
// closed after it.
func NewInternalClient(layer *StreamLayer, o InternalClientOptions) *InternalClient {
	o.setDefaults()
	return &InternalClient{layer: layer, o: o, pools: make(map[string]*addressPool)}
}

// Close closes idle connections and lets further calls end as not sent. Calls
// under way go on, and close their connections. It may be called again.
func (c *InternalClient) Close() error {
	c.mu.Lock()
	c.closed = true
	if c.sweep != nil {
		c.sweep.Stop()
		c.sweep = nil
	}
	var idle []idleConn
	for _, p := range c.pools {
		idle = append(idle, p.idle...)
		p.idle = nil
	}
	c.mu.Unlock()
	closeIdle(idle)
	return nil
}

func closeIdle(idle []idleConn) {
	for _, i := range idle {
		i.conn.Close()
	}
}

// Do sends req to the node at address and reads its answer into resp, by ctx's
// deadline and CallTimeout. It returns nil when there is a whole answer, whatever
// its status; else an error that is either ErrNotSent or ErrUnknown, and resp
// says nothing. Both belong to the caller, and are not used after Do returned.
//
// req's URI and headers are sent as they are, as long as the caller has not asked
// for req.URI(), which makes fasthttp write its own spelling. Its body has to be
// in memory.
func (c *InternalClient) Do(ctx context.Context, address string, req *fasthttp.Request, resp *fasthttp.Response) error {
	ctx, cancel := context.WithTimeout(ctx, c.o.CallTimeout)
	defer cancel()
	if err := c.check(req); err != nil {
		return notSent(address, err)
	}
	pool, err := c.enter(ctx, address)
	if err != nil {
		return notSent(address, err)
	}
	defer c.leave(address, pool)
	for {
		conn, reused, err := c.conn(ctx, address, pool)
		if err != nil {
			return notSent(address, err)
		}
		x := exchange{conn: conn, sent: conn.socket.sent.Load()}
		err = x.run(ctx, c.o.ResponseBytes, req, resp)
		if !x.keep || !c.put(pool, conn) {
			conn.Close()
		}
		switch {
		case err == nil:
			return nil
		case !x.unheard:
			return fmt.Errorf("%w: node at %s: %w", ErrUnknown, address, err)
		case x.hopeless || !reused:
			return notSent(address, err)
		}
		// The server has closed what waited in the pool. There are at most
		// AddressConns such, and then a new connection.
	}
}

func notSent(address string, err error) error {
	return fmt.Errorf("%w: node at %s: %w", ErrNotSent, address, err)
}

// check refuses what cannot be sent, or would be refused.
func (c *InternalClient) check(req *fasthttp.Request) error {
	if req.IsBodyStream() {
		return errors.New("its body is a stream")
	}
	if n := len(req.Body()); n > c.o.RequestBytes {
		return fmt.Errorf("its body of %d bytes is larger than %d", n, c.o.RequestBytes)
	}
	return nil
}

// enter waits until the caller may have a connection to address. Without an
// error, leave must follow.
func (c *InternalClient) enter(ctx context.Context, address string) (*addressPool, error) {
	pool, err := c.pool(address)
	if err != nil {
		return nil, err
	}
	select {
	case pool.slots <- struct{}{}:
		return pool, nil
	case <-ctx.Done():
		c.abandon(address, pool)
		return nil, fmt.Errorf("all %d connections are in use: %w", c.o.AddressConns, context.Cause(ctx))
	}
}

// pool counts a caller in.
func (c *InternalClient) pool(address string) (*addressPool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errors.New("the client is closed")
	}
	p := c.pools[address]
	if p == nil {
		if len(c.pools) >= c.o.Addresses {
			return nil, fmt.Errorf("there are connections to %d other addresses", len(c.pools))
		}
		p = &addressPool{slots: make(chan struct{}, c.o.AddressConns), dials: make(chan struct{}, dialsAtOnce)}
		c.pools[address] = p
	}
	if p.callers >= c.o.AddressConns+c.o.AddressWaiters {
		return nil, fmt.Errorf("%d calls wait for one of %d connections", c.o.AddressWaiters, c.o.AddressConns)
	}
	p.callers++
	return p, nil
}

func (c *InternalClient) leave(address string, p *addressPool) {
	<-p.slots
	c.abandon(address, p)
}

// abandon counts a caller out.
func (c *InternalClient) abandon(address string, p *addressPool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p.callers--
	if p.callers == 0 && len(p.idle) == 0 {
		delete(c.pools, address)
	}
}

// dialsAtOnce bounds the connections to one address that are being made. Where a
// node comes to lead, all that waits for a leader goes to it at once: hundreds of
// handshakes would take the processors, on both sides, that its heartbeats need to
// remain leader, and push raft's own connections out of those that a node lets
// shake hands.
const dialsAtOnce = 8

// conn returns an idle connection that can carry a request, or a new one.
func (c *InternalClient) conn(ctx context.Context, address string, p *addressPool) (conn *peerConn, reused bool, err error) {
	if conn := c.idle(p); conn != nil {
		return conn, true, nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.ConnectTimeout)
	defer cancel()
	select {
	case p.dials <- struct{}{}:
		defer func() { <-p.dials }()
	case <-ctx.Done():
		return nil, false, fmt.Errorf("%d connections are being made: %w", dialsAtOnce, context.Cause(ctx))
	}
	if conn := c.idle(p); conn != nil { // which has become so meanwhile
		return conn, true, nil
	}
	conn, err = c.layer.dialHTTP(ctx, address)
	return conn, false, err
}

// idle returns an idle connection that can carry a request; nil: there is none.
func (c *InternalClient) idle(p *addressPool) *peerConn {
	for {
		conn := c.take(p)
		if conn == nil || conn.fresh() {
			return conn
		}
		conn.Close()
	}
}

// take removes the newest idle connection.
func (c *InternalClient) take(p *addressPool) *peerConn {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(p.idle) == 0 {
		return nil
	}
	last := len(p.idle) - 1
	conn := p.idle[last].conn
	p.idle[last] = idleConn{}
	p.idle = p.idle[:last]
	return conn
}

// put keeps a connection for later, unless the client is closed.
func (c *InternalClient) put(p *addressPool, conn *peerConn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	p.idle = append(p.idle, idleConn{conn, time.Now()})
	if c.sweep == nil {
		c.sweep = time.AfterFunc(c.o.IdleDuration, c.sweepIdle)
	}
	return true
}

// sweepIdle closes what has been idle too long, and sets the timer for what is
// left.
func (c *InternalClient) sweepIdle() {
	old, next := c.old(time.Now())
	closeIdle(old)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sweep = nil
	if next > 0 && !c.closed {
		c.sweep = time.AfterFunc(next, c.sweepIdle)
	}
}

// old takes out what has been idle too long by now, and tells in how long there
// will be more; 0 if nothing is idle.
func (c *InternalClient) old(now time.Time) (old []idleConn, next time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for address, p := range c.pools {
		n := 0
		for n < len(p.idle) && now.Sub(p.idle[n].since) >= c.o.IdleDuration {
			n++
		}
		old = append(old, p.idle[:n]...)
		p.idle = slices.Delete(p.idle, 0, n)
		switch {
		case len(p.idle) > 0:
			left := c.o.IdleDuration - now.Sub(p.idle[0].since)
			if next == 0 || left < next {
				next = left
			}
		case p.callers == 0:
			delete(c.pools, address)
		}
	}
	return old, next
}

// An exchange is one request on one connection, and what came of it.
type exchange struct {
	conn *peerConn
	sent int64 // bytes sent on conn before

	keep     bool // after success: the connection can carry another request
	unheard  bool // after an error: the server has read nothing of the request
	hopeless bool // after an error: no other connection will do better
}

// The client's readers bound the head of an answer.
var (
	internalReaders = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 16<<10) }}
	internalWriters = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, 8<<10) }}
)

// errGoodbye is a server that closed the connection without having read the
// request.
var errGoodbye = errors.New("the server closed the connection before it read the request")

// salvage is how long an answer is waited for after the request could not be
// written to its end: a server that refuses one by its head says why, and closes.
const salvage = 250 * time.Millisecond

func (x *exchange) run(ctx context.Context, mostBytes int, req *fasthttp.Request, resp *fasthttp.Response) error {
	stop := context.AfterFunc(ctx, func() { x.conn.SetDeadline(longAgo) })
	br := internalReaders.Get().(*bufio.Reader)
	br.Reset(x.conn)
	defer func() {
		br.Reset(nil)
		internalReaders.Put(br)
	}()
	err := x.write(req)
	if err == nil {
		err = x.read(br, mostBytes, req, resp)
	} else if !x.unheard {
		err = x.salvage(ctx, br, mostBytes, req, resp, err)
	}
	inTime := stop() // else the connection's deadline is long ago
	x.keep = x.keep && inTime && br.Buffered() == 0 && !req.ConnectionClose() && !resp.ConnectionClose()
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w (%w)", context.Cause(ctx), err)
	}
	return err
}

// write sends the request.
func (x *exchange) write(req *fasthttp.Request) error {
	out := &writeErrors{w: x.conn}
	bw := internalWriters.Get().(*bufio.Writer)
	bw.Reset(out)
	err := req.Write(bw)
	if err == nil {
		err = bw.Flush()
	}
	bw.Reset(nil)
	internalWriters.Put(bw)
	if err != nil {
		x.unheard = x.conn.socket.sent.Load() == x.sent
		x.hopeless = out.err == nil // it is the request that is wrong
	}
	return err
}

// read reads the answer.
func (x *exchange) read(br *bufio.Reader, mostBytes int, req *fasthttp.Request, resp *fasthttp.Response) error {
	first, err := br.Peek(1)
	if err != nil {
		return err
	}
	if first[0] == goodbye {
		x.unheard = true
		return errGoodbye
	}
	skip := resp.SkipBody
	resp.Reset()
	resp.SkipBody = skip || req.Header.IsHead()
	resp.Header.SetNoDefaultContentType(true)
	if err := resp.ReadLimitBody(br, mostBytes); err != nil {
		resp.Reset() // its status would read 200
		return err
	}
	x.keep = true
	return nil
}

// salvage asks, after the request could not be written to its end, whether the
// server has said why. A success does not count: the request did not arrive.
func (x *exchange) salvage(ctx context.Context, br *bufio.Reader, mostBytes int, req *fasthttp.Request, resp *fasthttp.Response, failed error) error {
	if ctx.Err() != nil {
		return failed
	}
	until := time.Now().Add(salvage)
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(until) {
		until = deadline
	}
	x.conn.SetReadDeadline(until)
	err := x.read(br, mostBytes, req, resp)
	x.keep = false
	switch {
	case errors.Is(err, errGoodbye):
		return err
	case err != nil:
		return failed
	case resp.StatusCode() < fasthttp.StatusBadRequest:
		resp.Reset()
		return failed
	}
	return nil
}

// writeErrors remembers that it was the connection that failed.
type writeErrors struct {
	w   io.Writer
	err error
}

// Write is as io.Writer says.
func (w *writeErrors) Write(b []byte) (int, error) {
	n, err := w.w.Write(b)
	if err != nil {
		w.err = err
	}
	return n, err
}
